"""
From fMRIPrep derivatives to a table and its quality page
=========================================================

The first calls on a new dataset: what is there, what becomes of each run, which runs are usable, and a
table of embeddings with one row per participant.

The study is synthetic. File names, confounds and sidecars are those of fMRIPrep, and the confounds are
really mixed into the voxels; the brain is an ellipsoid with 457 blocks for parcels, and the encoder has
random weights. The numbers mean nothing, but every file is the one that real data give.
"""

# %%
# A study
# -------
# Four participants and seven runs: two sessions, two acquisitions, and a run that is too short.

import tempfile
from pathlib import Path

from bids_semantoks.demo.study import write_study

folder = Path(tempfile.mkdtemp())
bids_dir, out_dir = folder / "study", folder / "out"
write_study(bids_dir, n_participants=4, short=True)
for image in sorted(bids_dir.rglob("*_desc-preproc_bold.nii.gz")):
    print(image.name)

# %%
# What would happen
# -----------------
# :func:`bids_semantoks.run` runs the command line in this process; in a shell, the same words follow
# ``bids_semantoks``. ``--dry-run --check`` opens headers and tables, says what would be done with each run
# and why, and writes nothing.

import bids_semantoks as bs

options = ["--atlas", "Demo457", "--model", "random:tiny", "--n-procs", "1"]
code = bs.run(
    [bids_dir, out_dir, "participant", *options, "--dry-run", "--check", "-q"]
)

# %%
# The participant level
# ---------------------
# Each run is averaged over parcels, cleaned, cut into windows and embedded. The run that is too short is
# skipped, with its reason; the others are not affected. ``--fd-threshold`` scrubs volumes with motion.

code = bs.run(
    [bids_dir, out_dir, "participant", *options, "--fd-threshold", "0.2", "-q"]
)
print("exit code", code)

# %%
# Signals, coverage, connectivity and embeddings of a run lie beside each other, each with a sidecar.

for path in sorted(out_dir.glob("sub-001/func/*.tsv")):
    print(path.name)

# %%
# Signals and connectivity are plain tables. Here are those of one run, in the order of its networks.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

stem = "sub-001/func/sub-001_task-rest_space-MNI152NLin2009cAsym_atlas-Demo457"
signals = pd.read_csv(out_dir / f"{stem}_stat-mean_timeseries.tsv", sep="\t")
matrix = pd.read_csv(
    out_dir / f"{stem}_stat-pearsoncorrelation_relmat.tsv", sep="\t", index_col="Node"
)
atlas = pd.read_csv(next(out_dir.rglob("*_dseg.tsv")), sep="\t")

order = atlas["network_label"].argsort(kind="stable").to_numpy()
networks = atlas["network_label"].iloc[order]
starts = np.flatnonzero(networks.ne(networks.shift()))
middles = (starts + np.append(starts[1:], len(networks))) / 2

figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4.4), width_ratios=(1.4, 1), layout="constrained"
)
scaled = (signals - signals.mean()) / signals.std()
left.imshow(
    scaled.to_numpy()[:, order].T,
    aspect="auto",
    cmap="gray",
    vmin=-2,
    vmax=2,
    interpolation="none",
)
left.set(
    title="Cleaned signals (dropped volumes are white)", xlabel="volume", yticks=middles
)
left.set_yticklabels(networks.iloc[starts])
image = right.imshow(
    matrix.to_numpy()[np.ix_(order, order)],
    cmap="RdBu_r",
    vmin=-1,
    vmax=1,
    interpolation="none",
)
right.set(title="Connectivity", xticks=[], yticks=starts - 0.5)
right.set_yticklabels([])
figure.colorbar(image, ax=right, label="correlation", shrink=0.8)
plt.show()

# %%
# Which runs are usable
# ---------------------
# The group level reads these files only, never an image. It always writes ``group_qc.tsv``, with a row per
# run whether it was used or not.

code = bs.run([bids_dir, out_dir, "group", *options, "-q"])
quality = pd.read_csv(out_dir / "group_qc.tsv", sep="\t", keep_default_na=False)
columns = [
    "participant_id",
    "status",
    "verdict",
    "reason",
    "mean_fd",
    "kept_seconds",
    "coverage",
]
quality[columns]

# %%
# ``group_qc.html`` shows the same table as a page that sorts, filters and selects runs.

import html


class Page:
    """Shows a page of the outputs within a notebook."""

    def __init__(self, path):
        self.path = path

    def _repr_html_(self):
        text = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe class="shown" title="{self.path.name}" loading="lazy" srcdoc="{text}"></iframe>'


Page(out_dir / "group_qc.html")

# %%
# Each participant has a page, too: verdict and its reasons, motion over time, signals before and after
# denoising, connectivity, coverage, and how the run fits the encoder.

Page(out_dir / "sub-001.html")

# %%
# The table
# ---------
# One row per participant: the mean over windows and runs, weighed by kept data. It lies in ``phenotype/``,
# where other BIDS tools look for tables of participants.

table = pd.read_csv(out_dir / "phenotype" / "Demo457RandomTiny.tsv", sep="\t")
table.iloc[:, :7].round(4)

# %%
# :func:`bids_semantoks.load_outputs` reads the same numbers, also per session, run or window, and adds
# quality and phenotypes to them.

runs = bs.load_outputs(out_dir, level="run", atlas="Demo457", phenotypes=bids_dir)
runs.drop(columns=[name for name in runs if name.startswith("dim")]).iloc[:, :8]

# %%
# ``logs/CITATION.md`` is a methods text of what was done, with references, for the paper.

print((out_dir / "logs" / "CITATION.md").read_text()[:1200], "...")
