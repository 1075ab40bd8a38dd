"""Candidates: all images or tables of the selection with their files, which concatenated runs to read, and hints where
a layout finds nothing."""

from __future__ import annotations

import difflib
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.config import SelectionConfig
from bids_semantoks.disk import check_size
from bids_semantoks.errors import ConfigurationError, InputError, name_some
from bids_semantoks.inputs.accounting import UnreadRun, find_unread
from bids_semantoks.inputs.datasets import CONTENT, Dataset
from bids_semantoks.inputs.layouts import (
    fill_pattern,
    find_files,
    find_layout_candidates,
    has_files,
    list_layouts,
    load_layout,
)
from bids_semantoks.inputs.names import GIFTI, XCPD, Derivative, Layout, find_folders, list_func_files
from bids_semantoks.inputs.pairing import USEFUL_ENDS, Candidate, drop, find_components, pair_files, pair_series
from bids_semantoks.inputs.pybids_database import find_database_files
from bids_semantoks.inputs.selection import check_known, describe_labels, is_among, list_asked, read_filter

LOG = logging.getLogger(__name__)

# Entities that XCP-D omits from the name of a concatenation; the direction, if it combines several.
_COMBINED: Final = ("run", "dir")
# fMRIPrep writes these at every level, so without BOLD they indicate the lowest; older versions name the transform
# otherwise.
_MINIMAL_ENDS: Final = ("_desc-hmc_boldref.nii.gz", "_desc-hmc_xfm.txt", "_desc-coreg_boldref.nii.gz")
_N_NAMES: Final = 3
_N_FOLDERS: Final = 20


def find_candidates(
    dataset: Dataset, selection: SelectionConfig, participants: Sequence[str], *, kind: str = "fmriprep"
) -> tuple[list[Candidate], list[UnreadRun]]:
    """List the BOLD images (``fmriprep``) or series tables (``parcellated``) of the selection, in every space, and the
    runs whose names cannot be read. Returns at least one; InputError if none matches the participants, the sessions,
    tasks and runs, or the filter."""
    found: list[Candidate] = []
    unread: list[UnreadRun] = []
    for derivative in dataset.derivatives:
        if derivative.kind == kind:
            for candidates, others in _scan(derivative, dataset, selection.bids_database_dir, participants):
                found += candidates
                unread += others
    unread = _leave_other_kinds(unread, kind)
    found = attach_parts(_attach_components(found, dataset, participants))
    folder = selection.bids_database_dir
    stale = f" (if they are new, delete the database {folder}, which is not updated)" if folder else ""
    if not found and not unread:
        _refuse_minimal(dataset, participants)
        _refuse_nothing(dataset, participants, kind, stale)
    heard = {one.image.entities[0][1] for one in found} | {one.label for one in unread}
    if silent := set(participants) - heard:
        LOG.warning("Participants without %s: %s%s", CONTENT[kind], describe_labels(silent), stale)
    odd = {label for one in found for _, label in one.image.entities if not label.replace("+", "").isalnum()}
    if odd:
        LOG.warning("Labels with characters that BIDS does not allow are kept in the outputs: %s", describe_labels(odd))
    chosen, left = _select(found, unread, selection, dataset.where)
    return _apply_filter(chosen, left, selection.bids_filter_file)


def _leave_other_kinds(unread: Sequence[UnreadRun], kind: str) -> list[UnreadRun]:
    """Warn of runs that only the other --input-type finds, and return the rest."""
    if others := [Path(one.path).name for one in unread if one.is_other_kind]:
        there, asked = ("only parcel series", "series") if kind == "fmriprep" else ("only images", "images")
        LOG.warning(
            "Skipping runs with %s (to read them, use --input-type %s): %s", there, asked, describe_labels(others)
        )
    return [one for one in unread if not one.is_other_kind]


