"""While a wish cannot be planned yet, the status speaks of the last plan, figures included."""

from tests.support.plans import GPU, sized
from tests.support.reconciled import Reconciled


async def test_planned_bytes_stay_while_a_model_is_looked_up() -> None:
    bench = Reconciled()
    bench.node("n1", **{"nvidia.com/gpu.memory": "23034"})
    bench.model_set({"name": "llama3.1:8b"})
    live = bench.server.objects["ModelSet", "ns", "models"]
    bench.server.put({**live, "status": sized({"name": "llama3.1:8b"}).status.to_wire()})
    bench.deploy(hardware=GPU)
    await bench.look()
    (before,) = bench.status["models"]
    bench.edit_model_set(models=[{"name": "llama3.1:8b"}, {"name": "two"}], source={"registry": "registry.test"})
    await bench.look()
    assert bench.condition("Reconciling")[1] == "Resolving"
    assert bench.status["models"][0]["planned"] == before["planned"] > 0
