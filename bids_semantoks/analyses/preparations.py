"""Further preparations of the same participants (-d NAME=OUT_DIR), e.g. with global signal regression or another atlas:
output directories whose models are compared with those of the main one on the same splits. They are only read."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final

from bids_semantoks.analyses.choose import choose_stored, load_others, load_replicates
from bids_semantoks.analyses.rows import Rows, build_rows
from bids_semantoks.config import AppConfig
from bids_semantoks.config.options import check
from bids_semantoks.embedding import AtlasNames, RunEncoder, build_run_encoder, find_missing
from bids_semantoks.errors import InputError, RunFailed, name_count
from bids_semantoks.inputs.names import OURS, read_description, recognise_pipeline, split_named
from bids_semantoks.inputs.selection import describe_labels
from bids_semantoks.outputs.group_words import name_prepared
from bids_semantoks.outputs.methods import describe_preparation
from bids_semantoks.outputs.sidecars import check_table
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.statistics.spans import Features

LOGGER = logging.getLogger("bids_semantoks")
_MAIN: Final = "main"  # name of the preparation in OUT_DIR
_REASON: Final = "other_preparation"  # why a run of the main preparation is not used

Scan = tuple[str, str]  # participant and session label


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Preparation:
    """A further output directory: its runs of scans that all preparations have."""

    name: str
    out_dir: Path
    atlas: AtlasNames
    stored: tuple[StoredRun, ...]
    absent: tuple[str, ...]  # participants of the main preparation who are missing here
    encoders: tuple[RunEncoder, ...] = ()  # the first of --model and its --replicates, matched to this atlas
    others: tuple[RunEncoder, ...] = ()  # the others of --model

    def find_rows(self, rows: Rows) -> Rows:
        """Find the runs of the scans that rows of the main preparation hold."""
        own: dict[Scan, list[StoredRun]] = {}
        for run in self.stored:
            own.setdefault(_name_scan(run), []).append(run)
        scans = [dict.fromkeys(map(_name_scan, runs)) for runs in rows.runs]
        return dataclasses.replace(rows, runs=tuple(tuple(run for scan in one for run in own[scan]) for one in scans))

    def label(self, models: Mapping[str, Sequence[Features]]) -> dict[str, tuple[Features, ...]]:
        """Label models (features of each seed by name) with the name of the preparation."""
        named = {name_prepared(model, self.name): features for model, features in models.items()}
        # All kinds of features are records with a name.
        return {name: tuple(dataclasses.replace(one, name=name) for one in own) for name, own in named.items()}  # type: ignore[type-var]


def _name_scan(run: StoredRun) -> Scan:
    return run.entities["sub"], run.entities.get("ses", "")


def open_preparations(config: AppConfig, chosen: Sequence[StoredRun]) -> tuple[Preparation, ...]:
    """Open the further preparations of a call whose runs of the main one are `chosen`. Raises ConfigurationError for a
    name or folder that cannot be used, InputError if a folder is not an output directory of this program or holds none
    of the scans."""
    named = _list_named(config)
    if not named:
        return ()
    own = {_name_scan(run) for run in chosen}
    found = [_choose(config, name, out_dir, own) for name, out_dir in named]
    shared = own.intersection(*({_name_scan(run) for run in one.stored} for one in found))
    if not shared:
        counts = [(config.out_dir, len({sub for sub, _ in own}))]
        counts += [(one.out_dir, len({run.entities["sub"] for run in one.stored})) for one in found]
        raise InputError(
            "No participant (and session) is in all preparations: "
            f"{', '.join(f'{where} has {count}' for where, count in counts)}.",
            hint="Participant and session labels must be identical in all preparations.",
        )
    for one in found:
        if one.absent:
            LOGGER.warning(
                "Excluding %s without signals in the preparation %s from all models: %s",
                *(name_count(len(one.absent), "participant"), one.name, describe_labels(one.absent)),
            )
    kept = tuple(dataclasses.replace(one, stored=_keep(one.stored, shared)) for one in found)
    for one in kept:
        LOGGER.info("Preparation %s: %s.", one.name, _describe(one.stored)["Text"])
    return kept


def _list_named(config: AppConfig) -> list[tuple[str, Path]]:
    """List names and folders, each checked by itself and against the others."""
    asked, texts = config.probing, config.selection.derivatives
    if not texts or not asked.probe or asked.scaling or asked.task_blocks is not None:
        # With these, it says where shares or events come from.
        return []
    check(
        not config.pretraining.pretrain,
        f"-d {' '.join(texts)} with --pretrain would compare embeddings that do not exist yet.",
        "Pretrain first, then embed each preparation with --model, then compare.",
    )
    named: dict[str, Path] = {}
    places = {config.out_dir.resolve(): "OUT_DIR"}
    for text in texts:
        name, out_dir = split_named(text)
        hint = "At the group level -d NAME=OUT_DIR adds another preparation of the same participants, named MODEL@NAME."
        check(
            re.fullmatch(r"[A-Za-z0-9]+", name) is not None,
            f"-d {text}: the name of a preparation may only contain letters and digits, found {name!r}.",
            hint,
        )
        check(
            name != _MAIN,
            f"-d {text} uses the reserved name {_MAIN} (the preparation in OUT_DIR).",
            "Choose another name.",
        )
        check(name not in named, f"-d has two preparations named {name}: {named.get(name)} and {out_dir}.")
        if not out_dir.is_dir():
            raise InputError(f"-d {text}: {out_dir} is not a directory.", hint=hint)
        place = out_dir.resolve()
        check(place not in places, f"-d {text} is the same folder as {places.get(place)}.", "List each folder once.")
        description = read_description(out_dir)
        if recognise_pipeline(description) is not OURS:
            made = f"written by {description.pipeline(out_dir)}" if description else "no dataset_description.json"
            raise InputError(f"-d {text} is not an output directory of bids_semantoks: found {made}.", hint=hint)
        named[name], places[place] = out_dir, f"-d {text}"
    return list(named.items())


def _choose(config: AppConfig, name: str, out_dir: Path, scans: Set[Scan]) -> Preparation:
    """Choose runs by the selection and the limits of the call, of the scans of the main preparation."""
    _, atlas, stored, _ = choose_stored(dataclasses.replace(config, out_dir=out_dir), is_main=False)
    rows = build_rows(_keep(stored, scans), by_session=True, min_kept=config.min_kept, running=config.running)
    whole = [run for runs in rows.runs for run in runs if _is_whole(run, name)]
    absent = {sub for sub, _ in scans} - {run.entities["sub"] for run in whole}
    return Preparation(name=name, out_dir=out_dir, atlas=atlas, stored=tuple(whole), absent=tuple(sorted(absent)))


def _is_whole(run: StoredRun, name: str) -> bool:
    try:
        check_table(run.paths.signals, run.sidecar)
    except RunFailed as error:
        LOGGER.warning("%s Skipping the run in the preparation %s.", error.message, name)
        return False
    return True


def _keep(stored: Iterable[StoredRun], scans: Set[Scan]) -> tuple[StoredRun, ...]:
    return tuple(run for run in stored if _name_scan(run) in scans)


def load_encoders(config: AppConfig, one: Preparation) -> Preparation:
    """Load the encoders of the call for the atlas of a preparation. Raises InputError if embeddings are missing:
    nothing is written into a folder that is only read."""
    embedding = dataclasses.replace(config.embedding, more_models=(), save_tokens=False)
    first = build_run_encoder(embedding, *one.atlas, seed=config.running.random_seed)
    others = load_others(config, first, one.atlas)
    encoders = (first, *load_replicates(config, first, one.atlas))
    models = (embedding.model, *config.probing.replicates, *config.embedding.more_models)
    for model, encoder in zip(models, (*encoders, *others), strict=True):
        label, readouts = encoder.loaded.name, " ".join(embedding.pooling)
        hint = f"Embed there first: bids_semantoks BIDS_DIR {one.out_dir} group --model {model} --pooling {readouts}."
        missing = find_missing(encoder.name_outputs(one.stored), encoder, overwrite=False, hint=hint)
        if missing:
            raise InputError(
                f"{len(missing)} of {len(one.stored)} runs of the preparation {one.name} have no embedding by {label} "
                f"in {one.out_dir}, the first is {missing[0].paths.stem}.",
                hint=hint,
            )
    return dataclasses.replace(one, encoders=encoders, others=tuple(others))


def keep_shared(stored: Sequence[StoredRun], preparations: Sequence[Preparation]) -> list[StoredRun]:
    """Keep the runs of scans that all preparations have."""
    scans = [set(map(_name_scan, one.stored)) for one in preparations]
    return [run for run in stored if all(_name_scan(run) in own for own in scans)]


def find_unshared(stored: Sequence[StoredRun], preparations: Sequence[Preparation]) -> dict[str, tuple[str, str]]:
    """Find the runs that `keep_shared` leaves out: reason and message by stem."""
    kept = {run.paths.stem for run in keep_shared(stored, preparations)}
    message = f"Not in all preparations: {', '.join(one.name for one in preparations)}."
    return {run.paths.stem: (_REASON, message) for run in stored if run.paths.stem not in kept}


def describe_preparations(
    stored: Sequence[StoredRun], preparations: Sequence[Preparation]
) -> dict[str, dict[str, Any]]:
    """Describe how the signals of all preparations were made, the main one with the runs `stored` first, by name; empty
    without further ones."""
    if not preparations:
        return {}
    return {_MAIN: _describe(stored)} | {one.name: _describe(one.stored) for one in preparations}


def _describe(stored: Sequence[StoredRun]) -> dict[str, Any]:
    people = {run.entities["sub"] for run in stored}
    words = " and ".join(dict.fromkeys(describe_preparation(run.sidecar) for run in stored))
    return {
        "Text": f"{words}: {len(stored)} runs of {len(people)} participants",
        "Participants": len(people),
        "Runs": len(stored),
        "Pipelines": sorted({str(run.sidecar["Pipeline"]) for run in stored}),
        "Settings": stored[0].sidecar["Settings"],
    }
