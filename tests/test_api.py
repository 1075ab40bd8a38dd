"""The Python interface: the bytes of the command line, clear refusals, and names that do not change unseen."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.documented import find_undocumented

import bids_semantoks as bs
from bids_semantoks.atlases.series_atlas import load_order
from bids_semantoks.demo.study import write_parcellated
from bids_semantoks.errors import ConfigurationError, InputError, ModelError, ResourceError, RunFailed, SemantoksError
from bids_semantoks.files import read_table, write_table

CORTEX = "Schaefer400-7Networks"


@pytest.fixture(scope="module")
def encoder():
    return bs.load_encoder("random:tiny", device="cpu")


def read_vectors(out: Path, label: str = "*") -> tuple[np.ndarray, np.ndarray]:
    (path,) = out.glob(f"sub-{label}/func/*_embedding.tsv")
    columns, values = read_table(path)
    return values[:, columns.index("dim0001") :].astype(np.float32), values[:, : columns.index("dim0001")]


def write_series(root: Path, values: np.ndarray, names: tuple[str, ...]) -> Path:
    folder = root / "xcp_d" / "sub-01" / "func"
    folder.mkdir(parents=True)
    described = {"Name": "x", "BIDSVersion": "1.9.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]}
    (root / "xcp_d" / "dataset_description.json").write_text(json.dumps(described))
    path = folder / "sub-01_task-rest_space-MNI152NLin6Asym_atlas-Mine_stat-mean_timeseries.tsv"
    if names:
        write_table(path, names, values)
    else:
        cells = [["n/a" if np.isnan(value) else f"{value:.9g}" for value in row] for row in values]
        path.write_text("\n".join("\t".join(row) for row in cells) + "\n")
    path.with_suffix(".json").write_text('{"RepetitionTime": 2.2}')
    return path


def make_values(kind: str, n_parcels: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((61 if kind == "short" else 140, n_parcels)).astype(np.float32).astype(np.float64)
    if kind == "scrubbed":
        values[[3, 40, 41, 42, 99]] = np.nan
        values[:, 7] = np.nan
    return values


@pytest.mark.parametrize("kind", ["whole", "short", "scrubbed", "unnamed"])
def test_arrays_and_files_give_the_bytes_of_the_command_line(tmp_path, encoder, kind):
    """Of cortex alone, whose two other networks are masked."""
    names = load_order(CORTEX)
    values = make_values(kind, len(names))
    path = write_series(tmp_path, values, () if kind == "unnamed" else names)
    call = [tmp_path / "xcp_d", tmp_path / "out", "participant", "--model", "random:tiny", "--n-procs", "1", "-q"]
    assert bs.run([*call, *(["--atlas", "Schaefer400"] if kind == "unnamed" else [])]) == 0
    vectors, meta = read_vectors(tmp_path / "out")
    found = encoder.encode(values, repetition_time=2.2, parcels=CORTEX)
    np.testing.assert_array_equal(found.vectors, vectors)
    np.testing.assert_array_equal(found.onset, meta[:, 1])
    np.testing.assert_array_equal(found.kept, meta[:, 3])
    assert repr(found) == f"Embedding({len(meta)} windows x {found.vectors.shape[1]} dimensions, fit {found.fit.level})"
    assert found.masked_networks == ("Subcortex", "Cerebellum")
    assert found.fit.level == "red"
    assert any(one.name == "networks" and "Subcortex, Cerebellum" in one.value for one in found.fit.reasons)
    (record,) = (tmp_path / "out" / "logs" / "sub-01").glob("*_qc.json")
    quality = json.loads(record.read_text())
    assert quality["input_fit"] == found.fit.level
    reasons = [f"{one.name} {one.value}: {one.words}" for one in found.fit.reasons if one.level != "green"]
    assert quality["input_fit_reasons"] == reasons
    again = encoder.encode(path, parcels=CORTEX if kind == "unnamed" else None)
    np.testing.assert_array_equal(again.vectors, vectors)
    np.save(tmp_path / "series.npy", values)
    pd.DataFrame(values, columns=names).to_csv(tmp_path / "series.csv", index=False, float_format="%.9g")
    for name in ("series.npy", "series.csv"):
        own = encoder.encode(tmp_path / name, repetition_time=2.2, parcels=CORTEX if name.endswith("npy") else None)
        np.testing.assert_array_equal(own.vectors, vectors)


def test_an_image_gives_the_bytes_of_the_command_line(study, outputs, encoder):
    (path,) = outputs.glob("sub-001/**/*_embedding.json")
    sidecar = json.loads(path.read_text())
    signals = path.with_name(path.name.partition("_desc-")[0] + "_stat-mean_timeseries")
    columns, stored = read_table(signals.with_suffix(".tsv"))
    sources = json.loads(signals.with_suffix(".json").read_text())["Sources"]
    root = study / "derivatives" / "fmriprep"
    bold, mask, confounds = (root / uri.split(":", 2)[2] for uri in sources)
    found = bs.extract(bold, mask=mask, confounds=confounds, atlas="Demo457")
    assert found.parcels == columns
    np.testing.assert_array_equal(found.series, stored.astype(np.float32))
    np.testing.assert_array_equal(found.kept, ~np.isnan(stored).all(axis=1))
    embedding = encoder.encode(found)
    assert sidecar["WindowOnsets"] == embedding.onset.tolist()
    names, values = read_table(path.with_suffix(".tsv"))
    np.testing.assert_array_equal(embedding.vectors, values[:, names.index("dim0001") :].astype(np.float32))


def test_other_orders_are_renamed(encoder):
    names, others = load_order(CORTEX), load_order("Schaefer400-17Networks")
    values = make_values("whole", 400)
    found = encoder.encode(values, repetition_time=2.0, parcels=others)
    frame = pd.DataFrame(values, columns=others)
    np.testing.assert_array_equal(encoder.encode(frame, repetition_time=2.0).vectors, found.vectors)
    by_name = encoder.encode(values, repetition_time=2.0, parcels="Schaefer400-17Networks")
    np.testing.assert_array_equal(by_name.vectors, found.vectors)
    assert not np.array_equal(encoder.encode(values, repetition_time=2.0, parcels=names).vectors, found.vectors)


@pytest.mark.parametrize(
    ("change", "asked", "error", "words"),
    [
        (lambda x: x, {"parcels": None}, InputError, CORTEX),
        (lambda x: x.T, {}, InputError, "parcels x volumes"),
        (lambda x: pd.DataFrame(x, columns=load_order(CORTEX)).T, {"parcels": None}, InputError, "parcels x volumes"),
        (lambda x: x[:, 1:], {}, InputError, "399"),
        (lambda x: x[0], {}, InputError, r"\(400,\)"),
        (lambda x: x * 1j, {}, InputError, "complex128"),
        (lambda x: np.where(x > 2, np.inf, x), {}, InputError, "infinite"),
        (lambda x: x, {"repetition_time": None}, InputError, "repetition_time="),
        (lambda x: x, {"repetition_time": 2000.0}, RunFailed, "2000 s"),
        (lambda x: x, {"repetition_time": True}, InputError, "found True"),
        (lambda x: x, {"repetition_time": float("inf")}, InputError, "found inf"),
        (
            lambda x: x,
            {"parcels": [f"V{i}x" for i in range(400)]},
            SemantoksError,
            "column 1 is V0x.*7Networks_LH_Vis_1",
        ),
        (lambda x: x, {"parcels": ["V1", *load_order(CORTEX)[1:]]}, ModelError, "column 1 is V1"),
        (lambda x: x, {"parcels": [*load_order(CORTEX)[1:], load_order(CORTEX)[1]]}, InputError, "2 times"),
        (lambda x: x, {"parcels": "Schaefer100-7Networks"}, InputError, "100"),
        (lambda x: x, {"parcels": "Schaefer4-7Networks"}, SemantoksError, CORTEX),
        (lambda x: x, {"pooling": "max"}, ConfigurationError, "cls_avg"),
        (lambda x: "nowhere.csv", {}, SemantoksError, "nowhere.csv"),
    ],
)
def test_what_cannot_be_meant_is_refused(encoder, change, asked, error, words):
    with pytest.raises(error, match=words):
        encoder.encode(change(make_values("whole", 400)), **({"repetition_time": 2.0, "parcels": CORTEX} | asked))


def test_an_encoder_describes_itself(encoder):
    assert len(encoder.parcels) == 457
    assert {name: len(own) for name, own in encoder.networks.items()}["Vis"] == 61
    assert encoder.config.repetition_time == 2.0
    assert "arxiv.org" in encoder.citation
    with pytest.raises(ModelError, match="nowhere"):
        bs.load_encoder("nowhere")
    with pytest.raises(ResourceError, match="mps"):
        bs.load_encoder("random:tiny", device="mps")


def test_extract_says_what_is_missing(study):
    bold = next((study / "derivatives" / "fmriprep").rglob("*_desc-preproc_bold.nii.gz"))
    with pytest.raises(RunFailed, match="mask="):
        bs.extract(bold, atlas="Demo457")
    with pytest.raises(ConfigurationError, match="fd_treshold"):
        bs.extract(bold, atlas="Demo457", fd_treshold=0.5)
    with pytest.raises(InputError, match="nowhere"):
        bs.extract("nowhere.nii.gz")


_LOADED = (
    "import sys, bids_semantoks as bs; dir(bs); print(sorted({'torch', 'pandas', 'nilearn', 'numpy'} & {*sys.modules}))"
)


def test_the_package_itself_loads_nothing():
    done = subprocess.run([sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bs.nothing
    assert set(bs.__all__) <= set(dir(bs))


PUBLIC = {
    "Embedder": "model, *, repetition_time, parcels, pooling, n_windows, min_kept, device, n_jobs",
    "Embedding": "*, vectors, onset, duration, kept, pooled, tokens, masked_networks, fit, warnings",
    "Encoder": "config, random_seed",
    "Encoder.encode": "self, series, *, repetition_time, parcels, pooling, n_windows, min_kept",
    "Fit": "level, reasons",
    "ParcelSeries": "*, series, coverage, kept, parcels, networks, repetition_time, n_dummy, n_padding, sidecar, "
    "warnings",
    "extract": "bold, *, mask, confounds, atlas, repetition_time, space, **options",
    "load_encoder": "model, *, device, precision, batch_size, random_seed",
    "load_outputs": "out_dir, *, level, model, atlas, space, phenotypes, min_kept",
    "load_predictor": "path",
    "probe": "df, y, *, groups, covariates, baselines, n_repeats, **options",
    "run": "arguments",
}


def describe_signature(value: object) -> str:
    names, starred = [], False
    for one in inspect.signature(value).parameters.values():
        if one.kind is one.KEYWORD_ONLY and not starred:
            names, starred = [*names, "*"], True
        names.append(("**" if one.kind is one.VAR_KEYWORD else "") + one.name)
    return ", ".join(name for name in names if name != "_cls")


def test_public_names_and_signatures_change_only_on_purpose():
    found = {name: describe_signature(getattr(bs, name)) for name in bs.__all__ if name != "__version__"}
    found["Encoder.encode"] = describe_signature(bs.Encoder.encode)
    assert found == PUBLIC
    public = {name for name in vars(bs.Encoder) if not name.startswith("_")}
    assert public == {"name", "sha256", "description", "parcels", "networks", "config", "citation", "encode"}


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A dataset of 12 people in two sites, embedded and probed by the command line."""
    root = tmp_path_factory.mktemp("probed")
    write_parcellated(root / "x", n_participants=12, short=True)
    options = ["--model", "random:tiny", "--n-procs", "1", "-q"]
    assert bs.run([root / "x", root / "out", "participant", *options]) == 0
    asked = ["--probe", "age", "--covariate", "sex", "--baselines", "pearson", "chance", "covariates", "random"]
    numbers = ["--n-repeats", "1", "--n-permutations", "10"]
    assert bs.run([root / "x", root / "out", "group", *options, *asked, *numbers]) == 0
    return root


