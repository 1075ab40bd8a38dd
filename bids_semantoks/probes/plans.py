"""The plan of all probes of a call, with the columns it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bids_semantoks.config import AppConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.phenotypes import Column, Phenotype, build_phenotype
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.probes.rows import Rows, build_rows


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbePlan:
    """Phenotypes to be probed, checked before any work."""

    config: AppConfig
    columns: dict[str, Column]  # phenotypes, covariates, groups and, where present, site and columns to colour by
    site: str  # column of the site; empty for none
    # lines of given splits: phenotype (empty for all), repetition, fold, participant, role
    given: tuple[tuple[str, int, int, str, str], ...]

    def build_rows(self, stored: Sequence[StoredRun], name: str) -> Rows:
        """Collect sessions where a phenotype has one value per session, else participants."""
        return build_rows(stored, by_session=self.columns[name].has_sessions)

    def build_phenotype(self, rows: Rows, name: str) -> Phenotype:
        """Convert a phenotype for the rows of `build_rows`."""
        asked = self.config.probing
        return build_phenotype(self.columns[name], rows.keys, kind=asked.probe_kind, n_bins=asked.n_bins)

    def find_labels(self, rows: Rows, name: str, phenotype: str) -> tuple[str | None, ...]:
        """Look up a column that groups or corrects, as text, None where missing. Raises InputError for one value per
        session where the predicted phenotype has one per participant."""
        column = self.columns[name]
        if column.has_sessions and not self.columns[phenotype].has_sessions:
            raise InputError(
                f"Column {name} of {column.table} has one value a session, but {phenotype} has one a participant.",
                hint="Give one value a participant in a table of --phenotype.",
            )
        return column.find(rows.keys)
