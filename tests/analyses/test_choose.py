"""The group level takes the space as the participant level does; encoders of other seeds have labels of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_semantoks.analyses.choose import choose_kind, load_replicates
from bids_semantoks.config import AppConfig, EmbeddingConfig, ProbingConfig, SelectionConfig, SignalsConfig
from bids_semantoks.embedding import build_run_encoder
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.models.checkpoints import load_encoder, write_checkpoint


@pytest.mark.parametrize("space", ["MNI152NLin6Asym", "MNI152NLin6Asym:res-2", "space-MNI152NLin6Asym:res-native"])
def test_space_with_and_without_resolution(tmp_path: Path, space: str) -> None:
    for label in ("MNI152NLin6Asym", "MNI152NLin2009cAsym"):
        stem = tmp_path / "sub-01" / "func" / f"sub-01_task-rest_space-{label}_atlas-A_res-2_stat-mean_timeseries"
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".tsv").touch()
        stem.with_suffix(".json").write_text('{"Settings": {}}')
    arguments = {"bids_dir": tmp_path, "out_dir": tmp_path, "level": "group", "signals": SignalsConfig(atlas="A")}
    assert choose_kind(AppConfig(**arguments, selection=SelectionConfig(space=space))) == ("A", "MNI152NLin6Asym")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="No signals of atlas A in fsLR"):
        choose_kind(AppConfig(**arguments, selection=SelectionConfig(space="fsLR")))  # type: ignore[arg-type]


NETWORKS = ("Vis", "SomMot", "Default") * 3
ATLAS = tuple(f"LH_{name}_{i}" for i, name in enumerate(NETWORKS)), NETWORKS
COMMITS = ("a" * 40, "b" * 40)


def write(directory: Path, seed: int, size: str = "tiny") -> str:
    write_checkpoint(directory, load_encoder(f"random:{size}:{seed}", atlas=ATLAS).encoder)
    return str(directory)


def load(model: str, *replicates: str, pooling: tuple[str, ...] = ("cls_avg",)) -> list[str]:
    config = AppConfig(
        bids_dir=Path(),
        out_dir=Path(),
        level="group",
        embedding=EmbeddingConfig(model=model, device="cpu", pooling=pooling),
        probing=ProbingConfig(probe=("age",), replicates=replicates),
    )
    encoder = build_run_encoder(config.embedding, *ATLAS, seed=0)
    found = [encoder, *load_replicates(config, encoder, ATLAS)]
    assert len({one.loaded.sha256 for one in found}) == len(found)
    return [readout.loaded.name for one in found for readout in one.readouts]


def test_copies_with_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    models = [
        write(tmp_path / folder / "enc", seed) for seed, folder in enumerate(("one", "second_random_seed", "x/3"))
    ]
    assert load(*models) == ["enc", "encSeed2", "enc3"]
    assert load(*models[:2], pooling=("networks", "cls")) == [
        "encNetworks",
        "encCls",
        "encSeed2Networks",
        "encSeed2Cls",
    ]
    # The nearest folder does not tell them apart, the one above does.
    more = [write(tmp_path / folder / "x" / "enc", 5 + seed) for seed, folder in enumerate("ab")]
    assert load(models[0], *more) == ["enc", "encX", "encBX"]


def test_revisions_of_one_repository_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    root = tmp_path / "models--lab--enc"
    (root / "refs").mkdir(parents=True)
    for number, commit in enumerate(COMMITS):
        write(root / "snapshots" / commit, number)
        (root / "refs" / f"v{number + 1}").write_text(commit)
    assert load("lab/enc@v1", "lab/enc@v2") == ["enc", "encV2"]


def test_the_same_weights_twice_and_other_architectures_are_refused(tmp_path: Path) -> None:
    first, copy = (write(tmp_path / folder / "enc", 1) for folder in "ab")
    with pytest.raises(ConfigurationError, match=r"--replicates .*b/enc has the same weights as enc"):
        load(first, copy)
    with pytest.raises(ConfigurationError, match=r"--replicates .* than enc"):
        load(first, write(tmp_path / "small", 2, "small"))
