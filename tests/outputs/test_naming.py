"""Two runs never share an output name."""

from pathlib import Path

import pytest

from bids_semantoks import bids_names
from bids_semantoks.outputs import store
from bids_semantoks.records import Run


def build_run(**entities: str) -> Run:
    return Run(
        entities=tuple(entities.items()),
        bold=Path("x_bold.nii.gz"),
        mask=None,
        confounds=None,
        repetition_time=2.0,
        pipeline="fMRIPrep 24.1.1",
        dataset=Path(),
    )


def test_every_source_entity_is_kept():
    run = build_run(
        sub="01", ses="pre", task="rest", acq="AP", dir="LR", run="2", echo="1", space="S", res="2", desc="preproc"
    )
    expected = "sub-01_ses-pre_task-rest_acq-AP_dir-LR_run-2_echo-1_space-S_atlas-A_res-2"
    assert store.build_stem(run, "A") == expected
    assert store.build_directory(Path("out"), run) == Path("out/sub-01/ses-pre/func")


def test_runs_that_differ_in_one_entity_differ_in_name():
    base = {"sub": "01", "task": "rest", "space": "S"}
    variants = [base, {**base, "acq": "AP"}, {**base, "acq": "PA"}, {**base, "dir": "AP"}, {**base, "rec": "AP"}]
    stems = {store.build_stem(build_run(**entities), "A") for entities in variants}
    assert len(stems) == len(variants)


def test_density_takes_the_place_of_resolution():
    assert store.build_stem(build_run(sub="1", task="t", space="fsLR", den="91k"), "A") == (
        "sub-1_task-t_space-fsLR_atlas-A_den-91k"
    )


def test_labels_hold_letters_and_digits_only():
    assert bids_names.format_label("Brain-Semantoks_2") == "BrainSemantoks2"
    with pytest.raises(ValueError, match="no letter or digit in '_-'"):
        bids_names.format_label("_-")


def test_entities_are_read_back():
    name = "sub-01_task-rest_space-S_atlas-A_stat-mean_timeseries.tsv"
    assert bids_names.parse_entities(name) == {"sub": "01", "task": "rest", "space": "S", "atlas": "A", "stat": "mean"}
