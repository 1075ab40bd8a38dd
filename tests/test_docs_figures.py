"""Figures on pages: defaults are those of the code, and what the README calls measured is measured."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from bids_semantoks.config import EmbeddingConfig, EncoderConfig, ProbingConfig, SignalsConfig, TrainingConfig
from bids_semantoks.signals.filters import SPLINE_VOLUMES
from bids_semantoks.statistics.linear import N_INNER_FOLDS, PENALTIES
from bids_semantoks.statistics.metrics import compute_scores
from bids_semantoks.statistics.spans import TangentFeatures
from bids_semantoks.training.views import LEVELS

ROOT = Path(__file__).resolve().parents[1]
SIGNALS, EMBEDDING, PROBING = SignalsConfig(), EmbeddingConfig(), ProbingConfig()
ENCODER, RECIPE = EncoderConfig(), TrainingConfig()
NUMBERS = {3: "three", 5: "five", 8: "eight"}


def read(page: str) -> str:
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    "words",
    [
        f"`--min-coverage` ({SIGNALS.min_coverage:g}) is absent",
        f"kept data ({SIGNALS.min_time:g} s, half a window",
        "`--band-pass {:g} {:g}`".format(*(SIGNALS.band_pass or ())),
        f"`--denoise {SIGNALS.denoise}`",
        f"longer than {NUMBERS[SPLINE_VOLUMES]} volumes",
        f"`--n-windows` ({EMBEDDING.n_windows}) windows of $W$ = {ENCODER.window} volumes",
        f"volumes {ENCODER.repetition_time:g} s apart",
        f"$D$ = {ENCODER.width} numbers a token, patches of {ENCODER.patch} volumes",
        f"{NUMBERS[ENCODER.depth]} blocks follow ({ENCODER.n_heads} heads",
        f"`--min-kept` sets the {EMBEDDING.min_kept:g}",
        f"`--pooling {' '.join(EMBEDDING.pooling)}`",
        f"$d$ = {ENCODER.head_out} columns and $\\varepsilon$ = {RECIPE.coding_rate_eps:g}",
        f"$w$ falls from {RECIPE.ttr_weight:g} to 0 over the first {RECIPE.ttr_share:.0%}".replace("%", " %"),
        "from {:g} to {:g} along half a cosine".format(*RECIPE.momentum),
        "weight decay rises from {:g} to {:g}".format(*RECIPE.weight_decay),
        f"linearly over {RECIPE.warmup_epochs:g} epochs",
        f"| {RECIPE.augmentation} (default) | 0 to {LEVELS[1].parcels[1]:.0%} |".replace("%", " %"),
        f"reduced to the {inspect.signature(TangentFeatures).parameters['n_components'].default} leading",
        f"{len(PENALTIES)} values from 10⁻⁴ to 10⁴ by {NUMBERS[N_INNER_FOLDS]} inner folds",
        f"{inspect.signature(compute_scores).parameters['n_bootstrap'].default:,} bootstrap samples",
        f"$B$ = {PROBING.n_permutations} permutations",
        f"5 folds, {PROBING.n_repeats} repetitions",
    ],
)
def test_the_page_of_methods_has_the_defaults_of_the_code(words):
    assert (PENALTIES[0], PENALTIES[-1]) == (pytest.approx(1e-4), pytest.approx(1e4))
    assert words in read("docs/reference/methods.md")


def test_the_readme_is_short_and_leads_to_what_is_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1200
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text) + re.findall(r"(?:src|srcset)=\"([^\"]+)", text)
    assert len(targets) > 20
    assert [one for one in targets if not (ROOT / one).exists()] == []


def test_what_the_readme_calls_measured_stands_in_tables_of_the_documentation():
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| | measured |")[2].partition("\n\n")[0]
    figures = {one for line in table.splitlines() for one in re.findall(r"\d[\d,.]*\d|\.\d+", line)}
    assert len(figures) > 10
    pages = ("docs/project/benchmarks.md", "docs/reference/methods.md", "docs/guide/embeddings.md")
    found = set(re.findall(r"\d[\d,.]*\d|\.\d+", " ".join(map(read, pages))))
    assert figures - found == set()
