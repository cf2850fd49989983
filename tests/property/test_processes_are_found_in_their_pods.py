"""Every form in which kubelets and runtimes write cgroup paths leads to the pod, and nothing else does."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_fleet.agent.cgroup import ContainerRef, container_of, parse_cgroup, sees_host_processes

UIDS = st.one_of(st.uuids().map(str), st.binary(min_size=16, max_size=16).map(bytes.hex))
IDS = st.binary(min_size=32, max_size=32).map(bytes.hex)
QOS = st.sampled_from(["", "burstable", "besteffort"])
PREFIX = st.sampled_from(["", "/node1", "/kubelet.slice/kubelet", "/docker/" + "ab" * 32, "/..", "/../../.."])
RUNTIMES = st.sampled_from(["cri-containerd", "crio", "docker", "libpod"])
BELOW = st.sampled_from(["", "/init.scope", "/payload", "/system.slice/x.service"])
CONTROLLERS = ("name=systemd", "cpu,cpuacct", "memory", "")


def cgroupfs(uid: str, container: str, qos: str, prefix: str) -> str:
    return f"{prefix}/{'/'.join(filter(None, ['kubepods', qos, f'pod{uid}', container]))}"


def systemd(uid: str, container: str, qos: str, prefix: str, runtime: str) -> str:
    chain = "kubepods" if not qos else f"kubepods.slice/kubepods-{qos}"
    pod = f"{'-'.join(filter(None, ['kubepods', qos]))}-pod{uid.replace('-', '_')}.slice"
    return f"{prefix}/{chain}.slice/{pod}/{runtime}-{container}.scope"


@given(UIDS, IDS, QOS, st.tuples(PREFIX, BELOW), st.sampled_from(CONTROLLERS))
def test_cgroupfs_driver(uid: str, container: str, qos: str, around: tuple[str, str], controllers: str) -> None:
    prefix, below = around
    line = f"4:{controllers}:{cgroupfs(uid, container, qos, prefix)}{below}\n"
    assert parse_cgroup(line) == ContainerRef(uid, container)


@given(UIDS, IDS, QOS, RUNTIMES, st.tuples(PREFIX, BELOW))
def test_systemd_driver(uid: str, container: str, qos: str, runtime: str, around: tuple[str, str]) -> None:
    prefix, below = around
    line = f"0::{systemd(uid, container, qos, prefix, runtime)}{below}"
    assert parse_cgroup(line) == ContainerRef(uid, container)


@given(UIDS, IDS)
def test_systemd_kubelet_over_a_cgroupfs_runtime(uid: str, container: str) -> None:
    pod = f"kubepods-besteffort-pod{uid.replace('-', '_')}.slice"
    assert parse_cgroup(f"0::/system.slice/{pod}:cri-containerd:{container}") == ContainerRef(uid, container)


@given(UIDS, IDS, st.permutations(["1:name=systemd:/", "2:cpuset:/system.slice", "3:memory:POD", "0::/"]))
def test_one_controller_of_v1_is_enough(uid: str, container: str, lines: list[str]) -> None:
    path = cgroupfs(uid, container, "burstable", "")
    assert parse_cgroup("\n".join(lines).replace("POD", path)) == ContainerRef(uid, container)


@given(UIDS)
def test_a_pod_without_a_known_container(uid: str) -> None:
    assert parse_cgroup(f"0::/kubepods/pod{uid}/sandbox") == ContainerRef(uid, "")


@given(st.text(max_size=300))
def test_any_text_is_parsed(text: str) -> None:
    found = parse_cgroup(text)
    assert found is None or found.pod_uid in text.replace("_", "-")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0::/",
        "0::/user.slice/user-1000.slice/session-3.scope",
        "0::/system.slice/containerd.service",
        "0::/docker/" + "ab" * 32,
        "0::/kubepods/podinfo/" + "ab" * 32,
        "0::/machine.slice/libpod-" + "ab" * 32 + ".scope",
    ],
)
def test_outside_of_pods(text: str) -> None:
    assert parse_cgroup(text) is None


def test_files_are_read_where_the_process_is(tmp_path: Path) -> None:
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "cgroup").write_text(f"0::/kubepods/pod{'a' * 32}/{'b' * 64}\n")
    assert container_of(77, proc=tmp_path) == ContainerRef("a" * 32, "b" * 64)
    assert container_of(78, proc=tmp_path) is None


def test_the_namespace_of_processes_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "self" / "ns").mkdir(parents=True)
    assert not sees_host_processes(proc=tmp_path)
    (tmp_path / "self" / "ns" / "pid").symlink_to("pid:[4026532768]")
    assert not sees_host_processes(proc=tmp_path)
    (tmp_path / "self" / "ns" / "pid").unlink()
    (tmp_path / "self" / "ns" / "pid").symlink_to("pid:[4026531836]")
    assert sees_host_processes(proc=tmp_path)
