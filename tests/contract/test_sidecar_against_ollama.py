"""The sidecar's door before both generations of a real Ollama, and the same cases before the fake one."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.api.state import ModelPhase
from ollama_fleet.sidecar import warmer
from testbed.fakes.ollama import Behaviour, FakeOllama
from testbed.models import push
from testbed.ollama_process import VERSIONS, RealOllama, real_ollama
from tests.support.sidecar_bench import Sidecar, group_config, group_model, pulled, sidecar

Json = dict[str, Any]

FAKE = pytest.param("", id="fake")
REAL = [pytest.param(version, marks=pytest.mark.e2e, id=f"real-{version}") for version in VERSIONS]

ASK: Json = {"model": "chat", "prompt": "say something", "options": {"num_predict": 5}}
TALK: Json = {"model": "chat", "messages": [{"role": "user", "content": "say something"}]}
ENDLESS: Json = {**ASK, "options": {"num_predict": 2000}}


@dataclass(frozen=True)
class Store:
    path: Path
    models: tuple[GroupModel, ...]
    """``formal`` has the weights of ``chat``; ``spare`` is loaded on demand."""

    def config(self, *names: str) -> GroupConfig:
        return group_config(*(model for model in self.models if model.name in names))


@dataclass(frozen=True)
class Bench:
    sidecar: Sidecar
    ollama: httpx.AsyncClient
    """Past the door."""
    store: Store

    async def post(self, path: str, body: Json, **options: Any) -> httpx.Response:
        return await self.sidecar.data.post(path, json=body, **options)

    async def known(self) -> dict[str, str]:
        """Digests by name of all that Ollama has; it lists models of one second in any order."""
        answer = (await self.ollama.get("/api/tags")).raise_for_status()
        return {entry["name"]: entry["digest"] for entry in answer.json()["models"]}

    async def loaded(self) -> set[str]:
        return {entry["name"] for entry in await self.ps()}

    async def ps(self) -> list[Json]:
        answer = (await self.ollama.get("/api/ps")).raise_for_status()
        models: list[Json] = answer.json()["models"]
        return models

    async def until_loaded(self, *names: str) -> None:
        wanted = {f"{name}:latest" for name in names}
        for _ in range(200):
            if await self.loaded() == wanted:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(await self.ps())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("store")
    digests = {name: pulled(path, push.image(name)) for name in ("chat", "embed", "chat-large")}
    models = (
        group_model("chat", digests["chat"], context_length=2048),
        group_model("formal", digests["chat"], context_length=2048, modelfile={"system": "You are formal."}),
        group_model("embed", digests["embed"]),
        group_model("spare", digests["chat-large"], context_length=512, residency="OnDemand", keep_alive="10m"),
    )
    return Store(path, models)


class Servers:
    """Real servers by version, started when first asked for."""

    def __init__(
        self, start: Callable[[str], AbstractContextManager[RealOllama]], *, say: Callable[[str], None]
    ) -> None:
        self.say = say
        self._start = start
        self._running: dict[str, tuple[ExitStack, RealOllama]] = {}
        self.replaced = 0

    def __getitem__(self, version: str) -> RealOllama:
        if version not in self._running:
            stack = ExitStack()
            self._running[version] = stack, stack.enter_context(self._start(version))
        return self._running[version][1]

    def stop(self, version: str) -> None:
        self._running.pop(version)[0].close()

    def stop_all(self) -> None:
        for version in tuple(self._running):
            self.stop(version)


@pytest.fixture(scope="module")
def servers(
    store: Store, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Servers]:
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(text, flush=True)

    found = Servers(lambda version: real_ollama(version, tmp_path_factory.mktemp(version), models=store.path), say=say)
    yield found
    found.stop_all()


@pytest.fixture(params=[FAKE, *REAL])
async def bench(
    request: pytest.FixtureRequest, store: Store, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """A sidecar whose models are warm."""
    monkeypatch.setattr(warmer, "SLOW_SECONDS", 0.1)
    async with AsyncExitStack() as stack:
        if not request.param:
            fake = await stack.enter_async_context(
                FakeOllama(store=store.path, behaviour=Behaviour(tokens=10_000)),
            )
            made = await stack.enter_async_context(warm_bench(fake.url, store))
        else:
            made = await _warm_real(stack, servers, request.param, store)
        yield made
        await made.sidecar.in_force(store.config())


async def _warm_real(stack: AsyncExitStack, servers: Servers, version: str, store: Store) -> Bench:
    """A real one that loads nothing any more is replaced once, as the kubelet would, and what it last said is shown."""
    server = servers[version]
    try:
        return await stack.enter_async_context(warm_bench(server.url, store))
    except TimeoutError as error:
        log = server.log.read_text(errors="replace")[-6000:]
        if servers.replaced:
            error.add_note(log)
            raise
        servers.replaced += 1
        servers.say(f"\nOllama {version} is replaced: {error.__notes__}\n{log}")
        servers.stop(version)
    return await stack.enter_async_context(warm_bench(servers[version].url, store))


@asynccontextmanager
async def warm_bench(url: str, store: Store) -> AsyncIterator[Bench]:
    """Raises TimeoutError, with the sidecar's state, when the models do not become warm."""
    async with sidecar(url, store.path) as under_test, httpx.AsyncClient(base_url=url, timeout=60) as ollama:
        assert await under_test.warmer.apply(store.config("chat", "formal", "embed", "spare"))
        try:
            await under_test.warm("chat", "formal", "embed")
        except TimeoutError as error:
            error.add_note(str(under_test.board.snapshot()))
            raise
        yield Bench(under_test, ollama, store)


