"""The repetition time of a run. Sources in order, for all kinds of input: its own sidecar, the sidecar of its image,
the raw dataset, a CIFTI header, a NIfTI header, the value in a shipped layout."""

from __future__ import annotations

import contextlib
import math
import numbers
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bids_semantoks.bids_names import DERIVED_ENTITIES, TABLE_ENTITIES, BidsFile, parse_names
from bids_semantoks.disk import check_content
from bids_semantoks.errors import ConfigurationError, InputError, RunFailed, RunSkipped
from bids_semantoks.files import read_json
from bids_semantoks.inputs.names import list_func_files, scan_folder
from bids_semantoks.records import Run

#: Seconds; longer values are taken to be milliseconds.
LONGEST: Final = 20.0

# Entities that sidecars of a run may have although its series table or image lacks them.
_NOT_OF_RUN: Final = DERIVED_ENTITIES | {"echo", "part"}
# XCP-D writes this word as SamplingFrequency: one row per volume, whatever its duration.
_NO_FREQUENCY: Final = "TR"
_SIDECAR_ENDS: Final = ("json", "dtseries.json", "ptseries.json", "func.json")
_CIFTI_ENDS: Final = (".ptseries.nii", ".dtseries.nii")
# CIFTI before NIfTI, cheapest first; only headers are read.
_HEADER_ENDS: Final = (".ptseries.nii", "_bold.dtseries.nii", "_bold.nii.gz", "_bold.nii")
_SAME: Final = 1e-3
_SAME_SHARE: Final = 0.01
# Values this far apart are the same time in seconds and in milliseconds.
_THOUSAND: Final = (500.0, 2000.0)
# A time this short may be off by a factor of 1000, so other sources are checked too.
_SHORT: Final = LONGEST / _THOUSAND[0]
_MILLISECONDS: Final = "Is RepetitionTime given in milliseconds? It must be in seconds."


@dataclass(frozen=True, kw_only=True, slots=True)
class StatedTime:
    """The repetition time stated in the sidecars of a run."""

    value: float | None = None  # s; None if none states a usable time
    source: str = ""  # where it was found, for messages
    problems: tuple[str, ...] = ()  # one sentence per unusable sidecar
    is_absent: bool = False  # the content of the deciding sidecar was not fetched


def find_root_sidecars(root: Path, suffix: str = "bold") -> tuple[BidsFile, ...]:
    """List the ``*_<suffix>.json`` at the dataset root."""
    ends = tuple(f"{suffix}.{end}" for end in _SIDECAR_ENDS)
    paths = sorted(entry.path for entry in scan_folder(root) if entry.name.endswith(ends))
    return tuple(one for one in parse_names(paths) if one.suffix == suffix)


def find_raw_sidecars(root: Path, label: str) -> tuple[BidsFile, ...]:
    """List the raw dataset's ``*_bold.json`` for a participant, including those at its root."""
    paths = list_func_files(str(root / f"sub-{label}"))
    return (*parse_names(path for path in paths if path.endswith("_bold.json")), *find_root_sidecars(root))


def find_stated_time(image: BidsFile, sidecars: Iterable[BidsFile], *, are_raw: bool = False) -> StatedTime:
    """Find the repetition time (s) that the sidecars of an image or table state, or those of the raw dataset. The
    nearest applicable sidecar with RepetitionTime or SamplingFrequency decides, even with an implausible value (see
    `decide_repetition_time`). One that is unreadable or has no positive number is reported and skipped; one that was
    not fetched ends the search. The ``*_bold.json`` of the run's images follow its own."""
    pairs = set(image.entities)
    own: list[BidsFile] = []
    of_images: list[BidsFile] = []
    for one in sidecars:
        if not _is_beside(one.path, pairs):
            continue
        is_above = not are_raw and image.path.startswith(one.path.rpartition(os.sep)[0] + os.sep)
        if one.suffix == image.suffix and is_above and pairs.issuperset(one.entities):
            own.append(one)
        elif one.suffix == "bold" and pairs.issuperset(pair for pair in one.entities if pair[0] not in _NOT_OF_RUN):
            of_images.append(one)
    problems: tuple[str, ...] = ()
    for sidecar in (*_sort_nearest(own), *_sort_nearest(of_images)):
        try:
            found = _read_stated(Path(sidecar.path))
        except RunSkipped:
            why = "its content has not been fetched (run `datalad get`)"
            problems = (*problems, f"The sidecar {sidecar.path} cannot be used: {why}.")
            return StatedTime(problems=problems, is_absent=True)
        except ValueError as error:
            problems = (*problems, f"The sidecar {sidecar.path} cannot be used: {error}.")
            continue
        if found is not None:
            return StatedTime(value=found, source=f"the sidecar {sidecar.path}", problems=problems)
    return StatedTime(problems=problems)


