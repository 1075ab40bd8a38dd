"""List files through a pybids database, for users who keep one; the only module that imports pybids."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bids_semantoks.disk import remove_leftovers, tag_owner
from bids_semantoks.errors import ConfigurationError, InputError

LOG = logging.getLogger(__name__)

_FILE_NAME: Final = "layout_index.sqlite"
# Surface series of fMRIPrep up to 20.0 have no suffix.
_QUERIES: Final[tuple[dict[str, Any], ...]] = (
    {"suffix": ["bold", "mask", "timeseries", "regressors", "outliers", "motion"]},
    {"extension": [".func.gii"]},
)
_IGNORED: Final = re.compile(r"/(anat|dwi|fmap|perf|pet|figures|log|logs|code|sourcedata)(/|$)")


def find_database_files(root: Path, database_dir: Path, ends: Sequence[str]) -> dict[str, list[str]]:
    """Map participant labels to sorted paths from a pybids database, building it first from the files with these
    `ends`. An existing database is not updated, so delete it after adding files. Raises ConfigurationError if the
    folder is not writable or the database belongs to another dataset, InputError if the database is unreadable."""
    if not (database_dir / _FILE_NAME).exists():
        _write_database(root, database_dir, ends)
    by_label: dict[str, list[str]] = defaultdict(list)
    for path in _read_paths(root, database_dir):
        first, _, rest = path.partition(os.sep)
        if first.startswith("sub-") and rest:
            by_label[first.removeprefix("sub-")].append(str(root / path))
    return dict(by_label)


def _write_database(root: Path, database_dir: Path, ends: Sequence[str]) -> None:
    from bids import BIDSLayout, BIDSLayoutIndexer  # noqa: PLC0415 - takes 0.9 s, which only this option is worth

    # Index only what may be read, so that a database of thousands of participants stays small.
    others = re.compile(rf"^(?!.*({'|'.join(map(re.escape, ends))})$).*/[^/]*\.[^/]*$")
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=[_IGNORED, others])
    LOG.info("Building a pybids database of %s in %s", root, database_dir)
    try:
        database_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(database_dir)
        with tempfile.TemporaryDirectory(dir=database_dir, prefix=f".making-{tag_owner()}") as folder:
            layout = BIDSLayout(
                str(root.resolve()),
                validate=False,
                config=["bids", "derivatives"],
                indexer=indexer,
                database_path=folder,
            )
            layout.session.close()
            # Renamed when complete: pybids would mistake a partial database for the whole dataset.
            os.replace(Path(folder) / _FILE_NAME, database_dir / _FILE_NAME)  # noqa: PTH105
    except OSError as error:
        raise ConfigurationError(f"Cannot create a pybids database in {database_dir}: {error}.") from error


def _read_paths(root: Path, database_dir: Path) -> list[str]:
    """Read the paths in a database, sorted and relative to the dataset root."""
    from bids import BIDSLayout  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    path = database_dir / _FILE_NAME
    try:
        layout = BIDSLayout(str(root.resolve()), validate=False, database_path=str(database_dir))
        found = Path(layout.root)
        paths = {one for query in _QUERIES for one in layout.get(return_type="filename", **query)}
    except (SQLAlchemyError, AttributeError, ValueError, OSError) as error:
        raise InputError(
            f"The pybids database {path} cannot be read: {str(error).splitlines()[0]}.", hint="Delete it."
        ) from error
    if found.resolve() != root.resolve():
        raise ConfigurationError(
            f"The pybids database {path} belongs to {found}, not to {root}.",
            hint="Use another --bids-database-dir, or a new folder to build one.",
        )
    return sorted(os.path.relpath(str(one), found) for one in paths)
