"""Photograph the pages for the docs in Chromium.

    python benchmarks/screenshots.py COMPARISON_DIR RUN_DIR docs/images

`comparison.png`: the top of the page. `comparison-viewer.png`: slices with the
disagreement map, and surfaces, in dark mode. `comparison-phone.png`: on a phone.
`record.png`: the record of the training in RUN_DIR.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from chromium import Browser

MARGIN = 8
LOADED = "[...document.images].every(i => i.complete && i.naturalWidth)"


def opened(browser, page, width, height, scheme="light"):
    browser.size(width, height)
    browser.scheme(scheme)
    browser.open(page)
    browser.wait_for(LOADED)
    browser.wait_for("document.fonts.status === 'loaded'")


def window(browser):
    """Return what the window shows."""
    with tempfile.TemporaryDirectory() as folder:
        content = browser.screenshot(Path(folder) / "window.png", whole=False)
    return Image.open(io.BytesIO(content)).convert("RGB")


def section(browser, selector):
    """Return one section of the page with a little paper beside and below it."""
    where = "{block: 'start', behavior: 'instant'}"
    browser.run(f"document.querySelector('{selector}').scrollIntoView({where})")
    box = f"document.querySelector('{selector}').getBoundingClientRect()"
    left, top, width, height = (
        browser.run(f"{box}.{name}") for name in ("x", "y", "width", "height")
    )
    ends = (left - MARGIN, top, left + width + MARGIN, top + height + MARGIN)
    return window(browser).crop(tuple(round(end) for end in ends))


def press(browser, box, words):
    buttons = f"[...document.querySelectorAll('{box} button')]"
    browser.run(f"{buttons}.find(b => b.textContent === '{words}').click()")


def viewer_and_surfaces(browser, page):
    opened(browser, page, 760, 1250, "dark")
    press(browser, "#meshes", "left side")
    browser.wait_for_frames()
    parts = [section(browser, "#viewer"), section(browser, "#meshes")]
    size = (sum(part.width for part in parts), max(part.height for part in parts))
    both = Image.new("RGB", size, parts[0].getpixel((2, 100)))
    left = 0
    for part in parts:
        both.paste(part, (left, 0))
        left += part.width
    return both


def save(picture, file):
    picture.save(file, optimize=True)
    print(file, picture.size, f"{file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    comparison, record = (Path(folder) / "index.html" for folder in sys.argv[1:3])
    out = Path(sys.argv[3])
    browser = Browser()
    opened(browser, comparison, 1120, 1420)
    save(window(browser), out / "comparison.png")
    opened(browser, comparison, 390, 844)
    save(window(browser), out / "comparison-phone.png")
    save(viewer_and_surfaces(browser, comparison), out / "comparison-viewer.png")
    opened(browser, record, 1000, 1290)
    save(window(browser), out / "record.png")
    if browser.complaints:
        sys.exit(f"The pages complain: {browser.complaints}")
    browser.close()
