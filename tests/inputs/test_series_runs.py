"""Which tables of parcel series are found, in the layouts of XCP-D, giga_connectome and our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.trees import C2009, LIN6, RAW, open_dataset, runs_of, write_description, write_files, write_fmriprep

from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.runs import find_participants
from bids_semantoks.inputs.series_runs import find_atlas_tables, find_series
from bids_semantoks.records import Run

XCPD = {
    "Name": "XCP-D",
    "BIDSVersion": "1.9.0",
    "DatasetType": "derivative",
    "GeneratedBy": [{"Name": "xcp_d", "Version": "0.10.6"}],
}


GIGA = {**XCPD, "GeneratedBy": [{"Name": "giga_connectome", "Version": "0.6.0"}]}


FOUR_S = "4S456Parcels"


def write_table(root: Path, stem: str, **sidecar: Any) -> None:
    write_files(root, f"{stem}_timeseries.tsv")
    if sidecar:
        next(root.rglob(f"{stem}_timeseries.tsv")).with_suffix(".json").write_text(json.dumps(sidecar))


def series_of(root: Path, atlas: str = "", **selection: Any) -> tuple[str, tuple[Run, ...]]:
    config = SelectionConfig(**selection)
    dataset = open_dataset(root, **selection)
    return find_series(dataset, config, find_participants(dataset, config), atlas=atlas)


def names_of(runs: tuple[Run, ...]) -> list[str]:
    return [run.bold.name.removesuffix("_timeseries.tsv") for run in runs]


def write_xcpd(root: Path) -> Path:
    write_description(root, XCPD)
    for label, session in (("02", "ses-2_"), ("01", "ses-1_"), ("10", "")):
        run = f"sub-{label}_{session}task-rest_run-1"
        stem = f"{run}_space-{C2009}_seg-{FOUR_S}"
        write_table(root, f"{stem}_stat-mean", SamplingFrequency=0.4)
        write_files(
            root,
            f"{stem}_stat-coverage_bold.tsv",
            f"{stem}_stat-pearsoncorrelation_relmat.tsv",
            f"{stem}_stat-alff_bold.tsv",
            f"{run}_outliers.tsv",
            f"{run}_motion.tsv",
            f"{run}_space-{C2009}_desc-denoised_bold.nii.gz",
        )
    return root


def test_tables_of_xcpd(tmp_path: Path) -> None:
    label, runs = series_of(write_xcpd(tmp_path / "xcp_d"))
    assert label == FOUR_S
    assert [run.entity("sub") for run in runs] == ["01", "02", "10"]
    first = runs[0]
    stem = f"sub-01_ses-1_task-rest_run-1_space-{C2009}_seg-{FOUR_S}"
    assert first.bold == tmp_path / "xcp_d" / "sub-01" / "ses-1" / "func" / f"{stem}_stat-mean_timeseries.tsv"
    assert first.mask is not None
    assert first.mask.name == f"{stem}_stat-coverage_bold.tsv"
    assert first.confounds is not None
    assert first.confounds.name == "sub-01_ses-1_task-rest_run-1_outliers.tsv"
    assert (first.repetition_time, first.space, first.pipeline) == (2.5, C2009, "xcp_d 0.10.6")


def test_files_of_other_runs_are_not_borrowed(tmp_path: Path) -> None:
    root = write_xcpd(tmp_path / "xcp_d")
    stem = f"sub-01_ses-1_task-rest_run-2_space-{C2009}_seg-{FOUR_S}"
    write_table(root, f"{stem}_stat-mean")
    (run,) = series_of(root, run_id=("2",))[1]
    assert (run.mask, run.confounds, run.repetition_time) == (None, None, None)


def test_tables_of_giga_connectome_inherit_their_sidecar(tmp_path: Path) -> None:
    root = write_description(tmp_path / "giga", GIGA)
    run = "sub-1_ses-timepoint1_task-rest_run-01"
    write_table(root, f"{run}_seg-Schaefer2018100Parcels7Networks_desc-denoiseSimple")
    write_files(root, f"{run}_desc-denoiseSimple_timeseries.json", f"{run}_desc-other_timeseries.json")
    next(root.rglob(f"{run}_desc-denoiseSimple_timeseries.json")).write_text('{"RepetitionTime": 2.25}')
    next(root.rglob(f"{run}_desc-other_timeseries.json")).write_text('{"RepetitionTime": 9}')
    label, (found,) = series_of(root)
    assert label == "Schaefer2018100Parcels7Networks"
    assert (found.repetition_time, found.space) == (2.25, "")


def test_sidecar_at_the_root_is_inherited(tmp_path: Path) -> None:
    root = write_description(tmp_path / "giga", GIGA)
    write_table(root, "sub-1_task-rest_atlas-DiFuMo")
    (root / "task-rest_timeseries.json").write_text('{"SamplingFrequency": 0.5}')
    assert series_of(root)[1][0].repetition_time == 2.0


def test_the_images_of_a_run_say_how_long_a_row_lasts(tmp_path: Path) -> None:
    # XCP-D writes the word TR for the frequency of its series.
    root = write_description(tmp_path / "xcp_d", XCPD)
    for run, time in ((1, 0.75), (2, 3.0)):
        stem = f"sub-01_task-rest_run-{run}_space-{C2009}"
        write_table(root, f"{stem}_seg-{FOUR_S}_stat-mean", SamplingFrequency="TR")
        write_files(root, f"{stem}_res-2_desc-denoised_bold.json", f"{stem}_seg-{FOUR_S}_stat-alff_bold.json")
        next(root.rglob(f"*run-{run}*denoised_bold.json")).write_text(json.dumps({"RepetitionTime": time}))
        next(root.rglob(f"*run-{run}*alff_bold.json")).write_text('{"RepetitionTime": 9}')
    assert [run.repetition_time for run in series_of(root)[1]] == [0.75, 3.0]


def test_the_raw_dataset_says_how_long_a_row_lasts(tmp_path: Path) -> None:
    raw = write_description(tmp_path / "raw", RAW)
    root = write_description(raw / "derivatives" / "xcp_d", XCPD)
    for run in ("sub-01_ses-1_task-rest", "sub-01_ses-2_task-rest", "sub-01_ses-2_task-nback"):
        write_table(root, f"{run}_space-{C2009}_seg-{FOUR_S}_stat-mean", SamplingFrequency="TR")
    write_files(raw, "sub-01_ses-2_task-rest_echo-1_bold.json", "sub-01_ses-1_task-nback_bold.json")
    next(raw.rglob("*echo-1_bold.json")).write_text('{"RepetitionTime": 1.25}')
    next(raw.rglob("*nback_bold.json")).write_text('{"RepetitionTime": 9}')
    (raw / "task-rest_bold.json").write_text('{"RepetitionTime": 2.75}')
    times = {run.bold.name[:24]: run.repetition_time for run in series_of(root)[1]}
    assert times == {
        "sub-01_ses-1_task-rest_s": 2.75,
        "sub-01_ses-2_task-nback_": None,
        "sub-01_ses-2_task-rest_s": 1.25,
    }


def test_motion_of_the_run_is_paired_as_measured(tmp_path: Path) -> None:
    root = write_xcpd(tmp_path / "xcp_d")
    write_files(root, *(f"sub-{run}_desc-filtered_motion.tsv" for run in ("01_ses-1_task-rest_run-1", "11_task-rest")))
    write_table(root, f"sub-11_task-rest_space-{C2009}_seg-{FOUR_S}_stat-mean")
    runs = series_of(root)[1]
    both = ["sub-01_ses-1_task-rest_run-1_motion.tsv", "sub-01_ses-1_task-rest_run-1_desc-filtered_motion.tsv"]
    assert [path.name for path in runs[0].tables] == both
    assert [path.name for path in runs[-1].tables] == ["sub-11_task-rest_desc-filtered_motion.tsv"]
    images = runs_of(root, input_type="images")
    assert [path.name for path in images[0].tables] == both


def test_coverage_of_early_xcpd(tmp_path: Path) -> None:
    root = write_description(tmp_path / "xcp_d", XCPD)
    stem = f"sub-01_task-rest_space-{C2009}_atlas-Gordon"
    write_table(root, stem, RepetitionTime=2.0)
    write_files(root, f"{stem}_coverage.tsv")
    (run,) = series_of(root)[1]
    assert run.mask is not None
    assert run.mask.name == f"{stem}_coverage.tsv"


@pytest.mark.parametrize("frequency", [0, -1, "fast", None, True])
def test_a_senseless_frequency_is_none(tmp_path: Path, frequency: Any) -> None:
    root = write_description(tmp_path / "giga", GIGA)
    write_table(root, "sub-1_task-rest_atlas-DiFuMo", SamplingFrequency=frequency)
    assert series_of(root)[1][0].repetition_time is None


def test_raw_series_and_other_tables_are_left_out(tmp_path: Path) -> None:
    root = write_description(tmp_path / "ours", {**XCPD, "GeneratedBy": [{"Name": "bids_semantoks"}]})
    stem = f"sub-01_task-rest_space-{LIN6}_atlas-A"
    for ending in ("_stat-mean", "_stat-mean_desc-raw", "_stat-median"):
        write_table(root, stem + ending)
    write_files(root, "sub-01_task-rest_desc-confounds_timeseries.tsv", f"{stem}_stat-coverage_bold.tsv")
    assert names_of(series_of(root)[1]) == [f"{stem}_stat-mean"]


def test_several_atlases_need_a_choice(tmp_path: Path) -> None:
    root = write_xcpd(tmp_path / "xcp_d")
    for atlas in ("Glasser", "Tian"):
        write_table(root, f"sub-10_task-rest_run-1_space-{C2009}_seg-{atlas}_stat-mean")
    with pytest.raises(InputError, match=r"3 atlases.*4S456Parcels,") as raised:
        series_of(root)
    assert "--atlas 4S456Parcels" in raised.value.hint
    with pytest.raises(InputError, match="--atlas") as raised:
        series_of(root, "Glaser")
    assert "Did you mean Glasser?" in raised.value.hint
    for asked in ("Glasser", "seg-Glasser", "/data/atlas-Glasser_dseg.tsv"):
        label, runs = series_of(root, asked)
        assert label == "Glasser"
        assert [run.entity("seg") for run in runs] == ["Glasser"]


def test_runs_without_the_chosen_atlas_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_xcpd(tmp_path / "xcp_d")
    write_table(root, f"sub-02_ses-2_task-nback_space-{C2009}_seg-Glasser_stat-mean")
    series_of(root, FOUR_S)
    assert "4S456Parcels" in caplog.text
    assert "sub-02_ses-2_task-nback" in caplog.text


def test_segmentation_and_scale_make_the_label(tmp_path: Path) -> None:
    root = write_description(tmp_path / "giga", GIGA)
    for scale in ("100", "400"):
        write_table(root, f"sub-1_task-rest_atlas-Schaefer2018_seg-7n_scale-{scale}_stat-mean")
    label, runs = series_of(root, "Schaefer20187n400")
    assert (label, [run.entity("scale") for run in runs]) == ("Schaefer20187n400", ["400"])


def test_two_cleanings_need_a_choice_unless_one_is_plain(tmp_path: Path) -> None:
    root = write_description(tmp_path / "giga", GIGA)
    for desc in ("denoiseSimple", "denoiseScrubbing5"):
        write_table(root, f"sub-1_task-rest_seg-A_desc-{desc}")
    with pytest.raises(InputError, match="atlas: 2") as raised:
        series_of(root)
    assert '{"bold": {"desc": "denoiseS' in raised.value.hint
    chosen = tmp_path / "filter.json"
    chosen.write_text('{"bold": {"desc": "denoiseSimple"}}')
    assert names_of(series_of(root, bids_filter_file=chosen)[1]) == ["sub-1_task-rest_seg-A_desc-denoiseSimple"]
    write_table(root, "sub-1_task-rest_seg-A_desc-denoised")
    assert names_of(series_of(root)[1]) == ["sub-1_task-rest_seg-A_desc-denoised"]
    write_table(root, "sub-1_task-rest_seg-A")
    assert names_of(series_of(root)[1]) == ["sub-1_task-rest_seg-A"]


def test_one_space_is_taken(tmp_path: Path) -> None:
    root = write_description(tmp_path / "giga", GIGA)
    for space in ("MNIPediatricAsym", "fsLR_den-91k"):
        write_table(root, f"sub-1_task-rest_space-{space}_seg-A")
    assert series_of(root)[1][0].space == "fsLR"
    assert series_of(root, space="MNIPediatricAsym")[1][0].space == "MNIPediatricAsym"
    with pytest.raises(InputError, match=f"Space '{LIN6}' not found"):
        series_of(root, space=LIN6)
    next(root.rglob("*fsLR*.tsv")).unlink()
    write_table(root, "sub-1_task-rest_space-T1w_seg-A")
    with pytest.raises(InputError, match="MNIPediatricAsym, T1w"):
        series_of(root)


def test_finest_resolution_is_taken(tmp_path: Path) -> None:
    root = write_description(tmp_path / "giga", GIGA)
    for res in ("2", "1"):
        write_table(root, f"sub-1_task-rest_space-{C2009}_seg-A_res-{res}")
    (run,) = series_of(root)[1]
    assert run.entity("res") == "1"


def test_selection_works_as_for_images(tmp_path: Path) -> None:
    root = write_xcpd(tmp_path / "xcp_d")
    assert [run.entity("sub") for run in series_of(root, session_id=("2",))[1]] == ["02"]
    with pytest.raises(InputError, match="Task 'nback' not found"):
        series_of(root, task_id=("nback",))
    (root / "filter.json").write_text('{"bold": {"run": "7"}}')
    with pytest.raises(InputError, match="matches none of"):
        series_of(root, bids_filter_file=root / "filter.json")


def test_participants_without_series(tmp_path: Path) -> None:
    root = write_xcpd(tmp_path / "xcp_d")
    (root / "sub-20" / "func").mkdir(parents=True)
    with pytest.raises(InputError, match=r"1 \(20\)"):
        series_of(root, participant_label=("20",))


def test_images_and_series_are_not_mixed(tmp_path: Path) -> None:
    xcpd, fmriprep = write_xcpd(tmp_path / "xcp_d"), write_fmriprep(tmp_path / "fmriprep")
    raw = write_description(tmp_path / "raw", {"Name": "raw", "BIDSVersion": "1.8.0", "DatasetType": "raw"})
    with pytest.raises(ConfigurationError, match=r"different kinds: .*preprocessed BOLD.*parcellated series"):
        open_dataset(raw, derivatives=(str(fmriprep), str(xcpd)))
    assert open_dataset(raw, derivatives=(str(xcpd),)).is_parcellated
    assert not open_dataset(raw, derivatives=(str(fmriprep),)).is_parcellated


def test_the_same_run_in_two_datasets_is_refused(tmp_path: Path) -> None:
    one, two = write_xcpd(tmp_path / "one"), write_xcpd(tmp_path / "two")
    with pytest.raises(InputError, match="the same run"):
        series_of(tmp_path / "one", derivatives=(str(one), str(two)))


def test_tables_of_the_atlas_are_found(tmp_path: Path) -> None:
    root = write_xcpd(tmp_path / "xcp_d")
    dataset = open_dataset(root)
    assert find_atlas_tables(dataset, FOUR_S, C2009) == ()
    own = root / "atlases" / f"atlas-{FOUR_S}"
    source = root / "sourcedata" / "atlases"
    for folder, name in (
        (own, f"atlas-{FOUR_S}_dseg.tsv"),
        (own, "atlas-Other_dseg.tsv"),
        (source / f"tpl-{C2009}", f"tpl-{C2009}_atlas-{FOUR_S}_dseg.tsv"),
        (source / f"tpl-{LIN6}", f"tpl-{LIN6}_atlas-{FOUR_S}_dseg.tsv"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    names = [path.name for path in find_atlas_tables(dataset, FOUR_S, LIN6)]
    assert names[0] == f"tpl-{LIN6}_atlas-{FOUR_S}_dseg.tsv"
    assert set(names[1:]) == {f"tpl-{C2009}_atlas-{FOUR_S}_dseg.tsv", f"atlas-{FOUR_S}_dseg.tsv"}


def test_parcellated_cifti_counts_where_there_is_no_table(tmp_path: Path) -> None:
    root = write_description(tmp_path / "xcp_d", XCPD)
    stem = f"task-rest_space-fsLR_seg-{FOUR_S}"
    for label in ("01", "02"):
        write_files(root, f"sub-{label}_{stem}_den-91k_stat-mean_timeseries.ptseries.nii")
    write_table(root, f"sub-02_{stem}_stat-mean", SamplingFrequency=0.5)
    names = [run.bold.name for run in series_of(root)[1]]
    assert names == [
        f"sub-01_{stem}_den-91k_stat-mean_timeseries.ptseries.nii",
        f"sub-02_{stem}_stat-mean_timeseries.tsv",
    ]


@pytest.mark.parametrize("version", ["0.5", "0.6"])
def test_the_seven_resolutions_of_giga_connectome(tmp_path: Path, version: str) -> None:
    root = write_description(tmp_path / "giga", GIGA)
    stems = {
        "0.5": "atlas-Schaefer2018_desc-{}Parcels7Networks",
        "0.6": "seg-Schaefer2018{}Parcels7Networks_desc-simple",
    }
    for n_parcels in (100, 200, 300, 400, 500, 600, 800):
        write_table(root, f"sub-1_task-rest_{stems[version].format(n_parcels)}", RepetitionTime=2)
    for asked in ("Schaefer2018400Parcels7Networks", "Schaefer400"):
        label, runs = series_of(root, asked)
        assert (label, len(runs)) == ("Schaefer2018400Parcels7Networks", 1)
        assert "400Parcels" in runs[0].bold.name
    table = "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-200Parcels7Networks_dseg.tsv"
    assert series_of(root, table)[0] == "Schaefer2018200Parcels7Networks"
    with pytest.raises(InputError, match=r"7 atlases.*Schaefer2018100Parcels7Networks,") as caught:
        series_of(root)
    assert "--atlas Schaefer2018400Parcels7Networks" in caught.value.hint


@pytest.mark.parametrize("key", ["seg", "segmentation"])
def test_a_filter_file_chooses_a_segmentation(tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture) -> None:
    root = write_description(tmp_path / "giga", GIGA)
    for label in ("A", "B"):
        write_table(root, f"sub-1_task-rest_seg-{label}", RepetitionTime=2)
    chosen = tmp_path / "filter.json"
    chosen.write_text(json.dumps({"bold": {key: "B"}}))
    assert series_of(root, bids_filter_file=chosen)[0] == "B"
    assert "not known" not in caplog.text
