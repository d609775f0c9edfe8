"""Pages of one offline file each: `write_page` a comparison, `write_run_page` a run."""

from nnunet_bridge.formats.html.content import (
    CaseView,
    MeshSet,
    ModelCard,
    PageContent,
    Setting,
)
from nnunet_bridge.formats.html.page import write_page
from nnunet_bridge.formats.html.quality_page import (
    LightContent,
    LitCase,
    write_quality_page,
)
from nnunet_bridge.formats.html.run_page import RunContent, ShownSlice, write_run_page

__all__ = [
    "CaseView",
    "LightContent",
    "LitCase",
    "MeshSet",
    "ModelCard",
    "PageContent",
    "RunContent",
    "Setting",
    "ShownSlice",
    "write_page",
    "write_quality_page",
    "write_run_page",
]