def test_all_that_the_group_level_writes_is_described(probed):
    assert find_undocumented(probed / "out") == set()


def test_outputs_and_probes_have_the_numbers_of_the_group_level(probed):
    frame = bs.load_outputs(probed / "out", phenotypes=probed / "x")
    dims = [name for name in frame if name.startswith("dim")]
    features = pd.read_csv(probed / "out" / "phenotype" / "Demo457RandomTiny.tsv", sep="\t")
    np.testing.assert_allclose(frame[dims], features[dims], rtol=1e-8)
    assert frame["participant_id"].tolist() == features["participant_id"].tolist()
    # Neither the order of rows nor a merge changes a number.
    mixed = frame.sample(frac=1, random_state=3)
    asked = {"covariates": ["sex"], "baselines": ["pearson", "chance", "covariates", "random"]}
    found = bs.probe(mixed, "age", **asked, n_repeats=1, n_permutations=10)
    written = pd.read_csv(probed / "out" / "group_probe.tsv", sep="\t", keep_default_na=False, na_values="n/a")
    written = written[written["phenotype"] == "age"]
    left = found.drop(columns="n_pretrained").set_index(["model", "metric"])
    right = written.drop(columns="n_pretrained").set_index(["model", "metric"])
    numbers = left.select_dtypes("number").columns
    pd.testing.assert_frame_equal(left[numbers], right[numbers], check_dtype=False, rtol=0, atol=0)
    with pytest.raises(InputError, match="age"):
        bs.probe(frame, "agee")
    with pytest.raises(InputError, match="pearson"):
        bs.probe(pd.DataFrame(frame.to_dict("list")), "age", baselines=["pearson"])


@pytest.mark.parametrize("level", ["session", "run", "window"])
def test_outputs_load_at_each_level(probed, level):
    frame = bs.load_outputs(probed / "out", level=level, model="random:tiny")
    assert len(frame) == 12
    assert frame["participant_id"].iloc[0] == "sub-001"
    with pytest.raises(InputError, match="RandomTiny"):
        bs.load_outputs(probed / "out", model="Other")
    with pytest.raises(ConfigurationError, match="participant, session, run, window"):
        bs.load_outputs(probed / "out", level="people")
    for share in (7, -1, float("nan")):
        with pytest.raises(ConfigurationError, match=f"between 0 and 1, found {share}"):
            bs.load_outputs(probed / "out", min_kept=share)
