"""The command that turns arrays into a dataset."""

import numpy as np

import bids_semantoks as bs
from bids_semantoks.commands.importing import call


def test_what_is_imported_is_embedded_as_the_arrays_are(tmp_path, capsys):
    series = np.random.default_rng(0).standard_normal((2, 100, 400)).astype(np.float32)
    np.save(tmp_path / "stack.npy", series)
    asked = ["--repetition-time", "2", "--atlas", "Schaefer400"]
    assert call([str(tmp_path / "stack.npy"), *asked, str(tmp_path / "data")]) == 0
    assert f"bids_semantoks {tmp_path / 'data'} OUT_DIR participant" in capsys.readouterr().out
    assert bs.run([tmp_path / "data", tmp_path / "out", "participant", "--model", "random:tiny", "-q"]) == 0
    frame = bs.load_outputs(tmp_path / "out", level="window").query("participant_id == 'sub-02'")
    encoder = bs.load_encoder("random:tiny")
    direct = encoder.encode(series[1], repetition_time=2.0, parcels="Schaefer400-7Networks")
    np.testing.assert_allclose(frame.filter(like="dim"), direct.vectors, atol=1e-6)
    assert call([str(tmp_path / "stack.npy"), *asked, str(tmp_path / "data")]) == 4
    assert "not an empty folder" in capsys.readouterr().err
