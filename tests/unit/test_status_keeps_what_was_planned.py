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


async def test_effective_values_stay_while_a_wish_cannot_be_planned() -> None:
    bench = Reconciled()
    await bench.serving()
    before = bench.status
    bench.deploy(version="0.32.4", modelSets=[{"name": "missing"}])
    await bench.look()
    assert bench.condition("Stalled")[1] == "ModelSetMissing"
    for field in ("effective", "version", "image"):
        assert bench.status[field] == before[field] != []


async def test_replicas_are_those_of_the_group_with_the_fewest() -> None:
    """What an autoscaler scales by: a model is served as often as its own group is."""
    bench = Reconciled()
    # The same weights with other load options never share a server.
    sizes = {"a": 2048, "b": 4096}
    bench.model_set(*({"name": name, "model": "same", "contextLength": size} for name, size in sizes.items()))
    bench.deploy(replicas=2)
    await bench.look()
    for name, group in (("p1", "g0"), ("p2", "g0"), ("p3", "g1")):
        bench.pod(name)
        pod = bench.server.objects["Pod", "ns", name]
        pod["metadata"]["labels"]["ollamafleet.io/group"] = group
        bench.server.put(pod)
    await bench.look()
    assert [group["replicas"] for group in bench.status["groups"]] == [2, 1]
    assert (bench.status["replicas"], bench.status["readyReplicas"]) == (1, 1)
