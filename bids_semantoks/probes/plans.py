"""What was asked of probes, with the columns that it needs.

Shape letters: n rows (participants or sessions).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bids_semantoks.config import AppConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.phenotypes import Column, Phenotype, build_phenotype
from bids_semantoks.outputs.stored_runs import StoredRun
from bids_semantoks.probes.rows import Rows, build_rows


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbePlan:
    """What will be probed, checked before any work.

    Parameters
    ----------
    config : AppConfig
        What was asked.
    columns : dict of str to Column
        Phenotypes, covariates, groups and, where there are any, site and columns to colour by.
    site : str
        Column of the site; empty for none.
    given : tuple of (str, int, int, str, str)
        Lines of the splits that were given.
    """

    config: AppConfig
    columns: dict[str, Column]
    site: str
    given: tuple[tuple[str, int, int, str, str], ...]

    def build_rows(self, stored: Sequence[StoredRun], name: str) -> Rows:
        """Choose the rows that a phenotype asks for.

        Parameters
        ----------
        stored : sequence of StoredRun
            All runs.
        name : str
            The phenotype.

        Returns
        -------
        Rows
            Sessions where it has one value a session, else participants.
        """
        return build_rows(stored, by_session=self.columns[name].has_sessions)

    def build_phenotype(self, rows: Rows, name: str) -> Phenotype:
        """Convert a phenotype.

        Parameters
        ----------
        rows : Rows
            From `build_rows`.
        name : str
            The phenotype.

        Returns
        -------
        Phenotype
            Of all rows.
        """
        asked = self.config.probing
        return build_phenotype(self.columns[name], rows.keys, kind=asked.probe_kind, n_bins=asked.n_bins)

    def find_labels(self, rows: Rows, name: str, phenotype: str) -> tuple[str | None, ...]:
        """Look up a column that groups or corrects, as text.

        Parameters
        ----------
        rows : Rows
            From `build_rows`.
        name : str
            The column.
        phenotype : str
            What is predicted, for the message.

        Returns
        -------
        tuple of (str or None), length n
            None where missing.

        Raises
        ------
        InputError
            When the column has one value a session and rows are participants.
        """
        column = self.columns[name]
        if column.has_sessions and not self.columns[phenotype].has_sessions:
            raise InputError(
                f"Column {name} of {column.table} has one value a session, but {phenotype} has one a participant.",
                hint="Give one value a participant in a table of --phenotype.",
            )
        return column.find(rows.keys)
