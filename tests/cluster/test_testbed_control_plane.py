"""Control planes of the test bed: real enforcement, side by side, gone without a trace, up again after crashes."""

import json
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed import crds
from testbed.controlplane import ControlPlane
from testbed.nodes import api
from testbed.paths import ROOT, STATE
from testbed.processes import Processes
from testbed.registry import Registry
from testbed.state import claimed

pytestmark = pytest.mark.cluster

COMPONENTS = {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PURPOSE = "test-plane"

_RUN = f"""
import sys, time
sys.path.insert(0, sys.argv[1])
from testbed.controlplane import ControlPlane
from testbed.state import claimed
with claimed("{PURPOSE}-killed") as state:
    ControlPlane(state).up()
    print(state, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with claimed(PURPOSE) as state:
        made = ControlPlane(state)
        made.up()
        yield made


def of_test_bed(state: Path) -> list[str]:
    """Command lines of all processes of the machine that name the directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in found if str(state) in line]


def config_map(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}


def definition() -> dict[str, Any]:
    spec = {
        "type": "object",
        "properties": {"low": {"type": "integer"}, "high": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.low <= self.high", "message": "low must not be above high"}],
    }
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "ranges.test.example"},
        "spec": {
            "group": "test.example",
            "names": {"kind": "Range", "plural": "ranges"},
            "scope": "Namespaced",
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


def test_it_is_ready_quickly_and_all_components_run(plane: ControlPlane) -> None:
    assert {process.name for process in plane.processes.all() if process.alive} == COMPONENTS
    plane.down()
    started = time.monotonic()
    plane.up()
    assert time.monotonic() - started < 10
    assert api.read(plane, "/readyz") == "ok"


def test_rules_of_custom_resources_are_enforced(plane: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "ranges.yaml").write_text(yaml.safe_dump(definition()))
    crds.install(plane, tmp_path)
    body = {"apiVersion": "test.example/v1", "kind": "Range", "metadata": {"name": "good"}}
    path = "/apis/test.example/v1/namespaces/default/ranges"
    api.call(plane, "POST", path, {**body, "spec": {"low": 1, "high": 2}})
    with pytest.raises(urllib.error.HTTPError) as refused:
        api.call(plane, "POST", path, {**body, "metadata": {"name": "bad"}, "spec": {"low": 3, "high": 2}})
    assert refused.value.code == 422
    assert "low must not be above high" in refused.value.read().decode()


def test_two_stand_side_by_side_and_know_nothing_of_each_other(plane: ControlPlane) -> None:
    with claimed(PURPOSE) as state:
        other = ControlPlane(state)
        other.up()
        api.call(other, "POST", CONFIG_MAPS, config_map("only-there"))
        assert api.call(other, "GET", f"{CONFIG_MAPS}/only-there")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            api.call(plane, "GET", f"{CONFIG_MAPS}/only-there")
    assert api.read(plane, "/readyz") == "ok"


def test_nothing_of_it_stays() -> None:
    with claimed(PURPOSE) as state:
        plane = ControlPlane(state)
        plane.up()
        Registry(plane.processes, state).up()
        assert len(of_test_bed(state)) == len(COMPONENTS) + 1
    assert of_test_bed(state) == []
    assert not state.exists()


def test_it_comes_up_with_its_objects_after_every_component_was_killed(plane: ControlPlane) -> None:
    api.call(plane, "POST", CONFIG_MAPS, config_map("stays"))
    for component in COMPONENTS:
        plane.processes.kill(component)
    plane.up()
    assert api.call(plane, "GET", f"{CONFIG_MAPS}/stays")["metadata"]["name"] == "stays"
    assert {process.name for process in plane.processes.all() if process.alive} == COMPONENTS


def test_what_a_killed_run_left_is_removed_by_the_next_and_what_a_living_one_uses_stays() -> None:
    with ExitStack() as stack:
        runs = []
        for _ in range(2):
            command = [sys.executable, "-c", _RUN, str(ROOT)]
            run = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(run.kill)
            assert run.stdout is not None
            runs.append((run, Path(run.stdout.readline().strip())))
        (killed, left), (living, used) = runs
        killed.kill()
        killed.wait()
        assert of_test_bed(left) != []
        with claimed(f"{PURPOSE}-killed"):
            assert of_test_bed(left) == []
            assert not left.exists()
            assert len(of_test_bed(used)) == len(COMPONENTS)
        living.kill()
        living.wait()
    with claimed(f"{PURPOSE}-killed"):
        assert of_test_bed(used) == []
    assert list(STATE.glob(f"{PURPOSE}-killed-*")) == []


def test_a_program_whose_record_was_never_written_is_stopped(plane: ControlPlane) -> None:
    records = Processes(plane.state)
    process = records.start("orphan", ["sleep", "600"])
    (plane.state / "processes" / "orphan.json").unlink()
    plane.down()
    assert not process.alive
    assert of_test_bed(plane.state) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_got_the_id_of_ours_is_never_touched(tmp_path: Path, number: int) -> None:
    records = Processes(tmp_path)
    with subprocess.Popen(["sleep", "600"]) as stranger:
        process = records.start("ours", ["sleep", "600"])
        records.stop("ours")
        # Long ago: here both may have been started in the same tick of the clock, which a reused id cannot be.
        record = replace(process, pid=stranger.pid, started=process.started - 6000)
        (tmp_path / "processes" / "ours.json").write_text(json.dumps(asdict(record)))
        if number == signal.SIGKILL:
            records.kill("ours")
        else:
            records.stop_all()
        assert stranger.poll() is None
        stranger.kill()
