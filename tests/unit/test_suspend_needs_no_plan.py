"""``spec.suspend`` stops servers whatever else is wrong with the wish."""

from tests.support.reconciled import MODEL_SETS, Reconciled


async def test_a_wish_with_a_problem_is_suspended_and_resumes_when_it_is_mended() -> None:
    bench = Reconciled()
    await bench.serving()
    bench.deploy(suspend=True, modelSets=[*MODEL_SETS, {"name": "missing"}])
    await bench.look()
    assert bench.deployment["spec"]["replicas"] == 0
    assert bench.condition("Stalled")[:2] == ("True", "ModelSetMissing")
    assert "keep serving" not in bench.condition("Stalled")[2]
    requests = len(bench.server.requests)
    await bench.look()
    assert len(bench.server.requests) == requests
    bench.deploy()
    await bench.look()
    assert bench.deployment["spec"]["replicas"] == 1
