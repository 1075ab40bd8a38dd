"""Confound regressors and kept volumes, chosen from fMRIPrep's confounds table (T volumes, C regressors)."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from bids_semantoks.config import SignalsConfig
from bids_semantoks.errors import RunFailed
from bids_semantoks.files import parse_json
from bids_semantoks.records import Bools, FilteredMotion, Floats, Run
from bids_semantoks.signals.confounds import (
    DISPLACEMENT,
    ConfoundsTable,
    count_cosines,
    filter_motion,
    load_movement,
    read_censored,
    read_filtered,
    read_text,
)
from bids_semantoks.signals.denoising import AROMA, BASES, COMPCOR, HIGH_PASS_PERIOD, MODELS, Denoising

_NO_SCRUBBING: Final = "Remove --fd-threshold, or provide this column."


class Regressors(NamedTuple):
    """Regressors of one run and its kept volumes."""

    names: tuple[str, ...]  # (C,) columns of the confounds table, in its order
    values: Floats  # (T, C) in the table's units, mean not removed; finite where kept, maybe NaN elsewhere
    kept: Bools  # (T,) False for dummy and scrubbed volumes
    stored: Bools  # (T,) False for volumes that the pipeline censored and left out of the image
    n_dummy: int
    framewise_displacement: Floats  # (T,) in mm; NaN where the table has none, as in the first volume
    warnings: tuple[str, ...] = ()
    filtered_motion: FilteredMotion | None = None


def has_confounds(path: Path | None, denoising: Denoising, config: SignalsConfig, *, missing: str = "") -> bool:
    """Return whether a confounds table is there; RunFailed no_confounds if it is missing, but needed."""
    if path is not None and (path.exists() or path.is_symlink()):
        return True
    options = {"--fd-threshold": config.fd_threshold, "--motion-filter": config.motion_filter}
    asked = [option for option, value in options.items() if value is not None]
    if asked or not denoising.is_none:
        what = asked[0] if denoising.is_none else f"--denoise {denoising.name}"
        raise RunFailed(
            "no_confounds",
            f"No confounds table for this run{f' ({path})' if path else ''}, but {what} requires one."
            f"{' ' if missing else ''}{missing}",
            hint=f"Use --denoise none without {' and '.join(asked) or '--fd-threshold'} to run without confounds.",
        )
    return False


def select_regressors(
    confounds: Path | ConfoundsTable | None,
    denoising: Denoising,
    config: SignalsConfig,
    *,
    n_volumes: int,
    repetition_time: float,
    missing: str = "",
) -> Regressors:
    """Select the regressors (T, C) of one run and the volumes to keep.

    A strategy selects the columns of nilearn's ``load_confounds``; means are kept, and dropped volumes have no
    influence. n/a in the first row (derivatives) becomes the first value in a kept volume. Only CompCor needs the JSON
    file next to the table, for each component's mask. Of `config`, ``dummy_scans`` auto drops what the leading
    non_steady_state_outlier columns mark, and volumes over ``fd_threshold`` are scrubbed, by filtered displacement if
    there is a ``motion_filter``; `missing` describes a table that was looked for. Raises RunFailed no_confounds if a
    table is needed but missing, bad_confounds if it lacks a column, its rows do not match the volumes or a value is
    not a number; RunSkipped no_content.
    """
    path = confounds.path if isinstance(confounds, ConfoundsTable) else confounds
    if not has_confounds(path, denoising, config, missing=missing) or confounds is None or path is None:
        n_dummy = 0 if config.dummy_scans == "auto" else min(int(config.dummy_scans), n_volumes)
        note = "No confounds table: framewise displacement and non-steady-state volumes are unknown."
        kept = np.arange(n_volumes) >= n_dummy
        unknown = np.full(n_volumes, np.nan)
        return Regressors((), np.zeros((n_volumes, 0)), kept, np.ones_like(kept), n_dummy, unknown, (note,))
    table = confounds if isinstance(confounds, ConfoundsTable) else ConfoundsTable(confounds)
    if table.n_rows != n_volumes:
        table.refuse(f"has {table.n_rows} rows, but the BOLD image has {n_volumes} volumes")
    notes: list[str] = []
    n_steady = _count_non_steady(table, notes)
    n_dummy = n_steady if config.dummy_scans == "auto" else min(int(config.dummy_scans), n_volumes)
    if n_dummy < n_steady:
        notes.append(f"--dummy-scans {n_dummy} keeps volumes that {path.name} marks as non-steady-state.")
    filtered = filter_motion(table, config.motion_filter, n_dummy=n_dummy, repetition_time=repetition_time, notes=notes)
    displacement = _read_displacement(table, None if filtered else config.fd_threshold, notes)
    kept = np.arange(n_volumes) >= n_dummy
    if config.fd_threshold is not None:
        kept = _scrub(filtered or displacement, kept, config.fd_threshold, table, notes)
    names = _choose_columns(table, denoising, (n_volumes - n_steady) * repetition_time, notes)
    values = np.zeros((n_volumes, len(names)))
    for position, name in enumerate(names):
        values[:, position] = table.read_regressor(name, kept)
    return Regressors(names, values, kept, np.ones_like(kept), n_dummy, displacement, tuple(notes), filtered)


def _count_non_steady(table: ConfoundsTable, notes: list[str]) -> int:
    """Count the leading volumes that fMRIPrep marked as non-steady."""
    marks = [table.read_column(name) for name in table.names if name.startswith("non_steady_state_outlier")]
    if not marks:
        return 0
    marked: Bools = np.asarray(np.nan_to_num(np.stack(marks)).any(axis=0))
    leading = int(marked.size if marked.all() else np.argmin(marked))
    if marked[leading:].any():
        notes.append(
            f"{table.path.name} marks non-steady-state volumes after steady-state ones; only leading ones are dropped."
        )
    return leading


def _read_displacement(table: ConfoundsTable, fd_threshold: float | None, notes: list[str]) -> Floats:
    if DISPLACEMENT in table.names:
        return table.read_column(DISPLACEMENT)
    if fd_threshold is not None:
        table.refuse(f"lacks {DISPLACEMENT}, required for --fd-threshold", hint=_NO_SCRUBBING)
    notes.append(f"{table.path.name} has no {DISPLACEMENT}; motion is unavailable.")
    return np.full(table.n_rows, np.nan)


def _scrub(
    displacement: Floats | FilteredMotion, kept: Bools, threshold: float, table: ConfoundsTable, notes: list[str]
) -> Bools:
    """Drop the volumes (T,) above a threshold (mm); RunFailed bad_confounds if no kept volume has a value."""
    if isinstance(displacement, FilteredMotion):
        # Known for all but dummy volumes and the first volume after them, which has no predecessor.
        return np.asarray(kept & ~(displacement.values > threshold))
    unknown = kept & np.isnan(displacement)
    if kept.any() and unknown[kept].all():
        table.refuse(
            f"has no value of {DISPLACEMENT} in any of {int(kept.sum())} volumes; required for --fd-threshold",
            hint=_NO_SCRUBBING,
        )
    # Only the first volume has no predecessor.
    if gaps := (np.flatnonzero(unknown[1:]) + 2).tolist():
        notes.append(
            f"{table.path.name} has n/a in {len(gaps)} later rows of {DISPLACEMENT} (first in row {gaps[0]}); these "
            "volumes are not scrubbed."
        )
    return np.asarray(kept & ~(displacement > threshold))


def _choose_columns(
    table: ConfoundsTable, denoising: Denoising, steady_time: float, notes: list[str]
) -> tuple[str, ...]:
    """Choose the names of the regressors, in the table's order."""
    chosen: set[str] = set()
    for pattern in denoising.columns:
        found = fnmatch.filter(table.names, pattern)
        if not found:
            table.check_columns([pattern], f"--denoise {denoising.name}")
        chosen.update(found)
    if denoising.strategy:
        chosen = _choose_for_strategy(table, denoising, steady_time, notes)
    return tuple(name for name in table.names if name in chosen)


