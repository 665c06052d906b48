"""Follow every link within the built site, and look at each page as wide as a phone. Run by ``make docs``.

Links to other sites are not followed: whether they answer is no fault of a change.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from playwright.sync_api import sync_playwright
from support.browser import ARGUMENTS, NAMES

PHONE = {"width": 390, "height": 844}
LINKS = "() => [...document.querySelectorAll('a[href], img[src], script[src], link[href]')].map((e) => e.href || e.src)"
IDS = "() => [...document.querySelectorAll('[id]')].map((element) => element.id)"
WIDTH = "document.documentElement.scrollWidth"


def problems(site: Path) -> list[str]:
    """Links that lead nowhere, and pages that have to be moved sideways."""
    links: list[tuple[str, str]] = []
    ids: dict[str, set[str]] = {}
    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, NAMES))), args=ARGUMENTS
        )
        page = browser.new_page(viewport=PHONE)
        # What comes from elsewhere, such as Mermaid, is not to be waited for.
        page.route("http*://**", lambda route: route.abort())
        for file in sorted(site.rglob("*.html")):
            page.goto(file.as_uri())
            ids[file.as_uri()] = set(page.evaluate(IDS))
            links += [(file.as_uri(), link) for link in page.evaluate(LINKS)]
            if (width := page.evaluate(WIDTH)) > PHONE["width"]:
                found.append(f"{file.relative_to(site)} is {width} pixels wide on a phone of {PHONE['width']}")
        browser.close()
    for source, link in links:
        target, anchor = urldefrag(link)
        if not target.startswith("file:"):
            continue
        address = target.partition("?")[0]
        if not Path(unquote(urlsplit(address).path)).is_file() or (
            anchor and unquote(anchor) not in ids.get(address, ())
        ):
            found.append(f"{source}: nothing at {link}")
    return found


def main() -> None:
    site = Path(sys.argv[1]).resolve()
    found = problems(site)
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
