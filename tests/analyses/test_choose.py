"""The group level takes the space as the participant level does, with its resolution or cohort."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_semantoks.analyses.choose import choose_kind
from bids_semantoks.config import AppConfig, SelectionConfig, SignalsConfig
from bids_semantoks.errors import InputError


@pytest.mark.parametrize("space", ["MNI152NLin6Asym", "MNI152NLin6Asym:res-2", "space-MNI152NLin6Asym:res-native"])
def test_space_with_and_without_resolution(tmp_path: Path, space: str) -> None:
    for label in ("MNI152NLin6Asym", "MNI152NLin2009cAsym"):
        stem = tmp_path / "sub-01" / "func" / f"sub-01_task-rest_space-{label}_atlas-A_res-2_stat-mean_timeseries"
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".tsv").touch()
        stem.with_suffix(".json").write_text('{"Settings": {}}')
    arguments = {"bids_dir": tmp_path, "out_dir": tmp_path, "level": "group", "signals": SignalsConfig(atlas="A")}
    assert choose_kind(AppConfig(**arguments, selection=SelectionConfig(space=space))) == ("A", "MNI152NLin6Asym")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="No signals of atlas A in fsLR"):
        choose_kind(AppConfig(**arguments, selection=SelectionConfig(space="fsLR")))  # type: ignore[arg-type]
