"""One Chromium for all tests of pages: its start takes longer than any of them."""

import pytest
from chromium import CHROMIUM, Browser


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    browser = Browser()
    yield browser
    browser.close()
