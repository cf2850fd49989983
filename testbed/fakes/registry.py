"""A fake registry: manifests and blobs as the CNCF registry serves them, and the faults that downloads meet.

``tests/contract`` holds the answers without faults to the real registry.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from testbed.fakes.registry_faults import Behaviour, Fault
from testbed.models.push import CONFIG_TYPE, LAYER_PREFIX, MANIFEST_TYPE, Image, digest_of, image
from testbed.ports import free_ports

_CHUNK: Final = 64 * 1024
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")
_CONTENT: Final = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)")
_API: Final = {"Docker-Distribution-Api-Version": "registry/2.0"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request that arrived."""

    method: str
    path: str
    """With its query, as it was sent."""
    headers: Mapping[str, str]
    """Names in lower case."""

    @property
    def range(self) -> tuple[int, int] | None:
        """First byte and the one after the last, where both were asked for."""
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return (int(match[1]), int(match[2]) + 1) if match else None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    blob: bool = False


class FakeRegistry:
    """``async with FakeRegistry() as registry: registry.add(push.image("chat"), "library/chat")``.

    ``GET`` and ``POST /_fake/behaviour``, ``POST /_fake/faults`` and ``GET /_fake/requests`` control one in another
    process.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """``port`` 0 takes a free one."""
        self.host = host
        self.port = port or free_ports(1)[0]
        self.behaviour = Behaviour()
        self.faults: list[Fault] = []
        """Played in order, one for each request of a blob; then all is well again."""
        self.fault_for: Callable[[Request], Fault | None] = lambda _: None
        """Asked first, for every request."""
        self.requests: list[Request] = []
        self.body_bytes = 0
        """Bytes of blobs that were sent."""
        self.blobs: dict[str, bytes] = {}
        self._manifests: dict[tuple[str, str], bytes] = {}
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        """``HOST:PORT``, as it stands in a model's reference."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def add(self, made: Image, repository: str, *, tag: str = "latest") -> str:
        """Publish an image. Returns the manifest's digest."""
        self.blobs.update(made.blobs)
        return self.add_manifest(made.manifest, repository=repository, tag=tag)

    def add_blob(self, content: bytes) -> str:
        """Publish a blob alone. Returns its digest."""
        self.blobs[digest_of(content)] = content
        return digest_of(content)

    def add_manifest(self, raw: bytes, *, repository: str, tag: str) -> str:
        """Publish bytes as a manifest, whatever they are. Returns their digest."""
        self._manifests[repository, tag] = self._manifests[repository, digest_of(raw)] = raw
        return digest_of(raw)

    def add_model(
        self,
        weights: bytes,
        *,
        repository: str = "library/tiny",
        tag: str = "latest",
        params: Mapping[str, object] | None = None,
    ) -> str:
        """Publish a model with bytes for weights that no server could load. Returns the manifest's digest."""
        parts = [("model", weights)] + ([("params", json.dumps(params).encode())] if params is not None else [])
        config = json.dumps({"model_format": "gguf", "weights": digest_of(weights)}).encode()
        # A path of whoever pushed stands in the manifests that Ollama itself pushes.
        layers = [{**self._published(LAYER_PREFIX + kind, part), "from": "/home/pusher/x"} for kind, part in parts]
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": self._published(CONFIG_TYPE, config)}
        return self.add_manifest(json.dumps(manifest | {"layers": layers}).encode(), repository=repository, tag=tag)

    def count(self) -> Counter[str]:
        """Requests by kind: ``manifests``, ``blobs``, ``token``."""
        kinds = ((request, _CONTENT.match(request.path)) for request in self.requests)
        return Counter(match["kind"] if match else request.path[1:].partition("?")[0] for request, match in kinds)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/_fake/behaviour", self._get_behaviour)
        app.router.add_post("/_fake/behaviour", self._set_behaviour)
        app.router.add_post("/_fake/faults", self._add_faults)
        app.router.add_get("/_fake/requests", self._get_requests)
        app.router.add_get("/{path:.*}", self._serve, allow_head=True)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port, reuse_address=True).start()

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _published(self, media_type: str, content: bytes) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self.add_blob(content), "size": len(content)}

    async def _serve(self, raw: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in raw.headers.items()}
        request = Request(raw.method, raw.raw_path, headers)
        self.requests.append(request)
        fault = self._fault(request)
        if fault.status:
            return web.Response(status=fault.status, headers=fault.headers)
        return await self._send(raw, self._refused(request) or self._answer(request), fault)

    def _fault(self, request: Request) -> Fault:
        fault = self.fault_for(request)
        if fault is None and self.faults and "/blobs/" in request.path:
            fault = self.faults.pop(0)
        return fault or Fault()

    def _answer(self, request: Request) -> _Answer:
        if request.path.startswith("/token"):
            return self._token(request)
        if request.path == "/v2/":
            return _Answer(200, b"{}", {**_API, "Content-Type": "application/json"})
        match = _CONTENT.fullmatch(request.path)
        if match is None:
            return _Answer(404)
        if match["kind"] == "manifests":
            return self._manifest(match["repository"], match["reference"])
        return self._blob(request, match["reference"])

    def _manifest(self, repository: str, reference: str) -> _Answer:
        by_digest = _DIGEST.fullmatch(reference) is not None
        if by_digest and not self.behaviour.by_digest:
            return _error(500, "UNKNOWN", "unknown error", detail=None)
        content = self._manifests.get((repository, reference))
        if content is None:
            revision = f"unknown manifest name={repository} revision={reference}"
            detail = revision if by_digest else f"unknown tag={reference}"
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown", detail=detail)
        return _Answer(200, content, {**_described(digest_of(content)), "Content-Type": MANIFEST_TYPE})

    def _blob(self, request: Request, digest: str) -> _Answer:
        if not _DIGEST.fullmatch(digest):
            wrong = "invalid checksum digest length"
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content", detail=wrong)
        if self.behaviour.redirect_to is not None:
            return _Answer(307, headers={"Location": f"{self.behaviour.redirect_to}{request.path}"})
        content = self.blobs.get(digest)
        if content is None or self.behaviour.missing:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry", detail=digest)
        headers = {**_described(digest), "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        span = _RANGE.fullmatch(request.headers.get("range", "")) if self.behaviour.ranges else None
        if span is None:
            return _Answer(200, content, headers, blob=True)
        start = int(span[1])
        if start >= len(content):
            none = {"Content-Range": f"bytes */{len(content)}"}
            return _Answer(416, b"invalid range: failed to overlap\n", {**_API, **none})
        body = content[start : int(span[2] or len(content)) + 1]
        headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(content)}"
        return _Answer(206, body, headers, blob=True)

    async def _send(self, raw: web.Request, answer: _Answer, fault: Fault) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(answer.body)
        if answer.blob and raw.method != "HEAD":
            await asyncio.sleep(self.behaviour.first_byte_seconds)
        await response.prepare(raw)
        if raw.method == "HEAD":
            return response
        for part in fault.parts(answer.body, size=_CHUNK):
            await response.write(part)
            if answer.blob:
                self.body_bytes += len(part)
                if self.behaviour.bytes_per_second:
                    await asyncio.sleep(len(part) / self.behaviour.bytes_per_second)
        if fault.stall_after is not None:
            await asyncio.Event().wait()
        if raw.transport is not None and fault.breaks:
            raw.transport.abort() if fault.reset_after is not None else raw.transport.close()
            return response
        await response.write_eof()
        return response

    def _refused(self, request: Request) -> _Answer | None:
        """The answer to somebody who may not come in."""
        token, password = self.behaviour.bearer, self.behaviour.password
        given = request.headers.get("authorization")
        if request.path.startswith("/token") or (token is None and password is None):
            return None
        if token is None:
            if given == _basic(password or ""):
                return None
            challenge = 'Basic realm="fake"'
        else:
            if given == f"Bearer {token}":
                return None
            match = _CONTENT.fullmatch(request.path)
            repository = match["repository"] if match else ""
            challenge = f'Bearer realm="{self.url}/token",service="fake",scope="repository:{repository}:pull"'
        refusal = _error(401, "UNAUTHORIZED", "authentication required", detail=None)
        return _Answer(401, refusal.body, {**refusal.headers, "WWW-Authenticate": challenge})

    def _token(self, request: Request) -> _Answer:
        token, password = self.behaviour.bearer or secrets.token_hex(16), self.behaviour.password
        if password is not None and request.headers.get("authorization") != _basic(password):
            return _error(401, "UNAUTHORIZED", "authentication required", detail=None)
        body = json.dumps({"token": token, "expires_in": 300}).encode()
        return _Answer(200, body, {"Content-Type": "application/json"})

    async def _get_behaviour(self, _: web.Request) -> web.Response:
        return web.json_response(asdict(self.behaviour))

    async def _set_behaviour(self, request: web.Request) -> web.Response:
        try:
            self.behaviour.update(await request.json())
        except KeyError as error:
            return web.json_response({"error": f"unknown: {error.args[0]}"}, status=400)
        return await self._get_behaviour(request)

    async def _add_faults(self, request: web.Request) -> web.Response:
        try:
            self.faults += [Fault(**fault) for fault in await request.json()]
        except TypeError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response([asdict(fault) for fault in self.faults])

    async def _get_requests(self, _: web.Request) -> web.Response:
        return web.json_response([{"method": one.method, "path": one.path} for one in self.requests])


def _basic(password: str) -> str:
    return f"Basic {base64.b64encode(password.encode()).decode()}"


def _described(digest: str) -> dict[str, str]:
    return {**_API, "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}


def _error(status: int, code: str, message: str, *, detail: str | None) -> _Answer:
    content = {"errors": [{"code": code, "message": message, "detail": detail}]}
    text = json.dumps(content, separators=(",", ":")) + "\n"
    return _Answer(status, text.encode(), {**_API, "Content-Type": "application/json"})


async def _run(options: argparse.Namespace) -> None:
    registry = FakeRegistry(host=options.host, port=options.port)
    for name in options.model:
        registry.add(image(name), f"library/{name}")
    await registry.start()
    print(registry.url, flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """``python -m testbed.fakes.registry --port 5000 --model chat``."""
    parser = argparse.ArgumentParser(prog="python -m testbed.fakes.registry", description="A fake registry.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="a free one if not given; the URL is printed")
    parser.add_argument("--model", action="append", default=[], help="a tiny model to publish; may be repeated")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
