"""nipoppy itself reads the tables by session and takes the pipelines in cluster/nipoppy (where it is installed)."""

from pathlib import Path

import numpy as np
import pytest

from bids_semantoks.outputs.features import write_features, write_session_features
from bids_semantoks.version import __version__

nipoppy = pytest.importorskip("nipoppy")

BUNDLES = Path(__file__).resolve().parents[2] / "cluster" / "nipoppy"


@pytest.fixture
def output(tmp_path):
    """The output of the pipeline in a study of two participants with sessions and one without."""
    rows = ["001\t1\t1", "001\t2\t2", "002\t1\t1", "003\tunnamed\tunnamed"]
    lines = ["participant_id\tvisit_id\tsession_id\tdatatype", *(f"{row}\t['func']" for row in rows)]
    (tmp_path / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path / "derivatives" / "bids_semantoks" / __version__ / "output"


def retrieve(output, *names):
    tables = [("bids_semantoks", __version__, f"output/phenotype/{name}") for name in names]
    return nipoppy.NipoppyDataRetriever(output.parents[3]).get_derivatives(tables)


def test_tables_of_two_encoders_are_joined(output):
    sessions = [("001", "1"), ("001", "2"), ("002", "1"), ("003", "")]
    for scale, model in ((1.0, "Tiny"), (10.0, "Wide")):
        rows = [(label, 1, 7, np.array([scale * i, -scale]), session) for i, (label, session) in enumerate(sessions)]
        write_session_features(output, atlas="Own", model=model, description="", rows=rows)
    found = retrieve(output, "OwnTinySessions.tsv", "*WideSessions.tsv")
    assert found.columns.is_unique
    assert list(found.index) == [*sessions[:3], ("003", "unnamed")]
    np.testing.assert_array_equal(found["OwnTiny_dim0001"], [0, 1, 2, 3])
    np.testing.assert_array_equal(found["OwnWide_dim0001"], [0, 10, 20, 30])


def test_tables_of_participants_have_no_index_that_it_knows(output):
    write_features(output, atlas="Own", model="Tiny", description="", rows=[("001", 1, 7, np.array([0.5]), "")])
    with pytest.raises(ValueError, match="session_id"):
        retrieve(output, "OwnTiny.tsv")


@pytest.mark.parametrize("name", ["processing", "extraction"])
def test_pipelines_are_valid(name):
    validation = pytest.importorskip("nipoppy.pipeline_validation")
    config = validation.check_pipeline_bundle(BUNDLES / name, strict=True)
    assert (config.PIPELINE_TYPE.value, config.VERSION) == (name, __version__)
