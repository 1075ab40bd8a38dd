"""Print the arguments of ``buildah bud`` to install packages as this machine does, one per line.

Reads pip's own configuration (files and environment), so that no index is named anywhere in this repository. Local
folders and files in it are bind-mounted into the build, read-only, at the same path.

Usage: python3 cluster/tests/pip_settings.py [--environment | --paths]
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SETTINGS = ("index-url", "extra-index-url", "find-links", "cert")
#: Path of the certificates in the build; the image's own path must remain free for its packages.
CERT = "/tmp/pip-cert.pem"


def read_settings() -> dict[str, str]:
    """Read pip's settings; those of the environment come last in the list and take precedence, as in pip."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    pairs = re.findall(r"^(\S+?)\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE)
    # pip prints the environment first but gives it precedence.
    ordered = sorted(pairs, key=lambda pair: pair[0].startswith(":env:"))
    return {f"PIP_{key.upper().replace('-', '_')}": value for _, key, value in ordered if key in SETTINGS}


def find_paths(settings: dict[str, str]) -> list[Path]:
    """Find the local paths among the settings, and the sibling folders that their links lead to."""
    found = set()
    for value in settings.values():
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.exists():
                # The pages of a local index link to files next to it.
                found.add(path.parent if word.startswith("file://") else path)
    return sorted(found)


def main() -> None:
    """Print the settings in the requested form."""
    settings = read_settings()
    paths = find_paths(settings)
    if "--environment" in sys.argv:
        lines = [f"{name}={value}" for name, value in settings.items()]
    elif "--paths" in sys.argv:
        lines = [str(path) for path in paths]
    else:
        cert = settings.pop("PIP_CERT", None)
        lines = [f"--build-arg={name}={value}" for name, value in settings.items()]
        lines += [f"--volume={path}:{path}:ro" for path in paths if str(path) != cert]
        lines += [f"--build-arg=PIP_CERT={CERT}", f"--volume={cert}:{CERT}:ro"] if cert else []
    print("\n".join(lines))


if __name__ == "__main__":
    main()
