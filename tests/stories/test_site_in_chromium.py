"""The documentation as a site: it builds without a warning, and works from a folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OUTSIDE = re.compile(
    r"""<(?:script|img|link|iframe|source)\b[^>]*(?:src|href)=["'](?:https?:)?//"""
    r"""|url\(["']?(?:https?:)?//|@import\s+["'](?:https?:)?//""",
    re.IGNORECASE,
)
"""What a browser would fetch by itself; a link in the text is none of these."""

PAGES = ["index", "start", "tutorials/first-study", "reference/commands", "gallery",
         "reference/recipe", "reference/python", "explanations/comparison"]  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    # Sphinx ends with 1 after a warning, such as a link to a heading that is not there.
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html",
         "-d", folder / "doctrees", DOCS, folder / "html"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=300,
    )  # fmt: skip
    return folder / "html"


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
def tab(browser, request):
    browser.new_tab()
    browser.size(request.param, 844)
    browser.scheme("light")
    yield browser
    assert browser.complaints == []
    assert [u for u in browser.requests if not u.startswith(("file:", "data:"))] == []


def test_every_page_of_the_documentation_is_a_page_of_the_site(site):
    built = {file.relative_to(site).with_suffix("") for file in site.rglob("*.html")}

    assert {
        page.relative_to(DOCS).with_suffix("") for page in DOCS.rglob("*.md")
    } <= built


def test_no_file_of_the_site_names_anything_that_a_browser_would_fetch(site):
    files = [f for kind in ("html", "css") for f in site.rglob(f"*.{kind}")]
    found = {f.name: OUTSIDE.search(f.read_text("utf-8")) for f in files}

    assert len(files) > 50
    assert {name: match[0] for name, match in found.items() if match} == {}


@pytest.mark.browser
def test_no_page_is_wider_than_the_window(site, tab):
    widths = "[document.documentElement.scrollWidth, innerWidth]"
    for page in PAGES:
        tab.open(site / f"{page}.html")
        broken = (
            "[...document.images].filter(i => i.complete && !i.naturalWidth).length"
        )

        content, window = tab.run(widths)
        assert content <= window, page
        assert tab.run(broken) == 0, page


@pytest.mark.browser
def test_the_search_finds_a_page_without_a_server(site, tab):
    tab.page.goto(f"{(site / 'search.html').as_uri()}?q=midline")

    titles = (
        "[...document.querySelectorAll('#search-results li a')].map(a => a.innerText)"
    )
    tab.wait_for(f"{titles}.includes('Write a recipe')")
    tab.complaints.clear()  # from a folder, a browser lets no script read the excerpts


@pytest.mark.browser
def test_the_site_is_dark_where_the_reader_prefers_it(site, tab):
    tab.scheme("dark")
    tab.open(site / "index.html")

    colour = tab.run("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 64
