"""What is removed is what was named, and what a dead run left: nothing else."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from testbed import __main__ as command_line
from testbed import nodes, state
from testbed.processes import Process, Processes, this_process


@pytest.fixture
def beds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where test beds are, in this test."""
    directory = tmp_path / "beds"
    directory.mkdir()
    monkeypatch.setattr(command_line, "STATE", directory)
    monkeypatch.setattr(state, "STATE", directory)
    monkeypatch.setattr(nodes, "_OWNER", directory / "nodes-owner")
    return directory


@pytest.fixture
def somebodys(beds: Path) -> Iterator[Process]:
    """A program of a test bed that nobody claimed."""
    records = Processes(beds / "pytest-mine")
    yield records.start("etcd", ["sleep", "600"])
    records.stop_all()


@pytest.mark.parametrize("name", ["", ".", "..", "../home", "/", "a/b", "-x"])
def test_a_name_that_is_no_directory_of_its_own_is_refused(
    beds: Path, somebodys: Process, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["testbed", "down", f"--id={name}"])
    with pytest.raises(SystemExit, match="2"):
        command_line.main()
    assert repr(name) in capsys.readouterr().err
    assert somebodys.alive
    assert (beds / "pytest-mine").is_dir()


def test_a_directory_that_nobody_claimed_stays_when_a_run_starts(beds: Path, somebodys: Process) -> None:
    with state.claimed("pytest") as mine:
        assert mine.is_dir()
        assert somebodys.alive
        assert (beds / "pytest-mine").is_dir()


def test_a_directory_whose_run_is_dead_goes_when_a_run_starts(beds: Path, somebodys: Process) -> None:
    gone = replace(this_process(), started=1)
    (beds / "pytest-mine" / "owner.json").write_text(json.dumps(asdict(gone)))
    with state.claimed("pytest"):
        assert not somebodys.alive
        assert not (beds / "pytest-mine").exists()
