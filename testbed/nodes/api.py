"""The few API calls that bringing up nodes takes."""

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Final

from testbed.controlplane import ControlPlane, NotReady

_CONFLICT: Final = 409


def call(cluster: ControlPlane, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request as administrator; a PATCH is a strategic merge. Raises urllib.error.HTTPError."""
    document: dict[str, Any] = json.loads(_read(cluster, method, path, body))
    return document


def read(cluster: ControlPlane, path: str) -> str:
    """What is not JSON: logs of containers. Raises urllib.error.HTTPError."""
    return _read(cluster, "GET", path, None).decode()


def _read(cluster: ControlPlane, method: str, path: str, body: dict[str, Any] | None) -> bytes:
    context = ssl.create_default_context(cafile=str(cluster.certificates.ca))
    kind = "application/strategic-merge-patch+json" if method == "PATCH" else "application/json"
    headers = {"Authorization": f"Bearer {cluster.token}", "Content-Type": kind}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(cluster.url + path, data=data, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        content: bytes = answer.read()
    return content


def create(cluster: ControlPlane, path: str, body: dict[str, Any]) -> None:
    """Create an object; one that is there already stays as it is."""
    try:
        call(cluster, "POST", path, body)
    except urllib.error.HTTPError as error:
        if error.code != _CONFLICT:
            raise


def wait(what: str, done: Callable[[], bool], *, seconds: float, log: object) -> None:
    """Poll until ``done``. Raises NotReady, which names the log."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise NotReady(f"{what} after {seconds:.0f} s; see {log}")
        time.sleep(0.1)
