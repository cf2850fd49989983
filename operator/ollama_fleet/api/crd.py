"""The custom resource definitions, made from the models. Pure."""

from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel
from pydantic.config import JsonDict

from ollama_fleet.api import names, samples
from ollama_fleet.api.deploymentstatus import OllamaDeploymentStatus
from ollama_fleet.api.modelset import ModelSetSpec, ModelSetStatus
from ollama_fleet.api.nodevramreport import NodeVRAMReportSpec, NodeVRAMReportStatus
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.api.schema import Schema, rule, structural


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``; ``wide`` ones appear with ``-o wide`` only."""

    name: str
    path: str
    kind: str = "string"
    wide: bool = False

    def wire(self) -> Schema:
        """As the definition spells it."""
        return {
            "name": self.name,
            "type": self.kind,
            "jsonPath": self.path,
            "priority": 1 if self.wide else 0,
        }


@dataclass(frozen=True, slots=True)
class Definition:
    """One kind of custom resource."""

    kind: str
    plural: str
    short: str
    namespaced: bool
    description: str
    spec: type[BaseModel]
    status: type[BaseModel]
    columns: tuple[Column, ...]
    example: str
    selectable: tuple[str, ...] = ()
    """Fields that ``--field-selector`` and watches can select by."""
    spec_required: bool = True
    scale: bool = False
    rules: tuple[JsonDict, ...] = ()


_READY: Final = Column("Ready", _condition("Ready", "status"))
_REASON: Final = Column("Reason", _condition("Ready", "reason"))
_MESSAGE: Final = Column("Message", _condition("Ready", "message"), wide=True)
_AGE: Final = Column("Age", ".metadata.creationTimestamp", kind="date")

DEFINITIONS: Final = (
    Definition(
        kind="OllamaDeployment",
        plural="ollamadeployments",
        short="od",
        namespaced=True,
        description="A pool of Ollama servers that serve the models of its ModelSets.",
        spec=OllamaDeploymentSpec,
        status=OllamaDeploymentStatus,
        example=samples.OLLAMA_DEPLOYMENT,
        selectable=(".spec.version", ".spec.profile", ".spec.suspend"),
        scale=True,
        columns=(
            _READY,
            _REASON,
            Column("Servers", ".status.ready"),
            Column("Warm", ".status.warm"),
            Column("VRAM", ".status.vram"),
            _AGE,
            Column("Version", ".status.version", wide=True),
            Column("Endpoint", ".status.endpoint", wide=True),
            _MESSAGE,
        ),
        rules=(
            rule(
                "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                "metadata.name must start with a letter, end with a letter or digit, hold only a-z, 0-9 and '-', "
                "and have at most 40 characters: Services are named after it",
            ),
        ),
    ),
    Definition(
        kind="ModelSet",
        plural="modelsets",
        short="mset",
        namespaced=True,
        description="Models to serve, as a manifest for GitOps.",
        spec=ModelSetSpec,
        status=ModelSetStatus,
        example=samples.MODEL_SET,
        selectable=(".spec.source.registry",),
        columns=(
            _READY,
            _REASON,
            Column("Resolved", ".status.resolved"),
            Column("Bytes", ".status.totalBytes", kind="integer"),
            _AGE,
            _MESSAGE,
        ),
    ),
    Definition(
        kind="NodeVRAMReport",
        plural="nodevramreports",
        short="nvr",
        namespaced=False,
        description="What the GPUs of one node hold, written by that node's agent.",
        spec=NodeVRAMReportSpec,
        status=NodeVRAMReportStatus,
        example=samples.NODE_VRAM_REPORT,
        spec_required=False,
        columns=(
            _READY,
            _REASON,
            Column("GPUs", ".status.summary.gpus"),
            Column("Used", ".status.summary.used"),
            Column("Models", ".status.summary.models", kind="integer"),
            _AGE,
            Column("Driver", ".status.driverVersion", wide=True),
            _MESSAGE,
        ),
    ),
)


def definition(kind: Definition) -> Schema:
    """The CustomResourceDefinition of a kind."""
    categories = ["ollama", "all"] if kind.namespaced else ["ollama"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kind.short],
                "categories": categories,
            },
            "versions": [_version(kind)],
        },
    }


def _version(kind: Definition) -> Schema:
    subresources: Schema = {"status": {}}
    if kind.scale:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    version: Schema = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": subresources,
        "additionalPrinterColumns": [column.wire() for column in kind.columns],
        "schema": {"openAPIV3Schema": _root(kind)},
    }
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    return version


def _root(kind: Definition) -> Schema:
    status = structural(kind.status)
    # Of the whole status: a nested default never fires. Tools that wait for the observed generation then see a new
    # object as in progress instead of as done.
    status["default"] = {"observedGeneration": -1}
    properties: dict[str, Any] = {
        "apiVersion": {"type": "string", "description": "Version of this schema."},
        "kind": {"type": "string", "description": "Kind of this resource."},
        "metadata": {"type": "object"},
        "spec": structural(kind.spec),
        "status": status,
    }
    root: Schema = {"type": "object", "description": kind.description, "properties": properties}
    if kind.spec_required:
        root["required"] = ["spec"]
    if kind.rules:
        root["x-kubernetes-validations"] = list(kind.rules)
    return root
