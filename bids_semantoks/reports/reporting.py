"""Collect the facts of the methods text, and write each participant's report once the last run is done, or again from
the output directory."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_images import build_label_grid
from bids_semantoks.atlases.registry import is_surface_atlas
from bids_semantoks.bids_names import parse_entities
from bids_semantoks.config import AppConfig, to_json
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.errors import AtlasError, InputError
from bids_semantoks.inputs.selection import check_known, read_labels
from bids_semantoks.outcomes import record_redrawn
from bids_semantoks.outputs.dataset import read_atlas_table
from bids_semantoks.outputs.features import count_cohort, describe_weights
from bids_semantoks.outputs.methods import read_methods, write_citation
from bids_semantoks.outputs.sidecars import find_versions
from bids_semantoks.outputs.store import StoredRun, find_statuses, find_stored_kinds, find_stored_runs
from bids_semantoks.quality.cohort import describe_exclusion
from bids_semantoks.records import Atlas
from bids_semantoks.reports.figures_run import draw_figures
from bids_semantoks.reports.report import update_methods, write_report

LOGGER = logging.getLogger("bids_semantoks")

# Corners (mm) around an adult brain in template space, and a grid fine enough for small figures.
_LOW: Final = (-81.0, -114.0, -75.0)
_SHAPE: Final = (55, 65, 55)
_STEP: Final = 3.0


def build_picture_grid(atlas: Atlas) -> NDArray[np.int32] | None:
    """Resample an atlas to the coarse figure grid: int32 (X, Y, Z) of parcel position + 1, 0 elsewhere. None for
    atlases without volumes (parcellated inputs, surfaces) or off the grid."""
    if not atlas.volumes or any(is_surface_atlas(volume.path) for volume in atlas.volumes):
        return None
    affine = np.diag([_STEP, _STEP, _STEP, 1.0])
    affine[:3, 3] = _LOW
    try:
        return build_label_grid(atlas, _SHAPE, affine)
    except AtlasError:
        return None


def build_facts(
    signals: Mapping[str, Any],
    encoder: RunEncoder | None,
    *others: RunEncoder,
    cohort: Mapping[str, Any] | None = None,
    probing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Collect all facts of the methods text for `write_citation`; `encoder` is None if only signals are written,
    `others` are compared with it, `cohort` from `count_cohort` if a text speaks of all runs."""
    facts = {"versions": find_versions(), "cohort": cohort, "signals": signals, "probing": probing}
    if encoder is None:
        return facts
    loaded, details = encoder.loaded, dict(encoder.loaded.details)
    data, recipe = details.get("data"), details.get("recipe")
    # The details of a checkpoint may have any content.
    if isinstance(recipe, dict) and isinstance(data, dict) and {"runs", "participants", "hours"} <= data.keys():
        facts["pretraining"] = {"data": data, "recipe": recipe}
    is_weighted = (probing or {}).get("protocol") != "paper"
    facts["embedding"] = {
        **encoder.settings,
        "repetition_time": loaded.config.repetition_time,
        "window_seconds": loaded.config.window * loaded.config.repetition_time,
        # The GPU index is meaningless and would differ between jobs that share the text.
        "device": encoder.frozen.device.type.replace("cuda", "a GPU").replace("cpu", "the CPU"),
        "description": loaded.description,
        "is_random": loaded.is_random,
        "compared": [
            {**other.settings, "description": other.loaded.description, "is_random": other.loaded.is_random}
            for other in others
        ],
        "readouts": [one.frozen.pooling for one in encoder.others],
        "random_seed": encoder.seed,
        "weights": describe_weights(encoder.config.min_kept if is_weighted else None),
    }
    return facts


