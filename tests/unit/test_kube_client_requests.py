"""The client against a small HTTP server on loopback that answers as the API server does, or worse."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.config.incluster_config import InClusterConfigLoader

from ollama_fleet.kube import errors, transport
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.kinds import CONFIG_MAP, DEPLOYMENT, NODE, Kind
from ollama_fleet.kube.transport import Credentials, Json, Transport
from tests.support.stand_in_api import Handler, stand_in_api, write_kubeconfig


class Api:
    """Answers with what the test put into ``handler``; remembers the requests."""

    def __init__(self, kubeconfig: Path) -> None:
        self.handler: Handler = self._missing
        self.requests: list[tuple[str, str, Any]] = []
        self.observed: list[tuple[str, str, str]] = []
        self.kubeconfig = kubeconfig
        self.url = ""
        self.client: KubeClient

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read() or b"null")
        self.requests.append((request.method, request.path_qs, body))
        return await self.handler(request)

    def write_token(self, token: str) -> None:
        write_kubeconfig(self.kubeconfig, self.url, token=token)

    def answer(self, *answers: tuple[int, Any], headers: dict[str, str] | None = None) -> None:
        """Give the answers one after the other."""
        left = list(answers)

        async def handler(request: web.Request) -> web.Response:
            code, body = left.pop(0)
            return web.json_response(body, status=code, headers=headers)

        self.handler = handler

    @staticmethod
    async def _missing(request: web.Request) -> web.Response:
        return web.json_response(status_of("NotFound"), status=404)


def status_of(reason: str, message: str = "", **details: Any) -> Json:
    return {"kind": "Status", "reason": reason, "message": message, "details": details}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    api = Api(tmp_path / "kubeconfig")
    async with stand_in_api(api.serve, api.kubeconfig) as api.url:
        api.write_token("first")
        credentials = Credentials(kubeconfig=str(api.kubeconfig))
        await credentials.load()
        connection = Transport(credentials, on_request=lambda *seen: api.observed.append(seen[:3]), max_body=1000)
        api.client = KubeClient(connection, timeout=5)
        yield api
        await api.client.close()


async def test_an_absent_object_is_none(api: Api) -> None:
    assert await api.client.get(CONFIG_MAP, "ns", "x") is None
    assert api.observed == [("get", "configmaps", "404")]


async def test_paths_of_the_three_sorts_of_kind(api: Api) -> None:
    api.answer((200, {}), (200, {}), (200, {}))
    await api.client.get(CONFIG_MAP, "ns", "x")
    await api.client.get(DEPLOYMENT, "ns", "x")
    await api.client.get(NODE, None, "x")
    assert [path for _, path, _ in api.requests] == [
        "/api/v1/namespaces/ns/configmaps/x",
        "/apis/apps/v1/namespaces/ns/deployments/x",
        "/api/v1/nodes/x",
    ]
    with pytest.raises(ValueError, match="namespace is missing"):
        CONFIG_MAP.path(None, "x")


async def test_apply_is_strict_and_by_one_manager(api: Api) -> None:
    api.answer((200, {}))
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "ns"}}
    await api.client.apply(obj)
    ((method, path, body),) = api.requests
    assert (method, body) == ("PATCH", obj)
    assert path == (
        "/api/v1/namespaces/ns/configmaps/x?fieldManager=ollama-fleet-operator&fieldValidation=Strict&force=true"
    )
    assert api.observed == [("apply", "configmaps", "200")]


async def test_answers_to_writes_are_told_but_not_those_of_dry_runs(api: Api) -> None:
    told: list[Json] = []
    api.client.on_written = told.append
    api.answer((200, {"kind": "ConfigMap", "n": 1}), (200, {"kind": "ConfigMap", "n": 2}), (200, {"n": 3}))
    wish = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "ns"}}
    await api.client.apply(wish)
    await api.client.apply(wish, dry_run=True)
    await api.client.get(CONFIG_MAP, "ns", "a")
    assert told == [{"kind": "ConfigMap", "n": 1}]


async def test_a_refused_token_is_read_again_once(api: Api) -> None:
    async def only_second(request: web.Request) -> web.Response:
        good = request.headers.get("Authorization") == "Bearer second"
        return web.json_response({} if good else status_of("Unauthorized"), status=200 if good else 401)

    api.handler = only_second
    with pytest.raises(errors.Unauthorized):
        await api.client.get(CONFIG_MAP, "ns", "x")
    assert len(api.requests) == 2
    api.write_token("second")
    assert await api.client.get(CONFIG_MAP, "ns", "x") == {}
    assert len(api.requests) == 4
    assert await api.client.get(CONFIG_MAP, "ns", "x") == {}
    assert len(api.requests) == 5


async def test_credentials_that_cannot_be_read_are_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(errors.Unauthorized, match="no usable credentials"):
        await KubeClient.connect(kubeconfig=str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        (409, status_of("Conflict"), errors.Conflict),
        (409, status_of("AlreadyExists"), errors.AlreadyExists),
        (410, status_of("Expired"), errors.Gone),
        (403, status_of("Forbidden", "user x cannot patch"), errors.Forbidden),
        (403, status_of("Forbidden", "exceeded quota: q, requested: pods=1"), errors.QuotaExceeded),
        (403, status_of("Forbidden", 'pods "p": violates PodSecurity "x"'), errors.PodSecurityForbidden),
        (500, status_of("InternalError"), errors.Unavailable),
        (500, status_of("", "failed to create typed patch object (a/b)"), errors.Invalid),
        (503, "no object at all", errors.Unavailable),
        (504, status_of("Timeout"), errors.Timeout),
        (418, {}, errors.KubeError),
    ],
)
async def test_each_refusal_has_its_type(api: Api, code: int, status: Any, expected: type[errors.KubeError]) -> None:
    api.answer((code, status))
    with pytest.raises(errors.KubeError) as caught:
        await api.client.get(CONFIG_MAP, "ns", "x")
    assert type(caught.value) is expected
    assert caught.value.code == code
    assert api.observed == [("get", "configmaps", str(code))]


async def test_an_invalid_object_names_its_fields(api: Api) -> None:
    causes = [{"field": "spec.replicas", "message": "must be >= 0"}, {"field": "spec.x", "message": "no"}]
    api.answer((422, status_of("Invalid", "is invalid", causes=causes)))
    with pytest.raises(errors.Invalid) as caught:
        await api.client.get(CONFIG_MAP, "ns", "x")
    assert caught.value.causes == (("spec.replicas", "must be >= 0"), ("spec.x", "no"))


async def test_another_uid_is_a_conflict_however_the_server_says_it(api: Api) -> None:
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "ns"}}
    api.answer((422, status_of("Invalid", causes=[{"field": "metadata.uid", "message": "immutable"}])))
    with pytest.raises(errors.Conflict):
        await api.client.apply(obj)
    api.answer((422, status_of("Invalid", "the server rejected our request")))
    with pytest.raises(errors.Conflict):
        await api.client.apply_status(DEPLOYMENT, "ns", "x", {}, uid="u")
    api.answer((422, status_of("Invalid", causes=[{"field": "status.x", "message": "wrong"}])))
    with pytest.raises(errors.Invalid):
        await api.client.apply_status(DEPLOYMENT, "ns", "x", {}, uid="u")


@pytest.mark.parametrize("headers", [{"Retry-After": "7"}, {}])
async def test_too_many_requests_says_when(api: Api, headers: dict[str, str]) -> None:
    api.answer((429, status_of("TooManyRequests", retryAfterSeconds=7)), headers=headers)
    with pytest.raises(errors.TooManyRequests) as caught:
        await api.client.get(CONFIG_MAP, "ns", "x")
    assert caught.value.retry_after == 7


async def test_a_delete_names_the_very_object(api: Api) -> None:
    api.answer((200, {}), (404, status_of("NotFound")))
    assert await api.client.delete(CONFIG_MAP, "ns", "x", uid="u", resource_version="5")
    assert not await api.client.delete(CONFIG_MAP, "ns", "x", uid="u")
    assert api.requests[0][2]["preconditions"] == {"uid": "u", "resourceVersion": "5"}
    assert api.requests[1][2]["preconditions"] == {"uid": "u"}


async def test_lists_come_in_chunks_and_items_know_their_kind(api: Api) -> None:
    api.answer(
        (200, {"metadata": {"resourceVersion": "9", "continue": "t1"}, "items": [{"metadata": {}}]}),
        (200, {"metadata": {"resourceVersion": "9"}, "items": [{"metadata": {}}]}),
    )
    items, version = await api.client.list(CONFIG_MAP, namespace="ns", label_selector="a=b", limit=1)
    assert (len(items), version) == (2, "9")
    assert items[0] == {"metadata": {}, "apiVersion": "v1", "kind": "ConfigMap"}
    assert [path for _, path, _ in api.requests] == [
        "/api/v1/namespaces/ns/configmaps?limit=1&labelSelector=a%3Db",
        "/api/v1/namespaces/ns/configmaps?limit=1&labelSelector=a%3Db&continue=t1",
    ]


async def test_an_answer_too_large_is_cut_off(api: Api) -> None:
    api.answer((200, {"data": "x" * 2000}))
    with pytest.raises(errors.Unavailable, match="larger than 1000 bytes"):
        await api.client.get(CONFIG_MAP, "ns", "x")


@pytest.mark.parametrize("body", ["[]", "{", ""])
async def test_an_answer_that_is_no_object_is_unavailable(api: Api, body: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=body)

    api.handler = handler
    with pytest.raises(errors.Unavailable):
        await api.client.get(CONFIG_MAP, "ns", "x")


async def test_an_answer_broken_off_is_unavailable(api: Api) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b'{"a"')
        assert request.transport is not None
        request.transport.abort()
        return response

    api.handler = handler
    with pytest.raises(errors.Unavailable):
        await api.client.get(CONFIG_MAP, "ns", "x")
    assert api.observed == [("get", "configmaps", "Unavailable")]


async def test_no_answer_in_time_is_a_timeout(api: Api) -> None:
    release = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    api.handler = handler
    api.client._timeout = 0.05
    with pytest.raises(errors.Timeout):
        await api.client.get(CONFIG_MAP, "ns", "x")
    release.set()
    assert api.observed == [("get", "configmaps", "Timeout")]


async def test_nobody_there_is_unavailable(api: Api) -> None:
    api.client._transport._credentials.configuration.host = "http://127.0.0.1:1"
    with pytest.raises(errors.Unavailable):
        await api.client.get(CONFIG_MAP, "ns", "x")


def stream(api: Api, *chunks: bytes, then: asyncio.Event | None = None) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0)
        if then is not None:
            await then.wait()
        return response

    api.handler = handler


async def watch(api: Api, kind: Kind = CONFIG_MAP, *, stall: float = 5) -> list[tuple[str, Json]]:
    api.client._stall = stall
    return [event async for event in api.client.watch(kind, resource_version="5")]


async def test_a_watch_gives_events_however_they_are_cut(api: Api) -> None:
    lines = b"".join(
        json.dumps({"type": kind, "object": {"n": n}}).encode() + b"\n"
        for n, kind in enumerate(["ADDED", "MODIFIED", "BOOKMARK", "DELETED"])
    )
    stream(api, lines[:7], lines[7:50], lines[50:51], lines[51:])
    assert await watch(api) == [
        ("ADDED", {"n": 0}),
        ("MODIFIED", {"n": 1}),
        ("BOOKMARK", {"n": 2}),
        ("DELETED", {"n": 3}),
    ]
    ((_, path, _),) = api.requests
    assert "resourceVersion=5" in path
    assert "allowWatchBookmarks=true" in path
    assert "timeoutSeconds=300" in path


async def test_history_that_is_gone_is_told_inside_the_stream(api: Api) -> None:
    status = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
    stream(api, json.dumps(status).encode() + b"\n")
    with pytest.raises(errors.Gone, match="too old"):
        await watch(api)


async def test_a_silent_watch_is_given_up(api: Api) -> None:
    release = asyncio.Event()
    stream(api, b'{"type": "ADDED", "object": {}}\n', then=release)
    with pytest.raises(errors.Silence):
        await watch(api, stall=0.1)
    assert api.observed == [("watch", "configmaps", "Silence")]
    release.set()


async def test_a_watch_that_does_not_begin_is_no_silence(api: Api) -> None:
    release = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    api.handler = handler
    with pytest.raises(errors.Timeout) as caught:
        await watch(api, stall=0.1)
    assert type(caught.value) is errors.Timeout
    release.set()


@pytest.mark.parametrize("line", [b"no json\n", b"[]\n", b'{"type": "ADDED"}\n'])
async def test_a_line_that_is_no_event_breaks_the_watch(api: Api, line: bytes) -> None:
    stream(api, line)
    with pytest.raises(errors.Unavailable):
        await watch(api)


async def test_an_endless_line_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_fleet.kube.client._MAX_EVENT", 100)
    stream(api, b"x" * 60, b"x" * 60)
    with pytest.raises(errors.Unavailable, match="larger than"):
        await watch(api)


async def test_the_service_account_s_token_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("old\n")
    authority.write_text("a certificate")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")

    def load(client_configuration: Any) -> None:
        InClusterConfigLoader(str(token), str(authority)).load_and_set(client_configuration)

    monkeypatch.setattr(transport.kube_config, "load_incluster_config", load)
    credentials = Credentials()
    await credentials.load()
    assert await credentials.header() == {"Authorization": "bearer old"}
    assert credentials.configuration.host == "https://[fd00::1]:443"
    token.write_text("new\n")
    await credentials.load()
    assert await credentials.header() == {"Authorization": "bearer new"}


@pytest.mark.parametrize(("exempt", "expected"), [("", "http://proxy:3128"), ("localhost", None), ("*", None)])
async def test_the_environment_s_proxy_is_looked_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exempt: str, expected: str | None
) -> None:
    config = tmp_path / "kubeconfig"
    write_kubeconfig(config, "https://localhost:6443")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", exempt)
    credentials = Credentials(kubeconfig=str(config))
    await credentials.load()
    assert credentials.configuration.proxy == expected


async def test_a_netrc_of_the_user_is_not_asked(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    # With both a token and a password the HTTP client refuses to send anything.
    assert await api.client.get(CONFIG_MAP, "ns", "x") is None