def _choose_for_strategy(table: ConfoundsTable, denoising: Denoising, steady_time: float, notes: list[str]) -> set[str]:
    """Select the same columns as nilearn's ``load_confounds``, and check those that it would silently ignore."""
    why = f"--denoise {denoising.name}"
    options = dict(denoising.options)
    wanted = [
        base + suffix
        for component, bases in BASES.items()
        if component in denoising.strategy
        for base in bases
        for suffix in MODELS[str(options[component])]
    ]
    unused: list[str] = []
    if "compcor" in denoising.strategy:
        n_wanted = len(table.names) if options["n_compcor"] == "all" else int(options["n_compcor"])
        for components in _list_components(table, str(options["compcor"]), why):
            wanted += components
            unused += components[n_wanted:]
    table.check_columns(wanted, why)
    if "ica_aroma" in denoising.strategy:
        wanted += _list_noise_components(table, AROMA[str(options["ica_aroma"])], why)
    if "high_pass" in denoising.strategy:
        wanted += _list_cosines(table, steady_time, why, notes)
    for name in wanted:
        table.read_column(name)
    return set(wanted) - set(unused)


def _list_noise_components(table: ConfoundsTable, prefix: str, why: str) -> list[str]:
    """List the motion components of ICA-AROMA."""
    components = [name for name in table.names if name.startswith(prefix)]
    if not components and any(name.startswith(AROMA["basic"]) for name in table.names):
        table.refuse(
            f"has {AROMA['basic']}* columns, but lacks {prefix}* columns, required for {why}",
            hint="Only the columns for aggressive denoising are available: use --denoise ica_aroma_aggr.",
        )
    if not components:
        table.refuse(
            f"lacks {prefix}* columns, required for {why}",
            hint="fMRIPrep ran ICA-AROMA only on request and before 23.1; with later versions, add a fMRIPost-AROMA "
            "dataset: -d fmriprep=PATH -d aroma=PATH.",
        )
    return components


