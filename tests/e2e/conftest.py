"""One cluster for all end-to-end tests: real nodes, a real registry with tiny models, the operator from its chart."""

import contextlib
import itertools
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml

from ollama_fleet.kube import kinds
from ollama_fleet.kube.kinds import Kind
from testbed import nodes
from testbed.build import ensure
from testbed.controlplane import ControlPlane
from testbed.fakes.gpus import RUNTIME_CLASS, NodeGpus, cards
from testbed.images import Image, ensure_ollama, ensure_ollama_on_gpus, ensure_product
from testbed.kubectl import environment
from testbed.models.push import image, into_registry
from testbed.ollama_process import ON_GPUS as GPU_VERSION
from testbed.ollama_process import VERSIONS
from testbed.paths import ROOT
from testbed.registry import Registry
from testbed.state import claimed

OPERATOR_NAMESPACE = "ollama-fleet"
AGENT_NAMESPACE = "ollama-fleet-agent"
"""Of the chart's presets that need more than an ordinary pod."""
ON_GPUS = f"localhost/ollama-on-gpus:{GPU_VERSION}"
"""Image of the Ollama that believes to be on the fake GPUs."""

_KINDS = {
    "od": kinds.OLLAMA_DEPLOYMENT,
    "mset": kinds.MODEL_SET,
    "nvr": kinds.NODE_VRAM_REPORT,
    "configmap": kinds.CONFIG_MAP,
    "deployment": kinds.DEPLOYMENT,
    "endpointslice": kinds.ENDPOINT_SLICE,
    "job": kinds.JOB,
    "networkpolicy": kinds.NETWORK_POLICY,
    "node": kinds.NODE,
    "pdb": kinds.PDB,
    "pod": kinds.POD,
    "service": kinds.SERVICE,
    "role": Kind("rbac.authorization.k8s.io/v1", "Role", "roles"),
    "clusterrole": Kind("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", namespaced=False),
}
"""By the names that kubectl takes."""
_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of the nodes themselves come first: the fleet holds the machine's only nodes until the end."""
    items.sort(key=lambda item: "test_testbed_" not in item.nodeid)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The cluster as a test uses it."""

    plane: ControlPlane
    registry: Registry
    made: tuple[nodes.Node, ...]
    product: Image
    gpus: dict[str, NodeGpus]
    """By node: each has two to begin with."""
    api: httpx.Client
    """With the rights of an administrator."""

    def run(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """kubectl; its output."""
        command = ["kubectl", "--kubeconfig", str(self.plane.kubeconfig), *arguments]
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            env=environment(),
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def get(self, kind: str, name: str, namespace: str | None = None) -> Any:
        """One object; polls ask the API server themselves, since a kubectl each time would keep a core busy."""
        return self._read(_KINDS[kind].path(namespace, name))

    def get_all(self, kind: str, namespace: str) -> list[Any]:
        """All objects of a kind."""
        found: list[Any] = self._read(_KINDS[kind].path(namespace))["items"]
        return found

    def _read(self, path: str) -> Any:
        answer = self.api.get(path)
        assert answer.is_success, f"{path}: {answer.text}"
        return answer.json()

    def apply(self, *documents: dict[str, Any]) -> None:
        """Server-side apply."""
        self.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(documents))

    def patch(self, kind: str, name: str, namespace: str, body: dict[str, Any]) -> None:
        """Merge patch."""
        self.run("patch", kind, name, "-n", namespace, "--type=merge", "-p", json.dumps(body))

    def condition(self, kind: str, name: str, namespace: str, condition: str) -> dict[str, str]:
        """One condition of an object; empty while it is not there."""
        found = self.get(kind, name, namespace).get("status", {}).get("conditions", [])
        return next((entry for entry in found if entry["type"] == condition), {})

    def pods(self, namespace: str) -> list[Any]:
        """Pods of a namespace that are not on their way out."""
        found = self.get_all("pod", namespace)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def pods_of(self, namespace: str, group: str) -> list[Any]:
        """Servers of one group."""
        return [pod for pod in self.pods(namespace) if pod["metadata"]["labels"].get("ollamafleet.io/group") == group]

    def wait(self, what: str, done: Callable[[], bool], *, seconds: float = 90) -> float:
        """Poll until ``done``; returns the seconds it took."""
        started = time.monotonic()
        while not done():
            if time.monotonic() - started > seconds:
                state = self.run("get", "od,mset,pods", "-A", "-o", "wide", check=False)
                raise AssertionError(f"{what}: not within {seconds:.0f} s\n{state}")
            time.sleep(0.2)
        return time.monotonic() - started

    def wait_ready(self, name: str, namespace: str, *, seconds: float = 90) -> float:
        """Until an OllamaDeployment has seen its newest spec and is Ready with nothing left to do."""

        def done() -> bool:
            found = self.get("od", name, namespace)
            status = found.get("status", {})
            truth = {entry["type"]: entry["status"] for entry in status.get("conditions", [])}
            seen = status.get("observedGeneration") == found["metadata"]["generation"]
            return seen and truth.get("Ready") == "True" and truth.get("Reconciling") == "False"

        return self.wait(f"{name} is Ready", done, seconds=seconds)

    def wait_reason(self, kind: str, name: str, namespace: str, reason: str, *, seconds: float = 60) -> dict[str, str]:
        """Until the Ready condition gives a reason; the condition."""
        self.wait(
            f"{kind}/{name} says {reason}",
            lambda: self.condition(kind, name, namespace, "Ready").get("reason") == reason,
            seconds=seconds,
        )
        return self.condition(kind, name, namespace, "Ready")

    def address(self, name: str, namespace: str) -> str:
        """URL of a group's Service by its ClusterIP: there is no DNS in the test bed."""
        found = self.get("service", name, namespace)["spec"]["clusterIP"]
        return f"http://{found}:11434"


