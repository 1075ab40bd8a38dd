"""What probes take is said, or refused, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bids_semantoks.analyses import estimate as module
from bids_semantoks.analyses.design import ProbePlan
from bids_semantoks.analyses.estimate import check_resources, choose_fold_threads, estimate
from bids_semantoks.config import ProbingConfig, RunningConfig
from bids_semantoks.errors import ResourceError
from bids_semantoks.runtime.resources import find_memory_limit
from bids_semantoks.statistics.predictions import Target
from bids_semantoks.statistics.splits import build_splits


def plan(
    n: int, *, mem: str = "8G", n_procs: int = 2, n_phenotypes: int = 1, preparations: Sequence[int] = (), **asked: Any
) -> Any:
    """Build a plan of n people; `preparations` are the parcels of each further one."""
    target = Target(name="age", values=np.arange(n, dtype=float))
    splits = build_splits(target.compute_strata(), n_repeats=1)
    rows = SimpleNamespace(keys=tuple((str(i), "") for i in range(n)), runs=())
    design = {"target": target, "rows": rows, "splits": splits, "covariates": None, "groups": None}
    config = SimpleNamespace(
        probing=ProbingConfig(probe=("age",), **asked), running=RunningConfig(mem=mem, n_procs=n_procs)
    )
    designs = tuple((SimpleNamespace(name="age"), SimpleNamespace(**design)) for _ in range(n_phenotypes))
    known: dict[str, Any] = {"columns": {}, "site": "", "given": (), "n_runs": n}
    known["preparations"] = tuple(SimpleNamespace(atlas=(("",) * size, ("",) * size)) for size in preparations)
    return ProbePlan(config=config, designs=designs, **known)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused_by_the_estimate_and_says_what_to_leave_out() -> None:
    with pytest.raises(ResourceError, match=r"about [0-9.]+ GB of memory \(20000 rows.*8\.0 GB \(--mem 8G\)") as found:
        check_resources(plan(20000), 457)
    assert found.value.exit_code == 5
    hint = found.value.hint or ""
    assert "pearson, ledoit_wolf, tangent are exact" in hint
    assert "--baselines parcel_moments motion site covariates random chance" in hint
    with pytest.raises(ResourceError) as found:
        check_resources(plan(300, mem="100M", baselines=("none",)), 457)
    assert "--baselines" not in (found.value.hint or "")


def test_what_fits_is_described(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    check_resources(plan(700, n_phenotypes=2), 457)
    (record,) = caplog.records
    assert "700 rows, 2 phenotypes" in record.message
    assert "8.0 GB (--mem 8G)" in record.message


@pytest.mark.usefixtures("pace")
def test_the_same_splits_are_named_where_they_save_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    several = plan(3000, n_phenotypes=4, baselines=("pearson",))
    for number, (_, design) in enumerate(several.designs):
        design.splits = build_splits(design.target.compute_strata(), n_repeats=1, seed=number)
    check_resources(several, 457)
    assert "With --same-splits" in caplog.records[-1].message
    caplog.clear()
    check_resources(plan(3000, baselines=("pearson",)), 457)
    assert "--same-splits" not in caplog.text


def test_only_the_part_is_estimated_and_embeddings_count_as_wide_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    part = plan(500, n_phenotypes=2, baselines=("none",), probe_part=0)
    check_resources(part, 457)
    assert not caplog.records
    check_resources(plan(500, baselines=("none",), probe_part=1), 457)
    assert "500 rows, 1 phenotype)" in caplog.text
    narrow, wide = (estimate(plan(20000, baselines=("none",)), 457, widths) for widths in ((384,), (6912, 768)))
    assert wide.kept_bytes - narrow.kept_bytes > 8 * 20000 * (6912 + 768 - 384)
    assert wide.seconds > 10 * narrow.seconds


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that always takes the same time."""
    monkeypatch.setattr("bids_semantoks.analyses.estimate._time_operations", lambda: (1e-10, 1e-9))


@pytest.mark.usefixtures("pace")
def test_kernels_grow_with_the_square_and_nothing_else_does() -> None:
    for baselines, memory, seconds in ((("pearson",), (3.3, 4.2), (6, 8.2)), (("none",), (1.0, 2.2), (1.3, 2.2))):
        few, many = (estimate(plan(n, baselines=baselines), 457) for n in (12000, 24000))
        assert memory[0] < many.fold_bytes / few.fold_bytes < memory[1]
        assert seconds[0] < many.seconds / few.seconds < seconds[1]


@pytest.mark.usefixtures("pace")
def test_signals_of_further_preparations_are_held_as_well() -> None:
    asked = {"baselines": ("pearson", "tangent")}
    none, small, large = (
        estimate(plan(1000, preparations=sizes, **asked), 457).kept_bytes for sizes in ((), (100,), (457,))
    )
    # A kernel, and the table of the tangent space.
    assert large - none >= 8 * 1000**2 + 4 * 1000 * 457 * 458 // 2
    # A small one may fit beside what the first needs for a moment.
    assert 0 <= small - none < large - none


def test_phenotypes_that_share_folds_are_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    # Measured twice, they would differ on a busy machine.
    monkeypatch.setattr(module, "_time_operations", lambda: (1e-10, 2e-9))
    one, two = (estimate(plan(3000, baselines=("pearson",), n_phenotypes=k), 457).seconds for k in (1, 2))
    assert 1 < two / one < 1.8


def test_folds_at_once_are_as_many_as_memory_has_room_for() -> None:
    assert choose_fold_threads(plan(500, n_procs=3), 457) == 3
    found = estimate(plan(4000), 457)
    mem = f"{(found.count_bytes(2) + 1000) // 2**20 + 1}M"
    assert choose_fold_threads(plan(4000, n_procs=7, mem=mem), 457) == 2


def test_memory_is_that_of_the_option_the_container_or_the_machine(tmp_path: Path) -> None:
    whole, where = find_memory_limit(RunningConfig(), tmp_path)
    assert where == "this machine"
    (tmp_path / "memory.max").write_text("max\n")
    assert find_memory_limit(RunningConfig(), tmp_path) == (whole, where)
    (tmp_path / "memory.max").write_text("1000000\n")
    assert find_memory_limit(RunningConfig(), tmp_path)[0] == 1000000
    assert find_memory_limit(RunningConfig(mem="500K"), tmp_path) == (512000, "--mem 500K")
