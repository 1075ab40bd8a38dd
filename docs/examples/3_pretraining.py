"""
Pretrain a tiny encoder and look inside
=======================================

An encoder is trained on the signals of a study by self-distillation: a student sees cropped, noisy and masked
views of a participant, and learns to give what a teacher, its own moving average, gives for others. No label is
used. Here a tiny one is trained for a minute, and opened.

The series are synthetic. Their networks differ in tempo, in coupling and between people, and the encoder is
told nothing of this.
"""

# %%
# Signals
# -------
# The participant level stores the signals. It does not matter where they come from; here they arrive as
# parcellated series, and ``--signals-only`` stops before any encoder.

import tempfile
from pathlib import Path

import bids_semantoks as bs
from bids_semantoks.demo.study import write_parcellated

folder = Path(tempfile.mkdtemp())
series, out_dir = folder / "series", folder / "out"
write_parcellated(series, n_participants=60)
options = ["--n-procs", "1", "-q"]
code = bs.run(
    [
        series,
        out_dir,
        "participant",
        "--signals-only",
        "--connectivity",
        "none",
        *options,
    ]
)

# %%
# Training
# --------
# The group level trains on what lies in ``OUT_DIR``. ``tiny`` is an architecture for trying things out;
# ``paper`` is the published one, and takes a GPU and thousands of people. The published recipe is for long
# training, too: with only a hundred steps, a higher learning rate and a teacher that follows the student faster make up
# for some of it. A call that is interrupted goes on where it stopped.

import json

recipe = folder / "recipe.json"
recipe.write_text(json.dumps({"momentum": [0.95, 1.0]}))
training = ["--pretrain", "--encoder-config", "tiny", "--training-config", recipe]
length = ["--epochs", "35", "--train-batch-size", "20", "--learning-rate", "0.03"]
code = bs.run([series, out_dir, "group", *training, *length, *options])

encoder_dir = out_dir / "encoders" / "tiny"
print(*sorted(path.name for path in encoder_dir.iterdir()))

# %%
# The log has a row per step. Student and teacher can agree by giving the same for everybody, which is called
# collapse, so the spread of class tokens and their effective rank matter as much as the loss.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

plt.rcParams.update(
    {"axes.spines.top": False, "axes.spines.right": False, "font.size": 11}
)
log = pd.read_csv(encoder_dir / "training_log.tsv", sep="\t")
smooth = log.set_index("step").rolling(6, min_periods=1).mean()

figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
for axis, column, title in zip(
    axes, ("loss", "spread", "rank"), ("Loss", "Spread", "Effective rank"), strict=True
):
    axis.plot(smooth[column], color="#1f6f8b", linewidth=2)
    axis.set(
        title=f"{title} of class tokens" if column != "loss" else title, xlabel="step"
    )
plt.show()

# %%
# What it made of the people
# --------------------------
# :func:`bids_semantoks.load_encoder` takes the folder of the encoder. Beside it, the same architecture with random
# weights shows what training added.

encoders = {
    "random weights": bs.load_encoder("random:tiny"),
    "pretrained": bs.load_encoder(encoder_dir),
}
# One site is called NA, which pandas would take for a missing value.
people = pd.read_csv(series / "participants.tsv", sep="\t", keep_default_na=False)
paths = [
    next(series.glob(f"{label}/func/*_timeseries.tsv"))
    for label in people["participant_id"]
]
embeddings = {
    name: [encoder.encode(path) for path in paths] for name, encoder in encoders.items()
}

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for axis, (name, found) in zip(axes, embeddings.items(), strict=True):
    pooled = np.stack([one.pooled for one in found])
    centred = (pooled - pooled.mean(axis=0)) / pooled.std(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    points = left[:, :2] * sizes[:2]
    for site, colour in zip(
        sorted(people["site"].unique()), ("#1f6f8b", "#c8553d", "#e0a030"), strict=True
    ):
        axis.scatter(
            *points[people["site"] == site].T,
            label=site,
            color=colour,
            s=40,
            edgecolor="white",
        )
    shares = sizes[:2] ** 2 / (sizes**2).sum()
    axis.set(
        title=name, xticks=[], yticks=[], xlabel=f"axis 1 ({shares[0]:.0%} of variance)"
    )
    axis.set_ylabel(f"axis 2 ({shares[1]:.0%})")
axes[1].legend(title="site", frameon=False)
plt.show()

# %%
# Sites that separate would be a warning: whatever differs between scanners is learnt as readily as what differs
# between brains. ``group --probe`` reports how well embeddings know site and motion for this reason.

# %%
# What networks know of each other
# --------------------------------
# A window becomes a class token and, for each network, a token per patch of 40 s. Tokens of two networks that
# are alike carry the same information. Correlations of the token vectors, averaged over people:

networks = list(encoders["pretrained"].networks)


def compare_networks(found):
    """Correlate the mean tokens of networks, averaged over people."""
    matrices = []
    for one in found:
        tokens = one.tokens[:, 1:].reshape(
            len(one.tokens), len(networks), -1, one.tokens.shape[-1]
        )
        matrices.append(np.corrcoef(tokens.mean(axis=(0, 2))))
    return np.mean(matrices, axis=0)


figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
for axis, (name, found) in zip(axes, embeddings.items(), strict=True):
    image = axis.imshow(compare_networks(found), cmap="RdBu_r", vmin=-1, vmax=1)
    axis.set_title(name)
    axis.set_xticks(range(len(networks)), networks, rotation=90)
    axis.set_yticks(range(len(networks)), networks if name == "random weights" else [])
figure.colorbar(image, ax=axes, label="correlation of tokens", shrink=0.85)
plt.show()

# %%
# With random weights all networks look alike. Training has pulled them apart, so that each adds something of its
# own.

# %%
# Which networks an embedding rests on
# ------------------------------------
# Without a network's signals, its tokens are masked, as in training. How far the embedding moves, as a share of the
# distance between two people, tells how much it rests on that network. On the command line, ``--network-importance``
# asks the same of a prediction.

few = paths[:12]
whole = np.stack([encoders["pretrained"].encode(path).pooled for path in few])
apart = np.mean([np.linalg.norm(a - b) for i, a in enumerate(whole) for b in whole[:i]])
moved = {}
for network, members in encoders["pretrained"].networks.items():
    without = []
    for path in few:
        table = pd.read_csv(path, sep="\t")
        table[list(members)] = np.nan
        seconds = pd.read_json(path.with_suffix(".json"), typ="series")[
            "RepetitionTime"
        ]
        without.append(
            encoders["pretrained"].encode(table, repetition_time=seconds).pooled
        )
    moved[network] = np.linalg.norm(np.stack(without) - whole, axis=1).mean() / apart

figure, axis = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
order = sorted(moved, key=moved.get)
axis.barh(order, [moved[name] for name in order], color="#1f6f8b")
axis.set(
    title="Change without a network", xlabel="share of the distance between people"
)
plt.show()

# %%
# The model card, ``README.md`` in the folder, says what the encoder was trained on and within which limits to use it.

print("".join((encoder_dir / "README.md").read_text().splitlines(keepends=True)[:24]))
