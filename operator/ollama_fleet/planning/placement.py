"""Which node a server should go to, before the scheduler is asked: its cache is filled there first. Pure.

The scheduler has the last word. A choice that it refuses shows as an unschedulable pod, so only what is plain from
labels, taints and known requests is decided here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

Amounts = Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class GPUView:
    """One GPU, or one instance of a split one, as its driver shows it. Sizes are bytes."""

    uuid: str
    product: str
    """As the driver writes it, with spaces."""
    total: int
    reserved: int
    """What the driver keeps."""
    foreign: int = 0
    """What programs take that are no servers of this deployment."""
    healthy: bool = True
    taken: bool = False
    """The kubelet gave it to another pod."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """What of a node decides a placement."""

    name: str
    usable: bool
    """Ready and not cordoned."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Mapping[str, str]] = ()
    allocatable: Amounts = field(default_factory=dict)
    gpus: tuple[GPUView, ...] = ()
    """From a fresh report of the node's agent; empty where there is none."""
    silent: bool = False
    """There is a report, and it does not move: what the node's GPUs hold is not known."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a server asks of its node."""

    requests: Amounts
    selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    terms: Sequence[Mapping[str, Any]] = ()
    """Required node affinity: one of these must hold."""


@dataclass(frozen=True, slots=True)
class Load:
    """What this fleet has on a node already."""

    requests: Amounts = field(default_factory=dict)
    servers: int = 0
    """Servers of the same group."""
    cached: bool = False
    """The models are on its disk."""
    failed: float = 0.0
    """When it could not take the models, in seconds; 0.0: nothing says that it cannot."""


def required_terms(affinity: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    """Of an affinity's required part about nodes; one of them must hold where there are any."""
    required = (affinity or {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    found: Sequence[Mapping[str, Any]] = required.get("nodeSelectorTerms", ())
    return found


def choose(demand: Demand, nodes: Iterable[NodeView], loads: Mapping[str, Load]) -> str | None:
    """The best node: filled caches first, then few servers of the group, then by name. None when none fits.

    Nodes that could not take the models come last, the latest at the very end.
    """
    fitting = [node.name for node in nodes if _fits(demand, node, loads.get(node.name, Load()))]

    def rank(name: str) -> tuple[bool, float, int, str]:
        load = loads.get(name, Load())
        return not load.cached, load.failed, load.servers, name

    return min(fitting, key=rank, default=None)


def admits(demand: Demand, node: NodeView) -> bool:
    """Whether an empty node of this kind would take the server; one that is cordoned for an hour counts too."""
    lasting = [taint for taint in node.taints if not taint.get("key", "").startswith("node.kubernetes.io/")]
    return _suits(demand, replace(node, taints=lasting)) and _has_room(demand, node, Load())


def _fits(demand: Demand, node: NodeView, load: Load) -> bool:
    return node.usable and _suits(demand, node) and _has_room(demand, node, load)


def _suits(demand: Demand, node: NodeView) -> bool:
    return (
        all(node.labels.get(key) == value for key, value in demand.selector.items())
        and (not demand.terms or any(_term_holds(term, node) for term in demand.terms))
        and all(_tolerated(taint, demand.tolerations) for taint in node.taints)
    )


def _has_room(demand: Demand, node: NodeView, load: Load) -> bool:
    return all(
        load.requests.get(name, Decimal(0)) + amount <= node.allocatable.get(name, Decimal(0))
        for name, amount in demand.requests.items()
    )


def _term_holds(term: Mapping[str, Any], node: NodeView) -> bool:
    """All of it holds. A term that asks for nothing takes no node."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    asked = [(expression, node.labels) for expression in expressions]
    asked += [(field, {"metadata.name": node.name}) for field in fields]
    return bool(asked) and all(_expression_holds(expression, values) for expression, values in asked)


_OPERATORS: Final[dict[str, Callable[[str | None, Sequence[str]], bool]]] = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
    "Gt": lambda value, values: value is not None and value.isdigit() and int(value) > int(values[0]),
    "Lt": lambda value, values: value is not None and value.isdigit() and int(value) < int(values[0]),
}


def _expression_holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    try:
        return _OPERATORS[expression["operator"]](labels.get(expression["key"]), expression.get("values", ()))
    except (KeyError, IndexError, TypeError, ValueError):
        # No node matches what cannot be read; the API server refuses such a pod and says why.
        return False


def _tolerated(taint: Mapping[str, str], tolerations: Iterable[Mapping[str, Any]]) -> bool:
    if taint.get("effect") == "PreferNoSchedule":
        return True
    return any(
        toleration.get("effect") in {None, "", taint.get("effect")}
        and (
            (not toleration.get("key") and toleration.get("operator") == "Exists")
            or (
                toleration.get("key") == taint.get("key")
                and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", ""))
            )
        )
        for toleration in tolerations
    )
