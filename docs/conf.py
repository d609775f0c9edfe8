"""The documentation as a site: ``make docs`` builds it into build/docs.

Every page is Markdown that also reads well as a plain file: links name files, and
headings have the anchors that GitHub gives them.
"""

import re

import nnunet_bridge

project = "nnunet_bridge"
release = nnunet_bridge.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
highlight_language = "none"  # a block without a language is output

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as the code writes them
napoleon_google_docstring = False
default_role = "code"  # `name` in a docstring

html_theme = "furo"
html_title = f"nnunet_bridge {release}"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False


# Types of NumPy and of ours under short names.
_SHORT_TYPES = (
    (re.compile(r"~(\w+\.)+"), ""),
    (re.compile(r"_Buffer \| _SupportsArray.*?bytes \| str\]"), "ArrayLike"),
    (
        re.compile(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[(\w+)[^\]]*\]+"),
        r"ndarray[\1]",
    ),
)


def _short(text):
    for pattern, word in _SHORT_TYPES:
        text = text and pattern.sub(word, text)
    return text


def setup(app):
    """Shorten the types in signatures."""
    app.connect(
        "autodoc-process-signature",
        lambda *found: (_short(found[-2]), _short(found[-1])),
    )