def _select(
    found: Sequence[Candidate], unread: Sequence[UnreadRun], selection: SelectionConfig, where: str
) -> tuple[list[Candidate], list[UnreadRun]]:
    """Select by session, task, run etc.; an unreadable name is excluded only if it has a different label."""
    chosen, left = list(found), list(unread)
    for what, key, asked in list_asked(selection):
        if not asked:
            continue
        names = [(one, one.as_file().entity(key)) for one in left]
        there = {value for one in found if (value := one.image.entity(key)) is not None}
        check_known(
            what,
            asked,
            there | {value for _, value in names if value},
            f"the selected participants in {where}",
            key=key,
        )
        chosen = [one for one in chosen if is_among(key, one.image.entity(key) or "", asked)]
        left = [one for one, value in names if value is None or is_among(key, value, asked)]
    if not chosen and not left:
        named = " and ".join(f"{what} {', '.join(asked)}" for what, _, asked in list_asked(selection) if asked)
        raise InputError(
            f"No run in {where} matches {named} together.", hint="Each of them exists, but not in the same run."
        )
    return chosen, left


def _refuse_minimal(dataset: Dataset, participants: Sequence[str]) -> None:
    """Refuse the output of fMRIPrep ``--level minimal``: references and transforms of runs, but no BOLD."""
    for one in dataset.derivatives if dataset.layout is None else ():
        for label in participants:
            paths = list_func_files(str(one.path / f"sub-{label}"))
            if any(path.endswith(_MINIMAL_ENDS) for path in paths):
                raw = dataset.raw_root or "RAW"
                raise InputError(
                    f"{one.path} is the output of {one.pipeline} --level minimal: its sub-*/func folders have "
                    "references and transforms, but no resampled BOLD.",
                    hint=f"Resample it first: fmriprep {raw} OUT participant --derivatives minimal={one.path} "
                    "--output-spaces MNI152NLin6Asym:res-2; then use OUT as input.",
                )


def _refuse_nothing(dataset: Dataset, participants: Sequence[str], kind: str, stale: str) -> NoReturn:
    whom = f"for at least one of {describe_labels(participants)} participants{stale}"
    if (layout := dataset.layout) is not None:
        expected, hint = describe_nearest_files(dataset.root, layout, participants)
        raise InputError(f"No files of layout {layout.name} {whom} in {dataset.where}: {expected}.", hint=hint)
    if kind == "parcellated":
        raise InputError(
            f"No parcellated series in {dataset.where}: expected sub-*/[ses-*/]func/*_(atlas|seg)-*_timeseries.tsv "
            f"{whom}.",
            hint="Raw signals (desc-raw) and statistics other than the mean are ignored.",
        )
    raise InputError(
        f"No preprocessed BOLD in {dataset.where}: expected sub-*/[ses-*/]func/*_desc-preproc_bold.nii.gz {whom}.",
        hint="Parcellated series cannot be extracted again."
        if all(one.kind == "parcellated" for one in dataset.derivatives)
        else "Check that fMRIPrep finished and wrote volumes in standard space (--output-spaces).",
    )


def _apply_filter(
    found: list[Candidate], unread: list[UnreadRun], path: Path | None
) -> tuple[list[Candidate], list[UnreadRun]]:
    if path is None:
        return found, unread
    bold_filter = read_filter(path)
    for warning in bold_filter.warnings:
        LOG.warning(warning)
    kept = [one for one in found if bold_filter.accepts(one.image)]
    left = [one for one in unread if bold_filter.accepts(one.as_file())]
    if not kept and not left:
        values: dict[str, set[str]] = {}
        for one in found:
            for key, value in one.image.entities[1:]:
                values.setdefault(key, set()).add(value)
        there = "; ".join(f"{key} {', '.join(sorted_naturally(labels))}" for key, labels in values.items())
        what = "parcel series tables" if found and found[0].derivative.kind == "parcellated" else "BOLD images"
        raise InputError(
            f"Filter file {path} matches none of the {len(found)} {what}.", hint=f"Entities found: {there}."
        )
    return kept, left


def _attach_components(found: list[Candidate], dataset: Dataset, participants: Sequence[str]) -> list[Candidate]:
    """Attach to each image the ICA-AROMA components of its run, which come from a separate dataset."""
    components: dict[frozenset[tuple[str, str]], tuple[str, ...]] = {}
    for derivative in dataset.derivatives:
        if derivative.kind == "aroma":
            for label in participants:
                paths = list_func_files(str(derivative.path / f"sub-{label}"))
                components.update(find_components(paths, label))
    return [
        replace(one, tables=(*one.tables, *components[one.image.source])) if one.image.source in components else one
        for one in found
    ]


