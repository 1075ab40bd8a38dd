"""``python -m bids_semantoks.demo``."""

import pytest

from bids_semantoks.demo.__main__ import main


def test_writes_and_says_what_comes_next(tmp_path, capsys):
    assert main([str(tmp_path / "study"), "--participants", "1", "--seed", "6", "--short", "--incomplete"]) == 0
    told = capsys.readouterr().out
    assert f"Wrote 1 synthetic participants to {tmp_path / 'study'}" in told
    out = tmp_path / "study" / "derivatives" / "bids_semantoks"
    assert f"bids_semantoks {tmp_path / 'study'} {out} participant --atlas Demo457 --model random:tiny" in told
    written = [path.name for path in (tmp_path / "study/derivatives/fmriprep/sub-001/func").iterdir()]
    assert "sub-001_task-rest_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz" in written
    assert not any(name.endswith("timeseries.tsv") for name in written), "the confounds are left out"


def test_writes_series_without_voxels_beside_which_the_outputs_go(tmp_path, capsys):
    assert main([str(tmp_path / "series"), "--participants", "2", "--parcellated", "--short"]) == 0
    assert f"{tmp_path / 'series'} {tmp_path / 'series_semantoks'} participant" in capsys.readouterr().out
    assert not (tmp_path / "series" / "derivatives").exists()


def test_refuses_a_folder_of_somebody_else(tmp_path, capsys):
    (tmp_path / "precious").touch()
    assert main([str(tmp_path), "--participants", "1"]) == 4
    assert f"OUT_DIR is not empty and is no earlier demo: {tmp_path}" in capsys.readouterr().err


def test_says_what_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "file" / "study"), "--participants", "1"]) == 5
    assert "OUT_DIR cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--participants", "many"]])
def test_refuses_other_numbers(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "study"), *arguments])
    assert arguments[1] in capsys.readouterr().err


def test_a_name_that_steers_the_terminal_is_shown_escaped(tmp_path, capsys):
    folder = tmp_path / "a\x1b[2J b"
    assert main([str(folder), "--participants", "1", "--short"]) == 0
    assert main([str(tmp_path / "\x1b[2J" / ("x" * 300)), "--participants", "1"]) == 5
    with pytest.raises(SystemExit):
        main(["x", "\x1b[2J"])
    shown = "".join(capsys.readouterr())
    assert "\x1b" not in shown
    assert shown.count("\\x1b[2J") >= 6
    assert f"'{tmp_path}/a\\x1b[2J b' " in shown
