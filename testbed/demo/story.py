"""What the demo shows on a cluster: install the chart, apply two manifests, wait, ask, look."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import yaml

from testbed.demo.cluster import DemoCluster
from testbed.demo.gpus import on_a_gpu
from testbed.demo.kubectl import command, kubectl, run, show, wait_ready
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
    say("\n$ kubectl apply -f -  # a ModelSet and an OllamaDeployment")
    applied = time.monotonic()
    kubectl(cluster, "apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(manifests(cluster)))
    with step("ready"):
        wait_ready(cluster, "chat")
    say(f'\n$ curl http://chat-g0:11434/api/generate -d \'{{"model": "chat", "prompt": "{_PROMPT}"}}\'')
    first = _ask(cluster)
    say(f"\n  kubectl apply to first token: {first - applied:.1f} s\n")
    ours = ("-l", "app.kubernetes.io/managed-by=ollama-fleet")
    show(cluster, "get", "od,mset")
    show(cluster, "get", "pods,services", *ours)
    if cluster.gpus is None:
        show(cluster, "get", "nvr")
        say("A server on a GPU is not shown: this cluster's node has none, and only the test bed's own can play one.\n")
    else:
        on_a_gpu(cluster, cluster.gpus)
    say(f"look around: export KUBECONFIG={cluster.kubeconfig}\nremove it all: {cluster.down}")


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
    run([*arguments, *(f"--set-string={key}={value}" for key, value in values.items())])


def _ask(cluster: DemoCluster) -> float:
    """Stream an answer to stdout; returns when its first token came, on the monotonic clock."""
    body = {"model": "chat", "prompt": _PROMPT, "options": {"num_predict": _TOKENS}}
    first = 0.0
    for line in _stream(cluster, json.dumps(body)):
        token = json.loads(line).get("response", "")
        first = first or (time.monotonic() if token else 0.0)
        sys.stdout.write(token)
        sys.stdout.flush()
    if not first:
        raise RuntimeError("the model gave no token")
    sys.stdout.write("\n")
    return first


def _stream(cluster: DemoCluster, body: str) -> Iterator[str]:
    """Ask from inside the cluster, through the Service, as an application would."""
    address = kubectl(cluster, "get", "service", "chat-g0", "-o", "jsonpath={.spec.clusterIP}")
    program = (
        "import sys, time, urllib.request as u\n"
        "request = u.Request(sys.argv[1], sys.argv[2].encode(), {'Content-Type': 'application/json'})\n"
        # A Service follows the readiness of its pods within about a second.
        "for _ in range(20):\n"
        "    try: answer = u.urlopen(request, timeout=60)\n"
        "    except OSError: time.sleep(0.25)\n"
        "    else: break\n"
        "for line in answer: print(line.decode(), end='', flush=True)"
    )
    python = "/opt/ollama-fleet/bin/python"
    pod = ["exec", "deploy/ollama-fleet", "--namespace", _NAMESPACE, "--", python, "-c", program]
    line = command(cluster, *pod, f"http://{address}:11434/api/generate", body)
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, line)
