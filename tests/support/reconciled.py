"""Reconciling against an API server in memory: caches, controller, placer and children are the real ones."""

import copy
import itertools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from ollama_fleet.api import names
from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.progress import PullProgress
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from ollama_fleet.controllers import caches
from ollama_fleet.controllers.children import Children
from ollama_fleet.controllers.measurements import Measurements
from ollama_fleet.controllers.nodes import Nodes
from ollama_fleet.controllers.observer import Observer
from ollama_fleet.controllers.ollamadeployment import OllamaDeploymentController
from ollama_fleet.controllers.placement import Placer
from ollama_fleet.controllers.podwriter import PodWriter
from ollama_fleet.controllers.reports import Reports
from ollama_fleet.kube import errors, kinds
from ollama_fleet.kube.kinds import Kind
from ollama_fleet.kube.queue import Key
from ollama_fleet.planning.request import ImagePolicy
from tests.support.plans import CPU, view

Document = dict[str, Any]
KEY = Key(kinds.OLLAMA_DEPLOYMENT, "ns", "chat")
MODEL_SETS = [{"name": "models"}]


def merged(old: Any, patch: Any) -> Any:
    """As a JSON merge patch."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    kept = {key: value for key, value in (old if isinstance(old, dict) else {}).items() if key not in patch}
    return kept | {key: merged((old or {}).get(key), value) for key, value in patch.items() if value is not None}


class Server:
    """Client and event recorder in one; what it stores stands in the caches at once."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Document] = {}
        self.requests: list[tuple[str, str]] = []
        self.events: list[Document] = []
        self.refuses: dict[str, Exception] = {}
        """By kind, how an apply fails."""
        self.versions = itertools.count(1)
        self.caches = caches.build(cast("Any", self))

    def put(self, document: Document) -> Document:
        document = copy.deepcopy(document)
        metadata = document["metadata"]
        metadata["resourceVersion"] = str(next(self.versions))
        metadata.setdefault("uid", f"uid-of-{document['kind']}-{metadata['name']}")
        metadata.setdefault("generation", 1)
        self.objects[document["kind"], metadata.get("namespace", ""), metadata["name"]] = document
        for informer in self._informers(document["kind"]):
            if informer._labels.items() <= metadata.get("labels", {}).items():
                informer._tell(informer._cache.put(informer._project(copy.deepcopy(document))))
            else:
                informer._tell(informer._cache.drop(document))
        return copy.deepcopy(document)

    def of_kind(self, kind: str) -> list[Document]:
        return [document for (found, _, _), document in self.objects.items() if found == kind]

    def record(self, regarding: Document, **event: Any) -> None:
        self.events.append(event)

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Document | None:
        return copy.deepcopy(self.objects.get((kind.kind, namespace or "", name)))

    async def apply(self, document: Document) -> Document:
        kind, metadata = document["kind"], document["metadata"]
        self.requests.append(("apply", kind))
        if kind in self.refuses:
            raise self.refuses[kind]
        old = self.objects.get((kind, metadata["namespace"], metadata["name"]), {"metadata": {}})
        self._expect(old, metadata.get("uid"))
        return self._change(old, {**old, **document, "metadata": {**old["metadata"], **metadata}})

    async def patch(
        self, kind: Kind, namespace: str, name: str, body: Document, *, content_type: str, subresource: str = ""
    ) -> Document:
        self.requests.append(("patch", kind.kind))
        old = self._stored(kind, namespace, name)
        self._expect(old, body.get("metadata", {}).get("uid"))
        if "strategic" in content_type:
            told = {one["type"]: one for one in (*old["status"]["conditions"], *body["status"]["conditions"])}
            body = merged(body, {"status": {"conditions": list(told.values())}})
        return self._change(old, merged(old, body))

    async def apply_status(self, kind: Kind, namespace: str, name: str, status: Document, *, uid: str) -> Document:
        self.requests.append(("status", kind.kind))
        old = self._stored(kind, namespace, name)
        self._expect(old, uid)
        return self.put({**old, "status": dict(status)})

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> bool:
        self.requests.append(("delete", kind.kind))
        gone = self.objects.get((kind.kind, namespace, name))
        if gone is None:
            return False
        self._expect(gone, uid)
        del self.objects[kind.kind, namespace, name]
        for informer in self._informers(kind.kind):
            informer._tell(informer._cache.drop(gone))
        return True

    def _stored(self, kind: Kind, namespace: str, name: str) -> Document:
        try:
            return self.objects[kind.kind, namespace, name]
        except KeyError as error:
            raise errors.NotFound(f"{kind.kind} {name}", code=404) from error

    @staticmethod
    def _expect(old: Document, uid: str | None) -> None:
        """As the API server takes a uid: a precondition."""
        if uid is not None and old["metadata"].get("uid") != uid:
            raise errors.Conflict(f"not the object with uid {uid}", code=409)

    def _change(self, old: Document, new: Document) -> Document:
        generation = old["metadata"].get("generation", 0) + (old.get("spec") != new.get("spec"))
        return self.put({**new, "metadata": {**new["metadata"], "generation": generation}})

    def _informers(self, kind: str) -> list[Any]:
        return [informer for informer in self.caches.all() if informer.kind.kind == kind]