def _scan(
    derivative: Derivative, dataset: Dataset, database_dir: Path | None, participants: Sequence[str]
) -> Iterator[tuple[list[Candidate], list[UnreadRun]]]:
    if derivative.layout is not None:
        if database_dir is not None:
            LOG.warning("--bids-database-dir is ignored with --layout.")
        yield list(find_layout_candidates(derivative, derivative.layout, participants)), []
        return
    database: dict[str, list[str]] | None = None
    is_table = derivative.kind == "parcellated"
    if database_dir is not None and is_table:
        LOG.warning("--bids-database-dir is ignored for parcellated series.")
    elif database_dir is not None:
        _check_database_dir(dataset, database_dir)
        several = len(dataset.derivatives) > 1
        own_dir = database_dir / derivative.name if several else database_dir
        database = find_database_files(derivative.path, own_dir, USEFUL_ENDS)
    for label in participants:
        folder = str(derivative.path / f"sub-{label}")
        paths = list_func_files(folder) if database is None else database.get(label, [])
        found = (pair_series if is_table else pair_files)(paths, label, derivative)
        yield found, find_unread(paths, label, derivative, found)


def _check_database_dir(dataset: Dataset, database_dir: Path) -> None:
    for root in (dataset.root, *(one.path for one in dataset.derivatives)):
        if database_dir.resolve().is_relative_to(root.resolve()):
            raise ConfigurationError(
                f"The pybids database {database_dir} is inside the input {root}, which must not be written to.",
                hint="Choose another --bids-database-dir.",
            )


