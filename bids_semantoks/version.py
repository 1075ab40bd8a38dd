"""The version of the program; every layer may import it."""

import re

__version__ = "0.1.0"


def parse_version(text: str) -> tuple[tuple[int, ...], bool]:
    """Parse a version into what sorts as versions do: its numbers, and whether it is final (0.2rc1 is before 0.2).

    Versions that cannot be parsed sort before all others.
    """
    found = re.match(r"v?(\d+(?:\.\d+)*)(.*)", text.strip())
    if not found:
        return (), False
    numbers = [int(part) for part in found[1].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    # Local and post releases (0.2+cluster, 0.2.post1) come after the final one.
    return tuple(numbers), re.match(r"[._-]?(a|b|c|rc|alpha|beta|pre|preview|dev)", found[2]) is None
