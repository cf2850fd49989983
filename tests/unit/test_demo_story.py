"""The demo's story, with programs in the place of helm and kubectl that say what they were told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ollama_fleet.api import names
from ollama_fleet.manifests.names import Owner
from ollama_fleet.manifests.network import network_policy
from ollama_fleet.planning.planner import plan_deployment
from testbed.demo import asking, kubectl, story
from testbed.demo.cluster import DemoCluster
from tests.support.netpol import Peer, admits
from tests.support.plans import request, view
from tests.support.programs import Programs

IMAGE = "localhost/ollama-fleet-demo:0123456789ab"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Programs(tmp_path)


def demo_cluster(tmp_path: Path) -> DemoCluster:
    helm = tmp_path / "helm"
    return DemoCluster(
        tmp_path / "config", helm, IMAGE, "ollama/ollama", "0.32.3", registry="", model="chat", gpus=None
    )


def test_a_killed_helm_does_not_block_the_next_one(programs: Programs, tmp_path: Path) -> None:
    programs.add("kubectl")
    programs.add("helm")
    story._install(demo_cluster(tmp_path))
    removal, upgrade = programs.calls()
    assert "delete secrets --namespace ollama-fleet --selector owner=helm,status in (pending-install," in removal
    assert upgrade.startswith("helm upgrade --install")


def test_a_chart_that_does_not_come_up_is_told_with_its_pods(programs: Programs, tmp_path: Path) -> None:
    programs.add("kubectl", 'case "$*" in *" get pods "*) echo ollama-fleet ImagePullBackOff;; esac')
    programs.add("helm", "echo context deadline exceeded >&2; exit 1")
    with pytest.raises(RuntimeError, match="context deadline exceeded\nollama-fleet ImagePullBackOff"):
        story._install(demo_cluster(tmp_path))


def test_ready_for_an_earlier_wish_is_not_ready(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition = {"type": "Ready", "status": "True", "reason": "AllWarm", "observedGeneration": 1}
    shown = {"metadata": {"generation": 2}, "status": {"conditions": [condition]}}
    programs.add("kubectl", f"cat <<'END'\n{json.dumps(shown)}\nEND")
    monkeypatch.setattr(kubectl, "_READY_SECONDS", 0.1)
    monkeypatch.setattr(kubectl, "_POLL_SECONDS", 0.01)
    with pytest.raises(RuntimeError, match="Waiting: for the operator"):
        kubectl.wait_ready(demo_cluster(tmp_path), "chat")
    condition["observedGeneration"] = 2
    programs.add("kubectl", f"cat <<'END'\n{json.dumps(shown)}\nEND")
    kubectl.wait_ready(demo_cluster(tmp_path), "chat")


def test_a_client_that_fails_is_told_and_its_pod_is_removed(programs: Programs, tmp_path: Path) -> None:
    programs.add("kubectl", 'case "$*" in *" exec "*) echo refused >&2; exit 1;; esac')
    with pytest.raises(RuntimeError, match="asking the model failed: refused"), asking.client(demo_cluster(tmp_path)):
        list(asking.stream(demo_cluster(tmp_path), "chat-g0", {}))
    assert programs.calls("kubectl")[-1].endswith("delete pod chat-client --ignore-not-found --now")


def test_the_client_is_one_that_the_servers_network_policy_lets_in() -> None:
    pod = asking._manifest(IMAGE)["metadata"]
    group = plan_deployment(request(view({"name": "chat"}))).groups[0]
    policy = network_policy(group, owner=Owner("default", "chat", "u"))
    source = Peer(pod.get("namespace", "default"), pod.get("labels", {}))
    assert admits(policy, source=source, port=names.PORT_DATA)


def test_the_clients_program_says_why_there_is_no_answer() -> None:
    patched = asking._ASK.replace("range(120)", "range(2)").replace("0.25", "0")
    command = [sys.executable, "-c", patched, "http://127.0.0.1:1/api/generate", "{}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "no_proxy": "*"})
    assert done.returncode == 1
    assert "no answer: <urlopen error [Errno 111] Connection refused>" in done.stderr
