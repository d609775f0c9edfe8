"""The comparison as one offline page: `write_page(file, content)`."""

from nnunet_bridge.formats.html.content import (
    CaseView,
    MeshSet,
    ModelCard,
    PageContent,
    Setting,
)
from nnunet_bridge.formats.html.page import write_page

__all__ = ["CaseView", "MeshSet", "ModelCard", "PageContent", "Setting", "write_page"]
