"""The routes of Ollama's API."""

import asyncio
import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web

from testbed.fakes.ollama import requests, wire
from testbed.fakes.ollama.behaviour import Behaviour
from testbed.fakes.ollama.generation import Generation, prompt_of
from testbed.fakes.ollama.library import FakeModel, Library, short_name
from testbed.fakes.ollama.scheduler import Refused, Scheduler
from testbed.fakes.ollama.wire import Native, OpenAI

_DIMENSIONS: Final = 64
_NO_EMBEDDINGS: Final = "This server does not support embeddings. Start it with `--embeddings`"

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """Handlers over one library and one scheduler."""

    def __init__(self, behaviour: Behaviour, library: Library, scheduler: Scheduler) -> None:
        """Everything is shared with the server, which changes it while requests run."""
        self._behaviour = behaviour
        self._library = library
        self._scheduler = scheduler

    def add_to(self, router: web.UrlDispatcher) -> None:
        """HEAD is answered only where the real server answers it."""
        both: dict[str, Endpoint] = {"/": self._root, "/api/version": self._version, "/api/tags": self._tags}
        gets: dict[str, Endpoint] = {
            "/api/ps": self._ps,
            "/v1/models": self._openai_models,
            "/v1/models/{model}": self._openai_model,
        }
        posts: dict[str, Endpoint] = {
            "/api/show": self._show,
            "/api/generate": self._generate,
            "/api/chat": self._chat,
            "/api/embed": self._embed,
            "/api/embeddings": self._embeddings,
            "/v1/chat/completions": self._openai_chat,
            "/v1/completions": self._openai_completions,
            "/v1/embeddings": self._openai_embeddings,
        }
        for path, endpoint in both.items():
            router.add_get(path, self._guarded(path, endpoint), allow_head=True)
        for path, endpoint in gets.items():
            router.add_get(path, self._guarded(path, endpoint), allow_head=False)
        for path, endpoint in posts.items():
            router.add_post(path, self._guarded(path, endpoint))

    def _guarded(self, path: str, endpoint: Endpoint) -> Endpoint:
        error = wire.openai_error if path.startswith("/v1/") else wire.native_error

        async def handle(request: web.Request) -> web.StreamResponse:
            if path in self._behaviour.hang_paths:
                await asyncio.Event().wait()
            try:
                return await endpoint(request)
            except requests.BadRequest as bad:
                return error(400, str(bad))
            except Refused as refused:
                return error(refused.status, str(refused))

        return handle

    async def _root(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text="Ollama is running")

    async def _version(self, _: web.Request) -> web.StreamResponse:
        return wire.native({"version": self._behaviour.version})

    async def _tags(self, _: web.Request) -> web.StreamResponse:
        version = self._behaviour.version
        return wire.native({"models": [wire.listed(model, version) for model in self._library.all()]})

    async def _ps(self, _: web.Request) -> web.StreamResponse:
        size, ratio = self._behaviour.size, self._behaviour.vram_ratio
        return wire.native({"models": [wire.running(runner, size, ratio) for runner in self._scheduler.loaded()]})

    async def _show(self, request: web.Request) -> web.StreamResponse:
        body = requests.decode(await request.read())
        name = body.get("model") or body.get("name")
        if not name:
            raise requests.BadRequest("model is required")
        model = self._library.find(name)
        if model is None:
            # The newer generation looks the full name up first and repeats it.
            known_as = name if self._behaviour.version.startswith("0.24.") else short_name(name)
            raise Refused(404, f"model '{known_as}' not found")
        return wire.native(wire.shown(model))

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = requests.decode(await request.read())
        shape = Native(str(body.get("model") or ""), chat=False)
        return await self._complete(request, body, shape, empty=not body.get("prompt"), verb="generate")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = requests.decode(await request.read())
        shape = Native(str(body.get("model") or ""), chat=True)
        return await self._complete(request, body, shape, empty=not body.get("messages"), verb="chat")

    async def _openai_chat(self, request: web.Request) -> web.StreamResponse:
        body = requests.decode(await request.read())
        if not body.get("messages"):
            raise requests.BadRequest("[] is too short - 'messages'")
        return await self._openai_complete(request, body, chat=True)

    async def _openai_completions(self, request: web.Request) -> web.StreamResponse:
        return await self._openai_complete(request, requests.decode(await request.read()), chat=False)

    async def _openai_complete(self, request: web.Request, body: dict[str, Any], *, chat: bool) -> web.StreamResponse:
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        shape = OpenAI(str(body.get("model") or ""), chat=chat, usage=usage)
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        # Fields of the native API do not exist here, and streaming has to be asked for.
        translated = {
            "model": body.get("model"),
            "messages": body.get("messages"),
            "prompt": body.get("prompt"),
            "stream": bool(body.get("stream")),
            "options": {"num_predict": limit} if limit is not None else {},
        }
        empty = not chat and not body.get("prompt")
        return await self._complete(request, translated, shape, empty=empty, verb="chat" if chat else "generate")

    async def _complete(
        self, request: web.Request, body: Mapping[str, Any], shape: Native | OpenAI, *, empty: bool, verb: str
    ) -> web.StreamResponse:
        began = time.monotonic()
        keep_alive = requests.keep_alive(body)
        model = self._found(str(body.get("model") or ""))
        if empty and keep_alive is not None and not keep_alive:
            self._scheduler.unload(model)
            return shape.at_once("unload")
        if model.embeds:
            raise requests.BadRequest(f'"{body["model"]}" does not support {verb}')
        options: Mapping[str, Any] = body.get("options") or {}
        async with self._scheduler.runner(model, options, keep_alive) as runner:
            if empty:
                return shape.at_once("load")
            limit = int(options.get("num_predict") or -1)
            generation = Generation(self._behaviour, runner, prompt_of(body), limit, began)
            return await generation.answer(request, shape, stream=body.get("stream") is not False)

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        body = requests.decode(await request.read())
        return wire.native(await self._embedded(body))

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        body = requests.decode(await request.read())
        answer = await self._embedded({**body, "input": body.get("prompt") or ""})
        return wire.native({"embedding": (answer["embeddings"] or [[]])[0]})

    async def _openai_embeddings(self, request: web.Request) -> web.StreamResponse:
        body = requests.decode(await request.read())
        if not body.get("input"):
            raise requests.BadRequest("invalid input")
        answer = await self._embedded({"model": body.get("model"), "input": body["input"]})
        data = [
            {"object": "embedding", "embedding": vector, "index": index}
            for index, vector in enumerate(answer["embeddings"])
        ]
        count = answer["prompt_eval_count"]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return wire.openai({"object": "list", "data": data, "model": answer["model"], "usage": usage})

    async def _embedded(self, body: Mapping[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        name = str(body.get("model") or "")
        model = self._library.find(name)
        if model is None:
            raise Refused(404, f'model "{name}" not found, try pulling it first')
        given = body.get("input") or []
        texts = [given] if isinstance(given, str) else given
        async with self._scheduler.runner(model, body.get("options") or {}, requests.keep_alive(body)) as runner:
            if not texts:
                return {"model": name, "embeddings": []}
            if not model.embeds and not self._behaviour.version.startswith("0.24."):
                raise Refused(501, _NO_EMBEDDINGS)
            loaded = time.monotonic()
            async with runner.slots:
                await asyncio.sleep(self._behaviour.prompt_seconds * len(texts))
        return {
            "model": name,
            "embeddings": [_vector(text) for text in texts],
            "total_duration": int((time.monotonic() - began) * 1e9),
            "load_duration": max(1, int((loaded - began) * 1e9)),
            "prompt_eval_count": sum(1 + len(text) // 4 for text in texts),
        }

    async def _openai_models(self, _: web.Request) -> web.StreamResponse:
        return wire.openai({"object": "list", "data": [_openai_entry(one.name, one) for one in self._library.all()]})

    async def _openai_model(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["model"]
        return wire.openai(_openai_entry(name, self._found(name)))

    def _found(self, name: str) -> FakeModel:
        model = self._library.find(name)
        if model is None:
            raise Refused(404, f"model '{name}' not found")
        return model


def _openai_entry(name: str, model: FakeModel) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(model.modified.timestamp()), "owned_by": "library"}


def _vector(text: str) -> list[float]:
    """A unit vector that only the text decides."""
    seed = hashlib.shake_256(text.encode()).digest(_DIMENSIONS)
    values = [byte - 127.5 for byte in seed]
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]
