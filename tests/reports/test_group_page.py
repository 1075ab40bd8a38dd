"""The group report drawn from tables: as a file of bounded size, in a browser, and without scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.browser import open_browser, open_page

from bids_semantoks.outputs.group_tables import ProbeTables, build_group_table
from bids_semantoks.reports.group_page import build_colouring, build_group_page, choose_colourings, describe_left_out
from bids_semantoks.reports.group_report import write_group_page

MODELS = ("Tiny", "pearson", "tangent", "motion", "site", "random", "chance")


def test_a_column_that_does_not_vary_colours_nothing() -> None:
    names = {"site": ["A"] * 7, "age": [str(i) for i in range(7)], "mean_fd": [""] * 7, "kept_seconds": ["240"] * 7}
    colourings = [build_colouring(name, cells) for name, cells in names.items()]
    assert [one.name for one in choose_colourings(colourings)] == ["age"]
    alone = choose_colourings([build_colouring("kept_seconds", ["240"] * 7)])
    assert [one.name for one in alone] == ["kept data (s)"]


def test_numbers_that_repeat_are_categories() -> None:
    repeated = build_colouring("site", ["3", "4", "", "3"])
    assert repeated.numbers is None
    assert repeated.labels == ("3", "4", None, "3")
    varied = build_colouring("age", [*(f"{i}.5" for i in range(11)), ""])
    assert varied.numbers is not None
    assert np.isnan(varied.numbers[-1])


def build_score(name: str, model: str, metric: str, value: float, *, verdict: str = "") -> dict[str, Any]:
    is_class = name == "sex"
    row = dict.fromkeys(
        (
            "difference",
            "difference_low",
            "difference_high",
            "difference_p",
            "difference_p_holm",
            "n_pretrained",
            "seed_sd",
        )
    )
    tested = bool(verdict)
    return row | {
        **{"phenotype": name, "kind": "classification" if is_class else "regression", "protocol": "nested"},
        **{"model": model, "metric": metric, "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1},
        **{"p_value": 0.0049751 if tested else None, "chance": 0.5 if metric == "auroc" else 0.0},
        **{
            "n_participants": 31,
            "n_rows": 31,
            "role": "encoder" if model == "Tiny" else "baseline",
            "covariates": "",
            "compared_with": "",
        },
        **{"n_repeats": 2, "n_folds": 5, "n_seeds": 1},
        **{"p_statistic": "ridge_auroc_fixed_split" if is_class else "ridge_r_first_repetition" if tested else ""},
        **{"p_statistic_value": 0.561 if tested else None, "p_smallest": 1 / 201 if tested else None},
        **{"bound": value - 0.08, "verdict": verdict},
    }


def build_tables(n: int) -> ProbeTables:
    """Tables of two phenotypes probed in n people: age, a value, and sex, a class."""
    rng = np.random.default_rng(0)
    labels = [f"sub-{i:05d}" for i in range(n)]
    age = rng.uniform(18, 80, n).round(1)
    scores = []
    for number, model in enumerate(MODELS):
        for name, metrics in (("age", ("r", "mae", "r_pooled")), ("sex", ("auroc", "brier_score"))):
            for metric in metrics:
                verdict = "not detected" if metric in ("r", "auroc") else ""
                scores.append(build_score(name, model, metric, 0.6 - 0.05 * number, verdict=verdict))
    points = [
        {"participant_id": label, "session_id": "", "axis1": x, "axis2": y, "site": f"s{i % 23}", "age": str(a)}
        for i, (label, x, y, a) in enumerate(zip(labels, *rng.standard_normal((2, n)), age, strict=True))
    ]
    predictions = [
        {"phenotype": "age", "model": "Tiny", "participant_id": label, "session_id": "", "truth": a, "predicted": p}
        | {"class": "", "score": p, "n_tests": 2}
        for label, a, p in zip(labels, age, age + rng.normal(0, 15, n), strict=True)
    ]
    people = {
        "Columns": ["", "participants", "sex"],
        "Lines": [["in", str(n), "F 1, M 2"], ["out: no value", "3", "F 3"]],
    }
    common = {"People": people, "Facts": {"in": f"{n} participants", "out": "3 without a value"}}
    curve = np.linspace(0, 1, 401)
    sex = {"Classes": ["F", "M"], "Confusion": [[n / 3, n / 6], [n / 7, n / 4]]}
    sex["Roc"] = {"False": curve.tolist(), "Hit": np.sqrt(curve).tolist()}
    deciles = np.linspace(0.05, 0.95, 10)
    sex["Calibration"] = {
        "Predicted": deciles.tolist(),
        "Observed": (deciles**2).tolist(),
        "Predictions": [n // 10] * 10,
    }
    strata = [
        {"phenotype": "sex", "model": "Tiny", "metric": "auroc", "by": "site", "level": f"s{i}", "value": 0.5 + i / 50}
        | {"ci_low": 0.4, "ci_high": 0.8, "n_participants": 40 + i, "n_least": 17}
        for i in range(5)
    ]
    facts = {
        **{"Encoder": {"Name": "Tiny", "Source": "random:tiny"}, "Overview": {"people": f"{n} participants"}},
        **{"Pretraining": "Not known.", "Warnings": ["Few."], "Networks": []},
        "Phenotypes": {"age": {"Classes": [], **common}, "sex": {**sex, **common}},
    }
    return ProbeTables(
        facts=facts,
        scores=build_group_table("group_probe", scores),
        predictions=build_group_table("group_predictions", predictions),
        strata=build_group_table("group_strata", strata),
        retest=build_group_table("group_retest", []),
        points=build_group_table("group_map", points),
        shares=(0.31, 0.12),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page")
    return write_group_page(out, lambda: build_group_page(build_tables(5000), out))


def test_the_page_of_many_people_is_small_and_has_no_mark_a_person(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    assert len(text) < 1_000_000
    assert text.count("<circle") < 200
    assert "unsafe-inline" not in text
    assert not re.search(r"<[^>]* style=", text)
    assert "5,000 of 11,000" not in text
    write_group_page(tmp_path, lambda: build_group_page(build_tables(11_000), tmp_path))
    more = (tmp_path / "group.html").read_text()
    assert "5,000 of 11,000" in more
    assert len(more) < 1.05 * len(text)


def test_the_test_stands_apart_from_the_score(page: Path) -> None:
    text = page.read_text()
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", text)
    assert "ridge AUROC 0.56, p = 0.005, smallest possible 0.005" in cells
    assert "ridge r 0.56, p = 0.005, smallest possible 0.005" in cells
    assert "0.50 and 0.70" in text
    # Neither the score nor the chart beside it carries a p value.
    assert not re.search(r"0\.60\N{NO-BREAK SPACE}?\[[^\]]*\], p", text)
    assert "<text" in text
    assert not re.search(r"<text[^>]*>[^<]*p = ", text)


def test_figures_for_papers_are_drawn_on_request(tmp_path: Path) -> None:
    write_group_page(tmp_path, lambda: build_group_page(build_tables(60), tmp_path), figures="svg")
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {f"group_{name}.svg" for name in
                     ("age-models", "age-predictions", "sex-models", "sex-predictions", "sex-by-site", "leakage", "map")
                     if name != "leakage"}  # fmt: skip
    assert "<text" in (tmp_path / "figures" / "group_age-models.svg").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as found:
        yield found


def test_people_are_marks_on_a_canvas_with_their_names(browser: Any, page: Path) -> None:
    with open_page(browser, page) as shown:
        assert shown.locator(".scatter canvas").count() == 2
        assert shown.locator(".scatter img:visible").count() == 0
        options = shown.locator(".scatter select option").all_text_contents()
        assert options == ["site", "age"]
        shown.select_option(".scatter select", "age")
        over = shown.locator("#map .u-over")
        over.scroll_into_view_if_needed()
        box = over.bounding_box()
        shown.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        said = shown.locator("#map output").text_content()
        assert re.fullmatch(r"sub-\d{5} · first axis .* · second axis .* · age [\d.]+", said)


def test_the_page_can_be_read_without_scripts_and_in_the_dark(browser: Any, page: Path) -> None:
    with open_page(browser, page, java_script_enabled=False, color_scheme="dark") as shown:
        assert shown.locator("img.density:visible").count() == 2
        assert shown.locator("table.scores:visible").count() == 2
        assert shown.locator("table.people:visible").count() == 2
        names = shown.locator("svg.chart[role=img]")
        assert all(names.nth(i).get_attribute("aria-label") for i in range(names.count()))


def test_runs_without_an_embedding_are_counted(tmp_path: Path) -> None:
    lines = ("a_desc-Tiny\tok\tn/a", "b\tskipped\ttoo_short", "c\tfailed\tno_mask", "d\tskipped\ttoo_short")
    others = ("a_desc-Other\tfailed\tinternal", "a_desc-TinyTwo\tfailed\tinternal")
    (tmp_path / "group_status.tsv").write_text("\n".join(("run\tstatus\treason", *lines, *others)) + "\n")
    said = "1 failed (no mask), 2 skipped (too short); see the status of all runs"
    assert [value for _, value in describe_left_out(tmp_path, "Tiny")] == [said]
    assert describe_left_out(tmp_path / "nowhere", "Tiny") == []
