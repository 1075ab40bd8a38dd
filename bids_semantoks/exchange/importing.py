"""Write arrays as a BIDS dataset of parcellated series that the participant level reads. T volumes, P parcels."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bids_semantoks.atlases.label_tables import build_label, load_label_table, rename_columns
from bids_semantoks.atlases.series_atlas import list_orders, load_order
from bids_semantoks.bids_names import format_label, parse_entities, sort_entities
from bids_semantoks.disk import open_folder
from bids_semantoks.errors import AtlasError, ConfigurationError, InputError, name_some
from bids_semantoks.exchange.found_arrays import FoundSeries
from bids_semantoks.files import write_json, write_records, write_table, write_text
from bids_semantoks.inputs.people_tables import Table, match_keys
from bids_semantoks.outputs.dataset import BIDS_VERSION
from bids_semantoks.records import Floats
from bids_semantoks.runtime.progress import Progress
from bids_semantoks.version import __version__

LOGGER = logging.getLogger("bids_semantoks")


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
    if repetition_time <= 0 or not np.isfinite(repetition_time):
        raise ConfigurationError(f"--repetition-time is {repetition_time:g}; expected seconds above 0.")
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ConfigurationError(f"{out_dir} exists and is not an empty folder.", hint="Choose another folder.")
    label, parcels, networks = _load_parcels(atlas)
    written: dict[str, str] = {}
    n_padded = 0
    with open_folder(out_dir) as partial:
        for one in Progress("Importing").each("file or participant", _name_people(found, people)):
            labels = {"task": task, **one.labels}
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
