"""Asking the demo's cluster, and showing what it says."""

import json
import subprocess
import time
from typing import Any, Final

from testbed.demo.cluster import DemoCluster
from testbed.say import say

_READY_SECONDS: Final = 1800
"""Pulling an image of gigabytes and a real model through a slow line included."""
_STALLED_SECONDS: Final = 60
"""A stall that lasts this long does not pass by itself."""
_SILENT_SECONDS: Final = 60
_POLL_SECONDS: Final = 0.5


def wait_ready(cluster: DemoCluster, name: str) -> None:
    """Show what the status says until it says Ready. Raises RuntimeError with its last word."""
    started = time.monotonic()
    stalled_at, shown, said_at, words = None, "", started, ""
    while (now := time.monotonic()) - started < _READY_SECONDS:
        held = _conditions(cluster, name)
        ready = held.get("Ready", {})
        words = f"{ready.get('reason', 'Waiting')}: {ready.get('message', 'for the operator')}"
        if ready.get("status") == "True":
            return
        if ready.get("reason", "") != shown or now - said_at > _SILENT_SECONDS:
            shown, said_at = ready.get("reason", ""), now
            say(f"    {words}")
        if held.get("Stalled", {}).get("status") != "True":
            stalled_at = None
        elif now - (stalled_at := stalled_at or now) > _STALLED_SECONDS:
            break
        time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"the model is not served.\n{words}\nlook around: export KUBECONFIG={cluster.kubeconfig}")


def _conditions(cluster: DemoCluster, name: str) -> dict[str, dict[str, Any]]:
    """By type, without those that still speak of an earlier wish."""
    found = json.loads(kubectl(cluster, "get", f"ollamadeployment/{name}", "-o", "json"))
    wish = found["metadata"]["generation"]
    conditions = found.get("status", {}).get("conditions", ())
    return {entry["type"]: entry for entry in conditions if entry.get("observedGeneration") == wish}


def command(cluster: DemoCluster, *arguments: str) -> list[str]:
    """The command line of kubectl."""
    return ["kubectl", "--kubeconfig", str(cluster.kubeconfig), *arguments]


def kubectl(cluster: DemoCluster, *arguments: str, stdin: str | None = None) -> str:
    """What kubectl answers. Raises RuntimeError with what it said."""
    return run(command(cluster, *arguments), stdin=stdin)


def run(arguments: list[str], *, stdin: str | None = None) -> str:
    """What a command answers. Raises RuntimeError with what it said."""
    done = subprocess.run(arguments, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[:6])} ... failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def show(cluster: DemoCluster, *arguments: str) -> None:
    """A command and its answer."""
    say(f"$ kubectl {' '.join(arguments)}")
    say(kubectl(cluster, *arguments))
