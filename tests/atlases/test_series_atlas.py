"""The atlas of parcellated series: real labels of XCP-D."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_semantoks.atlases.series_atlas import load_series_atlas


@pytest.mark.parametrize("has_table", [True, False])
def test_4s456_is_schaefer_in_order_and_the_rest_is_masked(shared: Path, has_table: bool) -> None:
    path = shared / "atlas" / "atlas-4S456Parcels_dseg.tsv"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    columns = [row[rows[0].index("label")] for row in rows[1:]]
    tables = [path] if has_table else []
    atlas = load_series_atlas("4S456Parcels", columns, space="", asked="", tables=tables, directory=None)
    names = (shared / "atlas" / "Schaefer2018_400Parcels_7Networks_order.txt").read_text().split("\n")
    schaefer = [line.split("\t")[1].removeprefix("7Networks_") for line in names if line]
    assert [name.removeprefix("7Networks_") for name in atlas.parcels[:400]] == schaefer
    assert len(atlas.parcels) == 456
    assert set(atlas.networks[:400]) == {"Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default"}
    assert set(atlas.networks[400:]) == {""}
    assert atlas.parcels[400:403] == ("LH-Pu", "LH-Ca", "LH-NAC")