def words(text: str) -> bool:
    """Whether a model said something in its words."""
    return bool(text.split()) and all(word.isalpha() for word in text.split())


def lines(answer: httpx.Response) -> list[Json]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def events(answer: httpx.Response) -> list[Json]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream"
    *chunks, end = answer.text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


async def test_pinned_models_are_in_memory_under_their_digests(bench: Bench) -> None:
    loaded = {f"sha256:{entry['digest']}" for entry in await bench.ps()}
    known = bench.sidecar.board.warmth
    assert known["embed"].digest in loaded
    # One runner for the two names; which of them it is listed under is Ollama's choice.
    assert len(loaded & {known["chat"].digest, known["formal"].digest}) == 1
    assert known["spare"].digest not in loaded
    assert [known[name].context_length for name in ("chat", "formal")] == [2048, 2048]
    assert all(known[name].size > 0 for name in ("chat", "formal", "embed"))
    state = (await bench.sidecar.admin.get("/fleet/v1/state")).json()
    assert (state["ready"], state["ollamaVersion"]) == (True, bench.sidecar.board.ollama_version)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/pull", {"model": "llama3.2"}),
        ("POST", "/api/create", {"model": "mine", "from": "chat"}),
        ("POST", "/api/copy", {"source": "chat", "destination": "mine"}),
        ("DELETE", "/api/delete", {"model": "chat"}),
        ("POST", "/api/push", {"model": "chat"}),
        ("HEAD", "/api/blobs/sha256:" + "0" * 64, {}),
        ("POST", "/api/%64elete", {"model": "chat"}),
        ("POST", "//api/pull", {"model": "chat"}),
        ("OPTIONS", "/api/chat", {}),
        ("GET", "/api/generate", {}),
        ("GET", "/nothing", {}),
    ],
)
async def test_what_is_not_allowed_stays_outside(bench: Bench, method: str, path: str, body: Json) -> None:
    before = await bench.known()
    answer = await bench.sidecar.data.request(method, path, json=body)
    assert answer.status_code in {404, 405}
    assert method == "HEAD" or "models are managed by ModelSets" in answer.json()["error"]
    assert await bench.known() == before


async def test_what_is_plain_passes(bench: Bench) -> None:
    for path in ("/", "/api/version", "/v1/models/chat"):
        through, past = await bench.sidecar.data.get(path), await bench.ollama.get(path)
        assert (through.status_code, through.content) == (past.status_code, past.content)
        assert through.headers["content-type"] == past.headers["content-type"]
    tags = (await bench.sidecar.data.get("/api/tags")).json()["models"]
    assert {entry["name"]: entry["digest"] for entry in tags} == await bench.known()
    listed = (await bench.sidecar.data.get("/v1/models")).json()["data"]
    assert {entry["id"] for entry in listed} == set(await bench.known())
    for path in ("/", "/api/version", "/api/tags"):
        head = await bench.sidecar.data.head(path)
        assert (head.status_code, head.content) == (200, b"")
    shown = (await bench.post("/api/show", {"name": "FORMAL:latest"})).raise_for_status().json()
    assert shown["model_info"]["general.architecture"] == "llama"


