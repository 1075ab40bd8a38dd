"""
Arrays in a notebook, and scikit-learn beside connectivity
==========================================================

Parcel series that are already in memory, from any pipeline, need no files: an encoder takes an array, and a
transformer of scikit-learn takes a list of them. Here age is predicted from embeddings and from
connectivity, on the same splits.

The series are synthetic, with an effect of age on the coupling of networks planted in them, and the encoder
has random weights. That connectivity finds this effect is no surprise; an encoder has to earn its place, and
the comparison is how to tell.
"""

# %%
# Series
# ------
# One array (volumes x parcels) per participant, cleaned already, and a table of ages. Repetition times
# differ between sites, as they do in real studies.

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from bids_semantoks.demo.study import write_parcellated

folder = Path(tempfile.mkdtemp())
write_parcellated(folder, n_participants=80)
people = pd.read_csv(
    folder / "participants.tsv", sep="\t", index_col="participant_id"
).dropna(subset="age")
paths = [next(folder.glob(f"{label}/func/*_timeseries.tsv")) for label in people.index]
tables = [pd.read_csv(path, sep="\t") for path in paths]
seconds = [
    json.loads(path.with_suffix(".json").read_text())["RepetitionTime"]
    for path in paths
]

parcels = list(tables[0].columns)
print(
    len(tables),
    "participants;",
    tables[0].shape,
    "volumes x parcels every",
    seconds[0],
    "s",
)

# %%
# One run
# -------
# :func:`bids_semantoks.load_encoder` takes the name of a published encoder, the folder of your own, or random
# weights. ``encode`` needs to know what the columns are and how many seconds lie between volumes.

import bids_semantoks as bs

encoder = bs.load_encoder("random:tiny")
embedding = encoder.encode(
    tables[0].to_numpy(), repetition_time=seconds[0], parcels=parcels
)
print(
    embedding.vectors.shape, "windows x dimensions, starting at", embedding.onset, "s"
)
print(embedding.pooled.shape, "their mean, weighed by kept data")

# %%
# ``fit`` compares the run with what the encoder was trained on. NaN marks scrubbed volumes and absent
# parcels: here the cerebellum is missing, so its tokens are the encoder's guess.

without = tables[0].to_numpy(copy=True)
without[:, ["Cerebellum" in name for name in parcels]] = np.nan
partial = encoder.encode(without, repetition_time=seconds[0], parcels=parcels)
print(partial.masked_networks)
print(partial.fit)

# %%
# A pipeline
# ----------
# :class:`bids_semantoks.Embedder` is a transformer: a list of series becomes a matrix with one row per run. It
# learns nothing from the data, so it may stand before any cross-validation. It takes paths as well as arrays;
# their repetition times are those of the files beside them.

embedder = bs.Embedder(encoder).set_output(transform="pandas")
features = embedder.fit_transform([str(path) for path in paths])
features.iloc[:4, :6].round(3)

# %%
# Connectivity is the measure to beat, and nilearn's ``ConnectivityMeasure`` takes the same arrays. Each goes into
# a ridge regression, whose penalty is chosen within the training folds, on the same three times five folds.

from nilearn.connectome import ConnectivityMeasure
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

correlations = ConnectivityMeasure(
    kind="correlation", vectorize=True, discard_diagonal=True
)
models = {
    "connectivity": correlations.fit_transform([table.to_numpy() for table in tables]),
    "embedding, random weights": features.to_numpy(),
}
age = people["age"].to_numpy()
ridge = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(0, 6, 13)))
predicted = {
    name: np.mean(
        [
            cross_val_predict(
                ridge, values, age, cv=KFold(5, shuffle=True, random_state=seed)
            )
            for seed in range(3)
        ],
        axis=0,
    )
    for name, values in models.items()
}

# %%
# Out-of-fold predictions, averaged over the three repetitions:

import matplotlib.pyplot as plt

plt.rcParams.update(
    {"axes.spines.top": False, "axes.spines.right": False, "font.size": 11}
)
figure, axes = plt.subplots(
    1, 2, figsize=(9, 4.2), sharex=True, sharey=True, layout="constrained"
)
for axis, (name, values), colour in zip(
    axes, predicted.items(), ("#1f6f8b", "#c8553d"), strict=True
):
    axis.plot([18, 88], [18, 88], color="0.75", linewidth=1, zorder=0)
    axis.scatter(age, values, color=colour, alpha=0.75, edgecolor="white", s=45)
    r, error = np.corrcoef(age, values)[0, 1], np.abs(age - values).mean()
    axis.set(
        title=f"{name}\nr = {r:.2f}, mean absolute error {error:.1f} years",
        xlabel="age (years)",
    )
axes[0].set_ylabel("predicted age (years)")
plt.show()

# %%
# With dozens of people the numbers move by some tenths from split to split. ``bids_semantoks group --probe`` and
# :func:`bids_semantoks.probe` add what a paper needs: intervals, permutation tests, further baselines, and how
# much of the result is motion or site.
