"""Report datalad or git-annex files whose content was not fetched, with one command that fetches them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.errors import RunSkipped
from bids_semantoks.images.fetched import check_content
from bids_semantoks.records import Run

# Start of the part of a name that does not identify the run.
_TAIL: Final = re.compile(r"_(?:(?:space|cohort|atlas|seg|scale|res|den|hemi|desc|stat)-|[^_]*$)")
_TASK: Final = re.compile(r"_task-[^_]+")
_LISTED: Final = 4  # patterns in the command; beyond, whole folders


def describe_absent_content(runs: Sequence[Run]) -> str:
    """Describe in one sentence which runs were skipped because their content is missing, with the command to fetch
    it."""
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
