"""Choose confound regressors and the volumes to keep from fMRIPrep's confounds table."""

from __future__ import annotations

import difflib
import fnmatch
import json
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from nilearn.interfaces.fmriprep import load_confounds
from numpy.typing import NDArray

from bids_semantoks.errors import ConfigurationError, RunFailed, RunSkipped

PRESETS: Final = ("none", "simple", "simple+gsr", "24p", "36p", "compcor", "ica_aroma")

_PRESET_FOLDER: Final = Path(__file__).parent.parent / "data" / "denoise"
_MODELS: Final = {
    "basic": ("",),
    "derivatives": ("", "_derivative1"),
    "power2": ("", "_power2"),
    "full": ("", "_derivative1", "_power2", "_derivative1_power2"),
}
_BASES: Final = {
    "motion": ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"),
    "wm_csf": ("csf", "white_matter"),
    "global_signal": ("global_signal",),
}
_COMPCOR: Final = {
    "anat_combined": ("a",),
    "anat_separated": ("a",),
    "temporal": ("t",),
    "temporal_anat_combined": ("t", "a"),
    "temporal_anat_separated": ("t", "a"),
}
# Every option with the component that reads it, its default (not always nilearn's) and what it may be.
_OPTIONS: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "motion": ("motion", "full", tuple(_MODELS)),
    "wm_csf": ("wm_csf", "basic", tuple(_MODELS)),
    "global_signal": ("global_signal", "basic", tuple(_MODELS)),
    "compcor": ("compcor", "anat_combined", tuple(_COMPCOR)),
    "n_compcor": ("compcor", "all", ("all",)),
    "ica_aroma": ("ica_aroma", "basic", ("basic",)),
}
_COMPONENTS: Final = ("motion", "wm_csf", "global_signal", "compcor", "ica_aroma", "high_pass")
_ELSEWHERE: Final = {
    "scrub": "Scrubbing is asked for with --fd-threshold.",
    "non_steady_state": "Volumes before the steady state are dropped with --dummy-scans.",
    "tedana": "Name tedana's columns under columns instead.",
}
_MISSING: Final = frozenset({"n/a", "", "nan", "NaN"})
_HIGH_PASS_PERIOD: Final = 128.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Denoising:
    """Which regressors are removed, by nilearn's strategy or by column names.

    Parameters
    ----------
    name : str
        Name of the preset, or stem of the file.
    description : str
        One sentence for the methods text.
    strategy : tuple of str
        Components of nilearn's ``load_confounds``; empty for none.
    options : tuple of (str, str or int)
        Options of the components, complete: the models of motion, wm_csf and global_signal, and so on.
    columns : tuple of str
        Column names with ``*`` as wildcard, instead of a strategy.
    """

    name: str
    description: str = ""
    strategy: tuple[str, ...] = ()
    options: tuple[tuple[str, str | int], ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def is_none(self) -> bool:
        """Whether nothing is regressed out."""
        return not self.strategy and not self.columns


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Regressors:
    """Regressors of one run, and which of its volumes count.

    Parameters
    ----------
    names : tuple of str, length C
        Columns of the confounds table, in its order.
    values : NDArray, float64, shape (T, C)
        In the table's units, mean not removed. Finite in every kept volume; rows of dropped volumes may be NaN.
    kept : NDArray, bool, shape (T,)
        False for dummy and scrubbed volumes.
    n_dummy : int
        Leading dummy volumes.
    framewise_displacement : NDArray, float64, shape (T,)
        Millimetres; NaN where the table has none, as in the first volume.
    warnings : tuple of str
        What the user should know.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    kept: NDArray[np.bool_]
    n_dummy: int
    framewise_displacement: NDArray[np.float64]
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.values.shape != (self.kept.size, len(self.names)):
            raise ValueError(f"values {self.values.shape} do not fit {self.kept.size} volumes, {len(self.names)} names")
        if self.framewise_displacement.shape != self.kept.shape:
            raise ValueError(
                f"framewise_displacement {self.framewise_displacement.shape} does not fit {self.kept.size}"
            )


def load_denoising(name_or_file: str) -> Denoising:
    """Load a denoising preset or a JSON file of one's own.

    A file holds either ``strategy`` (motion, wm_csf, global_signal, compcor, ica_aroma, high_pass) with the options of
    these components, or ``columns``, a list of column names with ``*`` as wildcard; and a ``description`` if wanted.

    Parameters
    ----------
    name_or_file : str
        Name of a preset, or path of a JSON file.

    Returns
    -------
    Denoising
        The checked preset.

    Raises
    ------
    ConfigurationError
        When there is no such preset or file, or the file holds anything that nothing would read.
    """
    if name_or_file in PRESETS:
        return _read_denoising(_PRESET_FOLDER / f"{name_or_file}.json", name_or_file)
    path = Path(name_or_file)
    if path.is_file():
        return _read_denoising(path, path.stem)
    if path.suffix == ".json" or len(path.parts) > 1:
        raise ConfigurationError(f"--denoise: there is no file {name_or_file}.", hint=f"Presets: {', '.join(PRESETS)}.")
    near = difflib.get_close_matches(name_or_file.lower(), PRESETS, n=1, cutoff=0.4)
    raise ConfigurationError(
        f"--denoise: there is no preset {name_or_file!r}; there are {', '.join(PRESETS)}.",
        hint=f"Did you mean {near[0]}?" if near else "A JSON file is given by its path.",
    )


def _read_denoising(path: Path, name: str) -> Denoising:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--denoise: {path} is not a readable JSON file ({error}).") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"--denoise: {path} must hold a JSON object, found {type(content).__name__}.")
    known = ("description", "strategy", "columns", *_OPTIONS)
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise ConfigurationError(
            f"--denoise: {path} has unknown keys: {', '.join(unknown)}.", hint=f"Known keys: {', '.join(known)}."
        )
    if ("strategy" in content) == ("columns" in content):
        raise ConfigurationError(f"--denoise: {path} must hold either strategy or columns.")
    strategy = _strings(content.get("strategy", []), "strategy", path)
    _check_strategy(strategy, path)
    return Denoising(
        name=name,
        description=str(content.get("description", "")),
        strategy=strategy,
        options=_read_options(content, strategy, path),
        columns=_strings(content.get("columns", []), "columns", path),
    )


def _strings(value: Any, key: str, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ConfigurationError(f"--denoise: {key} in {path} must be a list of names, found {value!r}.")
    if len(set(value)) != len(value):
        raise ConfigurationError(f"--denoise: {key} in {path} names something twice: {value!r}.")
    return tuple(value)


def _check_strategy(strategy: tuple[str, ...], path: Path) -> None:
    for component in strategy:
        if component not in _COMPONENTS:
            raise ConfigurationError(
                f"--denoise: strategy in {path} has {component!r}; known are {', '.join(_COMPONENTS)}.",
                hint=_ELSEWHERE.get(component, ""),
            )
    if "compcor" in strategy and "high_pass" not in strategy:
        raise ConfigurationError(
            f"--denoise: strategy in {path} has compcor without high_pass.",
            hint="fMRIPrep computes CompCor on high-pass filtered data, so its cosines must be removed as well.",
        )


def _read_options(content: dict[str, Any], strategy: tuple[str, ...], path: Path) -> tuple[tuple[str, str | int], ...]:
    options: list[tuple[str, str | int]] = []
    for key, (component, default, allowed) in _OPTIONS.items():
        if component not in strategy:
            if key in content:
                raise ConfigurationError(f"--denoise: {path} sets {key}, but its strategy has no {component}.")
            continue
        value = content.get(key, default)
        is_count = key == "n_compcor" and type(value) is int and value >= 1
        if value not in allowed and not is_count:
            expected = ", ".join(allowed) + (" or a number from 1" if key == "n_compcor" else "")
            raise ConfigurationError(
                f"--denoise: {key} in {path} is {value!r}, expected {expected}.",
                hint="Images that ICA-AROMA already denoised are not read." if value == "full" else "",
            )
        options.append((key, value))
    return tuple(options)


def select_regressors(
    confounds: Path | None,
    denoising: Denoising,
    *,
    n_volumes: int,
    dummy_scans: str,
    fd_threshold: float | None,
    repetition_time: float,
) -> Regressors:
    """Select the regressors of one run and the volumes to keep.

    nilearn's ``load_confounds`` chooses the columns of a strategy; their values are then read here, so that the mean
    stays in and nothing depends on dropped volumes. A column that has no value in the first volumes (derivatives have
    none in the first) takes there the value of the first kept volume that has one, which for derivatives is what
    nilearn does. The JSON file beside the table is needed for CompCor alone, to tell which mask a component is from;
    ICA-AROMA's components are known by their names.

    Parameters
    ----------
    confounds : Path or None
        The run's confounds table (TSV).
    denoising : Denoising
        What to remove.
    n_volumes : int
        Volumes of the BOLD image (T).
    dummy_scans : str
        ``auto`` for the volumes that the table's leading non_steady_state_outlier columns mark, or their number.
    fd_threshold : float or None
        Volumes with more framewise displacement (mm) are scrubbed; None scrubs nothing.
    repetition_time : float
        Seconds.

    Returns
    -------
    Regressors
        Names, values (T, C), and the kept volumes.

    Raises
    ------
    RunFailed
        ``no_confounds`` when there is no table but one is needed, ``bad_confounds`` when it lacks a column, has other
        rows than the image has volumes, or holds something that is no number.
    RunSkipped
        ``no_content`` when the table is a datalad link whose content was not fetched.
    """
    if confounds is None or not (confounds.exists() or confounds.is_symlink()):
        if not denoising.is_none or fd_threshold is not None:
            what = f"--denoise {denoising.name}" if not denoising.is_none else "--fd-threshold"
            raise RunFailed(
                "no_confounds",
                f"There is no confounds table for this run{f' ({confounds})' if confounds else ''}, "
                f"but {what} needs one.",
                hint="Use --denoise none without --fd-threshold to go on without.",
            )
        n_dummy = 0 if dummy_scans == "auto" else min(int(dummy_scans), n_volumes)
        return Regressors(
            names=(),
            values=np.zeros((n_volumes, 0)),
            kept=np.arange(n_volumes) >= n_dummy,
            n_dummy=n_dummy,
            framewise_displacement=np.full(n_volumes, np.nan),
            warnings=("No confounds table: framewise displacement and dummy volumes are unknown.",),
        )
    table = _Table(confounds)
    table.check_rows(n_volumes)
    notes: list[str] = []
    n_steady = _count_non_steady(table, notes)
    n_dummy = n_steady if dummy_scans == "auto" else min(int(dummy_scans), n_volumes)
    if n_dummy < n_steady:
        notes.append(f"--dummy-scans {n_dummy} keeps volumes that {confounds.name} marks as non-steady.")
    displacement = _read_displacement(table, fd_threshold, notes)
    kept = np.arange(n_volumes) >= n_dummy
    if fd_threshold is not None:
        kept &= ~(displacement > fd_threshold)
    names = _choose_columns(table, denoising, (n_volumes - n_steady) * repetition_time, notes)
    values = np.stack([table.regressor(name, kept) for name in names], axis=1) if names else np.zeros((n_volumes, 0))
    return Regressors(
        names=names,
        values=values,
        kept=kept,
        n_dummy=n_dummy,
        framewise_displacement=displacement,
        warnings=tuple(notes),
    )


class _Table:
    """A confounds table as text, each column checked when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = _read_text(path).splitlines()
        if not lines:
            self.refuse("is empty")
        self.names = lines[0].split("\t")
        if all(_is_number(name) for name in self.names):
            self.refuse("has no header: its first line holds numbers only", hint="Is it from fMRIPrep before 1.2?")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            self.refuse(f"has columns twice: {', '.join(twice[:5])}")
        self._rows = [line.split("\t") for line in lines[1:]]
        for number, row in enumerate(self._rows, start=1):
            if len(row) != len(self.names):
                self.refuse(f"has {len(row)} values in row {number}, but {len(self.names)} columns")
        self._index = {name: position for position, name in enumerate(self.names)}

    def refuse(self, problem: str, *, hint: str = "") -> NoReturn:
        raise RunFailed("bad_confounds", f"{self.path} {problem}.", hint=hint)

    def check_rows(self, n_volumes: int) -> None:
        if len(self._rows) != n_volumes:
            self.refuse(f"has {len(self._rows)} rows, but the BOLD image has {n_volumes} volumes")

    def check_columns(self, names: list[str], why: str) -> None:
        missing = [name for name in names if name not in self._index]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            self.refuse(
                f"lacks {', '.join(missing[:5])}{more}, needed for {why}",
                hint="Choose another --denoise preset, or let fMRIPrep write these columns.",
            )

    def column(self, name: str) -> NDArray[np.float64]:
        """One column (T,), NaN where it is n/a."""
        position = self._index[name]
        values = np.empty(len(self._rows))
        for number, row in enumerate(self._rows):
            cell = row[position]
            if cell in _MISSING:
                values[number] = np.nan
            elif _is_number(cell):
                values[number] = float(cell)
            else:
                self.refuse(f"has {cell!r} in row {number + 1} of column {name}, expected a number or n/a")
        return values

    def regressor(self, name: str, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        """One column (T,), finite in every kept volume."""
        values = self.column(name)
        known = np.flatnonzero(kept & ~np.isnan(values))
        if known.size == 0:
            if kept.any():
                self.refuse(f"has n/a in all kept rows of column {name}")
            return values
        values[: known[0]] = np.where(np.isnan(values[: known[0]]), values[known[0]], values[: known[0]])
        gaps = np.flatnonzero(kept & np.isnan(values))
        if gaps.size:
            self.refuse(f"has n/a in row {gaps[0] + 1} of column {name}, expected a number after the first volume")
        return values


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _read_text(path: Path) -> str:
    """Text of a file, telling files whose content datalad has not fetched."""
    if path.is_symlink() and not path.exists():
        _refuse_content(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RunFailed("bad_confounds", f"{path} is not text in UTF-8 ({error}).") from error
    except OSError as error:
        raise RunFailed("bad_confounds", f"{path} cannot be read ({error.strerror}).") from error
    if text.startswith("/annex/objects/"):
        _refuse_content(path)
    return text


def _refuse_content(path: Path) -> NoReturn:
    raise RunSkipped(
        "no_content", f"{path} is a datalad file without content.", hint="Fetch it with `datalad get` first."
    )


def _count_non_steady(table: _Table, notes: list[str]) -> int:
    """Leading volumes that fMRIPrep found not to be in steady state."""
    marks = [table.column(name) for name in table.names if name.startswith("non_steady_state_outlier")]
    if not marks:
        return 0
    marked: NDArray[np.bool_] = np.asarray(np.nan_to_num(np.stack(marks)).any(axis=0))
    leading = int(marked.size if marked.all() else np.argmin(marked))
    if marked[leading:].any():
        notes.append(f"{table.path.name} marks non-steady volumes after steady ones; only leading ones are dropped.")
    return leading


def _read_displacement(table: _Table, fd_threshold: float | None, notes: list[str]) -> NDArray[np.float64]:
    name = "framewise_displacement"
    if fd_threshold is not None:
        table.check_columns([name], "--fd-threshold")
    elif name not in table.names:
        notes.append(f"{table.path.name} has no {name}: motion is unknown.")
        return np.full(len(table.column(table.names[0])), np.nan)
    return table.column(name)


def _choose_columns(table: _Table, denoising: Denoising, steady_time: float, notes: list[str]) -> tuple[str, ...]:
    """Names of the regressors, in the table's order: nilearn's own order changes with Python's hash seed."""
    if denoising.columns:
        chosen: set[str] = set()
        for pattern in denoising.columns:
            found = fnmatch.filter(table.names, pattern)
            if not found:
                table.check_columns([pattern], f"--denoise {denoising.name}")
            chosen.update(found)
    elif denoising.strategy:
        _check_strategy_columns(table, denoising, steady_time, notes)
        chosen = _ask_nilearn(table, denoising)
    else:
        chosen = set()
    return tuple(name for name in table.names if name in chosen)


def _check_strategy_columns(table: _Table, denoising: Denoising, steady_time: float, notes: list[str]) -> None:
    """Check what nilearn would pass over in silence or answer with a bare KeyError."""
    why = f"--denoise {denoising.name}"
    options = dict(denoising.options)
    for component, bases in _BASES.items():
        if component in denoising.strategy:
            suffixes = _MODELS[str(options[component])]
            table.check_columns([base + suffix for base in bases for suffix in suffixes], why)
    if "ica_aroma" in denoising.strategy and not any("aroma" in name for name in table.names):
        table.refuse(
            f"lacks aroma_motion_* columns, needed for {why}", hint="fMRIPrep runs ICA-AROMA only before 23.1."
        )
    if "compcor" in denoising.strategy:
        listed = _read_metadata(table)
        prefixes = _COMPCOR[str(options["compcor"])]
        components = [name for name in listed if name[:2] in {f"{p}_" for p in prefixes} and "_comp_cor_" in name]
        if not components:
            table.refuse(f"has no {' or '.join(f'{p}_comp_cor_*' for p in prefixes)} in its JSON, needed for {why}")
        table.check_columns(components, why)
    if "high_pass" in denoising.strategy:
        _check_cosines(table, steady_time, why, notes)


def _check_cosines(table: _Table, steady_time: float, why: str, notes: list[str]) -> None:
    """Check the cosines that fMRIPrep writes.

    With a cut-off of 128 s over T volumes (without dummies) the basis has floor(2 * T * TR / 128) functions, one of
    which is the constant that fMRIPrep leaves out: a run under 128 s has none.
    """
    order = math.floor(2 * steady_time / _HIGH_PASS_PERIOD + 1e-9)
    found = sorted(name for name in table.names if name.startswith("cosine"))
    if not found and steady_time > _HIGH_PASS_PERIOD:
        table.refuse(
            f"lacks cosine00 to cosine{order - 2:02d}, needed for {why}: "
            f"fMRIPrep writes them for a run of {steady_time:g} s",
            hint="Without them there is no high-pass; use another preset with --band-pass if that is meant.",
        )
    table.check_columns([f"cosine{number:02d}" for number in range(len(found))], why)
    if len(found) < order - 1:
        notes.append(
            f"{table.path.name} has {len(found)} cosines, expected {order - 1} for {steady_time:g} s: "
            "the high-pass is weaker than 128 s."
        )


def _read_metadata(table: _Table) -> dict[str, Any]:
    path = table.path.with_suffix(".json")
    if not path.exists() and not path.is_symlink():
        table.refuse(f"has no {path.name} beside it, which says from which mask each CompCor component comes")
    try:
        content = json.loads(_read_text(path))
    except ValueError as error:
        raise RunFailed("bad_confounds", f"{path} is not a readable JSON file ({error}).") from error
    if not isinstance(content, dict):
        raise RunFailed("bad_confounds", f"{path} must hold a JSON object, found {type(content).__name__}.")
    return content


def _ask_nilearn(table: _Table, denoising: Denoising) -> set[str]:
    """Names of the columns that nilearn's strategy takes."""
    arguments = {**dict(denoising.options), "strategy": denoising.strategy, "demean": False}
    with _linked(table.path, with_json="compcor" in denoising.strategy) as image, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            frame, _ = load_confounds(str(image), **arguments)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            table.refuse(f"cannot be read by nilearn for --denoise {denoising.name} ({error})")
    return set(frame.columns)


@contextmanager
def _linked(confounds: Path, *, with_json: bool) -> Iterator[Path]:
    """Make a folder with links to one run's files alone, under the names nilearn looks for.

    nilearn searches beside the image by name, and takes the files of siblings that differ in acq, dir or echo.
    """
    # nilearn finds the JSON by replacing every "tsv" of the whole path, random letters of the folder included.
    folder = tempfile.TemporaryDirectory(prefix="confounds-")
    while "tsv" in Path(folder.name).name:
        folder.cleanup()
        folder = tempfile.TemporaryDirectory(prefix="confounds-")
    with folder as name:
        if with_json and "tsv" in name:
            raise RunFailed(
                "internal", f"nilearn finds no JSON below the temporary folder {name}.", hint="Set TMPDIR without tsv."
            )
        table = Path(name) / "sub-1_desc-confounds_timeseries.tsv"
        table.symlink_to(confounds.resolve())
        if with_json:
            table.with_suffix(".json").symlink_to(confounds.with_suffix(".json").resolve())
        yield Path(name) / "sub-1_desc-preproc_bold.nii.gz"
