"""Lists and watches are scripted: each entry of the script is what the next request gets."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from ollama_fleet.kube import errors
from ollama_fleet.kube.client import EventType
from ollama_fleet.kube.informer import MAX_PAUSE, Informer
from ollama_fleet.kube.kinds import CONFIG_MAP, Kind
from ollama_fleet.kube.transport import Json, Objects


class ScriptEndedError(Exception):
    """The informer asked for more than the script has."""


class Script:
    """Answers requests; after the last one the informer is cancelled."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.requests: list[str] = []
        self.pauses: list[float] = []
        self.now = 0.0
        self.ended = asyncio.Event()

    async def pages(self, kind: Kind, **scope: Any) -> AsyncGenerator[tuple[Objects, str], None]:
        self.requests.append("list")
        for page in await self._next():
            yield page

    async def watch(
        self, kind: Kind, *, resource_version: str, **scope: Any
    ) -> AsyncGenerator[tuple[EventType, Json], None]:
        self.requests.append(resource_version)
        for event in await self._next():
            if isinstance(event, Exception):
                raise event
            yield event
        self.now += 300

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    async def _next(self) -> list[Any]:
        if not self.steps:
            self.ended.set()
            await asyncio.Event().wait()
        step = self.steps.pop(0)
        if isinstance(step, BaseException):
            raise step
        assert isinstance(step, list)
        return step


def obj(name: str, version: int, *, uid: str = "", namespace: str = "ns", **labels: str) -> Json:
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
            "managedFields": [{}],
            "labels": labels,
        }
    }


def page(version: int, *objects: Json) -> tuple[Objects, str]:
    return list(objects), str(version)


Seen = list[tuple[str | None, str | None]]


async def follow(script: Script, **options: Any) -> tuple[Informer, Seen]:
    """Run an informer to the end of the script; changes as (old version, new version) of each object."""
    informer = Informer(script, CONFIG_MAP, clock=lambda: script.now, sleep=script.sleep, **options)
    seen: Seen = []

    def show(obj: Json | None) -> str | None:
        return None if obj is None else f"{obj['metadata']['name']}@{obj['metadata']['resourceVersion']}"

    informer.add_handler(lambda old, new: seen.append((show(old), show(new))))
    task = asyncio.create_task(informer.run())
    await asyncio.wait_for(script.ended.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return informer, seen


async def test_lists_in_pages_then_watches_from_the_last_version() -> None:
    script = Script(
        [page(10, obj("a", 1)), page(10, obj("b", 2))],
        [("ADDED", obj("c", 11)), ("MODIFIED", obj("a", 12)), ("DELETED", obj("b", 13))],
    )
    informer, seen = await follow(script)
    assert script.requests == ["list", "10", "13"]
    assert seen == [(None, "a@1"), (None, "b@2"), (None, "c@11"), ("a@1", "a@12"), ("b@2", None)]
    assert sorted(o["metadata"]["name"] for o in informer.list()) == ["a", "c"]
    assert informer.synced.is_set()


async def test_bookmarks_move_the_version_and_nothing_else() -> None:
    script = Script([page(10)], [("BOOKMARK", {"metadata": {"resourceVersion": "99"}})])
    _, seen = await follow(script)
    assert script.requests == ["list", "10", "99"]
    assert seen == []


async def test_what_vanished_while_history_was_gone_is_found() -> None:
    script = Script(
        [page(10, obj("a", 1), obj("b", 2), obj("c", 3))],
        errors.Gone("too old"),
        [page(50, obj("a", 1), obj("c", 40))],
    )
    informer, seen = await follow(script)
    assert script.requests == ["list", "10", "list", "50"]
    assert seen[3:] == [("c@3", "c@40"), ("b@2", None)]
    assert informer.get("ns", "b") is None


async def test_history_that_is_gone_again_and_again_is_no_hot_loop() -> None:
    script = Script(*[step for _ in range(4) for step in ([page(10)], errors.Gone("too old"))], [page(10)])
    await follow(script)
    assert len(script.pauses) == 4
    assert all(pause > 0 for pause in script.pauses)


async def test_an_object_made_anew_is_gone_first_and_then_there() -> None:
    script = Script(
        [page(10, obj("a", 1, uid="old"))],
        errors.Gone("too old"),
        [page(50, obj("a", 40, uid="new"))],
    )
    _, seen = await follow(script)
    assert seen == [(None, "a@1"), ("a@1", None), (None, "a@40")]


async def test_replayed_events_change_nothing() -> None:
    script = Script(
        [page(10, obj("a", 1))],
        [("MODIFIED", obj("a", 12)), ("MODIFIED", obj("a", 11)), ("MODIFIED", obj("a", 12))],
        [("DELETED", obj("a", 13, uid="former"))],
    )
    informer, seen = await follow(script)
    assert seen == [(None, "a@1"), ("a@1", "a@12")]
    assert informer.get("ns", "a") is not None


async def test_an_answer_to_a_write_is_known_before_the_watch_tells_it() -> None:
    informer, seen = await follow(Script([page(10, obj("a", 1))]))
    informer.wrote(obj("a", 11))
    informer.wrote(obj("b", 12))
    assert seen[1:] == [("a@1", "a@11"), (None, "b@12")]
    assert "managedFields" not in informer.list()[1]["metadata"]


async def test_an_answer_to_a_write_that_is_not_selected_is_not_kept() -> None:
    informer, _ = await follow(Script([page(10)]), label_selector="app=a,tier=b")
    informer.wrote(obj("other", 11, app="a"))
    without = obj("none", 12)
    del without["metadata"]["labels"]
    informer.wrote(without)
    assert len(informer) == 0
    informer.wrote(obj("ours", 13, app="a", tier="b", more="c"))
    assert len(informer) == 1


async def test_an_answer_that_the_watch_has_overtaken_brings_nothing_back() -> None:
    informer, seen = await follow(Script([page(10)], [("ADDED", obj("a", 11)), ("DELETED", obj("a", 12))]))
    informer.wrote(obj("a", 11))
    assert len(informer) == 0
    assert len(seen) == 2


async def test_the_watch_s_word_on_an_own_write_wakes_nobody_twice() -> None:
    script = Script([page(10, obj("a", 1))], [("MODIFIED", obj("a", 11)), ("MODIFIED", obj("a", 12))])
    informer = Informer(script, CONFIG_MAP, clock=lambda: script.now, sleep=script.sleep)
    seen: list[Json | None] = []

    def handler(old: Json | None, new: Json | None) -> None:
        seen.append(new)
        if old is None:
            informer.wrote(obj("a", 12))

    informer.add_handler(handler)
    task = asyncio.create_task(informer.run())
    await asyncio.wait_for(script.ended.wait(), 5)
    task.cancel()
    assert [new["metadata"]["resourceVersion"] for new in seen if new] == ["1", "12"]


async def test_a_broken_watch_goes_on_where_it_was() -> None:
    script = Script(
        [page(10)],
        [("ADDED", obj("a", 11)), errors.Unavailable("reset")],
        errors.Timeout("silence"),
        [("ADDED", obj("b", 12))],
    )
    informer, seen = await follow(script)
    assert script.requests == ["list", "10", "11", "11", "12"]
    assert len(seen) == 2
    assert informer.relists == 1


async def test_it_never_gives_up_and_the_pauses_stay_short() -> None:
    script = Script(*[errors.Unavailable("503")] * 300, [page(10, obj("a", 1))])
    informer, seen = await follow(script)
    assert seen == [(None, "a@1")]
    assert len(script.pauses) == 300
    assert max(script.pauses) <= MAX_PAUSE
    assert min(script.pauses[10:]) >= MAX_PAUSE / 2
    assert informer.failures == 0


async def test_a_version_that_the_server_never_reaches_leads_to_a_new_list() -> None:
    """As after a restore of etcd: every watch from there times out."""
    script = Script([page(1000)], *[errors.Timeout("Too large resource version")] * 5, [page(20)])
    await follow(script)
    assert script.requests == ["list", *["1000"] * 5, "list", "20"]


async def test_a_watch_in_which_nothing_happens_is_begun_again_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    script = Script([page(10)], *[errors.Silence("nothing")] * 20, [("ADDED", obj("a", 11))])
    informer, _ = await follow(script)
    assert script.requests == ["list", *["10"] * 21, "11"]
    assert script.pauses == []
    assert caplog.records == []
    assert informer.relists == 1


async def test_a_connection_that_died_in_silence_is_noticed_at_the_next_watch(caplog: pytest.LogCaptureFixture) -> None:
    script = Script([page(10)], errors.Silence("nothing"), errors.Unavailable("refused"), [("ADDED", obj("a", 11))])
    _, seen = await follow(script)
    assert script.requests == ["list", "10", "10", "10", "11"]
    assert len(script.pauses) == 1
    assert [record.message for record in caplog.records] == ["lost touch with the API server"]
    assert seen == [(None, "a@11")]


async def test_a_cancellation_from_elsewhere_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    script = Script([page(10)], asyncio.CancelledError(), [page(20)])
    informer, _ = await follow(script)
    assert script.requests == ["list", "10", "list", "20"]
    assert informer.relists == 2
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]


