"""kopf itself runs here, against a small API server that counts what it is asked."""

import asyncio
import gc
import itertools
import json
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import kopf
import pytest
from aiohttp import web

from ollama_fleet.handlers.login import MIN_INTERVAL, Login
from ollama_fleet.handlers.registry import build_registry, is_news
from ollama_fleet.handlers.settings import EndlessBackoff, configure
from ollama_fleet.handlers.shell import run_shell
from ollama_fleet.kube.kinds import Kind
from ollama_fleet.kube.transport import Credentials
from ollama_fleet.telemetry.health import Heartbeat
from tests.support.stand_in_api import stand_in_api, write_kubeconfig

GROUP = "ollamafleet.io"


@pytest.fixture(autouse=True)
def _let_go_of_what_kopf_left() -> Iterator[None]:
    """kopf ends without closing its last session; collected later, that would fail whatever test runs then."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def event(kind: str | None, *, generation: int = 2, observed: int | None = 2, **metadata: Any) -> Any:
    obj = {
        "metadata": {"name": "x", "namespace": "ns", "generation": generation, **metadata},
        "status": {} if observed is None else {"observedGeneration": observed},
    }
    return {"type": kind, "object": obj}


@pytest.mark.parametrize(
    ("what", "news"),
    [
        (event(None), True),
        (event("ADDED"), True),
        (event("DELETED"), True),
        (event("MODIFIED"), False),
        (event("MODIFIED", observed=1), True),
        (event("MODIFIED", observed=None), True),
        (event("MODIFIED", deletionTimestamp="2026-01-01T00:00:00Z"), True),
        ({"type": "MODIFIED", "object": {"metadata": {"generation": 1}, "status": None}}, True),
    ],
)
def test_only_a_change_that_the_operator_has_not_seen_is_news(what: Any, news: bool) -> None:  # noqa: FBT001
    assert is_news(what) is news


def test_requests_are_retried_without_end() -> None:
    delays = iter(EndlessBackoff())
    first = [next(delays) for _ in range(1000)]
    assert all(7.5 <= delay <= 15 for delay in first[10:])
    assert not hasattr(EndlessBackoff(), "__len__"), "kopf takes a length for an end"


def test_nothing_of_kopf_s_own_is_stored() -> None:
    settings = kopf.OperatorSettings()
    configure(settings)
    assert settings.peering.standalone
    assert not settings.posting.enabled
    assert settings.scanning.disabled
    body = kopf.Body({"metadata": {"name": "x"}, "spec": {"a": 1}})
    assert settings.persistence.diffbase_storage.build(body=body) == {}
    assert isinstance(settings.watching.server_timeout, int), "the API server parses no fraction"


async def test_logging_in_again_is_slow_and_never_equal(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, "http://127.0.0.1:1")
    now = 0.0
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    login = Login(Credentials(kubeconfig=str(path)), clock=lambda: now, sleep=sleep)
    first = await login()
    now = 1.0
    second = await login()
    assert slept == [MIN_INTERVAL - 1.0]
    assert first != second
    assert (first.server, first.token, first.scheme) == ("http://127.0.0.1:1", "t", "Bearer")


async def test_kopf_goes_through_the_same_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "")
    write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    assert (await Login(Credentials(kubeconfig=str(tmp_path / "kubeconfig")))()).proxy_url == "http://proxy:3128"


def test_the_handlers_need_no_finalizer_and_no_patch() -> None:
    registry = build_registry(
        enqueue=lambda *_: None, login=Login(Credentials(kubeconfig="x")), on_started=lambda: None
    )
    assert len(registry._watching.get_all_handlers()) == 2
    for other in (registry._changing, registry._spawning, registry._indexing, registry._webhooks):
        assert list(other.get_all_handlers()) == []


class Heart(Heartbeat):
    """Counts its beats; its time stands still."""

    def __init__(self) -> None:
        super().__init__("kopf's thread", limit=30, clock=lambda: 0.0)
        self.beats = 0

    def beat(self) -> None:
        super().beat()
        self.beats += 1


class Api:
    """Two kinds, one ModelSet in the list, one more by watch; writes are remembered."""

    def __init__(self) -> None:
        self.kubeconfig = ""
        self.methods: set[str] = set()
        self.watches = 0
        self.refuse_watches = 0
        self.unavailable = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.methods.add(request.method)
        path = request.path
        if self.unavailable:
            self.unavailable -= 1
            return web.json_response({"kind": "Status", "code": 503}, status=503)
        if path == "/api":
            return web.json_response({"versions": ["v1"]})
        if path == "/apis":
            return web.json_response({"groups": [group(GROUP, "v1alpha1"), group("apiextensions.k8s.io", "v1")]})
        if path in RESOURCES:
            kinds = RESOURCES[path]
            return web.json_response({"resources": [resource(plural, kind) for plural, kind in kinds.items()]})
        if "watch" in request.query:
            return await self._watch(request)
        items = [event(None)["object"]] if path.endswith("modelsets") else []
        return web.json_response({"metadata": {"resourceVersion": "5"}, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if self.refuse_watches:
            self.refuse_watches -= 1
            return web.json_response({"kind": "Status", "code": 400, "message": "no"}, status=400)
        self.watches += 1
        response = web.StreamResponse()
        await response.prepare(request)
        if request.path.endswith("modelsets"):
            added = event("ADDED", uid="u2", resourceVersion="6")
            added["object"]["metadata"]["name"] = "y"
            await response.write(json.dumps(added).encode() + b"\n")
        await asyncio.sleep(60)
        return response


RESOURCES = {
    "/api/v1": {"namespaces": "Namespace"},
    "/apis/apiextensions.k8s.io/v1": {"customresourcedefinitions": "CustomResourceDefinition"},
    f"/apis/{GROUP}/v1alpha1": {"modelsets": "ModelSet", "ollamadeployments": "OllamaDeployment"},
}


def group(name: str, version: str) -> dict[str, Any]:
    return {"name": name, "versions": [{"version": version}], "preferredVersion": {"version": version}}


def resource(plural: str, kind: str) -> dict[str, Any]:
    return {
        "name": plural,
        "kind": kind,
        "singularName": kind.lower(),
        "namespaced": True,
        "verbs": ["get", "list", "watch", "patch"],
    }


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    api = Api()
    api.kubeconfig = str(tmp_path / "kubeconfig")
    async with stand_in_api(api.serve, tmp_path / "kubeconfig"):
        yield api


async def test_events_become_keys_in_the_caller_s_loop_and_our_tasks_survive_kopf(api: Api) -> None:
    loop = asyncio.get_running_loop()
    keys: set[tuple[str, str, str]] = set()
    both = asyncio.Event()
    started = asyncio.Event()
    stop = asyncio.Event()
    heart = Heart()

    def enqueue(kind: Kind, namespace: str, name: str) -> None:
        assert asyncio.get_running_loop() is loop
        keys.add((kind.kind, namespace, name))
        if len(keys) == 2:
            both.set()

    shell = asyncio.create_task(
        run_shell(
            enqueue=enqueue,
            on_started=started.set,
            stop=stop,
            heart=heart,
            kubeconfig=api.kubeconfig,
        )
    )
    await asyncio.wait_for(started.wait(), 10)
    # kopf cancels tasks made after its start, were they in its loop.
    ours = asyncio.create_task(asyncio.sleep(3600))
    await asyncio.wait_for(both.wait(), 10)
    stop.set()
    await asyncio.wait_for(shell, 15)
    assert keys == {("ModelSet", "ns", "x"), ("ModelSet", "ns", "y")}
    assert heart.beats > 1
    assert not ours.done()
    ours.cancel()
    assert api.methods == {"GET"}


async def test_kopf_is_started_again_when_it_ends_by_itself(api: Api) -> None:
    api.refuse_watches = 1
    starts = 0
    again = asyncio.Event()
    stop = asyncio.Event()

    def on_started() -> None:
        nonlocal starts
        starts += 1
        if starts == 2:
            again.set()

    shell = asyncio.create_task(
        run_shell(enqueue=lambda *_: None, on_started=on_started, stop=stop, heart=Heart(), kubeconfig=api.kubeconfig)
    )
    await asyncio.wait_for(again.wait(), 20)
    stop.set()
    await asyncio.wait_for(shell, 15)
    assert starts == 2


async def test_an_outage_of_any_length_does_not_end_kopf(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own settings kopf gives up after the ninth 503."""
    monkeypatch.setattr(EndlessBackoff, "__iter__", lambda _: itertools.repeat(0.001))
    api.unavailable = 100
    starts: list[bool] = []
    arrived = asyncio.Event()
    stop = asyncio.Event()
    shell = asyncio.create_task(
        run_shell(
            enqueue=lambda *_: arrived.set(),
            on_started=lambda: starts.append(True),
            stop=stop,
            heart=Heart(),
            kubeconfig=api.kubeconfig,
        )
    )
    await asyncio.wait_for(arrived.wait(), 20)
    stop.set()
    await asyncio.wait_for(shell, 15)
    assert api.unavailable == 0
    assert len(starts) == 1
