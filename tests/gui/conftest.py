"""What the tests of the page share."""

import pytest
from page_client import served


@pytest.fixture
def page(tmp_path):
    """The page of an empty workspace, which may show `tmp_path` and no more."""
    workspace = tmp_path / "work"
    workspace.mkdir()
    with served(workspace, tmp_path) as client:
        client.workspace = workspace
        yield client
