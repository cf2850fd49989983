"""``kubectl ollama status``: a tree for people, exit codes for scripts."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ollama_fleet.cli.main import main
from ollama_fleet.cli.tree import render


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def deployment(
    name: str = "chat", *, ready: str = "True", reason: str = "AllWarm", message: str = ""
) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "prod", "name": name},
        "status": {
            "conditions": [condition("Ready", ready, reason, message), condition("Reconciling", "False", reason)],
            "ready": "1/2",
            "warm": "1/1",
            "version": "0.32.3",
            "groups": [{"name": "g0", "ready": 1, "replicas": 2, "endpoint": "http://chat-g0.prod.svc:11434"}],
            "models": [{"name": "chat", "group": "g0", "state": "Warm", "memory": 5_300_000_000}],
        },
    }


def pod(name: str, *, ready: bool) -> dict[str, Any]:
    conditions = [condition("Ready", "True" if ready else "False", "")]
    conditions.append(
        condition("ollamafleet.io/vram-resident", "False", "Loading", "0/1 models in memory; waiting for chat")
    )
    labels = {"ollamafleet.io/deployment": "chat", "ollamafleet.io/group": "g0"}
    return {
        "metadata": {"namespace": "prod", "name": name, "labels": labels},
        "spec": {"nodeName": "node-1"},
        "status": {"phase": "Running", "conditions": conditions},
    }


def test_a_ready_deployment_is_a_short_tree() -> None:
    assert list(render([deployment()], [pod("chat-g0-a", ready=True)])) == [
        "✓ prod/chat  AllWarm  servers 1/2  warm 1/1  0.32.3",
        "└─ group g0  1/2 ready  http://chat-g0.prod.svc:11434",
        "   ├─ model chat  Warm  5.3 GB",
        "   └─ pod chat-g0-a  Ready  on node-1",
    ]


def test_what_is_not_ready_says_why_and_what_to_do() -> None:
    broken = deployment(ready="False", reason="ModelSetMissing", message="ModelSet x does not exist")
    assert list(render([broken], [pod("chat-g0-a", ready=False)])) == [
        "✗ prod/chat  ModelSetMissing  servers 1/2  warm 1/1  0.32.3",
        "├─ why: ModelSet x does not exist",
        "├─ next: Create it or remove it from `spec.modelSets`.",
        "└─ group g0  1/2 ready  http://chat-g0.prod.svc:11434",
        "   ├─ model chat  Warm  5.3 GB",
        "   └─ pod chat-g0-a  Running  on node-1  Loading: 0/1 models in memory; waiting for chat",
    ]


def test_an_object_that_nobody_has_seen_yet_is_shown_too() -> None:
    fresh = {"metadata": {"namespace": "prod", "name": "new"}, "status": {"observedGeneration": -1}}
    assert list(render([fresh], [])) == ["? prod/new  Unknown  servers -  warm -"]


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that answers from files."""
    program = tmp_path / "kubectl"
    program.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "with (here / 'asked').open('a') as log: print(*sys.argv[1:], file=log)\n"
        "if (here / 'error').exists(): sys.exit((here / 'error').read_text())\n"
        "if 'config' in sys.argv: print('prod')\n"
        "elif 'pods' in sys.argv: print((here / 'pods').read_text())\n"
        "else: print((here / 'deployments').read_text())\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "pods").write_text(json.dumps({"items": []}))
    return tmp_path


def answer(kubectl: Path, *deployments: dict[str, Any]) -> None:
    (kubectl / "deployments").write_text(json.dumps({"items": list(deployments)}))


def test_exit_codes_tell_scripts(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer(kubectl, deployment())
    assert main(["status"]) == 0
    answer(kubectl, deployment(), deployment("broken", ready="False", reason="Loading"))
    assert main(["status", "-A"]) == 2
    assert main(["status", "chat"]) == 0
    assert main(["status", "nope", "-n", "prod"]) == 1
    assert "no OllamaDeployment nope in namespace prod" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("metadata", "observed", "why"),
    [
        ({"generation": 2}, {"observedGeneration": 1}, "the operator has not read the last change yet"),
        ({"generation": 1}, {}, "the operator has not read the last change yet"),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, {}, "it is being deleted"),
    ],
)
def test_a_status_that_speaks_of_something_else_is_not_ready(
    metadata: dict[str, Any],
    observed: dict[str, Any],
    why: str,
    kubectl: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = deployment()
    answer(kubectl, {"metadata": found["metadata"] | metadata, "status": found["status"] | observed})
    assert main(["status"]) == 2
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("? prod/chat")
    assert why in second
    now = {"metadata": found["metadata"] | {"generation": 2}, "status": found["status"] | {"observedGeneration": 2}}
    answer(kubectl, now)
    assert main(["status"]) == 0


def test_only_pods_of_the_product_are_read(kubectl: Path) -> None:
    answer(kubectl, deployment())
    assert main(["status"]) == 0
    asked = (kubectl / "asked").read_text().splitlines()
    assert [line for line in asked if " pods " in line] == [
        "get pods --namespace prod --selector ollamafleet.io/deployment -o json"
    ]


def test_json_is_what_the_cluster_says(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer(kubectl, deployment())
    assert main(["status", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [deployment()]


def test_kubectls_own_words_come_through(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (kubectl / "error").write_text('error: context "x" does not exist')
    assert main(["status", "--context", "x"]) == 1
    assert 'context "x" does not exist' in capsys.readouterr().err


def test_without_kubectl_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["status"]) == 1
    assert "kubectl is not on the PATH" in capsys.readouterr().err


def test_it_starts_without_the_heavy_libraries() -> None:
    heavy = ("kopf", "kubernetes", "aiohttp", "httpx", "rich")
    program = f"import ollama_fleet.cli.main, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
