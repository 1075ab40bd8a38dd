"""Figures on the page: their data as they are drawn, or why there is none."""

import urllib.parse

import pytest

from bids_semantoks.reports.pictures import load_picture

STEM = "sub-01_task-rest_space-MNI152NLin6Asym_atlas-Own"


DRAWN = '<?xml version="1.0"?>\n<svg id="a#b"><text>50 % & ü > "é" < 1\'</text></svg>\n'


def write_figure(out_dir, word):
    folder = out_dir / "sub-01" / "figures"
    folder.mkdir(parents=True)
    (folder / f"{STEM}_desc-{word}_bold.svg").write_text(DRAWN, encoding="utf-8")


def test_the_figure_comes_back_from_its_address_as_it_was_drawn(tmp_path):
    write_figure(tmp_path, "OwnTokens")
    picture = load_picture(tmp_path, STEM, "OwnTokens", "Tokens")
    assert picture.title == "Similarity of tokens"
    head, _, body = picture.data.partition(",")
    assert head == "data:image/svg+xml;charset=utf-8"
    assert urllib.parse.unquote(body) == DRAWN
    # It stands in an attribute of HTML.
    assert not set('"<>#&') & set(body)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("carpet", "It needs the signals before denoising"),
        ("motion", "It needs the confounds"),
        ("Tokens", "save them with --save-tokens"),
        ("coverage", "It could not be drawn; the log says why."),
    ],
)
def test_a_figure_that_is_not_there_says_why(tmp_path, kind, reason):
    picture = load_picture(tmp_path, STEM, kind, kind)
    assert picture.data == ""
    assert reason in picture.missing
    assert picture.title
    assert picture.caption
