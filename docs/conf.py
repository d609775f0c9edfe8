"""The documentation as a site: ``make docs`` builds it into build/docs.

Every page is Markdown that also reads well as a plain file: links name files, and
headings have the anchors that GitHub gives them.
"""

import nnunet_bridge

project = "nnunet_bridge"
release = nnunet_bridge.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
highlight_language = "none"  # a block without a language is output

autodoc_member_order = "bysource"
napoleon_google_docstring = False
default_role = "code"  # `name` in a docstring

html_theme = "furo"
html_title = f"nnunet_bridge {release}"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
