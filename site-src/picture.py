"""A picture of a viewer's page, as the docs show them; needs Chromium and the extra `browser`.

    edgewise demo
    python site-src/picture.py runs/demo/circuit.html docs/images/viewer.png node=a23.h7

What is chosen stands in the page's address after `#`; the last argument is that.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1440, 900


def main() -> None:
    """Open the page, wait until it is drawn, and write what is seen."""
    html, picture, fragment = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = started.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        tab.goto(f"{html.resolve().as_uri()}#{fragment}")
        tab.wait_for_selector("#app[data-ready]")
        tab.wait_for_timeout(500)  # the canvas is drawn in the frames after
        tab.screenshot(path=picture)
        started.close()


if __name__ == "__main__":
    main()
