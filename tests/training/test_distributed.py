"""Two processes learn what one learns from the joined batch; neither waits for ever."""

import datetime
import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bids_semantoks.errors import ResourceError, TrainingStopped
from bids_semantoks.pretraining.card import read_training_log
from bids_semantoks.training import distributed

HELPERS = Path(__file__).parents[1] / "helpers"


RECIPE = {"epochs": 3, "batch_size": 4, "learning_rate": 0.01, "warmup_epochs": 1.0}


ONE_STEP = """
import sys
import torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers.training_driver import ENCODER, LAYOUT, P
from torch.nn.parallel import DistributedDataParallel
from bids_semantoks.config import TrainingConfig
from bids_semantoks.models.encoder import build_encoder, build_head
from bids_semantoks.training.distill import ViewBatch as Batch, TeacherStudent
from bids_semantoks.training.distributed import join_ranks, sum_over_ranks
from bids_semantoks.training.batches import StepSettings
from bids_semantoks.training.distill import build_optimiser, train_step

torch.set_num_threads(1)
content = torch.load(sys.argv[2])
with join_ranks(torch.device("cpu")) as ranks:
    mine = slice(ranks.rank * 3, ranks.rank * 3 + 6 // ranks.size)
    part = Batch(*(torch.cat([pair[0][mine], pair[1][mine]]) for pair in content))
    module = TeacherStudent(
        build_encoder(ENCODER, LAYOUT, 0), build_head(ENCODER, 0), TrainingConfig(clip=1e9),
        all_reduce=sum_over_ranks if ranks.size > 1 else None,
    )
    wrapped = DistributedDataParallel(module) if ranks.size > 1 else module
    report = train_step(wrapped, build_optimiser(module, module.config), [part],
                        StepSettings(1e-3, 0.05, 0.9, 0.5, True))
    gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    torch.save([report.losses._asdict(), report.gradient_norm, gradients, module.state_dict()],
               Path(sys.argv[3]) / f"{ranks.size}-{ranks.rank}.pt")
"""


def free_port() -> int:
    """Find a port below those that the system hands out itself, which somebody might be given in the meantime."""
    for port in random.SystemRandom().sample(range(15_000, 30_000), 50):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port")


def start(command: list[str], size: int) -> list[subprocess.Popen[str]]:
    """Start as many processes as torchrun would, with the same environment."""
    port = free_port()
    processes = []
    for rank in range(size):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HELPERS.parents[1])}
        if size > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    return processes


def finish(processes: list[subprocess.Popen[str]], *, code: int = 0) -> list[str]:
    texts = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), texts
    return texts