@pytest.mark.parametrize(
    "content",
    [
        b'{"model": "chat", "MODEL": "embed", "prompt": "x"}',
        b'{"model": "chat", "model": "embed", "prompt": "x"}',
        b'{"model": "chat", "prompt": "x", "\xc5\xbftream": false, "stream": true}',
        b'{"model": "chat", "prompt": "x", "keep_alive": 1, "Keep_Alive": 0}',
    ],
)
async def test_keys_that_go_would_take_for_one_are_refused(bench: Bench, content: bytes) -> None:
    answer = await bench.sidecar.data.post("/api/generate", content=content)
    assert answer.status_code == 400
    assert "twice" in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", {"model": "chat", "keep_alive": 0}),
        ("/api/chat", {"model": "chat", "messages": [], "keep_alive": "0s"}),
        ("/api/embed", {"model": "embed", "input": "", "keep_alive": 0}),
    ],
)
async def test_a_stop_gets_an_answer_and_unloads_nothing(bench: Bench, path: str, body: Json) -> None:
    before = await bench.loaded()
    answer = await bench.post(path, body)
    assert (answer.status_code, "unloaded by their ModelSet" in answer.json()["error"]) == (403, True)
    assert await bench.loaded() == before


async def test_clients_do_not_decide_how_long_a_model_stays(bench: Bench) -> None:
    (await bench.post("/api/generate", {**ASK, "keep_alive": "1s", "stream": False})).raise_for_status()
    (await bench.post("/api/embed", {"model": "embed", "input": "x", "KEEP_ALIVE": 0})).raise_for_status()
    # A keep-alive takes effect a moment after its answer.
    await asyncio.sleep(0.3)
    kept = {entry["name"]: entry["expires_at"] for entry in await bench.ps()}
    assert len(kept) == 2
    assert all(int(moment[:4]) > 2200 for moment in kept.values())


async def test_clients_do_not_make_a_model_load_anew(bench: Bench) -> None:
    before = {entry["name"]: entry["context_length"] for entry in await bench.ps()}
    body = {**ASK, "stream": False, "Options": {"NUM_CTX": 1024, "num_batch": 7, "num_predict": 2}}
    del body["options"]
    answer = (await bench.post("/api/generate", body)).raise_for_status().json()
    assert answer["eval_count"] == 2
    assert {entry["name"]: entry["context_length"] for entry in await bench.ps()} == before
    assert bench.sidecar.phase("chat") is ModelPhase.WARM


@pytest.mark.parametrize("model", ["chat", "CHAT:latest", "formal", "spare"])
async def test_chat_streams(bench: Bench, model: str) -> None:
    answer = await bench.post("/api/chat", {**TALK, "model": model, "options": {"num_predict": 5}})
    *pieces, last = lines(answer)
    assert len(pieces) >= 4
    assert words("".join(piece["message"]["content"] for piece in pieces))
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "length", 5)
    assert bench.sidecar.board.slots[model.lower().removesuffix(":latest")].in_flight == 0


async def test_a_stream_arrives_as_it_is_made(bench: Bench) -> None:
    async with bench.sidecar.data.stream("POST", "/api/generate", json=ENDLESS) as answer:
        stream = answer.aiter_lines()
        first = json.loads(await anext(stream))
        assert first["done"] is False
        assert bench.sidecar.board.slots["chat"].in_flight == 1


async def test_openai_chat_streams(bench: Bench) -> None:
    body = {**TALK, "stream": True, "max_tokens": 4, "stream_options": {"include_usage": True}}
    *pieces, usage = events(await bench.post("/v1/chat/completions", body))
    assert words("".join(piece["choices"][0]["delta"]["content"] for piece in pieces))
    assert usage["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/chat/completions", TALK, "chat.completion"),
        ("/v1/completions", {"model": "chat", "prompt": "x"}, "text_completion"),
    ],
)
async def test_openai_answers_as_a_whole(bench: Bench, path: str, body: Json, kind: str) -> None:
    answer = (await bench.post(path, {**body, "max_tokens": 3})).raise_for_status().json()
    assert (answer["object"], answer["usage"]["completion_tokens"]) == (kind, 3)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/completions"])
