"""The operator's memory of the cluster: one informer per kind, and whose key a change concerns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from ollama_fleet.api import names
from ollama_fleet.controllers.pods import ended
from ollama_fleet.kube import kinds
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.informer import Handler, Informer, Project, without_managed_fields
from ollama_fleet.kube.kinds import Kind
from ollama_fleet.kube.queue import Key

Json = dict[str, Any]
Enqueue = Callable[[Key], None]

BY_DEPLOYMENT = "deployment"
"""Index of children, and of pods that have not ended, by ``namespace/name`` of their OllamaDeployment."""
BY_NODE = "node"
"""Index of pods by the node that they run on."""
BY_MODEL_SET = "model-set"
"""Index of OllamaDeployments by ``namespace/name`` of the ModelSets they name."""

_MANAGED = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"


@dataclass(frozen=True, slots=True)
class Caches:
    """Informers of everything that a reconcile reads."""

    ollama_deployments: Informer
    model_sets: Informer
    deployments: Informer
    services: Informer
    config_maps: Informer
    disruption_budgets: Informer
    network_policies: Informer
    jobs: Informer
    pods: Informer
    nodes: Informer
    reports: Informer

    def all(self) -> Iterator[Informer]:
        """Every informer, to run and to wait for."""
        for field in fields(self):
            yield getattr(self, field.name)

    def wrote(self, answer: Json) -> None:
        """Take in the answer to a write of this process, so that the next reconcile does not write it again."""
        for informer in self.all():
            if informer.kind.kind == answer.get("kind"):
                informer.wrote(answer)

    def children(self) -> tuple[Informer, ...]:
        """Informers of the kinds that are applied for an OllamaDeployment."""
        return (
            self.deployments,
            self.services,
            self.config_maps,
            self.disruption_budgets,
            self.network_policies,
            self.jobs,
        )


def build(client: KubeClient) -> Caches:
    """The informers, not yet running. Children are selected on the server by their label."""

    def children(kind: Kind, project: Project = without_managed_fields) -> Informer:
        return Informer(client, kind, label_selector=_MANAGED, indices={BY_DEPLOYMENT: _deployment_of}, project=project)

    return Caches(
        ollama_deployments=Informer(client, kinds.OLLAMA_DEPLOYMENT, indices={BY_MODEL_SET: _model_sets_of}),
        model_sets=Informer(client, kinds.MODEL_SET),
        deployments=children(kinds.DEPLOYMENT),
        services=children(kinds.SERVICE),
        config_maps=children(kinds.CONFIG_MAP),
        disruption_budgets=children(kinds.PDB),
        network_policies=children(kinds.NETWORK_POLICY),
        jobs=children(kinds.JOB),
        pods=Informer(
            client,
            kinds.POD,
            label_selector=_MANAGED,
            indices={BY_DEPLOYMENT: _deployment_of_pod, BY_NODE: _node_of},
            project=_pod,
        ),
        nodes=Informer(client, kinds.NODE, project=_node),
        reports=Informer(client, kinds.NODE_VRAM_REPORT),
    )


def connect(caches: Caches, enqueue: Enqueue) -> None:
    """Turn changes of what is observed into keys: children and pods wake their owner, ModelSets their users."""

    def owner(old: Json | None, new: Json | None) -> None:
        for obj in (old, new):
            if obj is not None:
                for value in _deployment_of(obj):
                    namespace, _, name = value.partition("/")
                    enqueue(Key(kinds.OLLAMA_DEPLOYMENT, namespace, name))

    def itself(kind: Kind) -> Handler:
        def handler(old: Json | None, new: Json | None) -> None:
            metadata = (new or old or {})["metadata"]
            enqueue(Key(kind, metadata["namespace"], metadata["name"]))

        return handler

    def users(old: Json | None, new: Json | None) -> None:
        metadata = (new or old or {})["metadata"]
        for user in caches.ollama_deployments.by_index(BY_MODEL_SET, f"{metadata['namespace']}/{metadata['name']}"):
            enqueue(Key(kinds.OLLAMA_DEPLOYMENT, user["metadata"]["namespace"], user["metadata"]["name"]))

    for informer in (*caches.children(), caches.pods):
        informer.add_handler(owner)
    caches.model_sets.add_handler(users)
    # kopf sends these keys too, and may do so before the informer knows of the change: then this one counts.
    caches.ollama_deployments.add_handler(itself(kinds.OLLAMA_DEPLOYMENT))
    caches.model_sets.add_handler(itself(kinds.MODEL_SET))


def owners_on(caches: Caches, node: str) -> Iterator[Key]:
    """The OllamaDeployments with pods on a node."""
    for pod in caches.pods.by_index(BY_NODE, node):
        for value in _deployment_of(pod):
            namespace, _, name = value.partition("/")
            yield Key(kinds.OLLAMA_DEPLOYMENT, namespace, name)


def _deployment_of(obj: Json) -> Iterator[str]:
    metadata = obj["metadata"]
    name = metadata.get("labels", {}).get(names.LABEL_DEPLOYMENT)
    if name:
        yield f"{metadata['namespace']}/{name}"


def _deployment_of_pod(pod: Json) -> Iterator[str]:
    if not ended(pod):
        yield from _deployment_of(pod)


def _node_of(pod: Json) -> Iterator[str]:
    node = pod["spec"].get("nodeName")
    if node:
        yield str(node)


def _model_sets_of(obj: Json) -> Iterator[str]:
    for reference in obj.get("spec", {}).get("modelSets", ()):
        yield f"{obj['metadata']['namespace']}/{reference['name']}"


def _pod(pod: Json) -> Json:
    """Pods are the most numerous objects; volumes, probes and the like are never looked at again."""
    metadata, spec = pod["metadata"], pod.get("spec", {})
    # Only a pod without a node can still be placed.
    placing = () if spec.get("nodeName") else ("affinity",)
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "annotations", "deletionTimestamp")
    return {
        "apiVersion": pod.get("apiVersion", "v1"),
        "kind": "Pod",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {
            **{key: spec[key] for key in ("nodeName", "readinessGates", "schedulingGates", *placing) if key in spec},
            **{key: [_needs(container) for container in spec.get(key, ())] for key in ("containers", "initContainers")},
        },
        "status": pod.get("status", {}),
    }


def _needs(container: Json) -> Json:
    # The environment of Ollama says by which plan a server was started.
    started = ("env",) if container["name"] == names.CONTAINER_OLLAMA else ()
    return {key: container[key] for key in ("name", "restartPolicy", "resources", *started) if key in container}


def _node(node: Json) -> Json:
    """Labels, taints and allocatable decide a placement; images and addresses change all the time."""
    metadata, spec, status = node["metadata"], node.get("spec", {}), node.get("status", {})
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {key: metadata[key] for key in ("name", "uid", "resourceVersion", "labels") if key in metadata},
        "spec": {key: spec[key] for key in ("taints", "unschedulable") if key in spec},
        "status": {
            "allocatable": status.get("allocatable", {}),
            "conditions": [c for c in status.get("conditions", ()) if c["type"] == "Ready"],
        },
    }
