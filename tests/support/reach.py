"""Who reaches whom: pods that only try, and tables of what came of it."""

import json
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ollama_fleet.api import names

Run = Callable[..., str]
"""kubectl."""
PORT = 8080
"""Where every client listens too."""

# One connection per argument, all at once. A packet filter that rejects looks like a port where nobody listens: what
# counts is the difference to a caller who gets through at the same time.
_TRY = """
import concurrent.futures, json, socket, sys
def one(target):
    host, _, port = target.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return "open"
    except OSError:
        return "closed"
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    print(json.dumps(dict(zip(sys.argv[1:], pool.map(one, sys.argv[1:])))))
"""
# Ports that nobody has open: without a listener a closed port would prove nothing.
_LISTEN = """
import socket, sys
held = [socket.create_server((sys.argv[1], int(port))) for port in sys.argv[2:]]
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Caller:
    """A container that Python runs in."""

    namespace: str
    pod: str
    container: str

    def command(self, program: str, *arguments: str, interactive: bool = False) -> list[str]:
        """The arguments of kubectl that run a program in it; an interactive one gets their input."""
        place = ["-n", self.namespace, self.pod, "-c", self.container]
        return ["exec", *(["-i"] if interactive else []), *place, "--", "python3", "-c", program, *arguments]

    def tries(self, *targets: str) -> list[str]:
        """As ``command``: ``HOST:PORT`` each; prints which are open."""
        return self.command(_TRY, *targets)

    def listens(self, address: str, *ports: int) -> list[str]:
        """As ``command``: holds ports open until its input ends."""
        return self.command(_LISTEN, address, *map(str, ports), interactive=True)


def client(namespace: str, name: str, *, node: str, image: str, labels: Mapping[str, str] | None = None) -> Any:
    """A pod that waits to be told whom to call, and listens."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name, **(labels or {})}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "client",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-m", "http.server", str(PORT)],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def of_the_fleet(component: str) -> dict[str, str]:
    """Labels of the product's own pods, which anybody may give to pods of their own."""
    return {names.LABEL_NAME: "ollama-fleet", names.LABEL_COMPONENT: component}


def deny_all(namespace: str, name: str) -> Any:
    """Nothing reaches one client."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"deny-{name}", "namespace": namespace},
        "spec": {"podSelector": {"matchLabels": {"app": name}}, "policyTypes": ["Ingress"]},
    }


def reached(run: Run, callers: Mapping[str, Caller], targets: Mapping[str, str]) -> set[tuple[str, str]]:
    """Every caller tries every target, all at the same time: the pairs of caller and target that got through."""
    with ThreadPoolExecutor(8) as pool:
        said = pool.map(lambda caller: json.loads(run(*caller.tries(*targets.values()))), callers.values())
        return {
            (who, target)
            for who, answers in zip(callers, said, strict=True)
            for target, place in targets.items()
            if answers[place] == "open"
        }


def becomes(
    run: Run,
    callers: Mapping[str, Caller],
    targets: Mapping[str, str],
    wanted: Collection[tuple[str, str]],
    *,
    seconds: float = 20,
) -> None:
    """Rules follow pods and policies within a second or two: ask until exactly the wanted pairs get through."""
    deadline = time.monotonic() + seconds
    while (found := reached(run, callers, targets)) != set(wanted):
        if time.monotonic() > deadline:
            told = [
                *(f"{who} reaches {target} ({targets[target]}) and must not" for who, target in found - set(wanted)),
                *(f"{who} must reach {target} ({targets[target]}) and does not" for who, target in set(wanted) - found),
            ]
            raise AssertionError("\n".join([f"still so after {seconds:.0f} s:", *sorted(told), f"{callers=}"]))
        time.sleep(0.5)
