"""A server on a GPU, and what happens when the GPU is lost. The GPU is played; all that looks at it is real."""

import json
import time
from collections.abc import Callable
from typing import Any, Final

import yaml

from ollama_fleet.api import names
from testbed.demo.cluster import DemoCluster, DemoGpus
from testbed.demo.kubectl import kubectl, show, wait_ready
from testbed.fakes.gpus import RUNTIME_CLASS
from testbed.ollama_process import ON_GPUS
from testbed.say import say, step

_NAME: Final = "chat-on-gpu"
_LOST: Final = 15
"""NVML_ERROR_GPU_IS_LOST."""
_SECONDS: Final = 30


def on_a_gpu(cluster: DemoCluster, gpus: DemoGpus) -> None:
    """Serve the demo's model from a GPU, lose the GPU, and get it back. Raises RuntimeError."""
    say("$ kubectl apply -f -  # the same models on a GPU; the test bed plays it, everything else is real")
    kubectl(cluster, "apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(_manifest(gpus)))
    with step("ready"):
        wait_ready(cluster, _NAME)
    show(cluster, "get", "nvr")
    _say_gate(cluster)
    index = _index_of_gpu(cluster)
    say("\nThe GPU falls off the bus:")
    gpus.node.change(index, error=_LOST)
    _wait(cluster, "False")
    show(cluster, "get", "od,nvr")
    say("It is back:")
    gpus.node.change(index, error=0)
    _wait(cluster, "True")


def _manifest(gpus: DemoGpus) -> dict[str, Any]:
    spec = {
        "modelSets": [{"name": "chat"}],
        "version": ON_GPUS,
        "image": gpus.image,
        "hardware": {"gpu": {"count": 1, "minMemory": "24Gi"}},
        "placement": {"runtimeClassName": RUNTIME_CLASS},
    }
    return {"apiVersion": names.API_VERSION, "kind": "OllamaDeployment", "metadata": {"name": _NAME}, "spec": spec}


def _pod(cluster: DemoCluster) -> dict[str, Any]:
    found = kubectl(cluster, "get", "pods", "-l", f"{names.LABEL_DEPLOYMENT}={_NAME}", "-o", "json")
    pod: dict[str, Any] = json.loads(found)["items"][0]
    return pod


def _index_of_gpu(cluster: DemoCluster) -> int:
    pod = _pod(cluster)
    reference = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    report = json.loads(kubectl(cluster, "get", "nvr", pod["spec"]["nodeName"], "-o", "json"))
    return next(int(gpu["index"]) for gpu in report["status"]["gpus"] if reference in gpu["pods"])


def _condition(found: dict[str, Any], kind: str) -> dict[str, str]:
    conditions = found.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def _say_gate(cluster: DemoCluster) -> None:
    gate = _condition(_pod(cluster), names.READINESS_GATE)
    say(f"  {names.READINESS_GATE} is {gate['status']}, {gate['reason']}: {gate['message']}")


def _wait(cluster: DemoCluster, status: str) -> None:
    """Until the pod's gate has this status, and then until its deployment's readiness has."""
    with step(f"readiness gate is {status}"):
        _poll(lambda: _condition(_pod(cluster), names.READINESS_GATE), status)
    _say_gate(cluster)
    with step(f"deployment's readiness is {status}"):
        deployment = ("get", f"ollamadeployment/{_NAME}", "-o", "json")
        _poll(lambda: _condition(json.loads(kubectl(cluster, *deployment)), "Ready"), status)


def _poll(look: Callable[[], dict[str, str]], status: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while (found := look()).get("status") != status:
        if time.monotonic() > deadline:
            raise RuntimeError(f"it stays so: {found}")
        time.sleep(0.1)
