"""Names of transforms, and what TemplateFlow's archive has."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from pathlib import Path

import pytest
from helpers.bold_files import AFFINE, SHAPE, SPACE, write_atlas
from helpers.transforms import Composite

from bids_semantoks.atlases.label_images import build_label_grid
from bids_semantoks.atlases.load import find_all_spaces, load_atlas
from bids_semantoks.atlases.transforms import (
    describe_absence,
    join_cohort,
    load_published,
    name_transform,
    split_cohort,
)
from bids_semantoks.errors import AtlasError

INFANT = "tpl-MNIInfant/cohort-1/tpl-MNIInfant_cohort-1_from-MNI152NLin6Asym_mode-image_xfm.h5"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.delenv("BIDS_SEMANTOKS_ATLAS_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("BIDS_SEMANTOKS_CACHE_DIR", "TEMPLATEFLOW_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "no" / name))


@pytest.mark.parametrize("space", ["MNIInfant+1", "MNIInfant:cohort-1", "MNIInfant_cohort-1"])
def test_a_cohort_is_named_in_three_ways(space):
    assert split_cohort(space) == ("MNIInfant", "1")
    assert join_cohort(space, None) == join_cohort("MNIInfant", "1") == "MNIInfant+1"
    assert name_transform("MNI152NLin6Asym", space) == INFANT
    other = "tpl-MNI152NLin6Asym/tpl-MNI152NLin6Asym_from-MNIInfant+1_mode-image_xfm.h5"
    assert name_transform(space, "MNI152NLin6Asym") == other


def test_the_transforms_are_those_that_templateflows_client_lists():
    client = importlib.util.find_spec("templateflow")
    if client is None or client.origin is None:
        pytest.skip("needs the client of TemplateFlow")
    with zipfile.ZipFile(Path(client.origin).parent / "conf" / "templateflow-skel.zip") as archive:
        listed = {name for name in archive.namelist() if re.search(r"_from-(?!MNIInfant).*_xfm\.h5$", name)}
    assert listed == set(load_published())
    assert all(re.fullmatch("[0-9a-f]{32}", pin.md5) and pin.size > 10**8 for pin in load_published().values())


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("MNIInfant+1", ""),
        ("MNI152NLin2009cAsym", ""),
        ("MNIInfant", r"\(--space MNIInfant:cohort-1\)"),
        ("MNIInfant+12", "no transform from MNI152NLin6Asym to MNIInfant[+]12, only to the cohorts 1 to 11"),
        ("MNIPediatricAsym+3", "no transform from MNI152NLin6Asym to MNIPediatricAsym[+]3$"),
        ("UNCInfant+1", "no transform"),
        ("dhcpAsym", "no transform"),
    ],
)
def test_what_templateflow_lacks_is_said(space, words):
    found = describe_absence("MNI152NLin6Asym", space)
    assert bool(found) == bool(words)
    assert re.search(words, found)


def test_a_space_without_any_transform_ends_with_a_sentence(tmp_path):
    with pytest.raises(AtlasError, match=r"TemplateFlow has no transform from .* to MNIPediatricAsym[+]2") as caught:
        load_atlas("Schaefer400Tian3Buckner7", space="MNIPediatricAsym", cohort="2", directory=None)
    assert "fetch" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_atlas_is_laid_onto_the_template_of_a_cohort(tmp_path):
    path = write_atlas(tmp_path / "atlas")
    with pytest.raises(AtlasError, match=f"{Path(INFANT).name}.*HF_HUB_OFFLINE"):
        load_atlas(path, space="MNIInfant", cohort="1", directory=tmp_path)
    Composite(shape=(21, 21, 21), size=1.0).write(tmp_path / "flow" / INFANT)
    atlases = [
        load_atlas(path, space=space, cohort=cohort, directory=tmp_path)
        for space, cohort in (("MNIInfant", "1"), ("MNIInfant+1", ""))
    ]
    assert [atlas.space for atlas in atlases] == ["MNIInfant", "MNIInfant+1"]
    assert atlases[0].sha256 == atlases[1].sha256
    assert atlases[0].volumes[0].space == SPACE
    assert atlases[0].volumes[0].transform.name == Path(INFANT).name
    assert build_label_grid(atlases[0], SHAPE, AFFINE).any()


def test_a_dataset_may_hold_images_of_cohorts(tmp_path):
    source = write_atlas(tmp_path / "source")
    folder = tmp_path / "dataset"
    for cohort in "12":
        image = folder / f"tpl-MNIInfant/cohort-{cohort}/anat/tpl-MNIInfant_cohort-{cohort}_atlas-T_res-01_dseg.nii.gz"
        image.parent.mkdir(parents=True)
        for suffix in (".nii.gz", ".tsv"):
            source_file = source.with_name(source.name.replace(".nii.gz", suffix))
            image.with_name(image.name.replace(".nii.gz", suffix)).write_bytes(source_file.read_bytes())
    assert find_all_spaces(folder, directory=None) == ("MNIInfant", "MNIInfant+1", "MNIInfant+2")
    atlas = load_atlas(folder, space="MNIInfant", cohort="2", directory=None)
    assert "cohort-2" in atlas.volumes[0].path.name
    assert atlas.space == "MNIInfant"
    with pytest.raises(AtlasError, match=r"the data in MNIInfant[+]3"):
        load_atlas(folder, space="MNIInfant", cohort="3", directory=None)
