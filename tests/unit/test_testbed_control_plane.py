"""How a control plane is started: who reaches it, who has rights there. Its components are stand-ins that sleep."""

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from testbed import controlplane
from testbed.controlplane import ControlPlane, DifferentTestBed
from testbed.nodes import kubelet
from testbed.nodes.node import nodes_of

COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
Up = Callable[..., ControlPlane]


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    for name in COMPONENTS:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\nwhile :; do sleep 1; done\n")
        program.chmod(0o755)
    monkeypatch.setattr(controlplane, "ensure", lambda _: tmp_path)
    monkeypatch.setattr(ControlPlane, "_answers", lambda *_: True)
    made = []

    def start(state: Path, **options: str) -> ControlPlane:
        plane = ControlPlane(state, **options)
        made.append(plane)
        plane.up()
        return plane

    yield start
    for plane in made:
        plane.down()


def flags(plane: ControlPlane, component: str) -> dict[str, str]:
    process = plane.processes.get(component)
    assert process is not None
    words = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
    return dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--") and "=" in word)


def test_the_api_server_listens_at_its_address_and_nowhere_else(tmp_path: Path, up: Up) -> None:
    assert flags(up(tmp_path / "alone"), "kube-apiserver")["bind-address"] == "127.0.0.1"
    assert flags(up(tmp_path / "nodes", address="10.245.0.1"), "kube-apiserver")["bind-address"] == "10.245.0.1"


def test_each_has_a_token_of_its_own_which_stays_and_which_nobody_else_can_read(tmp_path: Path, up: Up) -> None:
    one, other = up(tmp_path / "one"), up(tmp_path / "other")
    token = one.token
    assert token != other.token
    assert len(token) >= 32
    one.up()
    assert one.token == token
    assert yaml.safe_load(one.kubeconfig.read_text())["users"][0]["user"] == {"token": token}
    assert stat.S_IMODE(one.state.stat().st_mode) == 0o700


def test_a_kubelet_knows_only_those_who_have_a_certificate_of_the_cluster(tmp_path: Path, up: Up) -> None:
    plane = up(tmp_path / "state")
    (node,) = nodes_of(plane.state, 1)
    asked = kubelet._kubelet_config(node, plane)["authentication"]
    assert asked["anonymous"] == asked["webhook"] == {"enabled": False}
    assert asked["x509"]["clientCAFile"] == str(plane.certificates.ca)
    told = flags(plane, "kube-apiserver")
    assert Path(told["kubelet-client-certificate"]).is_file()
    assert Path(told["kubelet-client-key"]).is_file()


@pytest.mark.parametrize("other", [{"address": "10.245.0.1"}, {"minor": "1.35"}])
def test_up_of_one_that_is_there_is_refused_for_another_address_or_minor(
    tmp_path: Path, up: Up, other: dict[str, str]
) -> None:
    first = up(tmp_path / "state")
    told = flags(first, "kube-apiserver")
    with pytest.raises(DifferentTestBed, match="take it down first"):
        up(tmp_path / "state", **other)
    assert flags(first, "kube-apiserver") == told
    assert yaml.safe_load(first.kubeconfig.read_text())["clusters"][0]["cluster"]["server"] == first.url
