"""One damaged file, or one odd argument, ends its run or the call with one sentence: never as a bug."""

import json
import shutil

import pytest
import torch

from bids_semantoks import run_plan
from bids_semantoks.inputs import runs
from bids_semantoks.outputs.store import read_statuses

BAD, GOOD = "001", "004"
DEEP = "[" * 200_000


def find_sidecar(study, participant=BAD):
    (path,) = (study / "derivatives" / "fmriprep" / f"sub-{participant}").rglob("*_desc-preproc_bold.json")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"RepetitionTime": ' + "9" * 400 + "}", "positive number of seconds, found inf"),
        ('{"SamplingFrequency": 1e-320}', "positive number of Hz"),
        (DEEP, "nested too deeply"),
    ],
)
def test_a_sidecar_without_a_usable_time_is_passed_over(own_study, tmp_path, app, text, said):
    find_sidecar(own_study).write_text(text)
    code, shown = app(own_study, tmp_path / "out", "--signals-only", "--participant-label", BAD)
    assert code == 0, shown
    ((_, status),) = read_statuses(tmp_path / "out")
    assert said in status["message"]
    assert len(status["message"]) < 600


@pytest.mark.parametrize("section", [5, [], "x", None, DEEP])
def test_a_stage_of_the_configuration_must_be_an_object(study, tmp_path, app, section):
    path = tmp_path / "config.json"
    path.write_text(DEEP if section is DEEP else json.dumps({"signals": section}))
    code, shown = app(study, tmp_path / "out", "--config-file", str(path))
    assert code == 4, shown
    assert str(path) in shown
    assert "signals must be a JSON object" in shown or "nested too deeply" in shown


@pytest.mark.parametrize("name", ["logs", "sourcedata", "logs/descriptions", "README.md/x"])
def test_a_file_where_a_folder_belongs(study, tmp_path, app, name):
    place = tmp_path / "out" / name
    place.parent.mkdir(parents=True)
    place.write_text("x")
    code, shown = app(study, tmp_path / "out", "--participant-label", BAD)
    assert code == 4, shown
    assert str(tmp_path / "out") in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    "text", ["", "{", "[]", DEEP, '{"SHA256": 5, "Images": 7, "DatasetLinks": [1], "desc_id": {}}']
)
@pytest.mark.parametrize("level", ["participant", "group"])
def test_damaged_json_of_an_earlier_call(study, outputs, tmp_path, app, text, level):
    shutil.copytree(outputs, tmp_path / "out")
    paths = [
        *(tmp_path / "out").glob("sub-001/**/*.json"),
        *(tmp_path / "out").glob("logs/**/*.json"),
        *(tmp_path / "out").glob("*.json"),
    ]
    for path in paths:
        path.write_text(text)
    select = ("--participant-label", "001") if level == "participant" else ()
    code, shown = app(study, tmp_path / "out", *select, level=level)
    assert code == 0, shown
    if level == "participant":
        # A call on some participants leaves the tables of all alone.
        own = [path for path in (tmp_path / "out").glob("*.json") if not path.name.startswith("group_")]
        assert all(isinstance(json.loads(path.read_bytes()), dict) for path in own)
        assert next((tmp_path / "out").glob("sub-001/**/*_embedding.json")).stat().st_size > 500
    else:
        assert "name" in json.loads((tmp_path / "out" / "group_qc.json").read_bytes())


@pytest.mark.parametrize("text", ["", DEEP, '{"SHA256": 5, "Images": 7}'])
def test_a_damaged_description_of_the_stored_atlas(study, outputs, tmp_path, app, text):
    shutil.copytree(outputs, tmp_path / "out")
    (path,) = (tmp_path / "out" / "sourcedata").rglob("tpl-*_dseg.json")
    whole = path.read_bytes()
    path.write_text(text)
    code, shown = app(study, tmp_path / "out", level="group")
    assert code == 6
    assert str(path) in shown
    assert app(study, tmp_path / "out", "--participant-label", "001")[0] == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "option",
    ["--atlas", "--model", "--denoise", "--layout", "--bids-filter-file", "--config-file", "--work-dir", "--space"],
)
def test_a_name_of_5000_characters(study, tmp_path, app, option):
    code, shown = app(study, tmp_path / "out", "--participant-label", BAD, option, "x" * 5000)
    assert code in (2, 3, 4, 6), shown[-300:]
    assert "Traceback" not in shown
    assert len(shown.strip().splitlines()[-1]) < 700


