"""Outputs and probes as pandas tables, for the Python interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from bids_semantoks.config import AppConfig, EmbeddingConfig, ProbingConfig, SelectionConfig, SignalsConfig
from bids_semantoks.config.options import check, from_json

if TYPE_CHECKING:
    import pandas as pd

    from bids_semantoks.analyses.portable import Predictor

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
        One row per ``participant``, ``session``, ``run`` or ``window``. The first two average over runs as the group
        level does (resting runs if there are any).
    model : str, optional
        Encoder, by its label or as for ``--model``; required if there are embeddings of several.
    atlas, space : str, optional
        As on the command line of the group level.
    phenotypes : str or Path, optional
        Phenotype table whose columns are added, or a dataset with ``participants.tsv``.
    min_kept : float or None, optional
        Windows with a smaller share of kept data are excluded from means if there are better ones; None weights all
        equally.

    Returns
    -------
    pandas.DataFrame
        Labels, quality measures, ``dim0001`` etc.; its ``attrs`` record the source, which `probe` needs
        for connectivity.

    Raises
    ------
    InputError
        There are no outputs, or the encoder, atlas or space is ambiguous.
    ConfigurationError
        `level` or `min_kept` is not one of these.
    """
    from bids_semantoks.analyses import output_frames as frames
    from bids_semantoks.analyses.choose import choose_stored

    check(level in frames.LEVELS, f"level must be {', '.join(frames.LEVELS)}, found {level!r}.")
    check(min_kept is None or 0 <= min_kept <= 1, f"min_kept must be between 0 and 1, found {min_kept}.")
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
    frame.attrs[frames.ORIGIN] = frames.describe_origin(embedded) | {
        "out_dir": str(root),
        "atlas": label,
        "model": name,
        "level": level,
        "min_kept": min_kept,
        "runs": [run.paths.stem for run in embedded],
    }
    return frame


class ProbeOptions(TypedDict, total=False):
    """Options of `probe`, which are those of the command line."""

    probe_kind: str  # auto, classification or regression
    n_bins: int  # for binning a numeric column
    leave_out: str | None  # column whose values are held out in turn
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
    """Predict a column from embeddings, with the results of ``group_probe.tsv``.

    Parameters
    ----------
    df : pandas.DataFrame
        One row per participant or session, with ``participant_id`` (and ``session_id``), ``dim0001`` etc., and the
        columns used below; from `load_outputs`, or any other embeddings.
    y : str
        Column to predict: classes or numbers.
    groups : str, optional
        Column such as family; rows with the same value are never on both sides of a split.
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
        One row per model and score, with the columns of ``group_probe.tsv``. p values of comparisons are adjusted
        within this call only.

    Raises
    ------
    InputError
        A column is missing or cannot be probed.
    """
    from bids_semantoks.analyses.output_frames import probe_frame

    asked: dict[str, Any] = dict(options)
    seed, min_kept = asked.pop("random_seed", 0), asked.pop("min_kept", _USUAL.min_kept)
    asked |= {"probe": [y], "group_by": groups, "covariate": list(covariates), "n_repeats": n_repeats}
    config = from_json(ProbingConfig, {**asked, "baselines": list(baselines) or ["none"]}, where="probe")
    return probe_frame(df, config, seed=seed, min_kept=min_kept)


def load_predictor(path: str | Path) -> Predictor:
    """Load a predictor that ``--save-predictor`` wrote. For research use only.

    Parameters
    ----------
    path : str or Path
        Its folder.

    Returns
    -------
    Predictor
        ``predict(df)`` predicts the rows of a table of embeddings, with intervals or sets and flags; ``facts`` say what
        it was made from.

    Raises
    ------
    ModelError
        The folder is not a predictor, or it is damaged.
    """
    from bids_semantoks.analyses.portable import Predictor

    return Predictor(Path(path))
