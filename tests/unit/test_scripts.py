"""The scripts behind the make targets."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed.paths import ROOT

# Cleans up as pytest does, which takes a moment and says something.
PROGRAM = """
import sys, time
from pathlib import Path
place = Path(sys.argv[1])
try:
    place.write_text("runs")
    time.sleep(600)
finally:
    time.sleep(0.3)
    print("cleaning up", flush=True)
    place.write_text("clean")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "program.py").write_text(PROGRAM)
    names = ("one", "two", "three")
    rules = "\n".join(f"{name}:\n\t@{sys.executable} program.py {name}.txt" for name in names)
    (tmp_path / "Makefile").write_text(f"{rules}\ngood:\n\t@echo fine\nbad:\n\t@false\n")
    return tmp_path


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_lanes_that_are_interrupted_clean_up_before_it_ends(project: Path, number: signal.Signals) -> None:
    # As in the background of a script, which is the harder case.
    command = ["env", "--ignore-signal=INT", "scripts/beside", "one,three", "two"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as beside:
        try:
            while not all(text(project / f"{name}.txt") for name in ("one", "two")):
                assert beside.poll() is None
                time.sleep(0.05)
            beside.send_signal(number)
            told, _ = beside.communicate(timeout=20)
        finally:
            beside.kill()
    assert beside.returncode == 130
    assert [text(project / f"{name}.txt") for name in ("one", "two", "three")] == ["clean", "clean", ""]
    assert "one: cleaning up" in told


def test_lanes_say_whose_output_it_is_and_one_that_fails_fails_all(project: Path) -> None:
    done = subprocess.run(
        ["scripts/beside", "good", "bad,good"], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout.count("good: fine") == 2
    assert subprocess.run(["scripts/beside", "good"], cwd=project, capture_output=True, check=False).returncode == 0
