"""Figures of the group: pictures say what they should."""

from __future__ import annotations

import numpy as np

from bids_semantoks.reports.charts import Bar, Colouring
from bids_semantoks.reports.figures import use_style, write_figure
from bids_semantoks.reports.figures_probes import draw_classes, draw_map, draw_models, draw_values


def test_models_stand_in_the_order_given_beside_chance() -> None:
    bars = [
        Bar(name="one", value=0.7, low=0.6, high=0.8, note="0.70", is_encoder=False),
        Bar(name="two", value=0.6, low=float("nan"), high=0.7, note="0.60", is_encoder=True),
    ]
    (axes,) = draw_models(bars, label="AUROC", chance=0.5).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["one", "two"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [0.5, 0.5])
    assert [text.get_text() for text in axes.texts] == ["0.70", "0.60"]


def test_roc_and_confusion_are_drawn_as_they_were_counted() -> None:
    counts = np.array([[2.0, 1.0], [0.0, 1.5]])
    roc, confusion = draw_classes(counts, ("a", "b"), ([0, 0.25, 1], [0.5, 0.75, 1])).axes
    false, hit = roc.lines[1].get_data()
    np.testing.assert_allclose(false, [0, 0, 0.25, 1])
    np.testing.assert_allclose(hit, [0, 0.5, 0.75, 1])
    np.testing.assert_allclose(confusion.images[0].get_array(), [[2 / 3, 1 / 3], [0, 1]])
    (axes,) = draw_classes(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 2.0]]), ("a", "b", "c")).axes
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]])


def test_map_has_a_panel_for_each_colour() -> None:
    values = np.random.default_rng(0).standard_normal((7, 5))
    numbers = np.array([1, 2, np.nan, 4, 5, 6, 7.0])
    labels = tuple(None if np.isnan(value) else str(value) for value in numbers)
    colourings = [
        Colouring(name="site", labels=("A", "B", None, "A", "A", "B", "NA"), numbers=None),
        Colouring(name="age", labels=labels, numbers=numbers),
        Colouring(name="sex", labels=("F",) * 7, numbers=None),
    ]
    figure = draw_map(values[:, :2], (0.6, 0.2), colourings)
    shown = [axes for axes in figure.axes if axes.get_visible() and axes.get_title(loc="left") + axes.get_title()]
    assert len(shown) == 3
    assert [text.get_text() for text in shown[0].get_legend().get_texts()] == ["A", "B", "NA"]


def test_names_that_users_gave_have_room_and_no_formulas(tmp_path):
    name = "price ($) of the very first visit $x_{$ and of the last"
    classes = (f"{name} 1", f"{name} 2", "_none")
    bars = [Bar(name=name, value=0.6, low=0.5, high=0.7, note="", is_encoder=True)]
    colouring = Colouring(name=name, labels=(*classes, None), numbers=None)
    drawn = {
        "models": lambda: draw_models(bars, label="r", chance=0),
        "values": lambda: draw_values(np.arange(3.0), np.arange(3.0), name=name),
        "classes": lambda: draw_classes(np.eye(3), classes),
        "map": lambda: draw_map(np.arange(8.0).reshape(4, 2), (0.6, 0.2), [colouring]),
    }
    for what, draw in drawn.items():
        assert write_figure(tmp_path / f"{what}.svg", draw), what
    with use_style():
        axes = drawn["classes"]().axes[0]
        legend = drawn["map"]().axes[0].get_legend()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    names = [label.get_text() for label in drawn["models"]().axes[0].get_yticklabels()]
    assert names == ["price ($) of t…d of the last"]
    assert labels == ["price …last 1", "price …last 2", "_none"]
    assert legend.get_texts()[0].get_text().strip() == "_none"
