"""Programs that were started but not recorded, because who started them was killed between the two."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.processes import ENDS_WITH_US, Process, Processes

# As containerd does with its shims: the environment is passed on, the session is not left.
PARENT = """
import subprocess, time
print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Processes]:
    found = Processes(tmp_path / "bed")
    yield found
    found.stop_all(grace=1)


def forget(tmp_path: Path, process: Process) -> None:
    # The kernel shows the environment a moment after the program started.
    while b"OLLAMA_FLEET_TESTBED" not in Path(f"/proc/{process.pid}/environ").read_bytes():
        assert process.alive
    (tmp_path / "bed" / "processes" / f"{process.name}.json").unlink()


def test_start_takes_it_over_and_records_it(tmp_path: Path, records: Processes) -> None:
    process = records.start("kubelet-1", ["sleep", "600"], endpoint="there")
    forget(tmp_path, process)
    assert records.start("kubelet-1", ["sleep", "600"], endpoint="there") == process
    assert list(records.all()) == [process]


def test_stop_ends_the_one_of_that_name(tmp_path: Path, records: Processes) -> None:
    process, other = (records.start(name, ["sleep", "600"]) for name in ("kubelet-1", "kubelet-2"))
    forget(tmp_path, process)
    records.stop("kubelet-1")
    assert not process.alive
    assert other.alive


def test_what_a_killed_program_started_is_not_taken_for_it_but_ends_with_all(
    tmp_path: Path, records: Processes
) -> None:
    program = records.start("containerd-1", [sys.executable, "-c", PARENT])
    log = records.log("containerd-1")
    while not log.read_text().endswith("\n"):
        assert program.alive
    shim = Process("shim", int(log.read_text()), _started(int(log.read_text())))
    records.kill("containerd-1")
    assert shim.alive
    assert records.start("containerd-1", ["sleep", "600"]).pid not in {program.pid, shim.pid}
    records.stop_all()
    assert not shim.alive


def _started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_a_program_that_is_no_test_beds_ends_with_who_started_it() -> None:
    code = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); input()"
    command = [sys.executable, "-c", code, *ENDS_WITH_US, "sleep", "600"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        number = int(starter.stdout.readline())
        program = Process("sleep", number, _started(number))
        assert program.alive
        # Not before it is what it will be: until then nobody watches over it.
        while Path(f"/proc/{number}/comm").read_text() != "sleep\n":
            assert program.alive
        starter.kill()
    deadline = time.monotonic() + 5
    while program.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not program.alive
