"""Which embeddings of a participant, and of which others, are compared in one picture."""

import numpy as np

from bids_semantoks.bids_names import parse_entities
from bids_semantoks.outputs.store import OutputPaths
from bids_semantoks.reports import stability
from bids_semantoks.reports.figures_embedding import compute_stability

N_DIMS = 5


def write_run(out_dir, stem, model, n_windows, *, n_dims=N_DIMS, whole=True):
    """Write an embedding whose first number says how many windows it has."""
    entities = parse_entities(stem)
    session = [f"ses-{entities['ses']}"] if "ses" in entities else []
    folder = out_dir.joinpath(f"sub-{entities['sub']}", *session, "func")
    folder.mkdir(parents=True, exist_ok=True)
    paths = OutputPaths(out_dir=out_dir, directory=folder, stem=stem, model=model)
    paths.embedding_sidecar.write_text("{}")
    if whole:
        columns = ["window", "onset", "duration", "kept", *(f"dim{d:04d}" for d in range(1, n_dims + 1))]
        rows = np.hstack([np.zeros((n_windows, 4)), np.full((n_windows, n_dims), float(n_windows))])
        lines = ["\t".join(columns), *("\t".join(f"{x:g}" for x in row) for row in rows)]
        paths.embedding.write_text("\n".join(lines) + "\n")


def draw(out_dir, participant, monkeypatch):
    """Draw, and give what was compared: windows of own runs, their labels, and windows of others, by picture."""
    compared = []

    def compare(vectors, labels, others):
        compared.append(([len(one) for one in vectors], list(labels), sorted(len(one) for one in others)))
        return compute_stability(vectors, labels, others)

    monkeypatch.setattr(stability, "compute_stability", compare)
    pictures = stability.draw_stabilities(out_dir, participant)
    assert all(picture.title == "Stability of the embedding" and picture.data for _, picture in pictures)
    return dict(zip([name for name, _ in pictures], compared, strict=True))


def test_each_encoder_atlas_and_space_is_compared_with_its_like(tmp_path, monkeypatch):
    write_run(tmp_path, "sub-01_task-rest_run-1_space-S_atlas-A", "M", 2)
    write_run(tmp_path, "sub-01_task-rest_run-2_space-S_atlas-A", "M", 3)
    write_run(tmp_path, "sub-01_task-rest_run-3_space-S_atlas-A", "M", 4, whole=False)
    write_run(tmp_path, "sub-01_task-rest_run-1_space-S_atlas-A", "Other", 5)
    write_run(tmp_path, "sub-01_task-rest_run-1_atlas-B", "M", 6)
    write_run(tmp_path, "sub-02_ses-x_task-rest_space-S_atlas-A", "M", 7)
    write_run(tmp_path, "sub-02_ses-x_task-rest_space-S_atlas-A", "Other", 8, n_dims=N_DIMS + 1)
    write_run(tmp_path, "sub-03_task-rest_space-T_atlas-A", "M", 9)
    assert draw(tmp_path, "01", monkeypatch) == {
        "B, M": ([6], ["rest"], []),
        "S, A, M": ([2, 3], ["run-1", "run-2"], [7]),
        # Vectors of another length cannot be compared.
        "S, A, Other": ([5], ["rest"], []),
    }
    assert draw(tmp_path, "04", monkeypatch) == {}


def test_runs_are_called_by_what_tells_them_apart(tmp_path, monkeypatch):
    write_run(tmp_path, "sub-01_ses-1_task-rest_atlas-A", "M", 2)
    write_run(tmp_path, "sub-01_ses-2_task-rest_atlas-A", "M", 3)
    write_run(tmp_path, "sub-01_ses-2_task-rest_run-2_atlas-A", "M", 4)
    ((windows, labels, _),) = draw(tmp_path, "01", monkeypatch).values()
    assert dict(zip(windows, labels, strict=True)) == {2: "ses-1", 3: "ses-2", 4: "ses-2 run-2"}


def test_of_many_others_some_are_read_spread_over_all(tmp_path, monkeypatch):
    for number in range(1, 44):
        write_run(tmp_path, f"sub-{number:02d}_task-rest_atlas-A", "M", number)
    ((_, _, others),) = draw(tmp_path, "05", monkeypatch).values()
    rest = [number for number in range(1, 44) if number != 5]
    assert others == rest[::3]
