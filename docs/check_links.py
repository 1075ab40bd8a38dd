"""Check that every link within the built site leads somewhere: pages, files and anchors, without a network."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page and what it links to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect ids, names, addresses and sources."""
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value or "")
            elif name == "srcdoc":
                continue
            elif name in ("href", "src", "data-src"):
                self.links.add(value or "")


def find_dead_links(site: Path) -> list[str]:
    """List each link to a file or an anchor that the site lacks, as ``page: link``."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    dead = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link in ("", "#"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else None
            lacks_anchor = bool(parts.fragment) and anchors is not None and unquote(parts.fragment) not in anchors
            dead += [f"{path.relative_to(site)}: {link}"] if lacks_anchor or not target.is_file() else []
    return dead


if __name__ == "__main__":
    found = find_dead_links(Path(sys.argv[1]).resolve())
    print("\n".join(found) or f"All links within {sys.argv[1]} lead somewhere.")
    sys.exit(bool(found))
