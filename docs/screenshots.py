"""Take pictures of the pages of output directories for the documentation: docs/images/<page>_<how>.png."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.browser import open_browser, open_page  # noqa: E402 - shared with the tests

#: The pages, by the name of their pictures; each is taken from the first directory that has it.
PAGES = {"participant": "sub-*.html", "group_qc": "group_qc.html", "group": "group.html"}


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out_dirs", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    with open_browser() as browser:
        for name, pattern in PAGES.items():
            for path in [path for folder in options.out_dirs for path in sorted(folder.glob(pattern))][:1]:
                for scheme in ("light", "dark"):
                    size = {"width": 1200, "height": 1500}
                    with open_page(browser, path, color_scheme=scheme, viewport=size) as page:
                        page.wait_for_timeout(500)
                        page.screenshot(path=options.to / f"{name}_{scheme}.png")


if __name__ == "__main__":
    main()
