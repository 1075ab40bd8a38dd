"""Without a compiler a training on a GPU runs as it is, and says so once."""

import logging
import shutil
import sysconfig
from types import SimpleNamespace

import pytest
import torch

from bids_semantoks.training import loop
from bids_semantoks.training.loop import Pretraining


@pytest.fixture
def tools(monkeypatch, tmp_path):
    """A folder for compilers and one for headers, both empty, and nothing else."""
    for name in ("bin", "include"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_paths", lambda _: {"include": str(tmp_path / "include")})
    return tmp_path


def add_compiler(folder, name):
    (folder / "bin" / name).write_text("#!/bin/sh\n")
    (folder / "bin" / name).chmod(0o755)


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_compiler_and_headers_are_needed(tools, name):
    assert loop.find_compiler_obstacle() == "No C compiler is there"
    add_compiler(tools, name)
    assert shutil.which(name) is not None
    assert loop.find_compiler_obstacle() == f"The headers of Python are not in {tools / 'include'} (python3-dev)"
    (tools / "include" / "Python.h").touch()
    assert loop.find_compiler_obstacle() == ""


def test_headers_of_the_python_of_debian(tools, monkeypatch):
    """Its default scheme names a folder below /usr/local that holds none."""
    add_compiler(tools, "gcc")
    folders = {"posix_local": tools / "local", "posix_prefix": tools / "include"}
    monkeypatch.setattr(sysconfig, "get_default_scheme", lambda: "posix_local")
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme="posix_local": {"include": str(folders[scheme])})
    assert loop.find_compiler_obstacle() == f"The headers of Python are not in {tools / 'include'} (python3-dev)"
    (tools / "include" / "Python.h").touch()
    assert loop.find_compiler_obstacle() == ""


def test_the_compiler_that_cc_names_counts(tools, monkeypatch):
    (tools / "include" / "Python.h").touch()
    add_compiler(tools, "icx")
    assert loop.find_compiler_obstacle() == "No C compiler is there"
    monkeypatch.setenv("CC", "icx -O2")
    assert loop.find_compiler_obstacle() == ""
    add_compiler(tools, "gcc")
    monkeypatch.setenv("CC", "absent")
    assert loop.find_compiler_obstacle() == "No C compiler is there"


@pytest.mark.parametrize(("device", "is_compiled"), [("cuda", True), ("cpu", False)])
def test_one_warning_and_no_compilation(tools, device, is_compiled, caplog, monkeypatch):
    calls = []
    training = object.__new__(Pretraining)
    training.device = torch.device(device)
    training.module = SimpleNamespace(compile_encoders=lambda: calls.append("compiled"))
    training.ranks = SimpleNamespace(size=1)
    with caplog.at_level(logging.WARNING, logger="bids_semantoks"):
        training._wrap()
    expected = ["No C compiler is there, so the encoder is not compiled and training is slower."]
    assert [record.getMessage() for record in caplog.records] == (expected if is_compiled else [])
    assert calls == []
    add_compiler(tools, "gcc")
    (tools / "include" / "Python.h").touch()
    training._wrap()
    assert calls == (["compiled"] if is_compiled else [])
