"""Where pods may run, passed through to the pod template.

What stands below ``tolerations``, ``affinity`` and ``topologySpread`` is typed only as far as the operator reads it.
The API server holds the rest to its own schema when the Deployment is applied, and its words come back in the status.
A copy of that schema would lag behind Kubernetes, and would prune a typo in silence for clients without strict
validation.
"""

from typing import Annotated, Any

from pydantic import Field

from ollama_fleet.api.base import Document, Open
from ollama_fleet.api.common import HeldTo, Name
from ollama_fleet.api.schema import list_atomic, map_atomic, words

LabelValue = Annotated[
    str,
    Field(
        max_length=63,
        pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
        json_schema_extra=words("must be a label value: letters, digits, '-', '_' and '.', ends alphanumeric"),
    ),
]


class NodeSelectorTerm(Open):
    """Alternative of a node selector."""

    match_expressions: list[dict[str, Any]] | None = Field(default=None, max_length=64, json_schema_extra=list_atomic())
    """Requirements on labels of the node."""
    match_fields: list[dict[str, Any]] | None = Field(default=None, max_length=64, json_schema_extra=list_atomic())
    """Requirements on the name of the node."""


class NodeSelector(Open):
    """Alternatives, of which a node must meet one."""

    node_selector_terms: list[NodeSelectorTerm] | None = Field(
        default=None, max_length=64, json_schema_extra=list_atomic()
    )
    """The alternatives."""


class NodeAffinity(Open):
    """Affinity to nodes."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """What a node must have."""


class Affinity(Open):
    """Affinity, as in a pod."""

    node_affinity: NodeAffinity | None = None
    """Affinity to nodes."""


class PlacementSpec(Document):
    """Where pods may run; passed through to the pod template."""

    node_selector: dict[str, LabelValue] | None = Field(default=None, max_length=64, json_schema_extra=map_atomic())
    """Labels that a node must have."""
    tolerations: list[dict[str, Any]] | None = Field(default=None, max_length=32, json_schema_extra=list_atomic())
    """Tolerations, as in a pod."""
    affinity: Annotated[dict[str, Any], HeldTo(Affinity)] | None = Field(default=None, json_schema_extra=map_atomic())
    """Affinity, as in a pod; demands of ``hardware.gpu`` are added to it."""
    topology_spread: list[dict[str, Any]] | None = Field(default=None, max_length=8, json_schema_extra=list_atomic())
    """``topologySpreadConstraints``, as in a pod. Default: spread over nodes where possible."""
    priority_class_name: Name | None = None
    """PriorityClass of the pods."""
    runtime_class_name: Name | None = None
    """RuntimeClass of the pods."""
