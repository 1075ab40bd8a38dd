"""The configurations for BABS make calls that work on what BABS keeps."""

import shlex
import zipfile
from pathlib import Path

import pytest

from bids_semantoks.cli import call
from bids_semantoks.version import __version__

yaml = pytest.importorskip("yaml")

BABS = Path(__file__).resolve().parents[2] / "cluster" / "babs"


def zip_as_babs(study, folder, name, below):
    """Zip the folder of a participant or session with the files beside the participants, all in fmriprep/."""
    fmriprep = study / "derivatives" / "fmriprep"
    files = [path for path in fmriprep.iterdir() if path.is_file()]
    files += [path for path in (fmriprep / below).rglob("*") if path.is_file()]
    with zipfile.ZipFile(folder / f"{name}_fmriprep-24-1-1.zip", "w") as archive:
        for path in files:
            archive.write(path, Path("fmriprep") / path.relative_to(fmriprep))


@pytest.mark.parametrize(("participant", "session"), [("sub-001", ""), ("sub-002", "ses-2")])
def test_zipped_output_of_fmriprep_is_read(study, tmp_path, monkeypatch, participant, session):
    """What a job of BABS does: unzip in the input dataset, then call with the arguments of the configuration."""
    config = yaml.safe_load((BABS / "bids_semantoks_zipped.yaml").read_text())
    (name,) = config["input_datasets"]
    given = config["input_datasets"][name]
    assert given["is_zipped"]
    inputs = tmp_path / given["path_in_babs"]
    inputs.mkdir(parents=True)
    zip_as_babs(study, inputs, "_".join(filter(None, (participant, session))), Path(participant) / session)
    (archive,) = inputs.glob(f"{participant}*_*{name}*.zip")
    zipfile.ZipFile(archive).extractall(inputs)

    arguments = dict(config["bids_app_args"])
    selection = arguments.pop("$SUBJECT_SELECTION_FLAG")
    # What is marked CHANGE in the file, for the demo.
    arguments |= {"--model": "random:tiny", "--atlas": "Demo457", "--atlas-dir": str(tmp_path)}
    words = " ".join(f"{key} {value}" for key, value in arguments.items())
    words = words.replace("$BABS_TMPDIR", str(tmp_path / ".git" / "tmp" / "wkdir"))
    out = tmp_path / "outputs" / next(iter(config["zip_foldernames"]))
    monkeypatch.chdir(tmp_path)
    program = [str(inputs / name), str(out), "participant", *shlex.split(words), selection, participant]
    assert call(program) == 0
    found = [path.name for path in out.rglob("*_embedding.tsv")]
    assert len(found) == 1
    assert found[0].startswith("_".join(filter(None, (participant, session, "task-rest"))))


@pytest.mark.parametrize("name", ["bids_semantoks", "bids_semantoks_zipped"])
def test_results_are_zipped_under_the_version(name):
    config = yaml.safe_load((BABS / f"{name}.yaml").read_text())
    assert config["zip_foldernames"] == {"bids_semantoks": __version__.replace(".", "-")}