@pytest.mark.parametrize(
    "case",
    [
        ("BIDS_DIR", "{}", 3),
        ("OUT_DIR", "{}", 4),
        ("--derivatives", "{}", 3),
        ("--derivatives", "fmriprep={}", 3),
        ("--atlas", "{}", 6),
        ("--atlas", "{}.dlabel.nii:Map", 6),
        ("--atlas", "{}_dseg.nii.gz", 6),
        ("--atlas-dir", "{}", 6),
        ("--model", "{}", 6),
        ("--model", "folder/{}/model.safetensors", 6),
        ("--denoise", "{}.json", 4),
        ("--layout", "{}.json", 4),
        ("--bids-filter-file", "{}", 3),
        ("--config-file", "{}", 4),
        ("--participant-label", "@{}", 3),
    ],
)
@pytest.mark.parametrize("length", [300, 5000])
def test_a_name_that_the_system_refuses(study, tmp_path, app, case, length):
    option, form, expected = case
    name, places = form.format("x" * length), {"BIDS_DIR": str(study), "OUT_DIR": str(tmp_path / "out")}
    more = [] if option in places else [option, name]
    if option in places:
        places[option] = name
    code, shown = app(*places.values(), *more)
    assert code == expected, shown
    assert "Traceback" not in shown
    # A name of 300 characters may stand there twice, as it was given and in the system's words.
    assert len(shown.strip().splitlines()[-1]) < 900


def test_names_that_the_system_refuses_at_the_group_level(study, outputs, tmp_path, app):
    shutil.copytree(outputs, tmp_path / "out")
    name = "x" * 300
    for place, more, expected in (
        (study, ("--probe", "sex", "--phenotype", name), 3),
        (study, ("--model", name), 6),
        (study, ("--model", "~no-user-of-this-name/encoder"), 6),
        (name, (), 3),
    ):
        code, shown = app(place, tmp_path / "out", *more, level="group")
        assert code == expected, shown


@pytest.mark.parametrize(
    ("key", "value"),
    [("Settings", {"x": {}}), ("Denoising", 5), ("Atlas", [1]), ("AveragedOver", {}), ("MinimumTime", "x")],
)
def test_values_of_another_type_in_the_sidecars_of_signals(study, outputs, tmp_path, app, key, value):
    shutil.copytree(outputs, tmp_path / "out")
    for path in (tmp_path / "out").glob("sub-*/**/*_stat-mean_timeseries.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    code, shown = app(study, tmp_path / "out", level="group")
    assert code in (0, 3, 4, 6, 7), shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("where", ["former outputs", "sidecars"])
def test_planning_loses_only_the_run_that_it_cannot_look_at(study, tmp_path, app, monkeypatch, where):
    build, state = run_plan.build_job, runs._state_time

    def fail_to_build(plan, encoder, run):
        if run.entity("sub") == BAD:
            raise ZeroDivisionError("odd")
        return build(plan, encoder, run)

    def fail_to_read(candidate, *others):
        if candidate.image.entity("sub") == BAD:
            raise OverflowError("odd")
        return state(candidate, *others)

    if where == "sidecars":
        monkeypatch.setattr(runs, "_state_time", fail_to_read)
    else:
        monkeypatch.setattr(run_plan, "build_job", fail_to_build)
    code, shown = app(study, tmp_path / "out", "--signals-only", "--dry-run", "--participant-label", BAD, GOOD)
    assert code == 0, shown
    lines = [line for line in shown.splitlines() if line.startswith("sub-")]
    assert [": fail, internal: " in line and "odd" in line for line in lines] == [
        f"sub-{BAD}" in line for line in lines
    ]
    code, shown = app(study, tmp_path / "out", "--signals-only", "--participant-label", BAD)
    assert code == 7, shown
    ((_, status),) = read_statuses(tmp_path / "out")
    assert status["reason"] == "internal"


@pytest.mark.parametrize("kind", ["meta", "sparse"])
def test_tensors_that_are_not_plain(study, tmp_path, app, kind):
    values = torch.ones(4, 5)
    odd = values.to("meta") if kind == "meta" else values.to_sparse()
    path = tmp_path / "model.pth"
    torch.save({"teacher": {"network_tokenizers.schaefer400.0.branches.0.weight": odd, "mlp.0.weight": odd}}, path)
    code, shown = app(study, tmp_path / "out", "--model", str(path), "--participant-label", BAD)
    assert code == 6, shown
    assert str(path) in shown
