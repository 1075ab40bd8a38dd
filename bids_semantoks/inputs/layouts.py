"""Layouts: JSON files that locate the images, masks, confounds and series of data outside BIDS, and the search for
them."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

from bids_semantoks.bids_names import ENTITY_ORDER, BidsFile, group_by, sort_entities, sorted_naturally
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.files import read_json
from bids_semantoks.inputs.names import Derivative, Layout, RunPattern, is_surface_file, scan_folder
from bids_semantoks.inputs.pairing import Candidate
from bids_semantoks.inputs.repetition_time import LONGEST
from bids_semantoks.records import SERIES_ENDS

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
_IMAGE_ENDS: Final = (".nii", ".nii.gz")
# Images and series tables are distinguished by the key, so that a text file of numbers is never read as an image.
_KINDS: Final = {"bold": "fmriprep", "series": "parcellated"}
_PATHS: Final = ("mask", "confounds", "warp")
# "" marks a column to ignore.
# fmt: off
_COLUMNS: Final = (
    "trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "rot_x_deg", "rot_y_deg", "rot_z_deg", "",
)

# Folders often found next to those of participants.
_NO_PARTICIPANTS: Final = frozenset({"derivatives", "code", "sourcedata", "logs"})


# fmt: on
def load_layout(name_or_file: str) -> Layout:
    """Load and check a layout: a shipped one by its name, or a JSON file. ConfigurationError if it does not exist,
    or has a missing, unknown or invalid key."""
    shipped = list_layouts()
    path = _FOLDER / f"{name_or_file}.json" if name_or_file in shipped else Path(name_or_file)
    if not path.is_file():
        near = difflib.get_close_matches(name_or_file.lower(), shipped, n=1)
        raise ConfigurationError(
            f"--layout: {name_or_file} is neither a shipped layout ({', '.join(shipped)}) nor an existing file.",
            hint=f"Did you mean {near[0]}?" if near else "Give a JSON file by its path.",
        )
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--layout: {path} is not a readable JSON file ({error}).", hint=_HINT) from error
    known = {"name": str, "description": str, "space": str, "atlas": str, "denoised": bool, "filtered": bool}
    _check_keys(content, known | {"runs": list}, ("name", "runs"), str(path))
    if not content["runs"]:
        _refuse(f"{path} has no runs")
    runs = tuple(_read_pattern(one, f"{path}: runs[{number}]", content) for number, one in enumerate(content["runs"]))
    # An atlas is a name, or a path relative to the layout file.
    atlas = content.get("atlas", "")
    beside = path.parent / atlas
    return Layout(
        is_shipped=name_or_file in shipped,
        name=content["name"],
        atlas=str(beside) if Path(atlas).suffix and beside.exists() else atlas,
        runs=runs,
    )


def list_layouts() -> list[str]:
    """List the names of the shipped layouts."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def find_files(root: Path, pattern: str, participants: Collection[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield path and entity values (by short key) of each file matching a pattern; values are letters and digits only.
    Files come in name order within each folder. `participants` restricts the search; empty means all. Raises InputError
    if a folder cannot be listed."""
    yield from _walk(str(root), pattern.split("/"), {}, frozenset(participants))


def _short(name: str) -> str:
    return _LONG_NAMES.get(name, name)


def _walk(
    folder: str, parts: list[str], values: dict[str, str], participants: frozenset[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    part, rest = parts[0], parts[1:]
    if not _PLACEHOLDER.search(part) and "*" not in part:
        path = os.path.join(folder, part)  # noqa: PTH118 - paths cost more than the search
        if rest:
            yield from _walk(path, rest, values, participants)
        elif os.path.lexists(path):
            yield path, dict(values)
        return
    expression = compile_part(part, values)
    wanted = {*participants, ""}  # folders above those of participants have no label
    for name in sorted(entry.name for entry in scan_folder(folder, is_optional=True)):
        # A Mac writes ._x beside x.
        match = expression.fullmatch(name) if name[0] != "." or part[0] == "." else None
        if match is None or (participants and match.groupdict().get("sub", values.get("sub", "")) not in wanted):
            continue
        found, path = {**values, **match.groupdict()}, os.path.join(folder, name)  # noqa: PTH118
        if rest:
            yield from _walk(path, rest, found, participants)
        else:
            yield path, found


def compile_part(part: str, values: Mapping[str, str]) -> re.Pattern[str]:
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
    return re.compile(("".join(pieces) + re.escape(part[end:])).replace(r"\*", ".*"))


def _refuse(problem: str) -> NoReturn:
    raise ConfigurationError(f"--layout: {problem}.", hint=_HINT)


def _check_keys(content: Any, known: Mapping[str, type], needed: Collection[str], where: str) -> None:
    if not isinstance(content, dict):
        _refuse(f"{where} must be a JSON object, found {type(content).__name__}")
    if unknown := sorted(set(content) - set(known)):
        _refuse(f"{where} has unknown keys: {', '.join(unknown)}; expected {', '.join(known)}")
    if missing := sorted(set(needed) - set(content)):
        _refuse(f"{where} lacks {', '.join(missing)}")
    for key, value in content.items():
        if not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] not in (bool, object)):
            _refuse(f"{where}: {key} must be a JSON {known[key].__name__}, found {value!r}")


def _read_paths(content: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """Read one path, or a list of alternatives, below BIDS_DIR."""
    value = content.get(name, [])
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(one, str) for one in paths):
        _refuse(f"{where}: {name} must be a path or a list of paths, found {value!r}")
    for path in paths:
        if {"", ".", ".."} & set(path.split("/")):
            _refuse(f"{where}: {name} must be a path below BIDS_DIR, found {path!r}")
    return tuple(paths)


def _find_placed(path: str) -> set[str]:
    return {_short(name) for name in _PLACEHOLDER.findall(path)}


def _check_placed(files: Sequence[str], key: str, constant: Collection[str], where: str) -> None:
    """Refuse entities in braces that are not allowed there or that differ between alternatives."""
    placed = _find_placed(files[0])
    # Series tables exist for several atlases; the space and cleaning of images are set by the layout.
    given = {"space", "desc"} if key == "series" else {"space", "desc", "atlas"}
    if "sub" not in placed:
        _refuse(f"{where}: {key} {files[0]!r} needs {{participant}}")
    if odd := sorted((placed - set(ENTITY_ORDER)) | (placed & set(constant)) | (placed & given)):
        _refuse(f"{where}: {', '.join(odd)} not allowed in braces: expected BIDS entities that are not set elsewhere")
    for path in files:
        if _find_placed(path) != placed:
            _refuse(f"{where}: the alternatives of {key} must have the same entities in braces, found {path!r}")
        if key == "series" and not path.endswith(SERIES_ENDS):
            hint = "; export the series of a .mat file as text or .npy" if path.endswith(".mat") else ""
            _refuse(f"{where}: series must end in one of {', '.join(SERIES_ENDS)}, found {path!r}{hint}")
        if key == "bold" and not path.endswith((*_IMAGE_ENDS, ".dtseries.nii")):
            _refuse(f"{where}: bold must be an image (.nii, .nii.gz, .dtseries.nii), found {path!r}")
        if key == "bold" and path.endswith(".ptseries.nii"):
            _refuse(f"{where}: {path!r} contains parcel series: list it under series instead of bold")


def _read_time(content: Mapping[str, Any], where: str) -> float | None:
    time = content.get("repetition_time")
    if time is None:
        return None
    if isinstance(time, bool) or not isinstance(time, int | float) or not 0 < time <= LONGEST:
        _refuse(f"{where}: repetition_time must be a positive number of seconds up to {LONGEST:g}, found {time!r}")
    return float(time)


def _read_pattern(content: Any, where: str, layout: Mapping[str, Any]) -> RunPattern:
    """Read one run pattern of a layout; keys that it lacks are taken from the layout itself."""
    shared = {"repetition_time": object, "entities": dict, "space": str, "denoised": bool, "filtered": bool}
    shared |= {"fallback": bool}
    key = "series" if isinstance(content, dict) and "series" in content else "bold"
    own = {"volumes": str} if key == "series" else dict.fromkeys(_PATHS, object) | {"columns": list}
    _check_keys(content, {key: object} | own | shared, (key,), where)
    constant = {_short(name): value for name, value in content.get("entities", {}).items()}
    for name, value in constant.items():
        if name not in ENTITY_ORDER or not isinstance(value, str) or not re.fullmatch(_LABEL, value):
            _refuse(
                f"{where}: entities must be BIDS entities and labels of letters and digits, found {name}: {value!r}"
            )
    files = _read_paths(content, key, where) or _refuse(f"{where} has no path under {key}")
    _check_placed(files, key, constant, where)
    others = {name: _read_paths(content, name, where) for name in _PATHS}
    for name, paths in others.items():
        if unbound := sorted(set().union(*map(_find_placed, paths)) - _find_placed(files[0])):
            _refuse(f"{where}: {name} has {', '.join(unbound)} in braces, but bold does not")
    columns = tuple(content.get("columns", ()))
    if odd := [column for column in columns if column not in _COLUMNS]:
        _refuse(f"{where}: unknown columns {odd!r}; expected {', '.join(_COLUMNS[:-1])}, or '' for any other")
    if content.get("volumes", "rows") not in ("rows", "columns"):
        _refuse(f"{where}: volumes must be rows or columns, found {content['volumes']!r}")
    space = content.get("space", layout.get("space", ""))
    if not re.fullmatch(_LABEL, space) and (space or key == "bold"):
        _refuse(f"{where}: space must be a label of letters and digits, found {space!r}")
    return RunPattern(
        kind=_KINDS[key],
        bold=files,
        mask=others["mask"],
        confounds=others["confounds"],
        columns=columns,
        entities=tuple(constant.items()),
        space=space,
        is_denoised=content.get("denoised", layout.get("denoised", False)),
        is_filtered=content.get("filtered", layout.get("filtered", False)),
        volumes=content.get("volumes", ""),
        repetition_time=_read_time(content, where),
        warp=others["warp"],
        is_fallback=content.get("fallback", False),
    )


def choose_runs(root: Path, layout: Layout, input_type: str) -> Layout:
    """Choose what to read from a layout with several kinds of data (images, denoised images, series): the first kind
    listed that has a file. ConfigurationError if the layout has none of the requested type."""
    wanted = {"images": ("fmriprep",), "series": ("parcellated",)}.get(input_type, tuple(_KINDS.values()))
    runs = [one for one in layout.runs if one.kind in wanted]
    if not runs:
        raise ConfigurationError(
            f"--input-type {input_type}: the layout {layout.name} has no {input_type}.", hint="Remove the option."
        )
    groups = group_by(runs, lambda one: (one.kind, one.is_denoised, one.is_filtered))
    choices = [replace(layout, runs=tuple(some)) for some in groups.values()]
    return next((one for one in choices if has_files(root, one)), choices[0])


def has_files(root: Path, layout: Layout) -> bool:
    """Return whether any file of a layout's pattern exists."""
    return any(next(find_files(root, path), None) for one in layout.runs for path in one.bold)


