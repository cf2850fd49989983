"""Asking a served model from a pod beside it, as an application would: its network policy lets no others in."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from testbed.demo.cluster import DemoCluster
from testbed.demo.kubectl import command, kubectl
from testbed.kubectl import environment

_POD: Final = "chat-client"
_PYTHON: Final = "/opt/ollama-fleet/bin/python"
_READY: Final = "120s"
_WAIT: Final = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.pause()"
_ASK: Final = (
    "import sys, time, urllib.request as u\n"
    "request = u.Request(sys.argv[1], sys.argv[2].encode(), {'Content-Type': 'application/json'})\n"
    # A Service follows the readiness of its pods within about a second, after a restart of the machine within some.
    "for _ in range(120):\n"
    "    try: answer = u.urlopen(request, timeout=60)\n"
    "    except OSError as error: failure = error; time.sleep(0.25)\n"
    "    else: break\n"
    "else: sys.exit(f'no answer: {failure}')\n"
    "for line in answer: print(line.decode(), end='', flush=True)"
)


@contextmanager
def client(cluster: DemoCluster) -> Iterator[None]:
    """A pod that can be asked from; gone at the end. Raises RuntimeError."""
    _delete(cluster)
    kubectl(cluster, "apply", "--server-side", "-f", "-", stdin=json.dumps(_manifest(cluster.fleet_image)))
    try:
        kubectl(cluster, "wait", f"pod/{_POD}", "--for=condition=Ready", f"--timeout={_READY}")
        yield
    finally:
        _delete(cluster)


def stream(cluster: DemoCluster, service: str, body: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the answer, each as it comes. Raises RuntimeError with what the client said."""
    address = kubectl(cluster, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}")
    url = f"http://{address}:11434/api/generate"
    line = command(cluster, "exec", _POD, "--", _PYTHON, "-c", _ASK, url, json.dumps(body))
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        yield from process.stdout
        said = process.stderr.read()
    if process.returncode:
        raise RuntimeError(f"asking the model failed: {said.strip()}")


def _delete(cluster: DemoCluster) -> None:
    kubectl(cluster, "delete", "pod", _POD, "--ignore-not-found", "--now")


def _manifest(image: str) -> dict[str, Any]:
    container = {
        "name": "client",
        "image": image,
        "command": [_PYTHON, "-c", _WAIT],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [container], "securityContext": security, "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": _POD}, "spec": spec}
