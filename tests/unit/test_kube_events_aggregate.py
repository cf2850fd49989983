from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ollama_fleet.kube import errors
from ollama_fleet.kube.events import MAX_MESSAGE, MAX_SERIES, SERIES_SECONDS, UPDATE_SECONDS, EventRecorder
from ollama_fleet.kube.kinds import Kind
from ollama_fleet.kube.transport import Json

START = datetime(2026, 1, 1, tzinfo=UTC)


class Client:
    def __init__(self) -> None:
        self.created: list[Json] = []
        self.patched: list[tuple[str, Json]] = []
        self.error: errors.KubeError | None = None
        self.expired = False
        self.loses_an_answer = False

    async def create(self, obj: Json) -> Json:
        if self.error:
            raise self.error
        if any(event["metadata"]["name"] == obj["metadata"]["name"] for event in self.created) and not self.expired:
            raise errors.AlreadyExists("exists", code=409)
        self.created.append(obj)
        if self.loses_an_answer:
            self.loses_an_answer = False
            raise errors.Timeout("no answer in time")
        return obj

    async def patch(self, kind: Kind, namespace: str | None, name: str, body: Any, *, content_type: str) -> Json:
        if self.error:
            raise self.error
        if self.expired:
            raise errors.NotFound("expired")
        self.patched.append((name, body))
        return {}


class Bench:
    def __init__(self) -> None:
        self.now = 0.0
        self.client = Client()
        self.recorder = EventRecorder(
            self.client,
            component="operator",
            instance="operator-0",
            clock=lambda: self.now,
            now=lambda: START + timedelta(seconds=self.now),
        )

    def record(self, message: str = "pulling 10 %", *, name: str = "chat", topic: str = "") -> None:
        regarding = {
            "apiVersion": "ollamafleet.io/v1alpha1",
            "kind": "OllamaDeployment",
            "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}"},
        }
        self.recorder.record(regarding, reason="Pulling", message=message, topic=topic)


async def test_the_first_is_written_whole() -> None:
    bench = Bench()
    bench.record()
    await bench.recorder.flush()
    (event,) = bench.client.created
    assert event["involvedObject"]["uid"] == "uid-chat"
    assert event["metadata"]["namespace"] == "ns"
    assert event["metadata"]["name"].startswith("chat.")
    assert (event["type"], event["reason"], event["message"], event["count"]) == (
        "Normal",
        "Pulling",
        "pulling 10 %",
        1,
    )
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-01-01T00:00:00Z"


async def test_the_same_again_is_a_count_with_the_newest_message_now_and_then() -> None:
    bench = Bench()
    bench.record()
    await bench.recorder.flush()
    for second in range(1, 60):
        bench.now = second
        bench.record(f"pulling {second} %")
        await bench.recorder.flush()
    assert bench.client.patched == []
    bench.now = UPDATE_SECONDS
    await bench.recorder.flush()
    await bench.recorder.flush()
    ((name, body),) = bench.client.patched
    assert name == bench.client.created[0]["metadata"]["name"]
    assert body == {"count": 60, "message": "pulling 59 %", "lastTimestamp": "2026-01-01T00:00:59Z"}
    assert len(bench.client.created) == 1


async def test_other_objects_and_topics_are_other_events() -> None:
    bench = Bench()
    bench.record(topic="a")
    bench.record(topic="b")
    bench.record(name="other", topic="a")
    await bench.recorder.flush()
    assert len({event["metadata"]["name"] for event in bench.client.created}) == 3


async def test_after_a_silence_it_is_a_new_event() -> None:
    bench = Bench()
    bench.record()
    await bench.recorder.flush()
    bench.now = SERIES_SECONDS + 1
    bench.record()
    await bench.recorder.flush()
    assert [event["count"] for event in bench.client.created] == [1, 1]
    assert len({event["metadata"]["name"] for event in bench.client.created}) == 2


async def test_an_expired_event_is_written_anew_with_its_count() -> None:
    bench = Bench()
    bench.record()
    await bench.recorder.flush()
    bench.client.expired = True
    bench.now = UPDATE_SECONDS
    bench.record()
    await bench.recorder.flush()
    assert [event["count"] for event in bench.client.created] == [1, 2]


async def test_an_outage_loses_nothing_that_still_fits() -> None:
    bench = Bench()
    bench.client.error = errors.Unavailable("503")
    bench.record()
    await bench.recorder.flush()
    bench.client.error = None
    bench.now = UPDATE_SECONDS
    await bench.recorder.flush()
    assert len(bench.client.created) == 1
    assert bench.recorder.dropped == 0


async def test_an_event_stored_without_an_answer_is_gone_on_with() -> None:
    bench = Bench()
    bench.client.loses_an_answer = True
    bench.record("pulling 10 %")
    await bench.recorder.flush()
    bench.record("pulling 20 %")
    for minute in range(1, 5):
        bench.now = UPDATE_SECONDS * minute
        await bench.recorder.flush()
    assert len(bench.client.created) == 1
    ((name, body),) = bench.client.patched
    assert name == bench.client.created[0]["metadata"]["name"]
    assert (body["count"], body["message"]) == (2, "pulling 20 %")


async def test_a_refused_event_is_counted_and_not_tried_again() -> None:
    bench = Bench()
    bench.client.error = errors.Forbidden("namespace is being terminated")
    bench.record()
    await bench.recorder.flush()
    bench.client.error = None
    bench.now = UPDATE_SECONDS * 2
    await bench.recorder.flush()
    assert bench.recorder.dropped == 1
    assert bench.client.created == []


async def test_memory_and_rate_are_bounded_and_drops_are_counted() -> None:
    bench = Bench()
    for number in range(MAX_SERIES + 10):
        bench.record(name=f"n{number}")
    assert bench.recorder.dropped == 10
    await bench.recorder.flush()
    assert len(bench.client.created) == 50
    bench.now = 2
    await bench.recorder.flush()
    assert len(bench.client.created) == 60


@pytest.mark.parametrize("message", ["x" * 5000, "ü" * 3000])
async def test_a_long_message_is_cut_to_what_the_server_takes(message: str) -> None:
    bench = Bench()
    bench.record(message)
    await bench.recorder.flush()
    assert MAX_MESSAGE - 4 < len(bench.client.created[0]["message"].encode()) <= MAX_MESSAGE


async def test_settled_series_are_forgotten() -> None:
    bench = Bench()
    bench.record()
    await bench.recorder.flush()
    bench.now = SERIES_SECONDS + 1
    await bench.recorder.flush()
    assert not bench.recorder._series