async def test_openai_hears_of_unknown_models_in_its_own_words(bench: Bench, path: str) -> None:
    answer = await bench.post(path, {"model": "nope", "input": "x", "prompt": "x", "messages": TALK["messages"]})
    error = {"message": "model 'nope' not found", "type": "not_found_error", "param": None, "code": None}
    assert (answer.status_code, answer.json()) == (404, {"error": error})


async def test_embeddings(bench: Bench) -> None:
    native = (await bench.post("/api/embed", {"model": "embed", "input": ["the fleet", "every node"]})).json()
    assert [len(vector) for vector in native["embeddings"]] == [64, 64]
    legacy = (await bench.post("/api/embeddings", {"model": "embed", "prompt": "the fleet"})).json()
    assert len(legacy["embedding"]) == 64
    openai = (await bench.post("/v1/embeddings", {"model": "embed", "input": "the fleet"})).json()
    assert openai["data"][0]["embedding"] == pytest.approx(native["embeddings"][0], abs=1e-3)


async def test_what_ollama_refuses_is_told_in_its_words(bench: Bench) -> None:
    answer = await bench.post("/api/generate", {"model": "embed", "prompt": "x"})
    assert (answer.status_code, answer.json()) == (400, {"error": '"embed" does not support generate'})


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "chat.models.svc:8080", "Origin": "https://evil.example"},
        {"Origin": "null", "Referer": "https://evil.example/"},
    ],
)
async def test_foreign_hosts_and_origins_are_the_doors_business(bench: Bench, headers: dict[str, str]) -> None:
    """Ollama on loopback answers 403 to them."""
    answer = await bench.post("/api/generate", {**ASK, "stream": False}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert (await bench.sidecar.data.get("/api/version", headers=headers)).status_code == 200


async def test_ollama_itself_refuses_foreign_hosts(bench: Bench) -> None:
    answer = await bench.ollama.get("/api/version", headers={"Host": "chat.models.svc.cluster.example"})
    assert answer.status_code == 403


async def test_a_client_that_leaves_frees_its_slot_for_the_next(bench: Bench) -> None:
    slots = bench.sidecar.board.slots["chat"]
    async with bench.sidecar.data.stream("POST", "/api/generate", json=ENDLESS) as answer:
        # The stream lives as long as its iterator.
        stream = answer.aiter_lines()
        await anext(stream)
        waiting = asyncio.create_task(bench.post("/api/chat", {**TALK, "options": {"num_predict": 3}}))
        async with asyncio.timeout(10):
            while not slots.waiting:
                await asyncio.sleep(0.01)
        assert (slots.in_flight, waiting.done()) == (1, False)
    async with asyncio.timeout(10):
        assert lines(await waiting)[-1]["eval_count"] == 3
        while slots.in_flight:
            await bench.sidecar.board.change()
    assert slots.waiting == 0


async def test_the_model_on_demand_comes_with_its_first_request(bench: Bench) -> None:
    answer = await bench.post("/api/generate", {**ASK, "model": "spare", "stream": False})
    assert words(answer.json()["response"])
    await bench.sidecar.warm("spare")
    assert bench.sidecar.board.warmth["spare"].context_length == 512


async def test_models_leave_and_join_with_the_configuration(bench: Bench) -> None:
    await bench.sidecar.in_force(bench.store.config("chat"))
    await bench.sidecar.warm("chat")
    await bench.until_loaded("chat")
    assert set(await bench.known()) == {"chat:latest"}
    assert (await bench.post("/api/embed", {"model": "embed", "input": "x"})).status_code == 404
    await bench.sidecar.in_force(bench.store.config("chat", "embed"))
    await bench.sidecar.warm("chat", "embed")
    await bench.until_loaded("chat", "embed")


async def test_a_model_that_leaves_while_it_loads_does_not_stay(bench: Bench) -> None:
    large = next(model for model in bench.store.models if model.name == "spare")
    pinned = large.model_copy(update={"residency": "Pinned", "name": "large"})
    await bench.sidecar.in_force(group_config(pinned))
    await bench.sidecar.until(lambda: bench.sidecar.phase("large") is not ModelPhase.CACHED)
    await bench.sidecar.in_force(bench.store.config("embed"))
    await bench.sidecar.warm("embed")
    await bench.until_loaded("embed")
    await asyncio.sleep(1)
    assert await bench.loaded() == {"embed:latest"}
