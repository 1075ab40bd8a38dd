"""The atlas of parcellated series: real labels of XCP-D."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bids_semantoks.atlases.series_atlas import load_series_atlas, name_series_atlas
from bids_semantoks.errors import AtlasError


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


def load(label: str, n_columns: int, asked: str = "", tables: tuple[Path, ...] = ()) -> Any:
    columns = [str(number) for number in range(n_columns)]
    return load_series_atlas(label, columns, space="", asked=asked, tables=tables, directory=None)


@pytest.mark.parametrize("n_parcels", [100, 400])
@pytest.mark.parametrize("is_asked", [True, False])
@pytest.mark.parametrize("spelling", ["{}Parcels7Networks", "7Networks{}Parcels", "7n{}"])
def test_labels_of_schaefers_parcels_name_the_registered_table(n_parcels: int, is_asked: bool, spelling: str) -> None:
    label = f"Schaefer2018{spelling.format(n_parcels)}"
    atlas = load(label, n_parcels, asked=label if is_asked else "")
    assert (len(atlas.parcels), atlas.name) == (n_parcels, label)
    assert atlas.parcels[0].startswith("7Networks_LH_Vis_1")
    assert set(atlas.networks) == {"Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default"}


@pytest.mark.parametrize(
    ("label", "n_columns", "problem", "hint"),
    [
        ("Schaefer2018200Parcels7Networks", 200, "200 columns", "desc-200Parcels7Networks_dseg.tsv"),
        ("Schaefer2018400Parcels7Networks", 399, "399 columns .*Schaefer400 has 400 parcels", "volumes"),
        ("Schaefer2018400Parcels17Networks", 400, "400 columns", "--atlas TABLE.tsv"),
        ("MIST", 122, "122 columns", "--atlas TABLE.tsv"),
    ],
)
def test_counted_columns_without_a_table(label: str, n_columns: int, problem: str, hint: str) -> None:
    with pytest.raises(AtlasError, match=problem) as caught:
        load(label, n_columns, asked=label)
    assert hint in caught.value.hint


def test_a_table_of_another_length_is_refused_with_both(tmp_path: Path) -> None:
    table = tmp_path / "atlas-A_dseg.tsv"
    table.write_text("index\tlabel\tnetwork_label\n1\tx\tVis\n2\ty\tCont\n")
    with pytest.raises(AtlasError, match=r"3 columns.*A_dseg\.tsv has 2 parcels") as caught:
        load("A", 3, asked=str(table))
    assert "volumes" in caught.value.hint


def test_the_atlas_of_series_that_name_none() -> None:
    default = "Schaefer400Tian3Buckner7"
    assert name_series_atlas(["1", "2"], "", default) == (default, default)
    assert name_series_atlas(["1", "2"], "/x/atlas-Mine_dseg.tsv", default) == ("/x/atlas-Mine_dseg.tsv", "Mine")
    assert name_series_atlas(["LH_Vis_1", "RH_Vis_1"], "Schaefer400", default) == ("Schaefer400", "Schaefer400")
    assert name_series_atlas(["LH_Vis_1", "RH_Vis_1"], "", default) == ("Schaefer100", "Schaefer100")
    assert name_series_atlas(["LH_Vis_X", "RH_Vis_1"], "", default) == ("", "Series")
