"""The same cases against the fake Ollama and both generations of the real one, all over one store."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from testbed.fakes.ollama import Behaviour, FakeOllama
from testbed.models import push
from testbed.ollama_process import VERSIONS, real_ollama

Json = dict[str, Any]

REAL = [pytest.param(version, marks=pytest.mark.e2e, id=f"real-{version}") for version in VERSIONS]


@dataclass(frozen=True)
class Store:
    models: Path
    digests: dict[str, str]


@dataclass(frozen=True)
class Server:
    http: httpx.AsyncClient
    version: str
    store: Store

    async def post(self, path: str, body: Json) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def ps(self) -> list[Json]:
        answer = (await self.http.get("/api/ps")).raise_for_status()
        models: list[Json] = answer.json()["models"]
        return models

    async def running(self) -> set[str]:
        return {entry["name"] for entry in await self.ps()}

    async def lines(self, path: str, body: Json) -> list[Json]:
        answer = (await self.post(path, body)).raise_for_status()
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        return [json.loads(line) for line in answer.text.splitlines()]

    async def events(self, path: str, body: Json) -> list[str]:
        answer = (await self.post(path, body)).raise_for_status()
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.text.endswith("\n\n")
        events = answer.text.removesuffix("\n\n").split("\n\n")
        assert all(event.startswith("data: ") for event in events)
        return [event.removeprefix("data: ") for event in events]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    models = tmp_path_factory.mktemp("store")
    made = {
        "chat": push.image("chat"),
        "embed": push.image("embed"),
        "small-context": push.image("chat-large", parameters={"num_ctx": 512}),
    }
    return Store(models, {name: push.into_store(image, models, name) for name, image in made.items()})


@pytest.fixture(scope="module")
def processes(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """URLs of real servers by version, started when first asked for."""
    with ExitStack() as stack:

        class Started(dict[str, str]):
            def __missing__(self, version: str) -> str:
                directory = tmp_path_factory.mktemp(f"ollama-{version}")
                self[version] = stack.enter_context(real_ollama(version, directory, models=store.models)).url
                return self[version]

        yield Started()


@pytest.fixture(params=[pytest.param("", id="fake"), *REAL])
async def server(request: pytest.FixtureRequest, store: Store, processes: dict[str, str]) -> AsyncIterator[Server]:
    """Nothing is loaded when a test begins."""
    if request.param:
        async with httpx.AsyncClient(base_url=processes[request.param], timeout=60) as http:
            found = Server(http, request.param, store)
            for name in await found.running():
                await found.post("/api/embed", {"model": name, "keep_alive": 0})
            await until_running(found, set())
            yield found
        return
    async with (
        FakeOllama(store=store.models, behaviour=Behaviour(tokens=10_000)) as fake,
        httpx.AsyncClient(base_url=fake.url, timeout=60) as http,
    ):
        yield Server(http, fake.behaviour.version, store)


async def until_running(server: Server, names: set[str]) -> None:
    for _ in range(200):
        # Both real ones read the list without its lock, and may break down over a model that goes.
        answer = await server.http.get("/api/ps")
        if answer.status_code != 500 and {entry["name"] for entry in answer.json()["models"]} == names:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(await server.ps())


def moment(text: str) -> datetime:
    """RFC 3339 with any number of digits."""
    head, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{(fraction + '000000')[:6]}").replace(tzinfo=UTC)


def words(pieces: list[str]) -> bool:
    """Whether a model said something in its words."""
    return bool("".join(pieces).split()) and all(word.isalpha() for word in "".join(pieces).split())


ASK = {"model": "chat", "prompt": "say something", "options": {"num_predict": 5}}
TALK = {"model": "chat", "messages": [{"role": "user", "content": "say something"}]}


async def test_root_and_version(server: Server) -> None:
    for method in ("GET", "HEAD"):
        root = await server.http.request(method, "/")
        assert (root.status_code, root.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
        version = await server.http.request(method, "/api/version")
        assert (version.status_code, version.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert (await server.http.get("/")).text == "Ollama is running"
    assert (await server.http.get("/api/version")).json() == {"version": server.version}


async def test_a_route_that_does_not_exist(server: Server) -> None:
    answer = await server.http.get("/api/nothing")
    assert (answer.status_code, answer.text) == (404, "404 page not found")


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/generate"), ("HEAD", "/api/ps"), ("POST", "/api/ps")])
async def test_a_method_that_does_not_exist(server: Server, method: str, path: str) -> None:
    answer = await server.http.request(method, path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET" if path == "/api/ps" else "POST")
    assert answer.text == ("" if method == "HEAD" else "405 method not allowed")


@pytest.mark.parametrize(
    ("host", "status"), [("evil.example", 403), ("evil.example:11434", 403), ("localhost", 200), ("10.0.0.1:80", 200)]
)
async def test_only_local_names_are_let_in(server: Server, host: str, status: int) -> None:
    answer = await server.http.get("/api/version", headers={"Host": host})
    assert answer.status_code == status
    assert bool(answer.content) == (status == 200)


async def test_tags_show_the_digests_of_the_manifests(server: Server) -> None:
    models = (await server.http.get("/api/tags")).json()["models"]
    assert {entry["name"]: f"sha256:{entry['digest']}" for entry in models} == {
        f"{name}:latest": digest for name, digest in server.store.digests.items()
    }
    chat = next(entry for entry in models if entry["name"] == "chat:latest")
    manifest = json.loads((server.store.models / "manifests/registry.ollama.ai/library/chat/latest").read_bytes())
    assert chat["size"] == sum(layer["size"] for layer in [manifest["config"], *manifest["layers"]])
    assert chat["model"] == chat["name"]
    assert moment(chat["modified_at"]) < datetime.now(UTC)
    assert chat["details"] | {"context_length": 0, "embedding_length": 0} == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "199K",
        "quantization_level": "F32",
        "context_length": 0,
        "embedding_length": 0,
    }


async def test_tags_name_capabilities_only_in_the_newer_generation(server: Server) -> None:
    models = (await server.http.get("/api/tags")).json()["models"]
    found = {entry["name"]: entry.get("capabilities") for entry in models}
    if server.version == "0.24.0":
        assert set(found.values()) == {None}
    else:
        assert found["chat:latest"] == ["completion"]
        assert found["embed:latest"] == ["embedding"]


async def test_show(server: Server) -> None:
    shown = (await server.post("/api/show", {"model": "chat"})).raise_for_status().json()
    assert shown["template"] == "{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}assistant: "
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["details"]["family"] == "llama"
    assert "completion" in shown["capabilities"]
    assert shown["tensors"][0] == {"name": "token_embd.weight", "type": "F32", "shape": [64, 271]}


async def test_show_of_nothing(server: Server) -> None:
    answer = await server.post("/api/show", {})
    assert (answer.status_code, answer.json()) == (400, {"error": "model is required"})


async def test_show_of_a_model_that_is_not_there(server: Server) -> None:
    answer = await server.post("/api/show", {"model": "nope"})
    name = "nope" if server.version == "0.24.0" else "nope:latest"
    assert (answer.status_code, answer.json()) == (404, {"error": f"model '{name}' not found"})


async def test_nothing_runs_at_first(server: Server) -> None:
    assert (await server.http.get("/api/ps")).json() == {"models": []}


@pytest.mark.parametrize(("path", "empty"), [("/api/generate", {}), ("/api/chat", {"messages": []})])
async def test_an_empty_request_loads(server: Server, path: str, empty: Json) -> None:
    answer = await server.post(path, {"model": "chat", **empty})
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    loaded = answer.json()
    assert (loaded["model"], loaded["done"], loaded["done_reason"]) == ("chat", True, "load")
    assert await server.running() == {"chat:latest"}


@pytest.mark.parametrize(
    ("path", "answer"),
    [("/api/embed", {"model": "embed", "embeddings": []}), ("/api/embeddings", {"embedding": []})],
)
async def test_an_empty_request_loads_an_encoder(server: Server, path: str, answer: Json) -> None:
    assert (await server.post(path, {"model": "embed"})).json() == answer
    assert await server.running() == {"embed:latest"}


async def test_ps_after_load(server: Server) -> None:
    await server.post("/api/generate", {"model": "chat", "keep_alive": 60})
    (entry,) = await server.ps()
    assert set(entry) == {
        "name",
        "model",
        "size",
        "digest",
        "details",
        "expires_at",
        "size_vram",
        "context_length",
    }
    assert entry["name"] == entry["model"] == "chat:latest"
    assert f"sha256:{entry['digest']}" == server.store.digests["chat"]
    assert entry["context_length"] == 4096
    assert entry["size"] > 800_000
    assert 0 <= entry["size_vram"] <= entry["size"]
    assert timedelta(seconds=40) < moment(entry["expires_at"]) - datetime.now(UTC) < timedelta(seconds=61)


async def test_ps_shows_the_context_of_the_parameters(server: Server) -> None:
    await server.post("/api/generate", {"model": "small-context"})
    assert [entry["context_length"] for entry in await server.ps()] == [512]


async def test_another_context_length_loads_again(server: Server) -> None:
    for options, context in (({"num_ctx": 1024}, 1024), ({}, 4096)):
        await server.post("/api/generate", {"model": "chat", "options": options})
        assert [entry["context_length"] for entry in await server.ps()] == [context]


async def test_keep_alive_below_zero_is_for_ever(server: Server) -> None:
    await server.post("/api/generate", {"model": "chat", "keep_alive": -1})
    (entry,) = await server.ps()
    assert moment(entry["expires_at"]) - datetime.now(UTC) > timedelta(days=365 * 200)


async def test_keep_alive_persists_and_the_last_one_wins(server: Server) -> None:
    await server.post("/api/generate", {"model": "chat", "keep_alive": "2h"})
    await server.post("/api/generate", ASK)
    await asyncio.sleep(0.2)
    (entry,) = await server.ps()
    assert moment(entry["expires_at"]) - datetime.now(UTC) > timedelta(hours=1, minutes=59)
    await server.post("/api/generate", {**ASK, "keep_alive": "1m"})
    await asyncio.sleep(0.2)
    (entry,) = await server.ps()
    assert moment(entry["expires_at"]) - datetime.now(UTC) < timedelta(minutes=1)


@pytest.mark.parametrize(("path", "empty"), [("/api/generate", {}), ("/api/chat", {"messages": []})])
async def test_keep_alive_zero_unloads(server: Server, path: str, empty: Json) -> None:
    await server.post(path, {"model": "chat", **empty})
    answer = (await server.post(path, {"model": "chat", "keep_alive": 0, **empty})).json()
    assert (answer["done"], answer["done_reason"]) == (True, "unload")
    await until_running(server, set())


async def test_keep_alive_zero_with_a_prompt_unloads_afterwards(server: Server) -> None:
    lines = await server.lines("/api/generate", {**ASK, "keep_alive": 0})
    assert lines[-1]["done"] is True
    await until_running(server, set())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("-1", 'time: missing unit in duration "-1"'),
        ("soon", 'time: invalid duration "soon"'),
        (True, "Unsupported type: 'bool'"),
    ],
)
async def test_keep_alive_that_is_none(server: Server, value: object, text: str) -> None:
    answer = await server.post("/api/generate", {"model": "chat", "keep_alive": value})
    assert (answer.status_code, answer.json()) == (400, {"error": text})


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
async def test_a_model_that_is_not_there(server: Server, path: str) -> None:
    answer = await server.post(path, {"model": "nope", "prompt": "x", "messages": [{"role": "user", "content": "x"}]})
    assert (answer.status_code, answer.json()) == (404, {"error": "model 'nope' not found"})
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_model_that_is_not_there_for_openai(server: Server, path: str) -> None:
    answer = await server.post(path, {"model": "nope", "prompt": "x", "messages": [{"role": "user", "content": "x"}]})
    error = {"message": "model 'nope' not found", "type": "not_found_error", "param": None, "code": None}
    assert (answer.status_code, answer.json()) == (404, {"error": error})
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings"])
async def test_a_model_that_is_not_there_for_embeddings(server: Server, path: str) -> None:
    answer = await server.post(path, {"model": "nope", "input": "x", "prompt": "x"})
    expected = {"error": 'model "nope" not found, try pulling it first'}
    assert (answer.status_code, answer.json()) == (404, expected)


@pytest.mark.parametrize(("content", "text"), [(b"", "missing request body"), (b"{", "unexpected EOF")])
async def test_a_body_that_is_no_request(server: Server, content: bytes, text: str) -> None:
    answer = await server.http.post("/api/generate", content=content)
    assert (answer.status_code, answer.json()) == (400, {"error": text})


@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/generate", {"prompt": "x"}), ("/api/chat", {"messages": [{"role": "user", "content": "x"}]})],
)
async def test_an_encoder_does_not_generate(server: Server, path: str, body: Json) -> None:
    answer = await server.post(path, {"model": "embed", **body})
    verb = path.removeprefix("/api/")
    assert (answer.status_code, answer.json()) == (400, {"error": f'"embed" does not support {verb}'})


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"model":"nope","MODEL":"chat","Stream":false,"prompt":"x","options":{"num_predict":1}}', 200),
        (b'{"MODEL":"chat","model":"nope"}', 404),
        (b'{"model":"chat","KEEP_ALIVE":"-1"}', 400),
    ],
)
async def test_case_of_keys_does_not_matter_and_the_last_wins(server: Server, content: bytes, status: int) -> None:
    answer = await server.http.post("/api/generate", content=content)
    assert answer.status_code == status
    assert not isinstance(answer.json().get("response"), str) or answer.json()["done"]


async def test_keys_of_options_keep_their_case(server: Server) -> None:
    body = {"model": "chat", "prompt": "x", "options": {"num_predict": 2, "NUM_PREDICT": 4}}
    assert (await server.lines("/api/generate", body))[-1]["eval_count"] == 2


async def test_stream_of_generate(server: Server) -> None:
    lines = await server.lines("/api/generate", ASK)
    *pieces, last = lines
    assert all(set(piece) == {"model", "created_at", "response", "done"} for piece in pieces)
    assert {piece["done"] for piece in pieces} == {False}
    assert words([line["response"] for line in lines])
    assert set(last) >= {"model", "created_at", "response", "done", "done_reason", "context"}
    assert (last["model"], last["done"], last["done_reason"], last["eval_count"]) == ("chat", True, "length", 5)
    timings = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration", "prompt_eval_count")
    assert all(isinstance(last[name], int) and last[name] > 0 for name in timings)


async def test_stream_of_chat(server: Server) -> None:
    lines = await server.lines("/api/chat", {**TALK, "options": {"num_predict": 5}})
    *pieces, last = lines
    assert all(set(piece) == {"model", "created_at", "message", "done"} for piece in pieces)
    assert {line["message"]["role"] for line in lines} == {"assistant"}
    assert words([line["message"]["content"] for line in lines])
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "length", 5)
    assert "context" not in last


async def test_answer_of_generate_without_a_stream(server: Server) -> None:
    answer = await server.post("/api/generate", {**ASK, "stream": False})
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    whole = answer.json()
    assert words([whole["response"]])
    assert (whole["done"], whole["done_reason"], whole["eval_count"]) == (True, "length", 5)


async def test_stream_of_openai_chat(server: Server) -> None:
    body = {**TALK, "stream": True, "max_tokens": 4, "stream_options": {"include_usage": True}}
    *chunks, end = await server.events("/v1/chat/completions", body)
    assert end == "[DONE]"
    *pieces, usage = [json.loads(chunk) for chunk in chunks]
    keys = {"id", "object", "created", "model", "system_fingerprint", "choices"}
    assert all(set(piece) == keys for piece in pieces)
    assert len({piece["id"] for piece in pieces}) == 1
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"}
    assert words([piece["choices"][0]["delta"]["content"] for piece in pieces])
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4
    assert usage["usage"]["total_tokens"] == 4 + usage["usage"]["prompt_tokens"]


async def test_stream_of_openai_completions(server: Server) -> None:
    body = {"model": "chat", "prompt": "x", "stream": True, "max_tokens": 3}
    *chunks, end = await server.events("/v1/completions", body)
    assert end == "[DONE]"
    pieces = [json.loads(chunk) for chunk in chunks]
    assert {piece["object"] for piece in pieces} == {"text_completion"}
    assert words([piece["choices"][0]["text"] for piece in pieces])
    assert pieces[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/chat/completions", TALK, "chat.completion"),
        ("/v1/completions", {"model": "chat", "prompt": "x"}, "text_completion"),
    ],
)
async def test_openai_does_not_stream_unasked(server: Server, path: str, body: Json, kind: str) -> None:
    answer = (await server.post(path, {**body, "max_tokens": 3})).raise_for_status()
    assert answer.headers["Content-Type"] == "application/json"
    whole = answer.json()
    assert whole["object"] == kind
    (choice,) = whole["choices"]
    assert words([choice["message"]["content"] if "message" in choice else choice["text"]])
    assert choice["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 3


async def test_openai_chat_needs_messages(server: Server) -> None:
    answer = await server.post("/v1/chat/completions", {"model": "chat", "messages": []})
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "[] is too short - 'messages'",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


async def test_openai_ignores_keep_alive(server: Server) -> None:
    (await server.post("/v1/chat/completions", {**TALK, "max_tokens": 1, "keep_alive": 0})).raise_for_status()
    await asyncio.sleep(0.3)
    assert await server.running() == {"chat:latest"}


async def test_openai_models(server: Server) -> None:
    listed = (await server.http.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert {entry["id"] for entry in listed["data"]} == {f"{name}:latest" for name in server.store.digests}
    assert all(set(entry) == {"id", "object", "created", "owned_by"} for entry in listed["data"])
    one = (await server.http.get("/v1/models/chat")).json()
    assert (one["id"], one["object"], one["owned_by"]) == ("chat", "model", "library")
    missing = await server.http.get("/v1/models/nope")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")


async def test_embed_answers_one_unit_vector_per_input(server: Server) -> None:
    answer = (await server.post("/api/embed", {"model": "embed", "input": ["the fleet", "every node"]})).json()
    assert set(answer) == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    first, second = answer["embeddings"]
    assert len(first) == len(second) == 64
    assert first != second
    assert sum(value * value for value in first) == pytest.approx(1, abs=1e-4)


async def test_legacy_embeddings_answer_one_vector(server: Server) -> None:
    answer = (await server.post("/api/embeddings", {"model": "embed", "prompt": "the fleet"})).json()
    assert set(answer) == {"embedding"}
    assert len(answer["embedding"]) == 64


async def test_a_decoder_embeds_only_in_the_older_generation(server: Server) -> None:
    answer = await server.post("/api/embed", {"model": "chat", "input": "the fleet"})
    if server.version == "0.24.0":
        assert len(answer.json()["embeddings"][0]) == 64
    else:
        text = "This server does not support embeddings. Start it with `--embeddings`"
        assert (answer.status_code, answer.json()) == (501, {"error": text})


async def test_embeddings_of_openai(server: Server) -> None:
    answer = (await server.post("/v1/embeddings", {"model": "embed", "input": "the fleet"})).json()
    assert (answer["object"], answer["model"]) == ("list", "embed")
    (entry,) = answer["data"]
    assert (entry["object"], entry["index"], len(entry["embedding"])) == ("embedding", 0, 64)
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0


async def test_the_next_request_works_after_a_cancelled_one(server: Server) -> None:
    """With one slot: a generation that went on for a client that left would keep the next one waiting."""
    endless = {**ASK, "options": {"num_predict": 20000}}  # two minutes
    async with server.http.stream("POST", "/api/generate", json=endless) as answer:
        async for line in answer.aiter_lines():
            assert json.loads(line)["done"] is False
            break
    async with asyncio.timeout(30):
        lines = await server.lines("/api/generate", ASK)
    assert lines[-1]["eval_count"] == 5
