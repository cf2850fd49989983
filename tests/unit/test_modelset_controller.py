"""Reconciling ModelSets: who is asked, what is written, when it is looked at again."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from ollama_fleet.api.modelset import ModelSetSpec, ModelSpec, ResolvedModel, UpdatePolicy
from ollama_fleet.api.reasons import Reason
from ollama_fleet.controllers import schedule
from ollama_fleet.controllers.modelset import ModelSetController
from ollama_fleet.kube import kinds
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.events import EventRecorder
from ollama_fleet.kube.informer import Informer
from ollama_fleet.kube.queue import Key

KEY = Key(kinds.MODEL_SET, "ns", "models")
DIGESTS = ["sha256:" + letter * 64 for letter in "abc"]


class Registry:
    """Answers with a digest that a test may move, or a failure."""

    def __init__(self) -> None:
        self.asked = 0
        self.digest = DIGESTS[0]
        self.failure: Reason | None = None

    async def resolve(
        self, namespace: str, spec: ModelSetSpec, model: ModelSpec, *, before: ResolvedModel | None
    ) -> ResolvedModel:
        if before is not None and before.ready:
            return before
        self.asked += 1
        if self.failure:
            return ResolvedModel(name=model.name, reason=self.failure, message="no")
        return ResolvedModel(name=model.name, reference="r", digest=self.digest, size=5, ready=True)


class Cluster:
    """One ModelSet, as informer and client see it."""

    def __init__(self, **spec: Any) -> None:
        self.object: dict[str, Any] = {
            "metadata": {"namespace": "ns", "name": "models", "uid": "u", "generation": 1},
            "spec": {"models": [{"name": "chat"}], **spec},
            "status": {"observedGeneration": -1},
        }
        self.writes = 0
        self.events: list[str] = []

    def get(self, namespace: str, name: str) -> dict[str, Any]:
        return self.object

    async def apply_status(
        self, kind: Any, namespace: str, name: str, status: Mapping[str, Any], *, uid: str
    ) -> dict[str, Any]:
        assert uid == "u"
        self.writes += 1
        self.object = {**self.object, "status": dict(status)}
        return self.object

    def record(self, regarding: Any, *, reason: str, message: str, event_type: str = "Normal") -> None:
        self.events.append(reason)


class Bench:
    def __init__(self, **spec: Any) -> None:
        self.cluster, self.registry = Cluster(**spec), Registry()
        self.time = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
        self.controller = ModelSetController(
            client=cast(KubeClient, self.cluster),
            model_sets=cast(Informer, self.cluster),
            resolver=self.registry,
            events=cast(EventRecorder, self.cluster),
            now=lambda: self.time,
        )

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cluster.object["status"]
        return found

    def condition(self, kind: str) -> tuple[str, str]:
        return next((c["status"], c["reason"]) for c in self.status["conditions"] if c["type"] == kind)


async def test_a_resolved_set_is_asked_for_once_and_written_once() -> None:
    bench = Bench()
    assert await bench.controller.reconcile(KEY) is None
    assert bench.condition("Ready") == ("True", "Resolved")
    assert bench.status["models"][0]["digest"] == DIGESTS[0]
    await bench.controller.reconcile(KEY)
    assert (bench.registry.asked, bench.cluster.writes) == (1, 1)


async def test_what_somebody_must_mend_stalls_and_is_asked_for_again_ever_later() -> None:
    bench = Bench()
    bench.registry.failure = Reason.MODEL_NOT_FOUND
    waits = [await bench.controller.reconcile(KEY) for _ in range(7)]
    assert waits == [2.0, 5.0, 10.0, 20.0, 60.0, 60.0, 60.0]
    assert bench.condition("Stalled") == ("True", "ModelNotFound")
    assert bench.cluster.writes == 1
    assert bench.cluster.events == ["ModelNotFound"]
    bench.registry.failure = None
    assert await bench.controller.reconcile(KEY) is None
    assert bench.condition("Stalled") == ("False", "Resolved")


async def test_a_registry_that_is_away_is_no_stall() -> None:
    bench = Bench()
    bench.registry.failure = Reason.REGISTRY_UNREACHABLE
    await bench.controller.reconcile(KEY)
    assert bench.condition("Stalled")[0] == "False"
    assert bench.condition("Reconciling") == ("True", "RegistryUnreachable")


async def test_a_moved_tag_is_followed_on_schedule_only() -> None:
    bench = Bench(updatePolicy={"type": "IfChanged", "schedule": "0 * * * *"})
    assert await bench.controller.reconcile(KEY) == 1800.0
    bench.registry.digest = DIGESTS[1]
    bench.time += timedelta(minutes=29)
    assert await bench.controller.reconcile(KEY) == 60.0
    assert bench.status["models"][0]["digest"] == DIGESTS[0]
    bench.time += timedelta(minutes=1)
    assert await bench.controller.reconcile(KEY) == 3600.0
    assert bench.status["models"][0]["digest"] == DIGESTS[1]
    assert bench.registry.asked == 2


async def test_news_that_cannot_be_had_change_nothing() -> None:
    bench = Bench(updatePolicy={"type": "IfChanged"})
    await bench.controller.reconcile(KEY)
    bench.registry.failure = Reason.REGISTRY_UNREACHABLE
    bench.time += timedelta(hours=1)
    await bench.controller.reconcile(KEY)
    assert bench.condition("Ready") == ("True", "Resolved")
    assert bench.status["models"][0]["digest"] == DIGESTS[0]


@pytest.mark.parametrize("policy", [None, UpdatePolicy(type="Pinned")])
def test_without_a_schedule_there_is_no_next_look(policy: UpdatePolicy | None) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert not schedule.due(policy, looked_up="2020-01-01T00:00:00Z", now=now)
    assert schedule.stamp(policy, "", due=False, now=now) == ""
    assert schedule.wait(policy, looked_up="", now=now) is None
