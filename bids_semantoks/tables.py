"""Outputs and probes as tables of pandas, for the Python interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from bids_semantoks.config import AppConfig, EmbeddingConfig, ProbingConfig, SelectionConfig, SignalsConfig
from bids_semantoks.config.options import check, from_json

if TYPE_CHECKING:
    import pandas as pd

_USUAL = EmbeddingConfig()


def load_outputs(
    out_dir: str | Path,
    *,
    level: str = "participant",
    model: str | None = None,
    atlas: str = SignalsConfig().atlas,
    space: str | None = None,
    phenotypes: str | Path | None = None,
    min_kept: float | None = _USUAL.min_kept,
) -> pd.DataFrame:
    """Load the embeddings of an output directory as a table.

    Parameters
    ----------
    out_dir : str or Path
        OUT_DIR of participant calls.
    level : str, optional
        A row a ``participant``, ``session``, ``run`` or ``window``. The first two average over runs as the group level
        does, of task rest where there are any.
    model : str, optional
        Encoder, by its label or as ``--model``; needed where several embedded the runs.
    atlas, space : str, optional
        As on the command line of the group level.
    phenotypes : str or Path, optional
        Table of people whose columns are added, or a dataset with ``participants.tsv``.
    min_kept : float or None, optional
        Windows with a smaller share of kept data do not count in means where there are better ones; None weighs all
        alike.

    Returns
    -------
    pandas.DataFrame
        Labels, measures of quality and ``dim0001`` and on; its ``attrs`` say where it comes from, which `probe` needs
        for connectivity.

    Raises
    ------
    InputError
        Nothing is there, or nothing tells which encoder, atlas or space is meant.
    """
    from bids_semantoks.analyses import output_frames as frames
    from bids_semantoks.analyses.choose import choose_stored

    check(level in frames.LEVELS, f"level must be {', '.join(frames.LEVELS)}, found {level!r}.")
    root = Path(out_dir)
    config = AppConfig(
        bids_dir=root,
        out_dir=root,
        level="group",
        selection=SelectionConfig(space=space),
        signals=SignalsConfig(atlas=atlas),
    )
    label, _, stored, _ = choose_stored(config, prefers_rest=level in ("participant", "session"))
    name, embedded = frames.choose_embedded(stored, model)
    frame = frames.build_output_frame(embedded, level=level, min_kept=min_kept)
    frame = frame if phenotypes is None else frames.add_phenotypes(frame, Path(phenotypes))
    frame.attrs[frames.ORIGIN] = {
        "out_dir": str(root),
        "atlas": label,
        "model": name,
        "runs": [run.paths.stem for run in embedded],
    }
    return frame


class ProbeOptions(TypedDict, total=False):
    """Options of `probe`, which are those of the command line."""

    probe_kind: str  # auto, classification or regression
    n_bins: int  # of a number, to be told apart
    leave_out: str | None  # column whose values are left out in turn
    n_permutations: int
    random_seed: int
    min_kept: float | None  # of the windows behind stored baselines


def probe(
    df: pd.DataFrame,
    y: str,
    *,
    groups: str | None = None,
    covariates: Sequence[str] = (),
    baselines: Sequence[str] = (),
    n_repeats: int = 10,
    **options: Unpack[ProbeOptions],
) -> pd.DataFrame:
    """Predict a column from embeddings, with the numbers of ``group_probe.tsv``.

    Parameters
    ----------
    df : pandas.DataFrame
        A row a participant or session, with ``participant_id`` (and ``session_id``), ``dim0001`` and on, and the
        columns named below; from `load_outputs`, or of any embeddings.
    y : str
        Column to predict: classes or numbers.
    groups : str, optional
        Column whose equal values are never on both sides of a split, such as a family.
    covariates : sequence of str, optional
        Columns removed from the features within the training folds.
    baselines : sequence of str, optional
        As ``--baselines``; those of signals, motion and random weights need a table of `load_outputs`.
    n_repeats : int, optional
        Repetitions of five folds.
    **options
        ``probe_kind``, ``n_bins``, ``leave_out``, ``n_permutations`` (200), ``random_seed`` (0) and ``min_kept`` (0.5).

    Returns
    -------
    pandas.DataFrame
        A row a model and score, with the columns of ``group_probe.tsv``. p values of comparisons are adjusted over
        this call alone.

    Raises
    ------
    InputError
        A column is not there, or cannot be probed.
    """
    from bids_semantoks.analyses.table_probe import probe_frame

    asked: dict[str, Any] = dict(options)
    seed, min_kept = asked.pop("random_seed", 0), asked.pop("min_kept", _USUAL.min_kept)
    asked |= {"probe": [y], "group_by": groups, "covariate": list(covariates), "n_repeats": n_repeats}
    config = from_json(ProbingConfig, {**asked, "baselines": list(baselines) or ["none"]}, where="probe")
    return probe_frame(df, config, seed=seed, min_kept=min_kept)
