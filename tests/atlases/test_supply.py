"""What each atlas of the registry answers in each space: from local files, without any, and when it is fetched.

The answers are in ``answers.json``. Also the authors' combined file, and what a refusal says.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import surface_files as made
from helpers.bold_files import AFFINE, SHAPE, SPACE, write_atlas
from helpers.pins import forget
from helpers.transforms import Composite

from bids_semantoks import errors
from bids_semantoks.atlases import supply
from bids_semantoks.atlases.label_images import build_label_grid
from bids_semantoks.atlases.load import find_all_spaces, load_atlas, load_surface_atlas
from bids_semantoks.atlases.supply import describe_absence, join_cohort, load_published, name_transform, split_cohort
from bids_semantoks.commands import fetch
from bids_semantoks.errors import AtlasError, SemantoksError
from bids_semantoks.runtime import downloads

DEFAULT = "Schaefer400Tian3Buckner7"


ATLASES = ("Schaefer400Tian3Buckner7", "Schaefer400Tian3", "Schaefer400", "Schaefer100")


SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym", "fsLR", "fsaverage5")


ANSWERS = Path(__file__).with_name("answers.json")


VARIABLES = ("BIDS_SEMANTOKS_CACHE_DIR", "TEMPLATEFLOW_HOME", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.fixture(scope="session")
def stock(shared, tmp_path_factory):
    """All real files, and in the place of what is missing transforms and annotations made here."""
    folder = tmp_path_factory.mktemp("stock")
    for path in (shared / "atlas").iterdir():
        (folder / path.name).symlink_to(path)
    for space, other in (SPACES[:2], SPACES[1::-1]):
        name = f"tpl-{space}_from-{other}_mode-image_xfm.h5"
        Composite(shape=(21, 25, 21), spacing=(10.0, 10.0, 10.0)).write(folder / f"tpl-{space}" / name)
    for side, letter in (("lh", "LH"), ("rh", "RH")):
        names = ["unknown", *(f"7Networks_{letter}_{i}" for i in range(1, 201))]
        path = folder / "fsaverage5" / "label" / f"{side}.Schaefer2018_400Parcels_7Networks_order.annot"
        made.write_annot(path, np.arange(10242) % 201, names)
    return folder


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.delenv("BIDS_SEMANTOKS_ATLAS_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / "places" / name))
    return tmp_path / "places"


def load(name, space, directory):
    if space.startswith("fs"):
        return load_surface_atlas(name, space=space, directory=directory)
    return load_atlas(name, space=space, directory=directory)


def describe(make, **hidden):
    """Describe an atlas, files or the facts of an error; with the names of places instead of their paths."""
    try:
        found = make()
    except SemantoksError as error:
        found = [type(error).__name__, str(error)]
    if hasattr(found, "volumes"):
        volumes = [
            {"path": one.path, "sha256": one.sha256, "licence": one.licence, "space": one.space}
            | {"values": one.values.tolist()[::50], "parcels": one.parcels.tolist()[::50]}
            | {"transform": one.transform, "is_hashed": one.transform_sha256 != ""}
            for one in found.volumes
        ]
        found = [found.name, found.space, len(found.parcels), *volumes]
    text = json.dumps(found, default=str)
    for word, path in hidden.items():
        text = text.replace(str(path), word)
    found = json.loads(text)
    return [found[0], *find_facts(found[1])] if len(found) == 2 and found[0].endswith("Error") else found


def find_facts(message):
    """List the files, spaces, atlases and variables that a message names."""
    return sorted(set(re.findall(r"[\w/.-]*[_\d][\w/.-]*\w", message)))


def fetch_from(stock, target, name, space, monkeypatch, lacking, hidden):
    """Fetch an atlas from servers that have the files of the stock but the `lacking`; note what they are asked for."""
    asked = []

    def bring(address, path, *, pin):
        server, file = address.split("/")[2], address.rsplit("/", 1)[1]
        asked.append(f"{server} {file} {path.parent.relative_to(target)} {(*pin.sha256, pin.md5, 'any')[0][:8]}")
        source = next((one for one in stock.rglob(path.name) if one.name not in lacking), None)
        if source is None:
            raise errors.AtlasError(f"{file} cannot be fetched.")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)

    def bring_hub_file(repository, file, *, cache):
        asked.append(f"hub {repository} {file} {cache.relative_to(target)}")
        raise downloads.FetchError("it cannot be fetched (404)")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(supply, "find_obstacle", lambda address: "")
    monkeypatch.setattr(supply, "download", bring)
    monkeypatch.setattr(supply, "fetch_hub_file", bring_hub_file)
    found = describe(lambda: fetch.fetch(target, atlases=[name], spaces=[space], models=[]), TARGET=target, **hidden)
    return {"asked": asked, "found": found}


def answer(name, space, stock, folder, places, monkeypatch):
    """All that an atlas answers in a space."""
    empty, fsaverage, less = (folder / one for one in ("empty", "fsaverage", "less"))
    empty.mkdir()
    # What fsaverage and fsaverage5 have alike is the name of the file.
    for side in "lr":
        made.write_annot(
            fsaverage / f"{side}h.Schaefer2018_400Parcels_7Networks_order.annot",
            np.arange(163842) % 2,
            ["unknown", "a"],
        )
    less.mkdir()
    cerebellum = "atl-Buckner7_space-MNI_dseg.nii"
    for path in stock.iterdir():
        if not path.name.startswith(cerebellum) and path.is_file():
            (less / path.name).symlink_to(path)
    answers = {}
    hidden = {"PLACES": places, "STOCK": stock, "SHARED": (stock / cerebellum).readlink().parent}
    hidden["PACKAGE"] = Path(supply.__file__).parents[1]
    folders = {"all files": stock, "no cerebellum": less, "no file": empty, "another mesh": fsaverage}
    for words, directory in folders.items():
        hidden = {"DIRECTORY": directory} | hidden
        answers[words] = describe(lambda one=directory: load(name, space, one), **hidden)
        answers[f"spaces of {words}"] = describe(lambda one=directory: find_all_spaces(name, directory=one), **hidden)
        del hidden["DIRECTORY"]
    # Two places, of which only both together hold all files.
    (places / VARIABLES[0] / "atlases").mkdir(parents=True)
    shutil.copy(stock / cerebellum, places / VARIABLES[0] / "atlases")
    answers["two places"] = describe(lambda: load(name, space, less), DIRECTORY=less, **hidden)
    shutil.rmtree(places)
    images = {path.name for path in stock.glob("Schaefer*Tian*.nii.gz")}
    for lacking in (set(), images, {cerebellum}):
        words = f"fetched without {len(lacking)}"
        answers[words] = fetch_from(stock, folder / words, name, space, monkeypatch, lacking, hidden)
    return answers


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", ATLASES)
def test_each_atlas_answers_in_each_space_as_it_did(name, space, stock, tmp_path, places, monkeypatch):
    forget(monkeypatch)
    expected = json.loads(ANSWERS.read_text())[f"{name} {space}"]
    found = answer(name, space, stock, tmp_path, places, monkeypatch)
    assert found == expected


# The authors' file


def write_combined(shared, folder, change=None):
    whole = load_atlas(DEFAULT, space=SPACE, directory=shared / "atlas")
    reference = nib.load(whole.volumes[0].path)
    grid = build_label_grid(whole, reference.shape, reference.affine)
    grid = grid if change is None else change(grid)
    folder.mkdir(exist_ok=True)
    path = folder / "schaefer400_tian50_buckner7_MNI152_2mm.nii.gz"
    nib.Nifti1Image(grid.astype(np.int16), reference.affine).to_filename(path)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda grid: np.where(grid == 457, 0, grid), "1 to 457; .*457"),
        (lambda grid: np.where(grid == 3, 458, grid), r"\b3\b.*458"),
        (lambda grid: np.where((grid > 0) & (grid <= 450), (grid + 49) % 450 + 1, grid), "labels are in another order"),
        (lambda grid: grid[::-1], "the image is flipped"),
    ],
)
def test_another_file_under_the_authors_name_is_refused(shared, tmp_path, change, words):
    write_combined(shared, tmp_path, change)
    with pytest.raises(AtlasError, match=words):
        load_atlas(DEFAULT, space=SPACE, directory=tmp_path)


def test_the_authors_file_in_the_hubs_cache_counts(shared, tmp_path, monkeypatch):
    root = tmp_path / "hub" / "models--SamGijsen--Brain-Semantoks"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc")
    (root / "snapshots").mkdir()
    path = write_combined(shared, root / "snapshots" / "abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load_atlas(DEFAULT, space=SPACE, directory=None).volumes[0].path == path
    # What the user names wins as a whole.
    given = load_atlas(DEFAULT, space=SPACE, directory=shared / "atlas")
    assert [volume.path.parent for volume in given.volumes] == [shared / "atlas"] * 2


def test_no_transform_is_asked_for_into_a_space_of_each_participant():
    with pytest.raises(AtlasError, match="data are in T1w") as caught:
        load_atlas("Schaefer400", space="T1w", directory=None)
    assert "Choose data in MNI152NLin6Asym or MNI152NLin2009cAsym with --space" in str(caught.value)
    assert "from-" not in str(caught.value)


def test_a_missing_atlas_names_few_of_the_sets_that_would_do():
    with pytest.raises(AtlasError, match="MNI152NLin6Asym: schaefer400_tian50") as caught:
        load_atlas("Schaefer400Tian3Buckner7", space=SPACE, directory=None)
    text = str(caught.value)
    needed = text[text.index("for MNI152NLin6Asym:") : text.index("HF_HUB_OFFLINE")]
    assert needed.count(", or ") == 1
    assert "(or 2 other sets)" in needed


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
