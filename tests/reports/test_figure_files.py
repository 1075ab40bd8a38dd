"""No figure can fail a run, and none stays that would show something else."""

from bids_semantoks.reports.figure_files import write_figure


def test_a_failing_figure_is_said_and_takes_its_old_one_along(tmp_path, caplog):
    path = tmp_path / "old.svg"
    path.write_text("old")

    def fail():
        raise ZeroDivisionError("no pixels")

    assert not write_figure(path, fail)
    assert not path.exists()
    assert "old.svg could not be drawn: ZeroDivisionError: no pixels" in caplog.text