def _list_components(table: ConfoundsTable, kind: str, why: str) -> list[list[str]]:
    """List the CompCor components of each kind of mask by number; the JSON file gives the mask of each."""
    path = table.path.with_suffix(".json")
    if not path.exists() and not path.is_symlink():
        table.refuse(f"has no sidecar {path.name}, which gives the mask of each CompCor component")
    try:
        metadata = parse_json(read_text(path))
    except ValueError as error:
        raise RunFailed("bad_confounds", f"{path} is not a readable JSON file ({error}).") from error
    entries = metadata if isinstance(metadata, dict) else {}
    masks_of = {name: entry.get("Mask") for name, entry in entries.items() if isinstance(entry, dict)}
    components: list[list[str]] = []
    for group in COMPCOR[kind]:
        # By length first: 100 comes after 99, unlike in alphabetical order.
        found = [
            sorted(
                (name for name in masks_of if name.startswith(f"{prefix}_comp_cor_") and mask in ("", masks_of[name])),
                key=lambda name: (len(name), name),
            )
            for prefix, mask in group
        ]
        if not any(found):
            columns = " or ".join(dict.fromkeys(f"{prefix}_comp_cor_*" for prefix, _ in group))
            table.refuse(f"has no {columns} of {kind} listed in {path.name}, required for {why}")
        components += found
    return components


def _list_cosines(table: ConfoundsTable, steady_time: float, why: str, notes: list[str]) -> list[str]:
    """List fMRIPrep's cosines, checked against their number for the time of the steady volumes (s)."""
    expected = count_cosines(steady_time)
    n_found = sum(name.startswith("cosine") for name in table.names)
    if n_found == 0 and steady_time > HIGH_PASS_PERIOD:
        table.refuse(
            f"lacks {', '.join(f'cosine{number:02d}' for number in range(expected))}, required for {why}: "
            f"fMRIPrep writes {expected} for {steady_time:g} s",
            hint="Without cosines there is no high-pass; to omit them, use --band-pass with a custom JSON file.",
        )
    cosines = [f"cosine{number:02d}" for number in range(n_found)]
    table.check_columns(cosines, why)
    if n_found < expected:
        notes.append(
            f"{table.path.name} has {n_found} cosines, expected {expected} for {steady_time:g} s: "
            "the high-pass is weaker than at 128 s."
        )
    return cosines


def select_volumes(run: Run, config: SignalsConfig, *, n_volumes: int, repetition_time: float) -> Regressors:
    """Select the volumes to keep of a denoised run, without regressors.

    Volumes that the pipeline censored are dropped; T includes them even if they are missing from the image, so that the
    time axis is complete. Of `config`, ``dummy_scans`` auto drops none (the pipeline did); volumes over
    ``fd_threshold`` are scrubbed as well, by filtered displacement if there is a ``motion_filter``. Raises RunFailed
    no_confounds if these have no motion table, bad_confounds if a table is damaged or does not match the volumes;
    RunSkipped no_content.
    """
    hint = "Are the table and the image from the same run of the pipeline?"
    kept, stored, notes = read_censored(run, n_volumes, hint=hint)
    n_dummy = 0 if config.dummy_scans == "auto" else min(int(config.dummy_scans), kept.size)
    kept[:n_dummy] = False
    table = _find_motion_table(run, kept.size)
    displacement = np.full(kept.size, np.nan) if table is None else table.read_column(DISPLACEMENT)
    if table is None and (config.fd_threshold is not None or config.motion_filter is not None):
        option = "--fd-threshold" if config.fd_threshold is not None else "--motion-filter"
        there = ", ".join(path.name for path in run.tables)
        lack = f"{there} lacks" if there else "No motion table with"
        raise RunFailed(
            "bad_confounds" if there else "no_confounds",
            f"{lack} {DISPLACEMENT} for {run.bold}, required for {option}.",
            hint=f"Remove {option}, or provide this column.",
        )
    filtered = None
    if table is not None:
        filtered = filter_motion(
            table, config.motion_filter, n_dummy=n_dummy, repetition_time=repetition_time, notes=notes
        )
        if config.fd_threshold is not None:
            kept = _scrub(filtered or displacement, kept, config.fd_threshold, table, notes)
    if filtered is None and not run.columns:
        filtered, more = read_filtered(run.tables, kept.size)
        notes.extend(more)
    if table is None:
        notes.append("No motion table: framewise displacement is unknown.")
    return Regressors((), np.zeros((kept.size, 0)), kept, stored, n_dummy, displacement, tuple(notes), filtered)


def _find_motion_table(run: Run, n_rows: int) -> ConfoundsTable | None:
    """Find the table of framewise displacement of a denoised run."""
    for path in run.tables:
        if run.columns:
            table = load_movement(path, run.columns, repetition_time=run.repetition_time or 1.0)
        else:
            table = ConfoundsTable(path)
        if DISPLACEMENT in table.names:
            if table.n_rows != n_rows:
                table.refuse(f"has {table.n_rows} rows, but the run has {n_rows} volumes")
            return table
    return None