def find_given_time(argument: float | None, sidecar: Path) -> tuple[float | None, str]:
    """Find the repetition time (s) of a file outside BIDS, and its source: the argument, else the sidecar; None if
    neither. Raises InputError if it is not a positive number."""
    source = "the argument repetition_time" if argument is not None else f"the sidecar {sidecar}"
    try:
        if argument is not None:
            time: float | None = _check_positive(argument, "repetition_time", "seconds")
        else:
            time = _read_stated(sidecar) if sidecar.is_file() else None
    except ValueError as error:
        raise InputError(f"{source[:1].upper()}{source[1:]} cannot be used: {error}.") from error
    return time, source


def _is_beside(path: str, pairs: set[tuple[str, str]]) -> bool:
    """Return whether the folders of a sidecar are those of a run, or above them."""
    folders = path.rsplit(os.sep, 4)[1:-1]
    return all(tuple(one.split("-", 1)) in pairs for one in folders if one.startswith(("sub-", "ses-")))


def _sort_nearest(sidecars: list[BidsFile]) -> list[BidsFile]:
    """Sort by nearness of the folder, then by number of entities, most first."""
    return sorted(sidecars, key=lambda one: (-one.path.count(os.sep), -len(one.entities), one.path))


def _read_stated(path: Path) -> float | None:
    """Read the repetition time (s) of a sidecar, None without; ValueError if unusable, RunSkipped if not fetched."""
    try:
        check_content(path)
        content = read_json(path)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except ValueError as error:
        raise ValueError(f"it is not readable JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    if "RepetitionTime" in content:
        return _check_positive(content["RepetitionTime"], "RepetitionTime", "seconds")
    if content.get("SamplingFrequency", _NO_FREQUENCY) == _NO_FREQUENCY:
        return None
    frequency = content["SamplingFrequency"]
    # The reciprocal of the smallest numbers is infinite.
    if math.isinf(1.0 / _check_positive(frequency, "SamplingFrequency", "Hz")):
        raise ValueError(f"SamplingFrequency must be a positive number of Hz, found {frequency!r}")
    return 1.0 / float(frequency)


def _check_positive(value: object, key: str, unit: str) -> float:
    # NumPy scalars are accepted, too.
    number = math.nan if isinstance(value, bool) or not isinstance(value, numbers.Real) else float(value)
    if math.isfinite(number) and number > 0:
        return number
    raise ValueError(f"{key} must be a positive number of {unit}, found {value!r:.60}")


def read_header_time(path: Path) -> float | None:
    """Read the seconds per volume in the header of a CIFTI or NIfTI series; None if there is none or the header
    is unreadable (damaged files are reported with their run)."""
    # Imported late: nibabel takes longer to import than all other checks of the input folder.
    from bids_semantoks.images.grayordinates import CiftiError, load_cifti, read_series_step
    from bids_semantoks.images.volumes import load_volumes

    with contextlib.suppress(RunFailed, RunSkipped, CiftiError, OSError):
        if path.name.endswith(_CIFTI_ENDS):
            check_content(path)
            file = load_cifti(path)
            return read_series_step(file.axes[0]) if file.kinds[0] == "SERIES" else None
        if path.name.endswith((".nii", ".nii.gz")):
            return load_volumes(path).repetition_time
    return None


def _find_header_time(run: Run) -> tuple[float, Path] | None:
    """Find the time (s) in the header of a run's file, else of another image of the same run."""
    if (time := read_header_time(run.bold)) is not None:
        return time, run.bold
    own = _key(run.entities)
    names = sorted(one.name for one in scan_folder(run.bold.parent) if one.name.endswith(_HEADER_ENDS))
    siblings = [one.path for one in parse_names(names) if _key(one.entities) == own and one.path != run.bold.name]
    for name in (one for end in _HEADER_ENDS for one in siblings if one.endswith(end)):
        if (time := read_header_time(run.bold.with_name(name))) is not None:
            return time, run.bold.with_name(name)
    return None


def _key(entities: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    return frozenset(pair for pair in entities if pair[0] not in DERIVED_ENTITIES | TABLE_ENTITIES)


def decide_repetition_time(run: Run, in_header: float | None = None) -> tuple[float, tuple[str, ...]]:
    """Decide on the repetition time (s) of a run; return it with notes on sources that disagree or could not be used.
    `in_header` is the time in the header of `run.bold`, if the caller has opened it. Raises RunFailed
    no_repetition_time if no source has a time, or if it is above 20 s or differs from another source by a factor of
    1000; RunSkipped no_content if the run's own sidecar was not fetched and no other source has the time."""
    stated = run.repetition_time
    if stated is None:
        check_content(run.bold.with_name(_name_sidecar(run.bold.name)))
    header = (in_header, run.bold) if in_header is not None else None
    if header is None and (stated is None or run.is_default_time or stated < _SHORT):
        header = _find_header_time(run)
    if header is None and stated is None:
        why = f" {' '.join(run.time_problems)}" if run.time_problems else ""
        raise RunFailed(
            "no_repetition_time",
            f"No repetition time for {run.bold}: expected RepetitionTime or SamplingFrequency in a sidecar, or a time "
            f"with its unit in an image header.{why}",
            hint=f"Add RepetitionTime, in seconds, to {_name_sidecar(run.bold.name)} in the same folder.",
        )
    sources = []
    if stated is not None:
        sources.append((stated, run.time_source or "the sidecar"))
    if header is not None:
        # A second long path would only clutter the message.
        is_second = stated is not None and not run.is_default_time
        sources.append((header[0], f"the header of {header[1].name if is_second else header[1]}"))
    if run.is_default_time:
        sources.reverse()
    time = sources[0][0]
    _check_plausible(sources)
    notes = list(run.time_problems)
    if len(sources) > 1 and abs(sources[0][0] - sources[1][0]) > _SAME:
        (first, here), (second, there) = sources
        notes.append(
            f"{here[0].upper()}{here[1:]} gives a repetition time of {first:g} s, {there} {second:g} s; using the "
            "former."
        )
    elif stated is None and header is not None and not run.bold.name.endswith(_CIFTI_ENDS[0]):
        place = "its header" if header[1] == run.bold else f"the header of {header[1].name}"
        notes.append(f"No sidecar gives the repetition time of {run.bold.name}; using {time:g} s from {place}.")
    return time, tuple(notes)


def _name_sidecar(name: str) -> str:
    return f"{name.partition('.')[0]}.json"


def _check_plausible(sources: list[tuple[float, str]]) -> None:
    """Refuse the first time if it is above 20 s or differs from another source by a factor of 1000."""
    time, source = sources[0]
    others = sources[1:]
    low, high = _THOUSAND
    apart = [one for one, _ in others if one <= LONGEST and (low <= time / one <= high or low <= one / time <= high)]
    if time <= LONGEST and not apart:
        return
    told = "".join(f", {there} {one:g} s" for one, there in others)
    limit = f" Values above {LONGEST:g} s are implausible." if time > LONGEST else ""
    raise RunFailed(
        "no_repetition_time",
        f"{source[0].upper()}{source[1:]} gives a repetition time of {time:g} s{told}.{limit}",
        hint=_MILLISECONDS,
    )


def check_layout_time(run: Run, layout: str, time: float) -> None:
    """Raise ConfigurationError if a layout's `time` (s) differs by over 1 % from a sidecar or header of a run."""
    stated = None if run.is_default_time else run.repetition_time
    in_header = read_header_time(run.bold)
    for other, source in ((stated, run.time_source), (in_header, f"the header of {run.bold}")):
        if other is not None and abs(time - other) > _SAME_SHARE * other:
            raise ConfigurationError(
                f"The layout {layout} gives a repetition time of {time:g} s, {source} {other:g} s.",
                hint="Correct repetition_time (in seconds) in the layout file or in the other source.",
            )