def write_stored_methods(
    config: AppConfig,
    encoders: Sequence[RunEncoder],
    stored: Sequence[StoredRun],
    left_out: Mapping[str, tuple[str, str]],
    *,
    results: Sequence[Mapping[str, Any]] = (),
    preparations: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write the methods text of a call on stored signals (at least one run), by the first sidecar that allows it.
    `encoders` are the one of the call and those compared with it, `left_out` runs that its limits leave out, reason and
    message by stem; `results` of probes, once there are any, and `preparations` are as for `describe_methods`."""
    pipelines = sorted({str(run.sidecar.get("Pipeline", "unknown")) for run in stored})
    cohort = count_cohort(
        config.out_dir, [run.paths.stem for run in stored], is_wanted=_build_filter(config, stored), left_out=left_out
    )
    cohort["exclusion"] = describe_exclusion(config.selection)
    asked = to_json(config).get("probing") or {}
    probing = None
    if any(asked.get(name) for name in ("probe", "task_blocks", "audit", "apply_predictor")):
        # A local path does not belong in a manuscript.
        names = {name: Path(asked[name]).name for name in ("phenotype", "splits") if asked.get(name)}
        probing = {**asked, **names, "results": list(results), "preparations": preparations or {}}
    # Runs in native space are an exception that the text must mention.
    for run in sorted(stored, key=lambda run: "Resampling" not in run.sidecar):
        sidecar = run.sidecar
        try:
            signals = {
                **sidecar["Settings"],
                "averaged_over": sidecar.get("AveragedOver") or "voxels inside the brain mask",
                "denoised_by": sidecar["Denoising"].get("DenoisedBy", ""),
                "pipelines": pipelines,
                "n_parcels": sidecar["Atlas"]["Parcels"],
                "min_time": sidecar.get("MinimumTime", config.signals.min_time),
            }
            write_citation(config.out_dir, build_facts(signals, *encoders, cohort=cohort, probing=probing))
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever values of another type than ours lead to
            LOGGER.warning(
                "%s has values that cannot be used in the methods text: %s",
                *(run.paths.signals_sidecar, str(error)[:200]),
                extra={"once": "values that do not fit a methods text"},
            )
            continue
        return


def _build_filter(config: AppConfig, stored: Sequence[StoredRun]) -> Callable[[str], bool]:
    """Build a filter of runs like the stored ones: of their atlas, space and tasks, and of the participants chosen."""

    def find_kind(entities: Mapping[str, str]) -> tuple[str | None, ...]:
        return tuple(entities.get(key) for key in ("atlas", "space", "task"))

    kinds, people = {find_kind(run.entities) for run in stored}, {run.entities["sub"] for run in stored}
    is_open = not (config.selection.participant_label or config.selection.exclude_participant_label)

    def is_wanted(stem: str) -> bool:
        entities = parse_entities(stem)
        return find_kind(entities) in kinds and (is_open or entities["sub"] in people)

    return is_wanted


class ReportQueue:
    """Writes a participant's report once all of that participant's runs are done; takes one label per planned run."""

    def __init__(self, out_dir: Path, participants: Iterable[str]) -> None:
        self.out_dir = out_dir
        self.left = Counter(participants)
        self.started: set[str] = set()
        self.methods = read_methods(out_dir)

    def expect(self, participant: str) -> None:
        """Plan one more run; label without ``sub-``."""
        self.left[participant] += 1

    def finish(self, participant: str) -> None:
        """Count one run as done and write the report after the last one; label without ``sub-``."""
        self.left[participant] -= 1
        self.started.add(participant)
        if self.left[participant] == 0:
            write_report(self.out_dir, participant)

    def write_rest(self) -> None:
        """Write the reports of participants whose runs are only partly done because the batch stopped."""
        for participant in sorted(one for one in self.started if self.left[one] > 0):
            write_report(self.out_dir, participant)

    def update_methods(self, participants: Iterable[str]) -> None:
        """Update the methods text in reports once all runs are counted: those of this call and, if it changed, of all
        `participants`."""
        is_changed = self.methods != read_methods(self.out_dir)
        for participant in dict.fromkeys(participants):
            if is_changed or participant in self.started:
                update_methods(self.out_dir, participant)

    def write_absent(self, participants: Iterable[str]) -> None:
        """Write any missing reports of participants whose runs are all done; labels without ``sub-``."""
        for participant in dict.fromkeys(participants):
            if not (self.out_dir / f"sub-{participant}.html").is_file():
                self.started.add(participant)
                write_report(self.out_dir, participant)


def redraw_reports(config: AppConfig) -> int:
    """Regenerate the participant reports from the output directory alone; return the number of pages written. Raises
    InputError if there is nothing to report or a requested participant is missing."""
    out_dir = config.out_dir
    there = {parse_entities(stem)["sub"] for stem in find_statuses(out_dir)}
    if not there:
        raise InputError(
            f"Nothing to report in {out_dir}: no run status in logs/sub-*.", hint="Run the participant level first."
        )
    asked = read_labels(config.selection.participant_label, "sub-")
    excluded = read_labels(config.selection.exclude_participant_label, "sub-")
    for labels in (asked, excluded):
        check_known("participant", labels, there, str(out_dir), key="sub")
    chosen = sorted((set(asked) or there) - set(excluded))
    kind = config.running.figures
    for atlas, space in find_stored_kinds(out_dir) if kind else ():
        names = read_atlas_table(out_dir, name=atlas, space=space)
        for stored in find_stored_runs(out_dir, atlas=atlas, model=""):
            if stored.entities["sub"] in chosen and stored.entities.get("space", "") == space:
                draw_figures(stored.paths, stored.sidecar, names, kind or "")
    for participant in chosen:
        record_redrawn(out_dir, participant)
    written = sum(write_report(out_dir, participant) for participant in chosen)
    LOGGER.info("Wrote %d of %d reports to %s.", written, len(chosen), out_dir)
    return written