def find_layout_participants(root: Path, layout: Layout) -> tuple[str, ...]:
    """List the labels whose folder (or first file) exists, in natural order."""
    labels: set[str] = set()
    for pattern, is_fallback in dict.fromkeys((path, one.is_fallback) for one in layout.runs for path in one.bold):
        parts = pattern.split("/")
        n_parts = 1 + next(i for i, part in enumerate(parts) if "{participant}" in part or "{sub}" in part)
        # For a fallback the run itself must exist: `{participant}/...` alone would match any folder.
        found = find_files(root, "/".join(parts if is_fallback else parts[:n_parts]))
        labels.update(values["sub"] for _, values in found)
    return sorted_naturally(labels - _NO_PARTICIPANTS)


def find_layout_candidates(derivative: Derivative, layout: Layout, participants: Sequence[str]) -> Iterator[Candidate]:
    """Yield the images or series with their other files; InputError if two of them would be the same run."""
    seen: dict[tuple[tuple[str, str], ...], str] = {}
    passed_over: list[str] = []
    for pattern in layout.runs:
        better: set[frozenset[tuple[str, str]]] = set()
        for alternative in pattern.bold:
            found = list(find_files(derivative.path, alternative, participants))
            for path, values in found:
                if frozenset(values.items()) in better:
                    continue
                one = _build_candidate(derivative, pattern, path, values)
                other = seen.setdefault(one.image.entities, path)
                if other == path:
                    yield one
                elif pattern.is_fallback:
                    passed_over.append(path)
                else:
                    raise InputError(
                        f"Two files have the same entities in layout {layout.name}: {other} and {path}.",
                        hint="Add an entity that distinguishes them, in braces or under entities.",
                    )
            better.update(frozenset(values.items()) for _, values in found)
    if passed_over:
        LOG.info(
            "%d images are ignored because the layout prefers another image of the same run, e.g. %s.",
            len(passed_over),
            passed_over[0],
        )