def model_set(fleet: Fleet, namespace: str, *models: dict[str, Any], name: str = "models") -> dict[str, Any]:
    """A ModelSet over the test bed's registry."""
    return {
        "apiVersion": "ollamafleet.io/v1alpha1",
        "kind": "ModelSet",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"source": {"registry": fleet.registry.host, "insecure": True}, "models": list(models)},
    }


def deployment(namespace: str, *, name: str = "chat", version: str = "0.32.3", **spec: Any) -> dict[str, Any]:
    """A small OllamaDeployment on CPU."""
    return {
        "apiVersion": "ollamafleet.io/v1alpha1",
        "kind": "OllamaDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "modelSets": [{"name": "models"}],
            "version": version,
            "hardware": {"cpu": {"cores": "100m", "memory": "512Mi"}},
            **spec,
        },
    }


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """The cluster, up for the whole run."""
    product = ensure_product()
    images = [product, *(ensure_ollama(version, ensure(f"ollama-{version}")) for version in VERSIONS)]
    images.append(ensure_ollama_on_gpus(GPU_VERSION, ensure(f"ollama-{GPU_VERSION}")))
    with claimed("e2e") as state:
        plane = ControlPlane(state, nodes.address(state))
        plane.up()
        made = nodes.up(plane, count=2)
        nodes.load(made, images)
        registry = Registry(plane.processes, state, address=plane.address)
        registry.up()
        for model in ("chat", "chat-large", "embed", "qwen"):
            into_registry(image(model), registry.url, f"library/{model}")
        gpus = {node.name: NodeGpus(plane, node) for node in made}
        for name, one in gpus.items():
            one.up(cards(name, 2))
        trusted = ssl.create_default_context(cafile=str(plane.certificates.ca))
        headers = {"Authorization": f"Bearer {plane.token}"}
        with httpx.Client(base_url=plane.url, headers=headers, verify=trusted, timeout=30, trust_env=False) as api:
            found = Fleet(plane, registry, tuple(made), product, gpus, api)
            install(found)
            yield found


def install(fleet: Fleet, *, agents: str = "full") -> None:
    """Install or upgrade the chart, with this preset of the agents, and wait until everything of it is ready."""
    repository, _, tag = fleet.product.name.rpartition(":")
    command = [
        *(str(ensure("helm") / "bin" / "helm"), "upgrade", "--install", "ollama-fleet"),
        *(str(ROOT / "charts" / "ollama-fleet"), "--wait", "--timeout", "3m"),
        *("--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--kubeconfig", str(fleet.plane.kubeconfig)),
        *(f"--set-string=image.repository={repository}", f"--set-string=image.tag={tag}"),
        "--set-string=ollama.repository=localhost/ollama",
        # Built here: it has another digest than the image that is published for the version.
        "--set=ollama.digests=null",
        *(f"--set-string=agent.preset={agents}", f"--set-string=agent.runtimeClassName={RUNTIME_CLASS}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + why_not_ready(fleet)


def why_not_ready(fleet: Fleet) -> str:
    """What the operator's pods last said, for a failed installation."""
    told = [fleet.run("describe", "pods", "-n", OPERATOR_NAMESPACE, check=False)]
    for pod in fleet.pods(OPERATOR_NAMESPACE):
        name = pod["metadata"]["name"]
        for which in ("--previous=true", "--previous=false"):
            told.append(f"--- logs of {name} {which}")
            told.append(fleet.run("logs", "-n", OPERATOR_NAMESPACE, name, which, "--tail=60", check=False))
    return "\n".join(told)


@contextlib.contextmanager
def made_namespace(fleet: Fleet, test: str) -> Iterator[str]:
    """A namespace with restricted Pod Security."""
    words = "".join(c if c.isalnum() else "-" for c in test.lower().removeprefix("test_"))
    name = f"t{next(_numbers)}-{words[:30].strip('-')}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    fleet.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        yield name
    finally:
        # What a failed test leaves would take the room of the tests after it.
        fleet.run("delete", "namespace", name, "--wait=false")
        # A drain that finds a pod of it unmarked is refused the eviction until the namespace is gone, minutes later.
        fleet.wait(f"pods of {name} go", lambda: not fleet.pods(name))


@pytest.fixture
def namespace(fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, with restricted Pod Security."""
    with made_namespace(fleet, request.node.name) as name:
        yield name
