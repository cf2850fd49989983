"""What GPUs a deployment may count on: from labels, from drivers' reports, and from nothing."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from ollama_fleet.api.nodevramreport import NodeVRAMReportStatus
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.controllers.nodes import gpu_views
from ollama_fleet.planning.inventory import Inventory, Silent, survey
from ollama_fleet.planning.placement import GPUView, NodeView

MIB, GIB = 2**20, 2**30


def node(
    name: str,
    memory: int = 23034,
    *,
    product: str = "NVIDIA-L4",
    gpus: int = 4,
    resource: str = "nvidia.com/gpu",
) -> NodeView:
    found = {"nvidia.com/gpu.memory": str(memory), "nvidia.com/gpu.product": product} if memory else {}
    return NodeView(
        name=name,
        usable=True,
        labels=found,
        taints=[{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
        allocatable={resource: Decimal(gpus)},
    )


def gpu(uuid: str = "GPU-0", *, total: int = 23034, reserved: int = 530, **changes: Any) -> GPUView:
    return GPUView(uuid, changes.pop("product", "NVIDIA L4"), total * MIB, reserved * MIB, **changes)


def told(view: NodeView, *gpus: GPUView) -> NodeView:
    return replace(view, gpus=gpus)


def spec(**hardware: Any) -> OllamaDeploymentSpec:
    found = {"modelSets": [{"name": "m"}], "hardware": {"gpu": {"count": 1, **hardware}}}
    return OllamaDeploymentSpec.model_validate(found)


def found(asked: OllamaDeploymentSpec, *nodes: NodeView) -> Inventory:
    answer = survey(asked, nodes)
    assert isinstance(answer, Inventory)
    return answer


def test_the_smallest_card_that_a_server_may_get_counts() -> None:
    nodes = (node("big", 81559, product="H100"), node("small"), node("none", 15360, product="T4"))
    answer = found(spec(minMemory="24Gi"), *nodes)
    assert answer.usable == int(23034 * MIB * 0.98)
    assert answer.servers == 8
    assert answer.source == "22573 MiB per GPU on small and 1 more, by its label"
    assert (answer.largest, answer.largest_memory) == (int(81559 * MIB * 0.98), "79Gi")
    assert found(spec(products=["H100"]), *nodes).servers == 4


def test_without_a_node_the_wished_memory_counts_and_without_that_nothing() -> None:
    assert "no such node yet" in found(spec(minMemory="24Gi")).source
    assert survey(spec(), []) is None
    assert survey(spec(count=8), [node("few")]) is None


def test_the_driver_knows_better_than_the_label() -> None:
    answer = found(spec(), told(node("a", gpus=1), gpu()))
    assert answer.usable == (23034 - 530) * MIB
    assert answer.source == "22504 MiB per GPU on a, by its driver"
    assert answer.product == "NVIDIA-L4"


def test_a_node_without_labels_counts_by_its_report() -> None:
    bare = told(node("a", 0, gpus=2), gpu("GPU-0"), gpu("GPU-1"))
    assert found(spec(), bare).servers == 2
    # A pod that demands memory or a product is not placed on a node without the label.
    assert survey(spec(products=["NVIDIA-L4"]), [bare]) is None


def test_what_others_hold_is_taken_off() -> None:
    busy = told(node("a", gpus=2), gpu("GPU-0", foreign=3 * GIB), gpu("GPU-1"))
    assert found(spec(), busy).usable == (23034 - 530) * MIB - 3 * GIB


def test_one_gpu_that_others_fill_does_not_make_all_others_look_as_small() -> None:
    full = told(node("a", gpus=2), gpu("GPU-0", foreign=20 * GIB), gpu("GPU-1"))
    answer = found(spec(), full, node("b"))
    assert answer.usable > 20 * GIB
    assert answer.servers == 1 + 4
    only = told(node("a", gpus=1), gpu("GPU-0", foreign=20 * GIB))
    assert found(spec(), only).usable == (23034 - 530) * MIB - 20 * GIB
    assert found(spec(), only, node("b")).usable > 20 * GIB


def test_sick_gpus_and_those_of_other_pods_do_not_count() -> None:
    some = told(node("a"), gpu("GPU-0", healthy=False), gpu("GPU-1", taken=True), gpu("GPU-2"), gpu("GPU-3"))
    assert found(spec(), some).servers == 2
    assert found(spec(count=2), some).servers == 1
    assert survey(spec(count=4), [some]) is None
    assert survey(spec(), [told(node("a"), gpu("GPU-0", healthy=False))]) is None


def test_a_report_that_does_not_move_says_that_nothing_is_known_not_that_all_is_free() -> None:
    silent = replace(node("a"), silent=True, gpus=(gpu(),))
    assert survey(spec(), [silent]) == Silent(("a",))
    assert found(spec(), silent, node("b")).servers == 4
    assert survey(spec(minMemory="80Gi"), [silent]) != Silent(("a",))


def test_shares_of_a_gpu_count_as_their_part_of_it() -> None:
    """Time slices and MPS: four shares of one card are no four cards."""
    plain = node("a", product="NVIDIA-L4-SHARED", gpus=8)
    shared = replace(plain, labels={**plain.labels, "nvidia.com/gpu.replicas": "4"})
    answer = found(spec(), shared)
    assert answer.usable == int(23034 * MIB * 0.98) // 4
    assert answer.servers == 8
    assert answer.product == "NVIDIA-L4"
    by_report = told(shared, gpu("GPU-0"), gpu("GPU-1"))
    assert found(spec(), by_report).usable == (23034 - 530) * MIB // 4
    assert survey(spec(count=2), [shared]) is None


def test_instances_of_a_split_gpu_are_gpus_of_their_own() -> None:
    mixed = replace(
        node("a", 40960, product="NVIDIA-A100-SXM4-40GB", resource="nvidia.com/mig-3g.20gb", gpus=2),
        labels={"nvidia.com/mig.strategy": "mixed", "nvidia.com/mig-3g.20gb.memory": "19968"},
        taints=(),
    )
    asked = spec(resourceName="nvidia.com/mig-3g.20gb")
    assert found(asked, mixed).usable == int(19968 * MIB * 0.98)
    instances = [
        gpu(f"MIG-{n}", total=19968, reserved=0, product="NVIDIA A100-SXM4-40GB MIG 3g.20gb") for n in range(2)
    ]
    other = gpu("MIG-9", total=4864, reserved=0, product="NVIDIA A100-SXM4-40GB MIG 1g.5gb")
    whole = gpu("GPU-1", total=40960)
    answer = found(asked, told(mixed, *instances, other, whole))
    assert (answer.usable, answer.servers) == (19968 * MIB, 2)
    full = told(replace(mixed, allocatable={"nvidia.com/gpu": Decimal(1)}), *instances, whole)
    assert found(spec(), full).usable == (40960 - 530) * MIB
    single = told(replace(mixed, labels={}, allocatable={"nvidia.com/gpu": Decimal(2)}), *instances)
    assert found(spec(), single).usable == 19968 * MIB
    too_small = found(spec(resourceName="nvidia.com/mig-3g.20gb", minMemory="24Gi"), mixed)
    assert too_small.source == "minMemory 24Gi: no such node yet"


def test_products_may_be_written_as_the_driver_writes_them() -> None:
    assert found(spec(products=["NVIDIA L4"]), node("a")).servers == 4


def report(*gpus: dict[str, Any], known: bool = True, models: bool = False) -> NodeVRAMReportStatus:
    reason = "PodsKnown" if known else "HostPIDOff"
    condition = {"type": "Attributed", "status": str(known), "reason": reason, "lastTransitionTime": ""}
    resident = [{"pod": "ns/chat-0", "name": "chat", "digest": "sha256:" + "0" * 64}] if models else []
    return NodeVRAMReportStatus.model_validate({"gpus": list(gpus), "conditions": [condition], "models": resident})


def used(mebibytes: int, *pods: str, processes: dict[str, int] | None = None) -> dict[str, Any]:
    listed = [{"pid": n, "usedMebibytes": size, "pod": pod} for n, (pod, size) in enumerate((processes or {}).items())]
    figures = {"totalMebibytes": 24576, "reservedMebibytes": 500, "usedMebibytes": mebibytes}
    return {"uuid": "GPU-0", "index": 0, **figures, "pods": list(pods), "processes": listed}


@pytest.mark.parametrize(
    ("gpu_", "known", "models", "foreign", "taken"),
    [
        (used(0), True, False, 0, False),
        (used(3000), True, False, 3000, False),
        (used(9000, "ns/chat-0", processes={"ns/chat-0": 8500}), True, True, 0, False),
        (used(9000, "ns/chat-0", processes={"ns/chat-0": 8500, "": 400}), True, True, 400, False),
        (used(9000, "ns/chat-0", "x/y", processes={"ns/chat-0": 4000, "x/y": 5000}), True, True, 5000, False),
        (used(9000, "x/y", processes={"x/y": 9000}), True, False, 9000, True),
        (used(9000, "ns/chat-0"), False, True, 0, False),
        (used(9000), False, True, 0, False),
        (used(9000), False, False, 9000, False),
    ],
)
def test_whose_memory_is_whose(gpu_: dict[str, Any], *, known: bool, models: bool, foreign: int, taken: bool) -> None:
    (view,) = gpu_views(report(gpu_, known=known, models=models), own=frozenset({"ns/chat-0"}))
    assert (view.foreign, view.taken) == (foreign * MIB, taken)
    assert (view.total, view.reserved) == (24576 * MIB, 500 * MIB)


def test_nodes_whose_gpus_others_fill_make_no_room_for_servers() -> None:
    full = [told(node(f"full-{number}", gpus=1), gpu(foreign=20 * GIB)) for number in range(3)]
    answer = found(spec(), told(node("free", gpus=1), gpu()), *full)
    assert (answer.servers, answer.usable) == (1, 22504 * MIB)
    assert found(spec(), *full).servers == 3
