"""Tests of what pages inline, and of the policy that allows only that."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files

import pytest

from bids_semantoks.errors import replace_hidden
from bids_semantoks.reports.pages import CHART_ASSETS, embed_json, load_assets


def test_policy_names_the_hash_of_each_style_and_script() -> None:
    assets = load_assets(*CHART_ASSETS)
    # As a browser sees them: pages pass `replace_hidden` on their way out.
    elements = re.findall(r"(?s)<(style|script)>(.*?)</\1>", replace_hidden(assets.styles + assets.scripts))
    assert len(elements) == len(CHART_ASSETS)
    rules = dict(rule.split(" ", 1) for rule in assets.policy.split("; "))
    for kind, text in elements:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules[f"{kind}-src"].split()
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in assets.policy


def test_page_without_scripts_allows_none() -> None:
    assets = load_assets("page.css")
    assert "script-src" not in assets.policy
    assert assets.scripts == ""


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!--<script>", "]]>&amp;", 'it\'s "so"', "a\u202eb"]
)
def test_data_cannot_leave_its_element(text: str) -> None:
    element = str(embed_json("x", {text: [text, 1.5, None]}))
    inside = re.fullmatch(r"(?s)<script [^>]*>(.*)</script>", element)[1]
    assert not set(inside) & set("<>&")
    shown = replace_hidden(text)
    assert json.loads(inside) == {shown: [shown, 1.5, None]}


def test_nan_is_refused_in_data() -> None:
    with pytest.raises(ValueError, match="JSON"):
        embed_json("x", [float("nan")])


def test_licence_of_the_library_comes_along() -> None:
    folder = files("bids_semantoks.reports").joinpath("assets")
    assert "MIT License" in folder.joinpath("uPlot.LICENSE").read_text()
    version = re.search(r"uplot (\d+\.\d+\.\d+) ", folder.joinpath("README.md").read_text())
    assert version is not None
    assert f"(v{version[1]})" in folder.joinpath("uPlot.iife.min.js").read_text()[:80]
