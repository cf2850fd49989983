"""The GPUs that servers of a deployment could get, from what nodes and their agents say of them.

The driver's own figure (a fresh report) beats the label of GPU feature discovery. What other programs hold is taken
off; a GPU that is sick, or that the kubelet gave to somebody else, does not count; a report that does not move says
nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from ollama_fleet.api.ollamadeployment import GPUSpec, OllamaDeploymentSpec, PlacementSpec
from ollama_fleet.planning.placement import Demand, GPUView, NodeView, admits, required_terms
from ollama_fleet.planning.quantities import mebibytes

GPU_RESOURCE: Final = "nvidia.com/gpu"
CARD_SHARE: Final = 0.92
"""A 24 GB card shows about 23,000 MiB: that is what people mean by ``24Gi``."""

_MIB: Final = 2**20
_DRIVER_SHARE: Final = 0.98
"""The driver keeps some of a card for itself."""
_WORTH_COUNTING: Final = 0.5
"""Of a GPU must be free of others. One that is not must not make every other GPU of the fleet look as small."""
_MIG_RESOURCE: Final = "/mig-"


@dataclass(frozen=True, slots=True)
class Inventory:
    """What one server may count on, whichever node it gets."""

    gpus: int
    """Per server."""
    usable: int
    """Bytes on each GPU, of the smallest card that a server may get."""
    servers: int
    """How many fit on the nodes at once."""
    source: str
    """Where the figure comes from, for people."""
    product: str = ""
    """Of that card, empty where it is not known."""
    largest: int = 0
    """Bytes on each GPU of the largest card; 0 where all are alike."""
    largest_memory: str = ""
    """``minMemory`` with which only such cards count."""


@dataclass(frozen=True, slots=True)
class Silent:
    """Nodes have suitable GPUs, but their agents do not say what is on them."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Cards:
    """What one node offers."""

    usable: int
    """Bytes of its smallest GPU that counts."""
    memory: int
    """MiB of a card."""
    count: int
    """GPUs that servers can get."""
    product: str
    told: str
    """By whom."""
    node: str
    crowded: bool = False
    """Others hold so much of its GPUs that it only counts where there is nothing else."""


def memory_label(resource: str) -> str:
    """The label with the memory of a GPU, in MiB: ``nvidia.com/gpu.memory``, or that of a kind of MIG instance."""
    return f"{resource.removesuffix('.shared')}.memory"


def product_label(resource: str) -> str:
    """The label with the product."""
    return f"{resource.removesuffix('.shared')}.product"


def product_values(gpu: GPUSpec) -> list[str]:
    """Products as labels spell them: with dashes where drivers and people write spaces."""
    return [product.replace(" ", "-") for product in gpu.products or ()]


def least_memory(gpu: GPUSpec) -> int:
    """MiB that the memory label of a suitable card shows at least; 0 for any."""
    return int(mebibytes(gpu.min_memory) * CARD_SHARE) if gpu.min_memory else 0


def survey(spec: OllamaDeploymentSpec, nodes: Iterable[NodeView]) -> Inventory | Silent | None:
    """The inventory for a deployment on GPUs; None where nothing says how large they are."""
    gpu = spec.hardware.gpu
    if gpu is None:
        return None
    demand = _demand(spec.placement or PlacementSpec(), gpu)
    least, products = least_memory(gpu), product_values(gpu)
    suitable = [node for node in nodes if admits(demand, node) and _suits(gpu, node, least, products)]
    found = [cards for node in suitable if not node.silent for cards in _cards(gpu, node)]
    counted = [cards for cards in found if cards.count >= gpu.count]
    if counted:
        return _inventory(gpu, [cards for cards in counted if not cards.crowded] or counted)
    silent = tuple(sorted(node.name for node in suitable if node.silent))
    if silent:
        return Silent(silent)
    if gpu.min_memory:
        source = f"minMemory {gpu.min_memory}: no such node yet"
        return Inventory(gpu.count, usable(least_memory(gpu)), 1, source)
    return None