def fill_pattern(pattern: str, values: Mapping[str, str]) -> str:
    """Replace the entities in braces by their values (by short key)."""
    return _PLACEHOLDER.sub(lambda match: values[_short(match[1])], pattern)


def _find_companion(root: Path, patterns: Sequence[str], values: Mapping[str, str]) -> str | None:
    """Find the first alternative that exists; InputError if a wildcard matches several files."""
    for pattern in patterns:
        found = [path for path, _ in find_files(root, fill_pattern(pattern, values))]
        if len(found) > 1:
            first, second = (os.path.relpath(path, root) for path in found[:2])
            raise InputError(
                f"The layout's pattern {pattern} matches {len(found)} files in {root}, e.g. {first} and {second}.",
                hint="List the alternatives explicitly, best first.",
            )
        if found:
            return found[0]
    return None


def _build_candidate(derivative: Derivative, pattern: RunPattern, path: str, values: Mapping[str, str]) -> Candidate:
    named = {**values, **dict(pattern.entities), **({"space": pattern.space} if pattern.space else {})}
    others = (pattern.mask, pattern.confounds, pattern.warp)
    mask, confounds, warp = (_find_companion(derivative.path, some, values) for some in others)
    is_series = pattern.kind == "parcellated"
    ends = SERIES_ENDS if is_series else (".dtseries.nii", ".nii.gz", ".nii")
    extension = next(end for end in ends if path.endswith(end))
    image = BidsFile(
        path=path,
        entities=sort_entities(named.items()),
        suffix="timeseries" if is_series else "bold",
        extension=extension,
    )
    return Candidate(
        image=image,
        mask=None if is_surface_file(path) else mask,
        # For denoised images, confounds would be read as a censoring table; movement regressors are used for motion
        # only.
        confounds=None if pattern.is_denoised else confounds,
        sidecars=_find_sidecars(image),
        derivative=derivative,
        tables=(confounds,) if pattern.is_denoised and confounds else (),
        columns=pattern.columns if confounds else (),
        repetition_time=pattern.repetition_time,
        volumes=pattern.volumes if is_series else "rows",
        # Set even if the file is missing, so that the error names it.
        warp=warp or (os.path.join(derivative.path, fill_pattern(pattern.warp[0], values)) if pattern.warp else None),  # noqa: PTH118
    )


def _find_sidecars(image: BidsFile) -> tuple[BidsFile, ...]:
    """List the JSON files named like an image or table, which may give its repetition time."""
    stem = image.path.removesuffix(image.extension)
    stems = (f"{stem}.dtseries", stem) if image.extension == ".dtseries.nii" else (stem,)
    paths = [f"{one}.json" for one in stems]
    return tuple(replace(image, path=path, extension=".json") for path in paths if os.path.lexists(path))