def test_one_step_of_two_processes_is_that_of_one_on_the_joined_batch(tmp_path):
    """Six samples, some lacking a network or the second patch, so that ranks hold different numbers of tokens."""
    generator = torch.Generator().manual_seed(3)
    n, p, w, rows, k = 6, 13, 40, 3, 2
    views = torch.randn(2, n, p, w, generator=generator)
    absent = torch.zeros(2, n, rows, k, dtype=torch.bool)
    absent[:, 1, 2] = True
    absent[:, 4:, :, 1] = True
    views[:, 1, 10:] = 0
    views[:, 4:, :, 20:] = 0
    masks = torch.rand(2, n, rows, k, generator=generator) < 0.5
    torch.save([views, masks, absent], tmp_path / "batch.pt")
    script = tmp_path / "one_step.py"
    script.write_text(ONE_STEP)
    command = [sys.executable, str(script), str(HELPERS.parent), str(tmp_path / "batch.pt"), str(tmp_path)]
    finish(start(command, 1) + start(command, 2))
    losses, norm, gradients, weights = torch.load(tmp_path / "1-0.pt")
    n_compared = 0
    for rank in range(2):
        found = torch.load(tmp_path / f"2-{rank}.pt")
        for name, value in losses.items():
            torch.testing.assert_close(found[0][name], value, atol=1e-5, rtol=1e-5, msg=name)
        torch.testing.assert_close(found[1], norm, atol=0, rtol=1e-5)
        assert found[2].keys() == gradients.keys()
        for name, value in gradients.items():
            # Relative to the largest: what is zero in theory is rounding in both.
            torch.testing.assert_close(found[2][name], value, atol=1e-5 * float(norm), rtol=1e-5, msg=name)
        for name, gradient in gradients.items():
            # Adam turns a gradient that is zero but for rounding into a whole step of 1e-3.
            clear = gradient.abs() > 1e-6 * float(norm)
            n_compared += int(clear.sum())
            torch.testing.assert_close(found[3][name][clear], weights[name][clear], atol=1e-5, rtol=0, msg=name)
    assert n_compared > 0.9 * sum(gradient.numel() for gradient in gradients.values())
    first, second = (torch.load(tmp_path / f"2-{rank}.pt")[3] for rank in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_uneven_data_end_together_and_only_the_first_process_writes(tmp_path):
    """Eleven participants in batches of four: three are left over, and no process waits for them."""
    command = [sys.executable, str(HELPERS / "training_driver.py"), str(tmp_path), json.dumps({"recipe": RECIPE})]
    texts = finish(start(command, 2))
    assert not any("Traceback" in text for text in texts)
    log = read_training_log(tmp_path / "training_log.tsv")
    assert log["step"].tolist() == [1, 2, 3, 4, 5, 6]
    first, second = (torch.load(tmp_path / f"weights-{rank}.pt") for rank in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_ranks_draw_different_views_of_different_participants(tmp_path):
    from helpers.training_driver import build_training, write_store  # noqa: PLC0415 - sets no environment

    from bids_semantoks.config import TrainingConfig  # noqa: PLC0415 - as above

    training = build_training(tmp_path, write_store(tmp_path / "s", complete=True), recipe=TrainingConfig(**RECIPE))
    (batch,) = next(training.feed.stream(0, 1))
    cut = [training._cutter.cut(batch, 0, part, is_masked=True) for part in (0, 0, 1)]
    assert torch.equal(cut[0].views, cut[1].views)
    assert torch.equal(cut[0].masks, cut[1].masks)
    assert not torch.equal(cut[0].views, cut[2].views)
    assert cut[0].absent is None
    n = len(batch.lengths)
    assert not np.allclose(cut[0].views[:n], cut[0].views[n:])


def test_a_signal_to_one_process_stops_all(tmp_path):
    recipe = RECIPE | {"epochs": 4000}
    command = [sys.executable, str(HELPERS / "training_driver.py"), str(tmp_path), json.dumps({"recipe": recipe})]
    processes = start(command, 2)
    assert processes[0].stdout.readline() == "1\n"
    processes[1].send_signal(signal.SIGTERM)
    texts = finish(processes, code=1)
    for text, reason in zip(texts, ("another process", "SIGTERM"), strict=True):
        assert f"TrainingStopped: Pretraining was stopped by {reason} and saved at step" in text
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 1


@pytest.mark.parametrize(
    ("device", "error", "n_shut"),
    [("cuda:0", ResourceError, 0), ("cuda:0", TrainingStopped, 1), ("cuda:0", None, 1), ("cpu", ResourceError, 1)],
)
def test_a_process_that_fails_alone_does_not_wait_for_the_others(monkeypatch, device, error, n_shut):
    """Shutting NCCL down takes all processes, and those that go on would never come."""
    shut, joined = [], []
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(torch.cuda, "set_device", joined.append)
    monkeypatch.setattr(distributed, "_meet", lambda rank, size: None)
    library = distributed.distributed
    monkeypatch.setattr(library, "init_process_group", lambda backend, **_: joined.append(backend))
    monkeypatch.setattr(library, "new_group", lambda **_: None)
    monkeypatch.setattr(library, "destroy_process_group", lambda: shut.append(True))

    def train():
        with distributed.join_ranks(torch.device(device)) as ranks:
            assert ranks.size == 2
            if error is not None:
                raise error("It went wrong.")

    if error is None:
        train()
    else:
        with pytest.raises(error, match="It went wrong"):
            train()
    assert len(shut) == n_shut
    assert joined[-1] == ("nccl" if device.startswith("cuda") else "gloo")


MEET = """
import sys
import torch
from bids_semantoks.errors import SemantoksError
from bids_semantoks.training.distributed import join_ranks
try:
    with join_ranks(torch.device("cpu")):
        pass
except SemantoksError as error:
    sys.exit(f"{error.exit_code} {error}")
"""


def test_a_port_in_use_is_said(monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = str(server.getsockname()[1])
        environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(HELPERS.parents[1])}
        command = [sys.executable, "-c", MEET]
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)
    assert f"5 The port of 127.0.0.1:{port} (MASTER_PORT) is in use" in done.stderr


def test_processes_that_never_come_are_said(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setattr(distributed, "_JOINING", datetime.timedelta(seconds=1))
    with pytest.raises(ResourceError, match="Process 0 of 2 could not connect"):
        distributed._meet(0, 2)


def test_fewer_gpus_than_processes_end_all_of_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "29500"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(ResourceError, match="2 processes on this machine, but only 1 GPUs"):
            distributed.choose_device(torch.device("cuda"))
        assert distributed.choose_device(torch.device("cpu")).type == "cpu"
