"""The command line of the test bed: what it starts answers, what it shows is true, what it removes is gone."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from testbed.paths import ROOT, STATE
from testbed.processes import Process, Processes
from testbed.state import remove

pytestmark = pytest.mark.cluster

NAME = f"test-cli-{os.getpid()}"
STARTED = {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "registry"}


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "testbed", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def started() -> Iterator[subprocess.CompletedProcess[str]]:
    try:
        yield run_cli("up", "--id", NAME, "--level", "kwok", "--nodes", "2", "--registry")
    finally:
        remove(STATE / NAME)


def recorded() -> dict[str, Process]:
    return {process.name: process for process in Processes(STATE / NAME).all()}


def test_up_prints_what_reaches_the_cluster(started: subprocess.CompletedProcess[str]) -> None:
    assert started.returncode == 0, started.stderr
    assert started.stdout == f"export KUBECONFIG={STATE / NAME / 'kubeconfig'}\n"
    assert {name for name, process in recorded().items() if process.alive} == STARTED


def test_up_again_keeps_what_runs(started: subprocess.CompletedProcess[str]) -> None:
    before = recorded()
    assert run_cli("up", "--id", NAME, "--level", "kwok", "--nodes", "2", "--registry").stdout == started.stdout
    assert recorded() == before


@pytest.mark.usefixtures("started")
def test_status_shows_every_process_and_which_are_dead() -> None:
    Processes(STATE / NAME).kill("registry")
    rows = [line.split() for line in run_cli("status").stdout.splitlines()]
    shown = {row[1]: (int(row[2]), row[3]) for row in rows if row[0] == NAME}
    assert shown == {
        name: (process.pid, "dead" if name == "registry" else "running") for name, process in recorded().items()
    }


@pytest.mark.usefixtures("started")
def test_logs_are_those_of_the_component_and_an_unknown_one_is_told_the_known() -> None:
    log = Processes(STATE / NAME).log("kube-scheduler").read_text()
    assert log
    assert run_cli("logs", "--id", NAME, "kube-scheduler").stdout.startswith(log)
    unknown = run_cli("logs", "--id", NAME, "scheduler")
    assert unknown.returncode == 1
    assert "kube-scheduler" in unknown.stderr


@pytest.mark.usefixtures("started")
def test_follow_goes_on_with_what_is_written_later() -> None:
    path = Processes(STATE / NAME).log("registry")
    command = [sys.executable, "-m", "testbed", "logs", "--follow", "--id", NAME, "registry"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert reader.stdout is not None
            # All that is there has been read before the line is written.
            for _ in path.read_text().splitlines():
                reader.stdout.readline()
            with path.open("a") as log:
                log.write("written later\n")
            assert reader.stdout.readline() == "written later\n"
        finally:
            reader.kill()


@pytest.mark.usefixtures("started")
def test_down_removes_it_and_may_be_repeated() -> None:
    processes = recorded().values()
    assert run_cli("down", "--id", NAME).returncode == 0
    assert not any(process.alive for process in processes)
    assert not (STATE / NAME).exists()
    assert run_cli("down", "--id", NAME).returncode == 0
