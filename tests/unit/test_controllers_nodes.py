"""Nodes as the planner sees them."""

from tests.support.plans import GPU, sized
from tests.support.reconciled import Reconciled


def report(bench: Reconciled, sequence: int) -> None:
    """The agent of n1 has written once more."""
    figures = {"totalMebibytes": 23034, "reservedMebibytes": 530, "usedMebibytes": 0, "healthy": True}
    gpu = {"uuid": "GPU-0", "index": 0, "product": "NVIDIA L4", **figures}
    document = {"kind": "NodeVRAMReport", "metadata": {"name": "n1"}, "status": {"sequence": sequence, "gpus": [gpu]}}
    bench.server.put(document)


async def test_nothing_is_planned_by_a_report_that_does_not_move() -> None:
    bench = Reconciled()
    bench.node("n1", **{"nvidia.com/gpu.memory": "23034"})
    report(bench, 1)
    bench.model_set({"name": "llama3.1:8b"})
    live = bench.server.objects["ModelSet", "ns", "models"]
    bench.server.put({**live, "status": sized({"name": "llama3.1:8b"}).status.to_wire()})
    bench.deploy(hardware=GPU)
    await bench.look()
    assert bench.condition("Reconciling")[:2] == ("True", "ReportStale")
    assert bench.server.of_kind("Deployment") == []
    report(bench, 2)
    await bench.look()
    assert bench.deployment
