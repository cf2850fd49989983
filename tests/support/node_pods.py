"""Pods for tests of real nodes: a small web server beside a native sidecar, under the restricted profile."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from testbed.controlplane import ControlPlane
from testbed.images.base import BASE
from testbed.nodes import api

NAMESPACE = "/api/v1/namespaces/default"
PODS = f"{NAMESPACE}/pods"
GATE = "ollamafleet.io/test-gate"
PORT = 8080
SIDECAR_PORT = 8081

# /fetch?URL answers what URL answered; /api what the API server says to this pod's service account.
_SERVER = """
import http.server, json, os, signal, ssl, sys, urllib.request
# The first process of a container ignores what it does not handle.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
TOKENS = "/var/run/secrets/kubernetes.io/serviceaccount/"
def version():
    context = ssl.create_default_context(cafile=TOKENS + "ca.crt")
    url = "https://" + os.environ["KUBERNETES_SERVICE_HOST"] + "/version"
    request = urllib.request.Request(url, headers={"Authorization": "Bearer " + open(TOKENS + "token").read()})
    return url.encode() + b" " + urllib.request.urlopen(request, timeout=5, context=context).read()
def get(url):
    return urllib.request.urlopen(url, timeout=5).read()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/fetch": body = get(query)
        elif path == "/api": body = version()
        elif path == "/drain": body = get(os.environ["DRAIN_TO"])
        elif path == "/who": body = json.dumps({"pod": os.environ["HOSTNAME"], "uid": os.getuid()}).encode()
        else: body = b"ok"
        self.send_response(200); self.end_headers(); self.wfile.write(body)
print("serving", flush=True)
http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
"""


def pod(name: str, *, node: str, drain_to: str = "") -> dict[str, Any]:
    """A pod with everything that the product's pods use: sidecar, probes, hook, gate, restricted profile."""
    server = _container("server", PORT, drain_to)
    server["lifecycle"] = {"preStop": {"httpGet": {"path": "/drain", "port": SIDECAR_PORT}}}
    server["readinessProbe"] = {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1}
    sidecar = _container("sidecar", SIDECAR_PORT, drain_to)
    sidecar["restartPolicy"] = "Always"
    sidecar["startupProbe"] = {"httpGet": {"path": "/", "port": SIDECAR_PORT}, "periodSeconds": 1}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "readinessGates": [{"conditionType": GATE}],
            "initContainers": [sidecar],
            "containers": [server],
        },
    }


def service(name: str) -> dict[str, Any]:
    """A ClusterIP in front of the pod of the same name."""
    ports = [{"port": 80, "targetPort": PORT}]
    spec = {"selector": {"app": name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def run_pod(cluster: ControlPlane, body: dict[str, Any]) -> dict[str, Any]:
    """Create the pod, open its gate, wait until it is Ready and return it."""
    name = body["metadata"]["name"]
    wait_until(lambda: exists(cluster, f"{NAMESPACE}/serviceaccounts/default"))
    api.call(cluster, "POST", PODS, body)
    open_gate(cluster, name)
    wait_until(lambda: condition(cluster, name, "Ready") == "True")
    return api.call(cluster, "GET", f"{PODS}/{name}")


def open_gate(cluster: ControlPlane, name: str) -> None:
    """What the operator does when it has measured."""
    gate = {"type": GATE, "status": "True"}
    api.call(cluster, "PATCH", f"{PODS}/{name}/status", {"status": {"conditions": [gate]}})


def condition(cluster: ControlPlane, name: str, kind: str) -> str:
    """The status of one condition of a pod, empty when it is not there."""
    conditions = api.call(cluster, "GET", f"{PODS}/{name}")["status"].get("conditions", [])
    return next((str(one["status"]) for one in conditions if one["type"] == kind), "")


def exists(cluster: ControlPlane, path: str) -> bool:
    """Whether the API server has the object."""
    try:
        api.call(cluster, "GET", path)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return False
    return True


def get(url: str) -> str:
    """What a server answers to this host."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        content: bytes = answer.read()
    return content.decode()


def get_json(url: str) -> dict[str, Any]:
    """As ``get``, decoded."""
    document: dict[str, Any] = json.loads(get(url))
    return document


def wait_until(done: Callable[[], bool], *, seconds: float = 60) -> None:
    """Poll until ``done``; refused connections count as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if done():
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, f"not done after {seconds} s"
        time.sleep(0.1)


@contextmanager
def listener(address: str) -> Iterator[tuple[str, list[str]]]:
    """A web server on the host: its address and the paths that were asked for."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as above
            pass

    server = ThreadingHTTPServer((address, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{address}:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _container(name: str, port: int, drain_to: str) -> dict[str, Any]:
    return {
        "name": name,
        "image": BASE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", _SERVER, str(port)],
        "env": [{"name": "DRAIN_TO", "value": drain_to}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
