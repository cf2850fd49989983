"""What tests of servers on GPUs share."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollama_fleet.api import names
from testbed.fakes.gpus import RUNTIME_CLASS
from tests.e2e.conftest import GPU_VERSION, ON_GPUS, Fleet, deployment, made_namespace

CHAT = {"name": "chat", "contextLength": 2048}


def on_gpus(namespace: str, *, node: str = "", gpu: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """An OllamaDeployment with a GPU per server."""
    selector = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
    placement = {"runtimeClassName": RUNTIME_CLASS, **selector}
    hardware = {"gpu": {"count": 1, **(gpu or {})}}
    wish: dict[str, Any] = {"hardware": hardware, "placement": placement}
    return deployment(namespace, version=GPU_VERSION, image=ON_GPUS, **wish, **spec)


@dataclass(frozen=True, slots=True)
class Server:
    """A pod on GPUs, as the cluster shows it."""

    fleet: Fleet
    namespace: str
    name: str
    node: str
    url: str
    """Of its own door."""

    @property
    def reference(self) -> str:
        """As reports name it."""
        return f"{self.namespace}/{self.name}"

    def gate(self) -> tuple[str, str]:
        """Status and reason."""
        found = self.condition(names.READINESS_GATE)
        return found.get("status", ""), found.get("reason", "")

    def condition(self, kind: str) -> dict[str, str]:
        """One condition of the pod; empty while it is not there."""
        found = self.fleet.get("pod", self.name, self.namespace)["status"].get("conditions", [])
        return next((one for one in found if one["type"] == kind), {})

    def report(self) -> dict[str, Any]:
        """Status of its node's report."""
        return report(self.fleet, self.node)

    def devices(self) -> list[dict[str, Any]]:
        """The GPUs that it has by the report."""
        return [gpu for gpu in self.report()["gpus"] if self.reference in gpu["pods"]]

    def processes(self) -> list[dict[str, Any]]:
        """Its processes on GPUs by the report."""
        found = [process for gpu in self.report()["gpus"] for process in gpu["processes"]]
        return [process for process in found if process["pod"] == self.reference]

    def models(self) -> list[dict[str, Any]]:
        """What it has in memory by the report."""
        return [model for model in self.report().get("models", []) if model["pod"] == self.reference]

    def wait_gate(self, status: str, reason: str, *, seconds: float = 30) -> float:
        """Until the gate says so; the seconds it took."""
        return self.fleet.wait(
            f"{self.name}: {status} {reason}", lambda: self.gate() == (status, reason), seconds=seconds
        )

    def environment(self, name: str) -> str:
        """A variable in the Ollama container."""
        return self.fleet.run("exec", self.name, "-n", self.namespace, "-c", "ollama", "--", "printenv", name).strip()


def servers(fleet: Fleet, namespace: str) -> list[Server]:
    """The pods of a namespace's first group."""
    pods = fleet.pods_of(namespace, "g0")
    placed = (pod for pod in pods if "podIP" in pod["status"])
    return [
        Server(
            fleet,
            namespace,
            pod["metadata"]["name"],
            pod["spec"]["nodeName"],
            f"http://{pod['status']['podIP']}:{names.PORT_DATA}",
        )
        for pod in placed
    ]


@contextlib.contextmanager
def gpu_namespace(fleet: Fleet, test: str) -> Iterator[str]:
    """A namespace whose GPUs are free for others at the end."""
    with made_namespace(fleet, test) as name:
        yield name
    fleet.wait(f"the pods of {name} are gone", lambda: not fleet.get_all("pod", name), seconds=90)


def report(fleet: Fleet, node: str) -> dict[str, Any]:
    """Status of a node's report."""
    status: dict[str, Any] = fleet.get("nvr", node)["status"]
    return status


def condition(status: dict[str, Any], kind: str) -> tuple[str, str]:
    """Status and reason of a report's condition."""
    return next((one["status"], one["reason"]) for one in status["conditions"] if one["type"] == kind)


def program(pid: int) -> str:
    """Name of a process of this machine."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def process_of(pod: dict[str, Any], program: str) -> int:
    """The process of a pod that runs with this argument."""
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            inside = pod["metadata"]["uid"] in (directory / "cgroup").read_text()
            if inside and program.encode() in (directory / "cmdline").read_bytes().split(b"\0"):
                return int(directory.name)
    raise AssertionError(f"{pod['metadata']['name']} has no process {program}")


def shown(fleet: Fleet, node: str, done: Callable[[dict[str, Any]], bool], what: str, *, seconds: float = 30) -> float:
    """Wait until a node's report holds; the seconds it took."""
    return fleet.wait(f"report of {node}: {what}", lambda: done(report(fleet, node)), seconds=seconds)
