"""The group report as HTML."""

from __future__ import annotations

from pathlib import Path

import pytest
from markupsafe import Markup

from bids_semantoks.reports.group_report import (
    TABLES,
    Graphic,
    GroupPage,
    PhenotypePart,
    Section,
    read_training_picture,
    write_group_page,
)
from bids_semantoks.reports.pages import fill_template


def test_page_leads_to_the_tables_that_are_there(tmp_path: Path) -> None:
    page = GroupPage(title="T", overview=[], sections=[])
    for name in ("group_task_blocks", "group_scaling"):
        (tmp_path / f"{name}.tsv").write_text("x\n")
    html = write_group_page(tmp_path, lambda: page).read_text()
    assert 'href="group_task_blocks.tsv"' in html
    assert 'href="group_scaling.json"' in html
    assert "group_probe.tsv" not in html


def test_page_escapes_what_users_write_and_says_what_is_missing(tmp_path: Path) -> None:
    shown = Graphic(title="<t>", caption="<c>", body=Markup("<svg></svg>"))
    part = PhenotypePart(
        name="<b>x</b>", lead="lead", facts=[("in", "3")], graphics=[shown], columns=["model", "r"],
        lines=[["Tiny", "0.1"], ["chance", "0"]], people=(["", "sex"], [["in", "<F> 3"]]),
        details=[Section(title="By site", sentences=["<i>"])],
    )  # fmt: skip
    leakage = Section(
        anchor="leakage", title="Leakage", short="Leakage", sentences=["seen"], graphics=[shown],
        columns=["what", "r"], lines=[["Tiny", "0.3"]],
    )  # fmt: skip
    page = GroupPage(
        title="Tiny", overview=[("people", "3")], pretraining="2 of 3", warns=True, phenotypes=[part],
        sections=[leakage], warnings=["few"],
    )  # fmt: skip
    html = fill_template("group", page=page, version="1", methods=Markup("<p>text</p>"), tables=TABLES)
    assert "<b>x</b>" not in html
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert '<p class="warning">2 of 3</p>' in html
    assert html.count("<svg></svg>") == html.count("&lt;t&gt;") == html.count("&lt;c&gt;") == 2
    assert "&lt;F&gt; 3" in html
    assert "script-src" not in html
    assert html.count('<tr class="encoder"><td>Tiny</td>') == 2
    assert "&lt;i&gt;" in html
    assert 'href="#leakage"' in html
    assert "<p>text</p>" in html
    assert "By site" in html
    assert "--blue" in html
    assert 'href="#training"' not in html
    assert read_training_picture(tmp_path) is None
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "training.svg").write_text("<svg/>")
    found = read_training_picture(tmp_path)
    assert found is not None
    assert "%3Csvg/%3E" in found.body


def test_a_page_that_cannot_be_built_costs_no_results(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> GroupPage:
        raise ZeroDivisionError("no axis")

    write_group_page(tmp_path, fail)
    assert all(part in caplog.text for part in ("group.html", "ZeroDivisionError:"))
    assert list(tmp_path.iterdir()) == []
