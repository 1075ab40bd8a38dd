"""Layouts: JSON files that locate the images, masks and confounds of data outside BIDS, and how to search by them."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from bids_semantoks.bids_names import ENTITY_ORDER, BidsFile, Entities, sort_entities, sorted_naturally
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.files import read_json
from bids_semantoks.inputs.pairing import Candidate
from bids_semantoks.inputs.pipelines import Derivative, Layout, RunPattern
from bids_semantoks.inputs.repetition_time import LONGEST

_FOLDER: Final = Path(__file__).parent.parent / "data" / "layouts"
_HINT: Final = "See data/layouts/hcp.json in this package for an example."
LOG = logging.getLogger(__name__)

_LONG_NAMES: Final = {
    "participant": "sub",
    "session": "ses",
    "acquisition": "acq",
    "reconstruction": "rec",
    "direction": "dir",
    "resolution": "res",
}
_PLACEHOLDER: Final = re.compile(r"\{([a-z]+)\}")
_LABEL: Final = "[a-zA-Z0-9]+"
# "" marks a column that is not read.
# fmt: off
_COLUMNS: Final = (
    "trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "rot_x_deg", "rot_y_deg", "rot_z_deg", "",
)

# Folders often found beside those of participants.
_NO_PARTICIPANTS: Final = frozenset({"derivatives", "code", "sourcedata", "logs"})


# fmt: on
def load_layout(name_or_file: str) -> Layout:
    """Load and check a layout: ``hcp``, ``ukb`` or a JSON file. ConfigurationError if it does not exist,
    or has a missing, unknown or invalid key."""
    shipped = sorted(path.stem for path in _FOLDER.glob("*.json"))
    path = _FOLDER / f"{name_or_file}.json" if name_or_file in shipped else Path(name_or_file)
    if not path.is_file():
        near = difflib.get_close_matches(name_or_file.lower(), shipped, n=1)
        raise ConfigurationError(
            f"--layout: there is neither a layout nor a file {name_or_file}; layouts are {', '.join(shipped)}.",
            hint=f"Did you mean {near[0]}?" if near else "A JSON file is given by its path.",
        )
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--layout: {path} is not a readable JSON file ({error}).", hint=_HINT) from error
    known = {"name": str, "description": str, "space": str, "denoised": bool, "filtered": bool, "runs": list}
    _check_keys(content, known, ("name", "space", "runs"), str(path))
    if not content["runs"]:
        _refuse(f"{path} has no runs")
    if not re.fullmatch(_LABEL, content["space"]):
        _refuse(f"{path}: space must be a label of letters and digits, found {content['space']!r}")
    return Layout(
        is_shipped=name_or_file in shipped,
        name=content["name"],
        space=content["space"],
        is_denoised=content.get("denoised", False),
        is_filtered=content.get("filtered", False),
        runs=tuple(_read_pattern(one, f"{path}: runs[{number}]") for number, one in enumerate(content["runs"])),
    )


def find_files(root: Path, pattern: str, participants: Collection[str] = ()) -> Iterator[dict[str, str]]:
    """Yield the entity values (by short key) of each file matching a pattern; values are letters and digits only.

    Files come in name order within each folder. `participants` restricts the search; empty means all. Raises
    InputError if a folder cannot be listed.
    """
    yield from _walk(str(root), pattern.split("/"), {}, frozenset(participants))


def _short(name: str) -> str:
    return _LONG_NAMES.get(name, name)


def _walk(
    folder: str, parts: list[str], values: dict[str, str], participants: frozenset[str]
) -> Iterator[dict[str, str]]:
    part, rest = parts[0], parts[1:]
    if not _PLACEHOLDER.search(part):
        path = os.path.join(folder, part)  # noqa: PTH118 - paths cost more than the search
        if rest:
            yield from _walk(path, rest, values, participants)
        elif os.path.lexists(path):
            yield dict(values)
        return
    expression = _compile(part, values)
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f"Folder {folder} cannot be listed: {error.strerror}.") from error
    for name in names:
        match = expression.fullmatch(name)
        if match is None or (participants and match.groupdict().get("sub", values.get("sub")) not in participants):
            continue
        found = {**values, **match.groupdict()}
        if rest:
            yield from _walk(os.path.join(folder, name), rest, found, participants)  # noqa: PTH118
        else:
            yield found


def _compile(part: str, values: Mapping[str, str]) -> re.Pattern[str]:
    """Compile a path component into a regular expression, with the known values filled in."""
    pieces, end, seen = [], 0, set()
    for match in _PLACEHOLDER.finditer(part):
        key = _short(match[1])
        pieces.append(re.escape(part[end : match.start()]))
        if key in values:
            pieces.append(re.escape(values[key]))
        else:
            pieces.append(f"(?P={key})" if key in seen else f"(?P<{key}>{_LABEL})")
            seen.add(key)
        end = match.end()
    return re.compile("".join(pieces) + re.escape(part[end:]))


def _refuse(problem: str) -> NoReturn:
    raise ConfigurationError(f"--layout: {problem}.", hint=_HINT)


def _check_keys(content: Any, known: Mapping[str, type], needed: Collection[str], where: str) -> None:
    if not isinstance(content, dict):
        _refuse(f"{where} must be a JSON object, found {type(content).__name__}")
    if unknown := sorted(set(content) - set(known)):
        _refuse(f"{where} has unknown keys: {', '.join(unknown)}; known are {', '.join(known)}")
    if missing := sorted(set(needed) - set(content)):
        _refuse(f"{where} lacks {', '.join(missing)}")
    for key, value in content.items():
        if not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] not in (bool, object)):
            _refuse(f"{where}: {key} must be a JSON {known[key].__name__}, found {value!r}")


def _check_paths(content: Mapping[str, Any], where: str) -> None:
    bold = content["bold"]
    placed = {_short(name) for name in _PLACEHOLDER.findall(bold)}
    for name in ("bold", "mask", "confounds", "warp"):
        pattern = content.get(name, "")
        if {"", ".", ".."} & set(pattern.split("/")) and (pattern or name == "bold"):
            _refuse(f"{where}: {name} must be a path below BIDS_DIR, found {pattern!r}")
        if unbound := sorted({_short(one) for one in _PLACEHOLDER.findall(pattern)} - placed):
            _refuse(f"{where}: {name} has {', '.join(unbound)} in braces, which bold has not")
    if not bold.endswith((".nii", ".nii.gz")):
        _refuse(f"{where}: bold must be a NIfTI image (.nii or .nii.gz), found {bold!r}")


def _read_pattern(content: Any, where: str) -> RunPattern:
    known = {"bold": str, "repetition_time": object, "mask": str, "confounds": str, "columns": list, "entities": dict}
    known |= {"warp": str, "fallback": bool}
    _check_keys(content, known, ("bold", "repetition_time"), where)
    time = content["repetition_time"]
    if isinstance(time, bool) or not isinstance(time, int | float) or not 0 < time <= LONGEST:
        _refuse(f"{where}: repetition_time must be a positive number of seconds, {LONGEST:g} at most, found {time!r}")
    constant = {_short(key): value for key, value in content.get("entities", {}).items()}
    for key, value in constant.items():
        if key not in ENTITY_ORDER or not isinstance(value, str) or not re.fullmatch(_LABEL, value):
            _refuse(f"{where}: entities must be BIDS entities and labels of letters and digits, found {key}: {value!r}")
    placed = {_short(name) for name in _PLACEHOLDER.findall(content["bold"])}
    if "sub" not in placed:
        _refuse(f"{where}: bold {content['bold']!r} needs {{participant}}")
    if odd := sorted((placed - set(ENTITY_ORDER)) | (placed & set(constant)) | (placed & {"space", "desc", "atlas"})):
        _refuse(f"{where}: {', '.join(odd)} cannot stand in braces: expected BIDS entities that nothing else gives")
    _check_paths(content, where)
    columns = tuple(content.get("columns", ()))
    if odd := [column for column in columns if column not in _COLUMNS]:
        _refuse(f"{where}: columns {odd!r} are unknown; known are {', '.join(_COLUMNS[:-1])}, and '' for any other")
    return RunPattern(
        bold=content["bold"],
        mask=content.get("mask", ""),
        confounds=content.get("confounds", ""),
        columns=columns,
        entities=tuple(constant.items()),
        repetition_time=float(time),
        warp=content.get("warp", ""),
        is_fallback=content.get("fallback", False),
    )


def find_layout_participants(derivative: Derivative, layout: Layout) -> tuple[str, ...]:
    """List the labels whose folder (or first file) exists, in natural order."""
    labels: set[str] = set()
    for pattern in layout.runs:
        parts = pattern.bold.split("/")
        n_parts = 1 + next(i for i, part in enumerate(parts) if "{participant}" in part or "{sub}" in part)
        # Of a fallback the run itself must be there: `{participant}/...` alone would match any folder.
        found = find_files(derivative.path, "/".join(parts if pattern.is_fallback else parts[:n_parts]))
        labels.update(values["sub"] for values in found)
    return sorted_naturally(labels - _NO_PARTICIPANTS)


def find_layout_candidates(derivative: Derivative, layout: Layout, participants: Sequence[str]) -> Iterator[Candidate]:
    """Yield the images with their masks and confounds; InputError if two images would be the same run."""
    seen: dict[tuple[tuple[str, str], ...], str] = {}
    passed_over: list[str] = []
    for pattern in layout.runs:
        for values in find_files(derivative.path, pattern.bold, participants):
            one = _build_candidate(derivative, layout, pattern, values)
            other = seen.setdefault(one.image.entities, one.image.path)
            if other != one.image.path and pattern.is_fallback:
                passed_over.append(one.image.path)
                continue
            if other != one.image.path:
                raise InputError(
                    f"The layout {layout.name} gives two images the same entities: {other} and {one.image.path}.",
                    hint="Name what tells them apart, in braces or under entities.",
                )
            yield one
    if passed_over:
        LOG.info(
            "%d images are not read, because the layout prefers another of the same run, such as %s.",
            len(passed_over),
            passed_over[0],
        )


def fill_pattern(pattern: str, values: Mapping[str, str]) -> str:
    """Replace the entities in braces by their values (by short key)."""
    return _PLACEHOLDER.sub(lambda match: values[_short(match[1])], pattern)


def _build_candidate(
    derivative: Derivative, layout: Layout, pattern: RunPattern, values: Mapping[str, str]
) -> Candidate:
    root = str(derivative.path)
    named = {**values, **dict(pattern.entities), "space": layout.space}
    paths = {
        key: os.path.join(root, fill_pattern(text, values)) if text else None  # noqa: PTH118
        for key in ("bold", "mask", "confounds", "warp")
        for text in (getattr(pattern, key),)
    }
    bold, confounds = paths["bold"], paths["confounds"]
    mask = paths["mask"] if paths["mask"] and os.path.lexists(paths["mask"]) else None
    confounds = confounds if confounds and os.path.lexists(confounds) else None
    assert bold is not None
    return Candidate(
        image=BidsFile(
            path=bold,
            entities=sort_entities(named.items()),
            suffix="bold",
            extension=".nii.gz" if bold.endswith(".gz") else ".nii",
        ),
        mask=mask,
        # For denoised images, confounds would be read as censored volumes; movement regressors measure motion.
        confounds=None if layout.is_denoised else confounds,
        sidecars=_find_sidecars(bold, sort_entities(named.items())),
        derivative=derivative,
        tables=(confounds,) if layout.is_denoised and confounds else (),
        columns=pattern.columns if confounds else (),
        repetition_time=pattern.repetition_time,
        warp=paths["warp"],
    )


def _find_sidecars(bold: str, entities: Entities) -> tuple[BidsFile, ...]:
    """List the JSON files with the name of an image, which may state its repetition time."""
    stem = re.sub(r"\.nii(\.gz)?$", "", bold)
    paths = dict.fromkeys(f"{one}.json" for one in (stem, stem.removesuffix(".dtseries")))
    return tuple(
        BidsFile(path=path, entities=entities, suffix="bold", extension=".json")
        for path in paths
        if os.path.lexists(path)
    )