async def test_the_server_s_wish_to_wait_is_kept() -> None:
    script = Script(errors.TooManyRequests("later", retry_after=17), [page(10)])
    await follow(script)
    assert script.pauses == [17]


async def test_a_handler_that_fails_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    script = Script([page(10, obj("a", 1), obj("b", 2))])
    informer = Informer(script, CONFIG_MAP, sleep=script.sleep)
    seen: list[str] = []

    def broken(old: Json | None, new: Json | None) -> None:
        raise ValueError("bug")

    informer.add_handler(broken)
    informer.add_handler(lambda _, new: seen.append(new["metadata"]["name"] if new else "-"))
    task = asyncio.create_task(informer.run())
    await asyncio.wait_for(script.ended.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["a", "b"]
    assert caplog.text.count("handler of an informer") == 2


async def test_an_event_that_cannot_be_understood_leads_to_a_new_list() -> None:
    script = Script([page(10)], [("ADDED", {"no": "metadata"})], [page(20)])
    informer, _ = await follow(script)
    assert script.requests == ["list", "10", "list", "20"]
    assert informer.relists == 2


async def test_indices_and_namespaces_follow_the_objects() -> None:
    script = Script(
        [page(10, obj("a", 1, app="x"), obj("b", 2, app="y", namespace="other"))],
        [("MODIFIED", obj("a", 11, app="y")), ("DELETED", obj("b", 12, app="y", namespace="other"))],
    )
    informer, _ = await follow(script, indices={"app": lambda o: [o["metadata"]["labels"]["app"]]})
    assert informer.by_index("app", "x") == []
    assert [o["metadata"]["name"] for o in informer.by_index("app", "y")] == ["a"]
    assert informer.list("other") == []
    assert len(informer.list("ns")) == len(informer) == 1


async def test_only_the_projection_is_kept() -> None:
    script = Script([page(10, obj("a", 1))], [("MODIFIED", obj("a", 11))])
    informer, _ = await follow(script)
    kept = informer.get("ns", "a")
    assert kept is not None
    assert "managedFields" not in kept["metadata"]
