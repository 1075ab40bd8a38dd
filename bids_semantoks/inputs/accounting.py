"""Account for every image and table in the func folders: whatever is neither read nor a known by-product is reported
as a run with an unreadable name."""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bids_semantoks.bids_names import BidsFile, explain_name, format_label, parse_entities, parse_name
from bids_semantoks.disk import check_content
from bids_semantoks.errors import RunSkipped
from bids_semantoks.files import read_json
from bids_semantoks.inputs.names import (
    CIFTI,
    GIFTI,
    VOLUMES,
    Derivative,
    find_participant_labels,
    list_func_files,
    tell_kind,
)
from bids_semantoks.inputs.pairing import Candidate, run_key
from bids_semantoks.records import Run

_BYPRODUCTS: Final = Path(__file__).parent.parent / "data" / "byproducts.json"

# What a run may be written as; statistics of other extensions are not series.
_RUN_ENDS: Final = (
    *(f"_bold{end}" for end in (*VOLUMES, CIFTI, ".tsv")),
    *(f"_timeseries{end}" for end in (*VOLUMES, CIFTI, ".tsv", ".ptseries.nii")),
    GIFTI,
)
# Files that differ only in these belong to one run.
_DERIVED: Final = re.compile(r"_(space|cohort|res|den|hemi|desc|atlas|seg|scale|stat)-[^_]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnreadRun:
    """A run that exists but cannot be processed because its name cannot be interpreted."""

    path: str  # one of its files
    label: str  # participant in whose folder it is
    why: str
    is_other_kind: bool  # readable only by a call with the other --input-type
    derivative: Derivative

    @property
    def entities(self) -> tuple[tuple[str, str], ...]:
        """Entities for its status: the participant, and the whole name as one label."""
        return ("sub", self.label), ("name", format_label(_strip(self.path)))

    def as_file(self) -> BidsFile:
        """Build a file with the entities that the name appears to have, for filtering."""
        found = {**parse_entities(os.path.basename(self.path)), "sub": self.label}  # noqa: PTH119
        suffix, extension = _find_end(self.path)
        return BidsFile(path=self.path, entities=tuple(found.items()), suffix=suffix, extension=extension)


def find_unread(
    paths: Iterable[str], label: str, derivative: Derivative, found: Sequence[Candidate]
) -> list[UnreadRun]:
    """Find a participant's runs that no candidate accounts for, one file each. A file is accounted for if it is a
    candidate, another version of a candidate's run (space, atlas, resolution, cleaning), of the kind that this call
    does not read (tables next to images), or a by-product of its pipeline."""
    used = {path for one in found for path in (one.image.path, one.partner) if path}
    read = {run_key(one.image) for one in found}
    unread: dict[str, UnreadRun] = {}
    for path in paths:
        if not path.endswith(_RUN_ENDS) or path in used:
            continue
        file = parse_name(path)
        is_of_read = file is not None and file.entity("sub") == label and _is_of(file, read)
        if is_of_read or _is_byproduct(path, derivative.source.label):
            continue
        is_other = file is not None and tell_kind(file, derivative.source) not in (None, derivative.kind)
        why = _find_fault(file, label, derivative) if file else explain_name(path)
        unread.setdefault(
            _strip(path), UnreadRun(path=path, label=label, why=why, is_other_kind=is_other, derivative=derivative)
        )
    return list(unread.values())


def describe_first_unread(derivative: Derivative) -> str:
    """Describe the first file of a dataset that looks like a run but is not read; empty if there is none."""
    for label in find_participant_labels(derivative.path):
        paths = list_func_files(str(derivative.path / f"sub-{label}"))
        for one in find_unread(paths, label, derivative, ()):
            return f"The first file that looks like a run is {Path(one.path).name}: {one.why}. "
    return ""


def _find_fault(file: BidsFile, label: str, derivative: Derivative) -> str:
    """Explain why a file is not read although its name can be parsed."""
    if file.entity("sub") is None:
        return "its name has no participant (sub-)"
    if file.entity("sub") != label:
        return f"its name has participant {file.entity('sub')}, but it is in folder sub-{label}"
    if file.suffix == "timeseries":
        return "its name has no atlas (atlas- or seg-)"
    descs = " or ".join(f"desc-{desc}" for desc in derivative.source.descs)
    desc = file.entity("desc")
    return f"it has {f'desc-{desc}' if desc else 'no desc-'}; expected {descs}"


def _is_of(file: BidsFile, read: Collection[frozenset[tuple[str, str]]]) -> bool:
    """Return whether a file is another version of a run that is read; echoes count as versions of their combination."""
    key = run_key(file)
    return key in read or frozenset(pair for pair in key if pair[0] != "echo") in read


_load_rules = functools.cache(read_json)


def _is_byproduct(path: str, pipeline: str) -> bool:
    suffix, extension = _find_end(path)
    values = {**parse_entities(os.path.basename(path)), "suffix": suffix, "extension": extension}  # noqa: PTH119
    rules: dict[str, list[dict[str, list[str]]]] = _load_rules(_BYPRODUCTS)
    return any(_fits(rule, values) for rule in (*rules[""], *rules.get(pipeline, ())))


def _fits(rule: Mapping[str, Sequence[str]], values: Mapping[str, str]) -> bool:
    return all(
        key in values and any(_matches(values[key], pattern) for pattern in patterns) for key, patterns in rule.items()
    )


def _matches(value: str, pattern: str) -> bool:
    return value != pattern[1:] if pattern.startswith("!") else fnmatch.fnmatchcase(value, pattern)


def _find_end(path: str) -> tuple[str, str]:
    suffix, dot, extension = path.rpartition("_")[2].partition(".")
    return suffix, dot + extension


def _strip(path: str) -> str:
    """Reduce a name to the part that identifies its run."""
    name = os.path.basename(path)  # noqa: PTH119
    end = next(end for end in _RUN_ENDS if name.endswith(end))
    return _DERIVED.sub("", name.removesuffix(end))


# Start of the part of a name that does not identify the run.
_TAIL: Final = re.compile(r"_(?:(?:space|cohort|atlas|seg|scale|res|den|hemi|desc|stat)-|[^_]*$)")
_TASK: Final = re.compile(r"_task-[^_]+")
_LISTED: Final = 4  # patterns in the command; beyond, whole folders


def describe_absent_content(runs: Sequence[Run]) -> str:
    """Describe in one sentence which runs were skipped for lack of content, with the command to fetch it."""
    absent: dict[Path, list[Path]] = {}
    for run in runs:
        absent.setdefault(run.dataset, []).extend(_find_absent(run))
    first = next((path for paths in absent.values() for path in paths), runs[0].bold)
    what = f"1 run skipped (no_content): {first.name} has not been fetched."
    if len(runs) > 1:
        what = f"{len(runs)} runs skipped (no_content): their content has not been fetched (see the log for the list)."
    roots = list(absent)
    if len(roots) == 1:
        command = (
            f"cd {shlex.quote(str(roots[0]))} && datalad get {' '.join(_build_patterns(absent[roots[0]], roots[0]))}"
        )
    else:
        command = f"datalad get {' '.join(f'{shlex.quote(str(root))}/sub-*/' for root in roots)}"
    return f"{what} To fetch: {command}"


def _find_absent(run: Run) -> Iterator[Path]:
    sidecar = run.bold.with_name(f"{run.bold.name.partition('.')[0]}.json")
    for path in (run.bold, run.partner, run.mask, run.confounds, *run.tables, sidecar):
        if path is not None:
            try:
                check_content(path)
            except RunSkipped:
                yield path


def _build_patterns(paths: Sequence[Path], root: Path) -> list[str]:
    """Build shell patterns, relative to the root, that match the files: its full name if a file is alone."""
    groups: dict[tuple[int, str], list[Path]] = {}
    for path in paths:
        relative = path.relative_to(root)
        tail = _TAIL.search(relative.name)
        groups.setdefault((len(relative.parts), relative.name[tail.start() :] if tail else relative.name), []).append(
            relative
        )
    if len(groups) > _LISTED:
        return ["sub-*/"]
    return [_build_pattern(group, tail) for (_, tail), group in sorted(groups.items())]


def _build_pattern(group: Sequence[Path], tail: str) -> str:
    if len(set(group)) == 1:
        return shlex.quote(str(group[0]))
    folders = []
    for parts in zip(*(path.parts[:-1] for path in group), strict=True):
        is_same, start = len(set(parts)) == 1, parts[0].partition("-")[0]
        folders.append(shlex.quote(parts[0]) if is_same else f"{shlex.quote(start)}-*")
    tasks = {match[0] for path in group if (match := _TASK.search(path.name))}
    task = f"{shlex.quote(tasks.pop())}*" if len(tasks) == 1 else ""
    return "/".join([*folders, f"*{task}{shlex.quote(tail)}"])