def attach_parts(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Attach to each candidate without ``run-`` the runs it may be a concatenation of, judging by names alone."""
    by_key: dict[Any, list[Candidate]] = defaultdict(list)
    for one in candidates:
        for left_out in (_COMBINED, _COMBINED[:1]):
            if any(one.image.entity(key) is not None for key in left_out):
                by_key[_key(one, left_out)].append(one)
    found = []
    for one in candidates:
        parts: list[Candidate] = []
        if one.image.entity("run") is None:
            left_out = _COMBINED if one.image.entity("dir") is None else _COMBINED[:1]
            parts = [part for part in by_key[_key(one, left_out)] if part.image.source != one.image.source]
        # XCP-D also "concatenates" a single run if it has run-.
        n_least = 1 if one.derivative.source == XCPD else 2
        found.append(replace(one, parts=tuple(parts)) if len(parts) >= n_least else one)
    return found


def _key(candidate: Candidate, left_out: Sequence[str]) -> tuple[object, ...]:
    image = candidate.image
    return candidate.derivative.path, tuple(left_out), image.extension, drop(image, left_out)


def choose_parts_or_whole(chosen: Sequence[Candidate], asked: str) -> list[Candidate]:
    """Drop the concatenations among the chosen runs, or with ``whole`` their parts, and log it. A concatenation is as
    long as its parts together; if that cannot be determined, files by XCP-D are assumed to be one."""
    wholes = [one for one in chosen if one.parts and (_is_copy(one) if len(one.parts) == 1 else _is_sum(one))]
    if not wholes:
        return list(chosen)
    if asked == "whole":
        left_out = {part.image.path for one in wholes for part in one.parts}
        what, instead = "runs that are part of a concatenation", "use `parts` to read the separate runs"
    else:
        left_out = {one.image.path for one in wholes}
        what, instead = "concatenated runs", "use `whole` to read them instead of their parts"
    names = [Path(one.image.path).name for one in chosen if one.image.path in left_out]
    LOG.warning("Skipping %s (--combined-runs: %s): %s", what, instead, describe_labels(names))
    return [one for one in chosen if one.image.path not in left_out]


def _is_copy(whole: Candidate) -> bool:
    """Return whether a run repeats the values of its only part: all of a table, the first volume of an image."""
    import nibabel as nib
    import numpy as np

    first, second = whole.image.path, whole.parts[0].image.path
    try:
        if first.endswith(".tsv"):
            return Path(first).read_bytes() == Path(second).read_bytes()
        images: list[Any] = [nib.load(path) for path in (first, second)]
        if images[0].shape != images[1].shape or first.endswith(GIFTI):
            return False
        for path, image in zip((first, second), images, strict=True):
            check_size(Path(path), image.shape, image.get_data_dtype())
        volume = 0 if isinstance(images[0], nib.Cifti2Image) else (..., 0)
        values = [np.asarray(image.dataobj[volume]) for image in images]
        return np.array_equal(values[0], values[1], equal_nan=True)
    except Exception as error:  # noqa: BLE001 - a damaged file is reported with its run
        LOG.debug("Cannot compare %s and %s: %s", first, second, error)
        return False


def _is_sum(whole: Candidate) -> bool:
    """Return whether a run is as long as its parts: in rows or, if volumes were censored, in total volumes."""
    runs = (whole, *whole.parts)
    censored = [one.confounds if one.derivative.source.is_denoised else None for one in runs]
    counted = False
    for paths in (censored, [one.image.path for one in runs]):
        length, *parts = [_count_volumes(path) if path else 0 for path in paths]
        if length and all(parts):
            counted = True
            if length == sum(parts):
                return True
    if not counted:
        return whole.derivative.source == XCPD
    LOG.warning(
        "%s has no run- entity but its length does not match %s together; treating it as a separate run.",
        Path(whole.image.path).name,
        describe_labels(Path(part.image.path).name for part in whole.parts),
    )
    return False


def _count_volumes(path: str) -> int:
    """Count the volumes of a table or image without reading its values; 0 if that is impossible."""
    import nibabel as nib

    try:
        if path.endswith(".tsv"):
            with Path(path).open("rb") as file:
                return max(0, sum(bool(line.strip()) for line in file) - 1)
        image: Any = nib.load(path)
        if path.endswith(GIFTI):
            return len(image.darrays)
        return int(image.shape[0] if isinstance(image, nib.Cifti2Image) else image.shape[3])
    except Exception as error:  # noqa: BLE001 - a damaged file is reported with its run
        LOG.debug("Cannot count the volumes of %s: %s", path, error)
        return 0


def describe_nearest_files(root: Path, layout: Layout, participants: Sequence[str] = ()) -> tuple[str, str]:
    """Describe in one sentence what a layout expected in a folder and what was found; and suggest the layout or folder
    that was probably meant, or a custom layout file."""
    depth, path = max(
        ((_find_depth(root, path, participants), path) for one in layout.runs for path in one.bold),
        key=lambda found: found[0],
    )
    parts = path.split("/")
    folder = Path(next(find_files(root, "/".join(parts[:depth]), participants))[0]) if depth else root
    try:
        names = sorted(one.name for one in folder.iterdir())
    except OSError:
        names = []
    # Placeholders would count as differences.
    text = re.sub(r"\{[a-z]+\}|\*", "", parts[depth])
    near = difflib.get_close_matches(text, names, _N_NAMES, cutoff=0.3) or names[:_N_NAMES]
    there = f"found {name_some(near)}" if near else "it is empty"
    return f"expected {path}; {folder} has no {parts[depth]}, {there}", _suggest(root, layout)


def _find_depth(root: Path, pattern: str, participants: Sequence[str]) -> int:
    """Count the leading parts of a pattern that exist together."""
    parts = pattern.split("/")
    for depth in range(1, len(parts)):
        if next(find_files(root, "/".join(parts[:depth]), participants), None) is None:
            return depth - 1
    return len(parts) - 1


def _suggest(root: Path, layout: Layout) -> str:
    """Suggest a shipped layout that fits the folder, or a folder below that fits the layout."""
    for name in list_layouts():
        if has_files(root, load_layout(name)):
            return f"Did you mean --layout {name}?"
    for folder in find_folders(root)[:_N_FOLDERS]:
        if has_files(root / folder, layout):
            return f"Did you mean BIDS_DIR {root / folder}?"
    return "Copy the layout to a JSON file, adapt its paths and pass that file to --layout."


def describe_archives(root: Path, layout: Layout) -> str:
    """Describe archives named like a participant folder that the layout expects but lacks; empty if none."""
    packed = set()
    for first in {path.split("/")[0] for pattern in layout.runs for path in pattern.bold if "/" in path}:
        for _, values in find_files(root, f"{first}.zip"):
            name = fill_pattern(first, values)
            # Some unpack into a folder named after the participant.
            if not (root / name).exists() and not (root / values["sub"]).exists():
                packed.add(name)
    if not packed:
        return ""
    some = min(packed)
    return f"{len(packed)} archives have not been unpacked; for example, run `unzip {some}.zip -d {some}`."