class Pods:
    """What the servers inside pods answer, by address."""

    def __init__(self) -> None:
        self.states: dict[str, SidecarState] = {}
        self.pulls: dict[str, PullProgress] = {}

    async def state(self, ip: str) -> SidecarState | None:
        return self.states.get(ip)

    async def progress(self, ip: str) -> PullProgress | None:
        return self.pulls.get(ip)


class Reconciled:
    """One OllamaDeployment ``ns/chat`` of the ModelSet ``models``, and the time, which only a test moves."""

    def __init__(self) -> None:
        self.server, self.pods, self.time = Server(), Pods(), 1_000_000.0
        client = cast("Any", self.server)
        known = self.server.caches
        self.reports = Reports(known.reports, lambda _: None, clock=lambda: self.time)
        self.reports.connect()
        children = Children(client)
        self.writer = PodWriter(client, self.reports, client, self.now)
        self.writer.demotions.clock = lambda: self.time
        self.controller = OllamaDeploymentController(
            client=client,
            caches=known,
            observer=Observer(known, cast("Any", self.pods)),
            children=children,
            pods=self.writer,
            placer=Placer(client, known, children, self.now),
            measurements=Measurements(client, "ollama-fleet", self.reports),
            nodes=Nodes(known, self.reports),
            events=client,
            policy=ImagePolicy(fleet_image="fleet:1"),
            fleet_namespaces=("ollama-fleet",),
            now=self.now,
            clock=lambda: self.time,
        )

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)

    async def look(self) -> float | None:
        """One reconcile, late enough that nothing is held back."""
        self.time += 3
        await self.controller.reconcile(KEY)
        self.time += 3
        return await self.controller.reconcile(KEY)

    async def serving(self, **spec: Any) -> None:
        """A server that is warm and takes traffic."""
        self.model_set({"name": "chat"})
        self.deploy(**spec)
        await self.look()
        self.roll_out()
        self.pod("p1")
        self.warm("p1")
        await self.look()

    def model_set(
        self, *models: Document, name: str = "models", generation: int = 1, letter: str = "a", **spec: Any
    ) -> None:
        """A ModelSet that its registry answered for."""
        status = view(*models, resolved={model["name"]: letter for model in models}).status
        self._put("ModelSet", name, generation, {"models": list(models), **spec}, status.to_wire())

    def edit_model_set(self, **spec: Any) -> None:
        """A change that nobody has looked at yet."""
        old = self.server.objects["ModelSet", "ns", "models"]
        self._put("ModelSet", "models", old["metadata"]["generation"] + 1, {**old["spec"], **spec}, old["status"])

    def deploy(self, **spec: Any) -> None:
        """Create the OllamaDeployment, or change its spec to this one."""
        old = self.server.objects.get(("OllamaDeployment", "ns", "chat"))
        generation = old["metadata"]["generation"] + 1 if old else 1
        status = old["status"] if old else {"observedGeneration": -1}
        wish = {"modelSets": MODEL_SETS, "version": "0.32.3", **({} if "hardware" in spec else {"hardware": CPU})}
        self._put("OllamaDeployment", "chat", generation, wish | spec, status)

    def _put(self, kind: str, name: str, generation: int, spec: Document, status: Document) -> None:
        metadata = {"namespace": "ns", "name": name, "generation": generation}
        document = {"apiVersion": names.API_VERSION, "kind": kind, "metadata": metadata}
        self.server.put({**document, "spec": spec, "status": status})

    def node(self, name: str, **labels: str) -> None:
        allocatable = {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"}
        status = {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]}
        self.server.put(
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status}
        )

    def roll_out(self, pods: int = 1, *, updated: int = 1) -> None:
        """What the Deployment's controller says."""
        live = self.deployment
        generation = live["metadata"]["generation"]
        status = {"observedGeneration": generation, "replicas": pods, "updatedReplicas": updated}
        self.server.put({**live, "status": status})

    def pod(self, name: str, *, node: str = "n1", gate: str = "True", **status: Any) -> None:
        """A pod of the Deployment's template that runs and is ready, unless ``status`` says otherwise."""
        template = self.deployment["spec"]["template"]
        spec = copy.deepcopy(template["spec"])
        if node:
            spec["nodeName"] = node
            spec.pop("schedulingGates", None)
        told = [{"type": names.READINESS_GATE, "status": gate, "reason": "Resident", "message": ""}] if gate else []
        metadata = {"namespace": "ns", "name": name, **copy.deepcopy(template["metadata"])}
        running = {
            "phase": "Running",
            "podIP": name,
            "conditions": [{"type": "Ready", "status": gate or "False"}, *told],
            "initContainerStatuses": [{"name": names.CONTAINER_SIDECAR, "state": {"running": {}}}],
            "containerStatuses": [{"name": names.CONTAINER_OLLAMA, "ready": bool(gate), "state": {"running": {}}}],
        }
        document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": running | status}
        self.server.put(document)

    def warm(self, name: str, phase: ModelPhase = ModelPhase.WARM) -> None:
        """What the pod's sidecar answers from now on."""
        models = tuple(ModelState(name=model.name, phase=phase) for model in self.config.models)
        ready = phase is ModelPhase.WARM
        self.pods.states[name] = SidecarState(sequence=1, config_hash=self.config.hash(), ready=ready, models=models)

    def lose_model(self, name: str) -> None:
        """The kubelet sees that the pod's Ollama has lost its model; only the gate keeps traffic away for good."""
        live = self.server.objects["Pod", "ns", name]
        live["status"]["containerStatuses"][0]["ready"] = False
        self.server.put(live)
        self.warm(name, ModelPhase.LOADING)

    @property
    def config(self) -> GroupConfig:
        return self.controller.observer.configs(self.server.objects["OllamaDeployment", "ns", "chat"])["g0"]

    @property
    def deployment(self) -> Document:
        return self.server.objects["Deployment", "ns", "chat-g0"]

    @property
    def status(self) -> Document:
        found: Document = self.server.objects["OllamaDeployment", "ns", "chat"]["status"]
        return found

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Status, reason and message."""
        found = next(one for one in self.status["conditions"] if one["type"] == kind)
        return found["status"], found["reason"], found["message"]

    def gate(self, pod: str) -> Document:
        conditions = self.server.objects["Pod", "ns", pod]["status"]["conditions"]
        return next(one for one in conditions if one["type"] == names.READINESS_GATE)
