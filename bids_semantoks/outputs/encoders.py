"""What lies beside the weights of a pretrained encoder: its log, its figures and its model card."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.outputs.files import open_atomic, write_json, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG_FILE: Final = "training_log.tsv"
CARD_FILE: Final = "README.md"
FIGURES: Final = {
    "training": "Loss and effective rank of the projections over training.",
    "kernels": "Frequency response of the learned kernels of each network, as the mean over kernels.",
    "networks": "Cosine similarity of the learned network embeddings.",
}
LOG_MEANINGS: Final = {
    "step": {"Description": "Optimiser step, from 1."},
    "epoch": {"Description": "Pass over the participants, from 1."},
    "loss": {"Description": "Sum of the weighted losses."},
    "cls": {"Description": "Loss on class tokens, weighted."},
    "ttr": {"Description": "Regulariser on time-averaged network tokens, weighted; 0 once it has faded out."},
    "token": {"Description": "Loss on masked tokens, weighted; 0 in a batch without masks."},
    "rank": {"Description": "Effective rank of the teacher's projections of class tokens."},
    "spread": {"Description": "Root mean square over dimensions of the standard deviation of these projections."},
    "cosine": {"Description": "Mean cosine between one view's teacher and the other's student, on class tokens."},
    "gradient_norm": {"Description": "Norm of the gradient before it was clipped."},
    "learning_rate": {"Description": "Learning rate of the step."},
    "weight_decay": {"Description": "Weight decay of the step."},
    "momentum": {"Description": "Momentum of the teacher's moving average."},
    "ttr_weight": {"Description": "Weight of the regulariser on time-averaged network tokens."},
    "is_masked": {"Description": "Whether the batch was masked.", "Levels": {"0": "no", "1": "yes"}},
    "participants_per_second": {"Description": "Speed since the row before."},
}

#: Numbers of a model card that are a lowest and a highest, or a first and a last.
_RANGES: Final = (
    *("mask_ratio", "weight_decay", "momentum", "band"),
    *("repetition_time_of_the_sources_in_s", "length_of_the_runs_in_s"),
)


class TrainingLog:
    """The table of a training, one row every few steps; a training that goes on cuts what came after its checkpoint.

    Parameters
    ----------
    path : Path
        ``training_log.tsv``.
    columns : sequence of str
        Header; the first column is ``step``.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)

    def start(self, step: int) -> None:
        """Begin the table, or keep its rows up to a step.

        Parameters
        ----------
        step : int
            Steps that the training goes on from; 0 for a new one.
        """
        header = "\t".join(self.columns)
        kept = [header]
        if step and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            if lines[:1] == [header]:
                kept += [line for line in lines[1:] if line.partition("\t")[0].isdecimal() and _step(line) <= step]
        write_text(self.path, "\n".join(kept) + "\n")
        meanings = {column: LOG_MEANINGS[column] for column in self.columns if column in LOG_MEANINGS}
        write_json(self.path.with_suffix(".json"), meanings, only_if_changed=True)

    def append(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Add rows at the end and see them to the disk.

        Parameters
        ----------
        rows : sequence of mapping
            Values by column; what is missing becomes n/a.
        """
        lines = ["\t".join(_format(row.get(column)) for column in self.columns) + "\n" for row in rows]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())


def _step(line: str) -> int:
    return int(line.partition("\t")[0])


def _format(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.7g}"


def read_training_log(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read the table of a training.

    Parameters
    ----------
    path : Path
        ``training_log.tsv``.

    Returns
    -------
    dict of str to NDArray, float64
        Columns; n/a becomes not-a-number.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    names = list(rows[0]) if rows else []
    return {
        name: np.array([float("nan") if row[name] == "n/a" else float(row[name]) for row in rows]) for name in names
    }


def write_figures(
    directory: Path,
    *,
    kernels: Mapping[str, NDArray[np.floating[Any]]],
    embeddings: NDArray[np.floating[Any]],
    names: Sequence[str],
    repetition_time: float,
) -> tuple[str, ...]:
    """Draw how the training went and what was learned.

    Parameters
    ----------
    directory : Path
        Directory of the encoder, with its log.
    kernels : mapping of str to NDArray, shape (n_kernels, L)
        Taps of each network's structured kernels; empty when the tokenizer has none.
    embeddings : NDArray, shape (N, D)
        Learned network embeddings.
    names : sequence of str, length N
        Network labels.
    repetition_time : float
        Seconds between taps.

    Returns
    -------
    tuple of str
        Names of the figures drawn, keys of `FIGURES`.
    """
    drawn = {"training": _draw_training(read_training_log(directory / LOG_FILE))}
    if kernels:
        drawn["kernels"] = _draw_kernels(kernels, repetition_time)
    drawn["networks"] = _draw_networks(embeddings, names)
    for name, figure in drawn.items():
        _save(figure, directory / "figures" / f"{name}.svg")
    return tuple(drawn)


def _start_figure(width: float, height: float) -> Figure:
    # The object interface needs no display and leaves no global state behind.
    from matplotlib.figure import Figure  # noqa: PLC0415 - only a finished training draws

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - as above

    with mpl.rc_context({"svg.hashsalt": "bids_semantoks", "svg.fonttype": "none"}), open_atomic(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})


def _smooth(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Running mean over real values."""
    real = np.isfinite(values)
    window = np.ones(min(width, values.size))
    total = np.convolve(np.where(real, values, 0.0), window, mode="same")
    count = np.convolve(real.astype(float), window, mode="same")
    mean: NDArray[np.float64] = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return mean


def _draw_training(log: Mapping[str, NDArray[np.float64]]) -> Figure:
    figure = _start_figure(7, 5)
    above, below = figure.subplots(2, 1, sharex=True)
    steps = log.get("step", np.zeros(0))
    width = max(1, steps.size // 50)
    for axes, names, label in ((above, ("loss", "cls", "token", "ttr"), "loss"), (below, ("rank",), "effective rank")):
        for name in names:
            if name in log and np.isfinite(log[name]).any():
                axes.plot(steps, _smooth(log[name], width), label=name)
        axes.set_ylabel(label)
        axes.grid(visible=True, alpha=0.3)
    if above.lines:
        above.legend(frameon=False)
    below.set_xlabel("optimiser step")
    return figure


def _draw_kernels(kernels: Mapping[str, NDArray[np.floating[Any]]], repetition_time: float) -> Figure:
    figure = _start_figure(7, 4)
    axes = figure.subplots()
    frequencies = np.fft.rfftfreq(256, repetition_time)
    for i, (name, taps) in enumerate(kernels.items()):
        response = np.abs(np.fft.rfft(taps, 256, axis=-1))
        mean = response.mean(axis=0)
        axes.plot(frequencies, mean / mean.max(), label=name, color=f"C{i % 10}", linestyle="-" if i < 10 else "--")
    axes.set_xlabel("frequency (Hz)")
    axes.set_ylabel("gain, relative to the largest")
    axes.set_ylim(0, 1.05)
    axes.legend(frameon=False, ncols=2, fontsize="small")
    axes.grid(visible=True, alpha=0.3)
    return figure


def _draw_networks(embeddings: NDArray[np.floating[Any]], names: Sequence[str]) -> Figure:
    figure = _start_figure(6, 5)
    axes = figure.subplots()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    image = axes.imshow(unit @ unit.T, vmin=-1, vmax=1, cmap="RdBu_r")
    if len(names) <= 40:
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axes.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=axes, label="cosine similarity")
    return figure


def write_model_card(
    directory: Path, *, name: str, sha256: str, details: Mapping[str, Any], drawn: Sequence[str]
) -> None:
    """Write the model card of a pretrained encoder.

    Parameters
    ----------
    directory : Path
        Directory of the encoder.
    name : str
        Its name.
    sha256 : str
        Checksum of the weights.
    details : mapping
        What config.json says under ``details``: ``data``, ``limits``, ``recipe``, ``encoder``, ``software``,
        ``participants``.
    drawn : sequence of str
        Figures that were drawn, keys of `FIGURES`.
    """
    data, limits, recipe = details["data"], details["limits"], details["recipe"]
    lines = [
        f"# Encoder {name}",
        "",
        "A network tokenizer and transformer in the design of Brain-Semantoks (arXiv 2512.11582), pretrained by "
        "self-distillation on parcel signals with bids_semantoks.",
        "",
        f"- Weights: `model.safetensors`, SHA-256 `{sha256}` (teacher, {details['n_parameters']:,} parameters)",
        f"- Use: `bids_semantoks BIDS_DIR OUT_DIR participant --model {directory.name}` (path of this directory)",
        "- Licence: not stated by the software. The weights derive from the data below; their terms of use decide "
        "whether and how the weights may be shared.",
        "",
        "## Data",
        "",
        *_list(data),
        f"- hashed participants: {len(details['participants']['sha256'])} in `config.json` (SHA-256 over salt and "
        "label), to find out whether a later test set overlaps",
        "",
        "## Recipe",
        "",
        *_list(recipe),
        "",
        "## Intended use",
        "",
        "Embeddings of resting-state fMRI for research: linear probes and fine-tuning on phenotypes, in participants "
        "that the encoder was not trained on. Not for diagnosis or any decision about a person.",
        "",
        "## Limits",
        "",
        "Outside these ranges the encoder was never trained, and its embeddings are not to be trusted there.",
        "",
        *_list(limits),
        "",
        "## Figures",
        "",
        *(f"![{FIGURES[figure]}](figures/{figure}.svg)\n\n{FIGURES[figure]}\n" for figure in drawn),
        "`training_log.tsv` holds the course of the training in numbers.",
    ]
    write_text(directory / CARD_FILE, "\n".join(lines) + "\n")


def _list(values: Mapping[str, Any]) -> list[str]:
    return [f"- {key.replace('_', ' ')}: {_describe(key, value)}" for key, value in values.items() if value is not None]


def _describe(key: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        words = (" to " if key in _RANGES else ", ").join(_describe("", item) for item in value)
        return f"{words} Hz" if key == "band" else words
    return f"{value:.6g}" if isinstance(value, float) else str(value)
