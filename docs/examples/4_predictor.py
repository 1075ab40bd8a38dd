"""
A predictor carried to another study
====================================

A model of age is evaluated and saved in one study and predicts the participants of another, with intervals,
flags, and a correction by a few people whose age is known.

Both studies are synthetic series with an effect of age planted in them, and the encoder has random weights.
In the other study all people are older: a shift that no interval from home knows of.
"""

# %%
# Two studies
# -----------
# The second has the younger half taken out, and the age of only some of its people is known at first
# (column ``known_age``).

import shutil
import tempfile
from pathlib import Path

import bids_semantoks as bs
import pandas as pd
from bids_semantoks.demo.study import write_parcellated

folder = Path(tempfile.mkdtemp())
home, abroad = folder / "home", folder / "abroad"
write_parcellated(home, n_participants=60, short=True)
write_parcellated(abroad, n_participants=48, short=True, seed=1)

people = pd.read_csv(abroad / "participants.tsv", sep="\t").dropna(subset="age")
people = (
    people.sort_values("age").iloc[len(people) // 3 :].sort_values("participant_id")
)
people["known_age"] = people["age"].where(people["participant_id"].rank() <= 16)
people.to_csv(abroad / "participants.tsv", sep="\t", index=False, na_rep="n/a")
for path in abroad.glob("sub-*"):
    if path.name not in set(people["participant_id"]):
        shutil.rmtree(path)
print(
    len(people), "people abroad, aged", people["age"].min(), "to", people["age"].max()
)

# %%
# At home
# -------
# The group level evaluates the linear probe out of fold; then it fits it to everybody and saves it. With
# random weights and few people the scores are those of chance, and intervals are accordingly wide: what is
# carried abroad is also how little is known.

options = ["--model", "random:tiny", "--min-time", "0", "--n-procs", "1", "-q"]
for study in (home, abroad):
    bs.run([study, folder / f"{study.name}_out", "participant", *options])
asked = ["--probe", "age", "--baselines", "motion", "--n-permutations", "50"]
bs.run(
    [home, folder / "home_out", "group", *options, *asked, "--save-predictor", "age"]
)
predictor = bs.load_predictor(folder / "home_out" / "predictors" / "age")
print(predictor)
for score in predictor.facts.scores:
    print(f"{score.metric:18} {score.value:.2f}")

# %%
# Abroad
# ------
# The other study was processed with the same encoder, atlas and settings, or the call would be refused.
# ``--recalibrate`` names the column with the ages that are known.

chosen = ["--apply-predictor", predictor.path, "--recalibrate", "known_age"]
code = bs.run([abroad, folder / "abroad_out", "group", *options, *chosen])
table = pd.read_csv(folder / "abroad_out" / "phenotype" / "agePredicted.tsv", sep="\t")
table.head().round(1)

# %%
# How good are they? Here all ages are known after all.

import matplotlib.pyplot as plt

truth = people.set_index("participant_id")["age"][table["participant_id"]].to_numpy()
figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
for axis, prefix, title in zip(
    axes, ("", "recalibrated_"), ("as carried", "corrected"), strict=True
):
    names = [f"{prefix}{name}" for name in ("prediction", "low", "high")]
    value, low, high = (table[name] for name in names)
    axis.errorbar(truth, value, yerr=[value - low, high - value], fmt="o", alpha=0.6)
    axis.axline((50, 50), slope=1, color="grey", linestyle="--")
    held = ((low <= truth) & (truth <= high)).mean()
    axis.set(title=f"{title}: {held:.0%} in their intervals", xlabel="age")
axes[0].set_ylabel("predicted age")
plt.show()

# %%
# The page
# --------
# It says what differs between the studies, and puts the scores here beside those at home.

import html


class Page:
    """Shows a page of the outputs within a notebook."""

    def __init__(self, path):
        self.path = path

    def _repr_html_(self):
        text = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe class="shown" title="{self.path.name}" loading="lazy" srcdoc="{text}"></iframe>'


Page(folder / "abroad_out" / "group.html")

# %%
# In Python the same predictor takes any table of embeddings.

outputs = bs.load_outputs(folder / "abroad_out")
predictor.predict(outputs, level=0.8).head().round(1)