def _inventory(gpu: GPUSpec, counted: list[_Cards]) -> Inventory:
    smallest = min(counted, key=lambda cards: (cards.usable, cards.node))
    largest = max(counted, key=lambda cards: (cards.usable, cards.node))
    more = f" and {len(counted) - 1} more" if len(counted) > 1 else ""
    other = largest.memory > smallest.memory
    return Inventory(
        gpus=gpu.count,
        usable=smallest.usable,
        servers=sum(cards.count // gpu.count for cards in counted),
        source=f"{smallest.usable // _MIB} MiB per GPU on {smallest.node}{more}, by {smallest.told}",
        product=smallest.product.removesuffix("-SHARED"),
        largest=largest.usable if other else 0,
        largest_memory=f"{largest.memory // 1024}Gi" if other else "",
    )


def usable(card: int) -> int:
    """Bytes that programs get of a card of so many MiB."""
    return int(card * _MIB * _DRIVER_SHARE)


def _cards(gpu: GPUSpec, node: NodeView) -> Iterator[_Cards]:
    """What the node's report says, or its labels where there is none; nothing where neither says anything."""
    resource = gpu.resource_name or GPU_RESOURCE
    offered = int(node.allocatable.get(resource, Decimal(0)))
    replicas = _replicas(resource, node)
    if replicas > 1 and gpu.count > 1:
        # Two shares may be of the same GPU: they are no two GPUs.
        return
    devices = [device for device in node.gpus if _is(resource, device, node)]
    memory, product = node.labels.get(memory_label(resource), ""), node.labels.get(product_label(resource), "")
    if devices:
        free = {one.uuid: one.total - one.reserved - one.foreign for one in devices if one.healthy and not one.taken}
        roomy = [one for one in devices if free.get(one.uuid, 0) >= _WORTH_COUNTING * one.total]
        counted = roomy or [one for one in devices if free.get(one.uuid, 0) > 0]
        if counted:
            yield _Cards(
                usable=min(free[one.uuid] for one in counted) // replicas,
                memory=int(memory) if memory.isdigit() else counted[0].total // _MIB,
                count=min(offered, len(counted) * replicas),
                product=product or counted[0].product.replace(" ", "-"),
                told="its driver",
                node=node.name,
                crowded=not roomy,
            )
    elif memory.isdigit() and int(memory):
        yield _Cards(usable(int(memory)) // replicas, int(memory), offered, product, "its label", node.name)


def _replicas(resource: str, node: NodeView) -> int:
    """Into how many shares a GPU is cut (time slices, MPS). A share has no memory of its own: it counts as its part."""
    found = node.labels.get(f"{resource.removesuffix('.shared')}.replicas", "")
    return max(1, int(found)) if found.isdigit() else 1


def _is(resource: str, device: GPUView, node: NodeView) -> bool:
    """Whether the kubelet hands a device out as ``resource``."""
    instance = device.uuid.startswith("MIG-")
    _, _, profile = resource.partition(_MIG_RESOURCE)
    if profile:
        return instance and device.product.replace("+", ".").endswith(profile)
    return not instance or node.labels.get("nvidia.com/mig.strategy") != "mixed"


def _suits(gpu: GPUSpec, node: NodeView, least: int, products: Sequence[str]) -> bool:
    """As the pods' node affinity demands it: by labels alone."""
    resource = gpu.resource_name or GPU_RESOURCE
    if products and node.labels.get(product_label(resource)) not in products:
        return False
    memory = node.labels.get(memory_label(resource), "")
    return not least or (memory.isdigit() and int(memory) >= least)


def _demand(placement: PlacementSpec, gpu: GPUSpec) -> Demand:
    resource = gpu.resource_name or GPU_RESOURCE
    return Demand(
        requests={resource: Decimal(gpu.count)},
        selector=placement.node_selector or {},
        # Nodes with GPUs are often tainted with the resource's name, which its pods tolerate by an admission plugin.
        tolerations=[*(placement.tolerations or ()), {"key": resource, "operator": "Exists"}],
        terms=required_terms(placement.affinity),
    )
