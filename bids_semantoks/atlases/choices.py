"""Choose a parcellation: a map in a file (``FILE.dlabel.nii:MAP``), an atlas in a dataset (``DIR:NAME``)."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.atlases.label_tables import build_label
from bids_semantoks.bids_names import check_name, natural_key
from bids_semantoks.errors import AtlasError, name_some

_ENDING: Final = re.compile(r"_dseg\.(nii|nii\.gz|dlabel\.nii|label\.gii)$")
_SIDE: Final = re.compile(r"_hemi-[LR](?=_)")


def split_choice(name_or_path: str | Path) -> tuple[str, str]:
    """Split ``PATH:CHOICE`` into a path that exists and the choice, which is empty for a path or name alone."""
    text = str(name_or_path)
    # Unlike pathlib, this returns False instead of failing if the name of a map makes the path too long.
    if not os.path.exists(text):  # noqa: PTH110
        for colon in re.finditer(":", text):
            if colon.start() and os.path.exists(text[: colon.start()]):  # noqa: PTH110
                return text[: colon.start()], text[colon.end() :].strip()
    check_name(text, AtlasError, "The atlas")
    return text, ""


def choose(names: Sequence[str], choice: str) -> list[int]:
    """Find the positions of the chosen name: exact matches, else ignoring case and punctuation, else by number."""
    exact = [n for n, name in enumerate(names) if name == choice]
    loose = [n for n, name in enumerate(names) if _simplify(name) == _simplify(choice) != ""]
    number = int(choice) - 1 if choice.isdecimal() else -1
    return exact or loose or ([number] if 0 <= number < len(names) else [])


def _simplify(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def choose_in_dataset(directory: Path, choice: str) -> list[Path]:
    """List the label files of one atlas of a dataset (BEP038), sorted. Raises AtlasError if the dataset has none,
    or several and none is chosen."""
    paths = sorted(path for path in directory.rglob("*") if _ENDING.search(path.name) and path.name[0] != ".")
    files = [path for path in paths if path.is_file()]
    if not files:
        raise _refuse_empty(directory, paths)
    by_label: dict[str, list[Path]] = {}
    for path in files:
        by_label.setdefault(build_label(_SIDE.sub("", _ENDING.sub("_dseg", path.name))), []).append(path)
    labels = sorted(by_label, key=natural_key)
    # Also match the entities themselves, such as atlas-4S_scale-156.
    found = choose(labels, choice) or choose(labels, build_label(choice)) if choice else list(range(len(labels)))
    if len(found) == 1:
        return by_label[labels[found[0]]]
    listed = f"{len(labels)} atlas{'es' if len(labels) > 1 else ''}: {name_some(labels)}"
    raise AtlasError(
        f"The atlas dataset {directory} contains {listed}{f'; none is {choice}' if choice else ''}.",
        hint=f"Choose one: --atlas {shlex.quote(f'{directory}:{labels[0]}')}.",
    )


def _refuse_empty(directory: Path, links: Sequence[Path]) -> AtlasError:
    if links:
        return AtlasError(
            f"The directory {directory} contains {len(links)} label files without content, such as {links[0].name}.",
            hint="Run `datalad get` first.",
        )
    if maps := sorted(directory.rglob("*_probseg.nii*")):
        return AtlasError(
            f"The atlas dataset {directory} contains only probability maps ({len(maps)} *_probseg files, such as "
            f"{maps[0].name}) and no *_dseg.nii.gz.",
            hint="Convert them to a label image (the most probable parcel in each voxel) with a table next to it.",
        )
    return AtlasError(
        f"The directory {directory} contains no *_dseg.nii.gz.", hint="Give an atlas dataset (BEP038) or a label image."
    )
