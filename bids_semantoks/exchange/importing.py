"""Write arrays of any files as a BIDS dataset of parcellated series. T volumes, P parcels, N participants."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from bids_semantoks.atlases.label_tables import build_label, load_label_table, rename_columns
from bids_semantoks.atlases.series_atlas import list_orders, load_order
from bids_semantoks.bids_names import format_label, parse_entities, sort_entities
from bids_semantoks.disk import open_folder, read_array
from bids_semantoks.errors import AtlasError, ConfigurationError, InputError, RunError, name_some
from bids_semantoks.files import write_json, write_records, write_table, write_text
from bids_semantoks.inputs.people_tables import Table, match_keys
from bids_semantoks.inputs.repetition_time import LONGEST
from bids_semantoks.outputs.dataset import BIDS_VERSION
from bids_semantoks.records import Floats
from bids_semantoks.runtime.logs import Progress
from bids_semantoks.signals.read_series import read_columns
from bids_semantoks.version import __version__

LOGGER = logging.getLogger("bids_semantoks")
_TABLES: Final = (".csv", ".tsv", ".txt", ".1D")
_ARRAYS: Final = (".npy", ".npz", ".mat")

#: Names of the variables in archives with the participant labels of a stack.
_ID_NAMES: Final = ("participant_id", "participants", "subjects", "subject_id", "ids")

_LABEL: Final = r"[A-Za-z0-9+]+"
_FIELDS: Final = ("sub", "ses", "task", "acq", "run")


class FoundSeries(NamedTuple):
    """Series of one run as found, before it is known which axis is time."""

    where: str  # for messages: file, and position in it
    labels: dict[str, str]  # BIDS entities; without sub if the participant is unknown
    columns: tuple[str, ...]  # parcel names; empty if there are none
    values: Floats  # (T, P), or (P, T) where there are no names
    number: int = 0  # position in a stack, from 0
    n_people: int = 0  # of the stack


def find_series(paths: Sequence[Path], *, pattern: str, variable: str, n_people: int = 0) -> Iterator[FoundSeries]:
    """Read the series of files one by one: tables, 2-D arrays, or the participants of a 3-D stack.

    `pattern` reads labels from file names, such as ``*_{sub}_rois.csv``; empty for names in BIDS form. `variable` names
    the array of an archive that has several; `n_people` is the number of participants of a stack, if known. Raises
    InputError for unreadable or ambiguous files.
    """
    for path in paths:
        if path.suffix in _TABLES:
            try:
                columns, values = read_columns(path)
            except RunError as error:
                raise InputError(str(error)) from error
            names = () if all(name.isdecimal() for name in columns) else columns
            yield FoundSeries(str(path), _read_labels(path, pattern), names, values)
        elif path.suffix in _ARRAYS:
            yield from _split(path, *_load(path, variable), pattern, n_people)
        else:
            known = ", ".join((*_TABLES, *_ARRAYS))
            raise InputError(f"{path} has the extension {path.suffix or '(none)'}; expected {known}.")


def _load(path: Path, variable: str) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Load the array of a file, and the other arrays in it by name."""
    try:
        if path.suffix == ".npy":
            return read_array(path), {}
        arrays = _load_archive(path)
    except (OSError, ValueError, NotImplementedError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {error!s:.100}.") from error
    series = [name for name, value in arrays.items() if _is_series(value)]
    if variable and variable not in arrays:
        raise InputError(f"{path} has no variable {variable}: found {', '.join(arrays) or 'none'}.")
    if not variable and len(series) != 1:
        raise InputError(
            f"{path} has {len(series)} variables that could be series: {name_some(series) or 'none'}.",
            hint="Choose one with --variable NAME.",
        )
    return arrays.pop(variable or series[0]), arrays


def _is_series(value: NDArray[Any]) -> bool:
    """Whether an array could be series; a MATLAB cell array has one series per participant."""
    if value.dtype == object:
        return value.ndim == 1 and value.size > 0 and all(np.ndim(one) == 2 and _is_series(one) for one in value)
    return value.ndim in (2, 3) and min(value.shape) > 1 and bool(np.issubdtype(value.dtype, np.number))


def _load_archive(path: Path) -> dict[str, NDArray[Any]]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    if h5py.is_hdf5(path):  # MATLAB 7.3, which writes the axes in reverse
        with h5py.File(path) as file:
            return {name: _read_cells(file, file[name]) for name in file if not name.startswith("#")}
    found = loadmat(str(path), squeeze_me=False)
    return {
        name: value.ravel() if value.dtype == object else value
        for name, value in found.items()
        if not name.startswith("__") and isinstance(value, np.ndarray)
    }


def _read_cells(file: h5py.File, item: Any) -> NDArray[Any]:
    values = item[()] if isinstance(item, h5py.Dataset) else np.empty(0)
    if values.dtype != object:
        return np.asarray(values).T
    cells = np.empty(values.size, dtype=object)
    cells[:] = [np.asarray(file[reference][()]).T for reference in values.T.ravel()]
    return cells


def _split(
    path: Path, array: Any, beside: dict[str, NDArray[Any]], pattern: str, n_people: int
) -> Iterator[FoundSeries]:
    if array.dtype != object and array.ndim == 2:
        yield FoundSeries(str(path), _read_labels(path, pattern), (), _check(array, str(path)))
        return
    if array.dtype != object and array.ndim != 3:
        raise InputError(
            f"{path} has an array of shape {array.shape} and type {array.dtype}; expected two or three dimensions."
        )
    ids = [_read_label(one, path) for name in _ID_NAMES if name in beside for one in beside[name].ravel()]
    if array.dtype != object:
        array = np.moveaxis(array, _find_people(array.shape, len(ids) or n_people, path), 0)
    if ids and len(ids) != len(array):
        raise InputError(f"{path} has series of {len(array)} participants, but {len(ids)} labels.")
    for number, values in enumerate(array):
        where = f"{path}, person {number + 1}"
        labels = {"sub": ids[number]} if ids else {}
        yield FoundSeries(where, labels, (), _check(values, where), number, len(array))


def _find_people(shape: tuple[int, ...], n_people: int, path: Path) -> int:
    """Find the axis of participants: that of their number, else the first, as NumPy's users stack."""
    fitting = [axis for axis, size in enumerate(shape) if size == n_people]
    if len(fitting) == 1 or (not n_people and path.suffix != ".mat"):
        return fitting[0] if fitting else 0
    if n_people and not fitting:
        raise InputError(f"{path} has an array of shape {shape}, none of whose axes are {n_people} participants.")
    raise InputError(
        f"{path} has an array of shape {shape}, and it is unclear which axis is that of participants.",
        hint="Give --table with one row per participant, or save one file per participant.",
    )


def _read_label(value: Any, path: Path) -> str:
    """Read a participant label as archives hold it: text, bytes, a whole number, or the characters of MATLAB 7.3."""
    found = np.asarray(value).ravel()
    if found.dtype == np.uint16 and np.ndim(value):
        text = "".join(map(chr, found))
    elif found.size != 1:
        raise InputError(f"{path} has a participant label of {found.size} values: {str(found.tolist())[:60]}.")
    else:
        one = found[0].decode(errors="replace") if isinstance(found[0], bytes) else found[0]
        text = str(int(one)) if isinstance(one, float | np.floating) and float(one).is_integer() else str(one)
    label = re.sub(r"[^A-Za-z0-9]", "", text.strip().removeprefix("sub-"))
    if not label or "." in text:
        raise InputError(f"{path} has a participant label that cannot be used: {text!r:.60}.")
    return label


def _check(values: Any, where: str) -> Floats:
    if values.ndim != 2 or not values.size or not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise InputError(
            f"{where} has shape {values.shape} and type {values.dtype}; expected real numbers, volumes x parcels."
        )
    if np.isinf(numbers := np.asarray(values, dtype=np.float64)).any():
        raise InputError(f"{where} contains infinite values.", hint="Use NaN for missing values.")
    return numbers


def _read_labels(path: Path, pattern: str) -> dict[str, str]:
    """Read the labels of participant and run from a file name."""
    if not pattern:
        labels = {key: value for key, value in parse_entities(path.name).items() if key in _FIELDS}
        if "sub" not in labels:
            raise InputError(
                f"The file name {path.name} has no participant label: expected sub-LABEL.",
                hint="Describe the file names with --pattern '*_{sub}_rois.csv'.",
            )
        return labels
    match = re.search(_compile(pattern), path.name)
    if match is None:
        raise InputError(f"The file name {path.name} does not match --pattern {pattern}.")
    return {key: re.sub(r"[^A-Za-z0-9]", "", value) for key, value in match.groupdict().items() if value}


def _compile(pattern: str) -> str:
    """Turn a pattern of whole names into a regular expression; one with named groups is taken as it is. InputError
    for other fields than those of `_FIELDS`."""
    is_regular = "(?P<" in pattern
    try:
        fields = list(re.compile(pattern).groupindex) if is_regular else re.findall(r"\{(.*?)\}", pattern)
    except re.error as error:
        raise InputError(f"--pattern {pattern} is not a regular expression: {error}.") from error
    if "sub" not in fields or len(set(fields)) < len(fields) or set(fields) - set(_FIELDS):
        raise InputError(
            f"--pattern {pattern} has the fields {', '.join(fields) or 'none'}.",
            hint=f"Expected {{sub}} and, at most once each, {', '.join(f'{{{one}}}' for one in _FIELDS[1:])}.",
        )
    if is_regular:
        return pattern
    parts = re.split(r"\{(.*?)\}", pattern)
    texts = [re.escape(part).replace(r"\*", ".*") for part in parts[::2]]
    groups = [*(f"(?P<{name}>[A-Za-z0-9]+)" for name in fields), ""]
    return f"^{''.join(text + group for text, group in zip(texts, groups, strict=True))}$"


def import_series(
    found: Iterable[FoundSeries],
    out_dir: Path,
    *,
    repetition_time: float,
    atlas: str,
    people: Table | None = None,
    volumes: str = "",
    task: str = "rest",
) -> int:
    """Write series as a parcellated derivative dataset, which gets its name once it is complete; return how many runs.

    `repetition_time` is in seconds. `atlas` names the columns if the files do not: an order shipped with this package
    or the path of a table (index, label, network_label). The table of `people` becomes participants.tsv, and its rows
    label the participants of a stack. `volumes` is ``rows`` or ``columns``; otherwise the number of parcels must
    determine it. Raises InputError for unreadable, missing or ambiguous data; AtlasError for the atlas;
    ConfigurationError if `out_dir` has files.
    """
    if not 0 < repetition_time <= LONGEST:
        raise ConfigurationError(
            f"--repetition-time is {repetition_time:g}; expected seconds above 0, {LONGEST:g} at most.",
            hint="Is it in milliseconds?" if repetition_time > LONGEST else "",
        )
    if not re.fullmatch(_LABEL, task):
        raise ConfigurationError(f"--task is {task!r}; expected letters and digits, as in names of BIDS files.")
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ConfigurationError(f"{out_dir} exists and is not an empty folder.", hint="Choose another folder.")
    label, parcels, networks = _load_parcels(atlas)
    written: dict[str, str] = {}
    n_padded = 0
    with open_folder(out_dir) as partial:
        for one in Progress("Importing").each("file or participant", _name_people(found, people)):
            labels = {"task": task, **one.labels}
            for key, value in labels.items():
                if not re.fullmatch(_LABEL, value):
                    raise InputError(
                        f"{one.where} has the label {key}-{value}; expected letters and digits.",
                        hint="Rename the file, or describe its name with --pattern.",
                    )
            stem = "_".join(f"{key}-{value}" for key, value in sort_entities(labels.items()))
            if stem in written:
                raise InputError(
                    f"{one.where} and {written[stem]} have the same output name {stem}.",
                    hint="Distinguish them with --pattern: {ses}, {run}.",
                )
            written[stem] = one.where
            session = f"/ses-{labels['ses']}" if "ses" in labels else ""
            path = partial / f"sub-{labels['sub']}{session}/func/{stem}_atlas-{label}_stat-mean_timeseries.tsv"
            columns, values, is_padded = _orient(one, parcels, atlas, volumes)
            n_padded += is_padded
            write_table(path, columns, values)
            timing = {"RepetitionTime": repetition_time, "SamplingFrequency": 1 / repetition_time}
            write_json(path.with_suffix(".json"), timing)
        if not written:
            raise InputError("No series to import.")
        keys = {(one.get("sub", ""), one.get("ses", "")) for one in map(parse_entities, written)}
        _write_dataset(partial, label, parcels, networks, people, keys)
    if n_padded:
        LOGGER.info(
            "%d of %d series of stacks were shortened: their last volumes hold no data.", n_padded, len(written)
        )
    return len(written)


def _load_parcels(atlas: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Load label, parcels (P,) and networks (P,) of an atlas; no networks for one that ships with this package."""
    path = Path(atlas)
    if path.is_file():
        table = load_label_table(path)
        return build_label(path.name.partition(".")[0]), table.parcels, table.networks
    if path.suffix or len(path.parts) > 1:
        raise AtlasError(
            f"Table {atlas} not found.",
            hint=f"Give a table (index, label, network_label), or {', '.join(list_orders())}.",
        )
    return format_label(atlas.partition("-")[0]), load_order(atlas), ()


def _name_people(found: Iterable[FoundSeries], people: Table | None) -> Iterator[FoundSeries]:
    """Label the participants of stacks without labels by the rows of the table, else by their position."""
    for one in found:
        if "sub" in one.labels:
            yield one
            continue
        if people and len(people.keys) != one.n_people:
            raise InputError(
                f"The stack of {one.where} has {one.n_people} participants, but {people.path} has {len(people.keys)} "
                "rows, so they cannot be matched.",
                hint="Give a table with one row per participant of the stack, or an archive with participant_id.",
            )
        if not one.number:
            how = f"the rows of {people.path.name}" if people else "their position, from 1"
            LOGGER.info("Labelling the %d participants of %s by %s.", one.n_people, one.where.rpartition(",")[0], how)
        width = max(2, len(str(one.n_people)))
        sub, ses = people.keys[one.number] if people else (f"{one.number + 1:0{width}d}", "")
        labels = {"sub": re.sub(r"[^A-Za-z0-9]", "", sub), "ses": re.sub(r"[^A-Za-z0-9]", "", ses)}
        yield one._replace(labels={key: value for key, value in labels.items() if value})


def _orient(one: FoundSeries, parcels: Sequence[str], atlas: str, volumes: str) -> tuple[tuple[str, ...], Floats, bool]:
    """Orient series as (T, P) without padding at the end, and name the columns (P,)."""
    values = one.values
    shape = f"{one.where} has {values.shape[0]} rows and {values.shape[1]} columns"
    columns = one.columns or tuple(parcels)
    if not set(rename_columns(columns)) & set(rename_columns(parcels)):
        raise InputError(f"{one.where} has columns such as {columns[0]}, which are not parcels of {atlas}.")
    if not one.columns:
        fits = [axis for axis, size in zip(("columns", "rows"), values.shape, strict=True) if size == len(parcels)]
        axis = volumes or (fits[0] if len(fits) == 1 else "")
        if len(fits) == 2 and not volumes:
            raise InputError(f"{shape}: the axis of the volumes is ambiguous.", hint="Use --volumes rows or columns.")
        if axis not in fits:
            raise InputError(
                f"{shape}, but {atlas} has {len(parcels)} parcels.",
                hint="Give the atlas of the series: --atlas NAME or TABLE.tsv.",
            )
        values = values.T if axis == "columns" else values
    # Stacks are as long as the longest run.
    held = np.flatnonzero((np.isfinite(values) & (values != 0)).any(axis=1))
    if not held.size:
        raise InputError(f"{one.where} contains no values.")
    n_held = int(held[-1]) + 1 if one.n_people else len(values)
    return columns, values[:n_held], n_held < len(values)


def _write_dataset(
    root: Path,
    atlas: str,
    parcels: Sequence[str],
    networks: Sequence[str],
    people: Table | None,
    keys: Collection[tuple[str, str]],
) -> None:
    """Write what makes the folder a dataset: its description, the atlas that it does not share with this package, and
    participants.tsv."""
    write_json(
        root / "dataset_description.json",
        {
            "Name": "Imported parcel series",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "bids_semantoks-import", "Version": __version__}],
        },
    )
    write_text(root / ".bidsignore", "*_timeseries.*\n")
    if networks:
        listed = [(number, *row) for number, row in enumerate(zip(parcels, networks, strict=True), start=1)]
        table = root / "sourcedata" / "atlases" / f"atlas-{atlas}_dseg.tsv"
        write_records(table, ("index", "label", "network_label"), listed)
    subs = sorted({sub for sub, _ in keys})
    if people is None:
        write_records(root / "participants.tsv", ["participant_id"], [[f"sub-{sub}"] for sub in subs])
        return
    names = match_keys(people, keys)
    if lost := sorted(set(subs) - {sub for sub, _ in names}):
        LOGGER.warning("%s has no row for %s.", people.path, name_some(lost))
    columns = ["participant_id", *(["session_id"] if people.has_sessions else []), *people.columns]
    labels = [[f"sub-{sub}", *([f"ses-{ses}"] if people.has_sessions else [])] for sub, ses in names]
    cells = zip(*people.columns.values(), strict=True) if people.columns else ((),) * len(labels)
    rows = [[*row, *values] for row, values, (sub, _) in zip(labels, cells, names, strict=True) if sub in subs]
    if n_others := len(labels) - len(rows):
        LOGGER.info("%d rows of %s describe participants without series and are left out.", n_others, people.path)
    path = root / "phenotype" / "imported.tsv" if people.has_sessions else root / "participants.tsv"
    write_records(path, columns, rows)
