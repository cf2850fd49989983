"""The GPUs that servers of a deployment could get, from what nodes say of themselves."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from ollama_fleet.api.ollamadeployment import GPUSpec, OllamaDeploymentSpec, PlacementSpec
from ollama_fleet.planning.placement import Demand, NodeView, admits
from ollama_fleet.planning.quantities import mebibytes

GPU_RESOURCE: Final = "nvidia.com/gpu"
LABEL_PRODUCT: Final = "nvidia.com/gpu.product"
LABEL_MEMORY: Final = "nvidia.com/gpu.memory"
"""Written by GPU feature discovery, in MiB."""
CARD_SHARE: Final = 0.92
"""A 24 GB card shows about 23,000 MiB: that is what people mean by ``24Gi``."""

_MIB: Final = 2**20
_DRIVER_SHARE: Final = 0.98
"""The driver keeps some of a card for itself."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What one server may count on, whichever node it gets."""

    gpus: int
    """Per server."""
    usable: int
    """Bytes on each GPU, of the smallest card that a server may get."""
    servers: int
    """How many fit on the nodes at once, whoever uses them now."""
    source: str
    """Where the figure comes from, for people."""
    product: str = ""
    """Of that card, empty where it is not known."""


def survey(spec: OllamaDeploymentSpec, nodes: Iterable[NodeView]) -> Inventory | None:
    """The inventory for a deployment on GPUs; None where nothing says how large they are."""
    gpu = spec.hardware.gpu
    if gpu is None:
        return None
    resource, count = gpu.resource_name or GPU_RESOURCE, gpu.count
    demand = _demand(spec.placement or PlacementSpec(), resource, count)
    cards = []
    servers = 0
    for node in nodes:
        memory = node.labels.get(LABEL_MEMORY, "")
        if memory.isdigit() and admits(demand, node) and _suits(gpu, node.labels.get(LABEL_PRODUCT, ""), int(memory)):
            cards.append((int(memory), node.name, node.labels.get(LABEL_PRODUCT, "")))
            servers += int(node.allocatable.get(resource, Decimal(0))) // count
    if cards:
        smallest, name, product = min(cards)
        source = f"{smallest} MiB per GPU on {name}" + (f" and {len(cards) - 1} more" if len(cards) > 1 else "")
        return Inventory(count, usable(smallest), max(1, servers), source, product)
    if gpu.min_memory:
        least = int(mebibytes(gpu.min_memory) * CARD_SHARE)
        return Inventory(count, usable(least), 1, f"minMemory {gpu.min_memory}: no such node yet")
    return None


def usable(card: int) -> int:
    """Bytes that programs get of a card of so many MiB."""
    return int(card * _MIB * _DRIVER_SHARE)


def _suits(gpu: GPUSpec, product: str, memory: int) -> bool:
    if gpu.products and product not in gpu.products:
        return False
    return not gpu.min_memory or memory >= int(mebibytes(gpu.min_memory) * CARD_SHARE)


def _demand(placement: PlacementSpec, resource: str, count: int) -> Demand:
    affinity = (placement.affinity or {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    return Demand(
        requests={resource: Decimal(count)},
        selector=placement.node_selector or {},
        # Nodes with GPUs are often tainted with the resource's name, which its pods tolerate by an admission plugin.
        tolerations=[*(placement.tolerations or ()), {"key": resource, "operator": "Exists"}],
        terms=required.get("nodeSelectorTerms", ()),
    )
