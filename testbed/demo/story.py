"""What the demo shows on a cluster: install the chart, apply two manifests, wait, ask, look."""

import json
import sys
import time
from typing import Any, Final

import yaml

from testbed.demo.asking import client, stream
from testbed.demo.cluster import DemoCluster
from testbed.demo.gpus import on_a_gpu
from testbed.demo.kubectl import kubectl, run, show, wait_ready
from testbed.fakes.gpus import RUNTIME_CLASS
from testbed.paths import ROOT
from testbed.say import say, step

_NAMESPACE: Final = "ollama-fleet"
_PROMPT: Final = "What do you do?"
_TOKENS: Final = 24


def tell(cluster: DemoCluster) -> None:
    """Everything after the cluster is there. Raises RuntimeError with the output of what failed."""
    with step("chart"):
        _install(cluster)
    with client(cluster):
        _serve(cluster)
    ours = ("-l", "app.kubernetes.io/managed-by=ollama-fleet")
    show(cluster, "get", "od,mset")
    show(cluster, "get", "pods,services", *ours)
    if cluster.gpus is None:
        show(cluster, "get", "nvr")
        say("A server on a GPU is not shown: this cluster's node has none, and only the test bed's own can play one.\n")
    else:
        on_a_gpu(cluster, cluster.gpus)
    say(f"look around: export KUBECONFIG={cluster.kubeconfig}\nremove it all: {cluster.down}")


def _serve(cluster: DemoCluster) -> None:
    say("\n$ kubectl apply -f -  # a ModelSet and an OllamaDeployment")
    applied = time.monotonic()
    kubectl(cluster, "apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(manifests(cluster)))
    with step("ready"):
        wait_ready(cluster, "chat")
    say(f'\n$ curl http://chat-g0:11434/api/generate -d \'{{"model": "chat", "prompt": "{_PROMPT}"}}\'')
    first = _ask(cluster)
    say(f"\n  kubectl apply to first token: {first - applied:.1f} s\n")


def manifests(cluster: DemoCluster) -> list[dict[str, Any]]:
    """The two wishes."""
    model: dict[str, Any] = {"name": "chat", "model": cluster.model, "contextLength": 2048}
    models: dict[str, Any] = {"models": [model]}
    if cluster.registry:
        models["source"] = {"registry": cluster.registry, "insecure": True}
    api = "ollamafleet.io/v1alpha1"
    return [
        {"apiVersion": api, "kind": "ModelSet", "metadata": {"name": "chat"}, "spec": models},
        {
            "apiVersion": api,
            "kind": "OllamaDeployment",
            "metadata": {"name": "chat"},
            "spec": {
                "modelSets": [{"name": "chat"}],
                "version": cluster.ollama_version,
                "hardware": {"cpu": {"cores": "500m", "memory": "1Gi"}},
            },
        },
    ]


def _install(cluster: DemoCluster) -> None:
    repository, _, tag = cluster.fleet_image.rpartition(":")
    values = {
        "image.repository": repository,
        "image.tag": tag,
        "ollama.repository": cluster.ollama_repository,
        "operator.logFormat": "text",
        "agent.preset": "full" if cluster.gpus else "minimal",
        "agent.runtimeClassName": RUNTIME_CLASS if cluster.gpus else "",
    }
    chart = str(ROOT / "charts" / "ollama-fleet")
    arguments = [str(cluster.helm), "upgrade", "--install", "ollama-fleet", chart, "--wait", "--timeout", "5m"]
    arguments += ["--namespace", _NAMESPACE, "--create-namespace", "--kubeconfig", str(cluster.kubeconfig)]
    if cluster.ollama_repository.startswith("localhost/"):
        # Built here: it has another digest than the image that is published for the version.
        arguments.append("--set=ollama.digests=null")
    # What a killed run left: helm would wait for it for ever.
    pending = "owner=helm,status in (pending-install,pending-upgrade,pending-rollback)"
    kubectl(cluster, "delete", "secrets", "--namespace", _NAMESPACE, "--selector", pending)
    try:
        run([*arguments, *(f"--set-string={key}={value}" for key, value in values.items())])
    except RuntimeError as error:
        # helm says that it waited too long, and not for what.
        pods = kubectl(cluster, "get", "pods", "--all-namespaces")
        raise RuntimeError(f"{error}{pods}look around: export KUBECONFIG={cluster.kubeconfig}") from error


def _ask(cluster: DemoCluster) -> float:
    """Stream an answer to stdout; returns when its first token came, on the monotonic clock."""
    body = {"model": "chat", "prompt": _PROMPT, "options": {"num_predict": _TOKENS}}
    first = 0.0
    for line in stream(cluster, "chat-g0", body):
        token = json.loads(line).get("response", "")
        first = first or (time.monotonic() if token else 0.0)
        sys.stdout.write(token)
        sys.stdout.flush()
    if not first:
        raise RuntimeError("the model gave no token")
    sys.stdout.write("\n")
    return first
