"""A fake registry: manifests and blobs as the CNCF registry serves them, and the faults that downloads meet.

``tests/contract`` holds the answers without faults to the real registry.
"""

import argparse
import asyncio
import contextlib
import json
import re
import secrets
from base64 import b64decode
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from testbed.models.push import MANIFEST_TYPE, Image, digest_of, image
from testbed.ports import free_ports

_CHUNK: Final = 64 * 1024
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")
_API: Final = {"Docker-Distribution-Api-Version": "registry/2.0"}


@dataclass(slots=True)
class Faults:
    """What goes wrong. Counters count down with each answer that they spoil; the other answers are right."""

    resets: int = 0
    reset_after: int = 0
    """Bytes of the body that arrive before the connection breaks."""
    stalls: int = 0
    stall_after: int = 0
    """Bytes that arrive before nothing more does."""
    corrupt: int = 0
    """Answers whose first byte is another one."""
    short: int = 0
    """Answers whose connection is closed, not reset, after half of what ``Content-Length`` promised."""
    errors: int = 0
    error_status: int = 500
    too_many: int = 0
    """Answers 429 with ``Retry-After: retry_after``."""
    retry_after: int = 1
    missing: bool = False
    """Every blob is 404."""
    ignore_range: bool = False
    first_byte_seconds: float = 0.0
    bytes_per_second: float = 0.0
    """0 is as fast as it goes."""
    redirect_to: str | None = None
    """Blobs answer 307 to this ``http://HOST:PORT``."""
    bearer: bool = False
    """Ask for a token, which ``/token`` of this server gives."""
    password: str | None = None
    """``USER:PASSWORD`` that ``/token`` asks for."""

    def update(self, changes: Mapping[str, Any]) -> None:
        """Set attributes by name. Raises KeyError for a name that does not exist, and changes nothing then."""
        unknown = sorted(set(changes) - {one.name for one in fields(self)})
        if unknown:
            raise KeyError(", ".join(unknown))
        for name, value in changes.items():
            setattr(self, name, value)

    def take(self, name: str) -> bool:
        """Whether this answer gets the fault, which is counted down then."""
        left: int = getattr(self, name)
        setattr(self, name, max(0, left - 1))
        return left > 0


class _Break(Exception):
    """The connection has to break."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__()
        self.reset = reset


class FakeRegistry:
    """``async with FakeRegistry() as registry: registry.add(push.image("chat"), "library/chat")``.

    ``GET`` and ``POST /_fake/faults`` control one in another process; ``GET /_fake/count`` tells its requests.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """``port`` 0 takes a free one."""
        self.host = host
        self.port = port or free_ports(1)[0]
        self.faults = Faults()
        self.count: Counter[str] = Counter()
        """Requests by ``METHOD PATH``."""
        self.body_bytes = 0
        """Bytes of blobs that were sent."""
        self._blobs: dict[str, bytes] = {}
        self._manifests: dict[tuple[str, str], bytes] = {}
        self._token = secrets.token_hex(16)
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
        self._blobs.update(made.blobs)
        self._manifests[repository, tag] = self._manifests[repository, made.digest] = made.manifest
        return made.digest

    def add_blob(self, content: bytes) -> str:
        """Publish a blob alone. Returns its digest."""
        self._blobs[digest_of(content)] = content
        return digest_of(content)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/v2/", self._root)
        app.router.add_get("/v2/{repository:.+}/manifests/{reference}", self._manifest, allow_head=True)
        app.router.add_get("/v2/{repository:.+}/blobs/{digest}", self._blob, allow_head=True)
        app.router.add_get("/token", self._give_token)
        app.router.add_get("/_fake/faults", self._get_faults)
        app.router.add_post("/_fake/faults", self._set_faults)
        app.router.add_get("/_fake/count", self._get_count)
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

    async def _root(self, request: web.Request) -> web.Response:
        return self._refused(request) or web.Response(body=b"{}", headers={**_API, "Content-Type": "application/json"})

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        refused = self._refused(request)
        if refused is not None:
            return refused
        repository, reference = request.match_info["repository"], request.match_info["reference"]
        content = self._manifests.get((repository, reference))
        if content is None:
            by_digest = f"unknown manifest name={repository} revision={reference}"
            detail = by_digest if _DIGEST.fullmatch(reference) else f"unknown tag={reference}"
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown", detail=detail)
        return web.Response(body=content, headers=_described(digest_of(content)) | {"Content-Type": MANIFEST_TYPE})

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        refused = self._refused(request)
        if refused is not None:
            return refused
        digest = request.match_info["digest"]
        if not _DIGEST.fullmatch(digest):
            wrong = "invalid checksum digest length"
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content", detail=wrong)
        content = self._blobs.get(digest)
        if content is None or self.faults.missing:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry", detail=digest)
        if self.faults.redirect_to is not None:
            return web.Response(status=307, headers={"Location": f"{self.faults.redirect_to}{request.path}"})
        return await self._served(request, digest, content)

    async def _served(self, request: web.Request, digest: str, content: bytes) -> web.StreamResponse:
        headers = _described(digest) | {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        span = None if self.faults.ignore_range else _RANGE.fullmatch(request.headers.get("Range", ""))
        status, body = 200, content
        if span is not None:
            start = int(span[1])
            if start >= len(content):
                none = {"Content-Range": f"bytes */{len(content)}"}
                return web.Response(status=416, text="invalid range: failed to overlap\n", headers=_API | none)
            status, body = 206, content[start : int(span[2] or len(content)) + 1]
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(content)}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(body)
        if request.method != "HEAD":
            await asyncio.sleep(self.faults.first_byte_seconds)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        try:
            await self._sent(response, body)
        except _Break as end:
            if request.transport is not None:
                request.transport.abort() if end.reset else request.transport.close()
            return response
        await response.write_eof()
        return response

    async def _sent(self, response: web.StreamResponse, body: bytes) -> None:
        faults = self.faults
        end = len(body)
        if faults.take("corrupt"):
            body = bytes([body[0] ^ 1]) + body[1:]
        reset, stall, short = faults.take("resets"), faults.take("stalls"), faults.take("short")
        if reset or stall or short:
            end = min(end, faults.reset_after if reset else faults.stall_after if stall else end // 2)
        for start in range(0, end, _CHUNK):
            part = body[start : min(end, start + _CHUNK)]
            await response.write(part)
            self.body_bytes += len(part)
            if faults.bytes_per_second:
                await asyncio.sleep(len(part) / faults.bytes_per_second)
        if stall:
            await asyncio.Event().wait()
        if reset or short:
            raise _Break(reset=reset)

    def _refused(self, request: web.Request) -> web.Response | None:
        """Counts the request; the answer, if it is none of the content."""
        self.count[f"{request.method} {request.path}"] += 1
        if self.faults.bearer and request.headers.get("Authorization") != f"Bearer {self._token}":
            repository = request.match_info.get("repository", "")
            realm = f'Bearer realm="{self.url}/token",service="fake",scope="repository:{repository}:pull"'
            answer = _error(401, "UNAUTHORIZED", "authentication required", detail=None)
            answer.headers["WWW-Authenticate"] = realm
            return answer
        if self.faults.take("too_many"):
            answer = _error(429, "TOOMANYREQUESTS", "too many requests", detail=None)
            answer.headers["Retry-After"] = str(self.faults.retry_after)
            return answer
        if self.faults.take("errors"):
            return _error(self.faults.error_status, "UNKNOWN", "unknown error", detail=None)
        return None

    async def _give_token(self, request: web.Request) -> web.Response:
        self.count["GET /token"] += 1
        if self.faults.password is not None:
            given = request.headers.get("Authorization", "").removeprefix("Basic ")
            with contextlib.suppress(ValueError):
                if b64decode(given).decode() == self.faults.password:
                    return web.json_response({"token": self._token, "expires_in": 300})
            return _error(401, "UNAUTHORIZED", "authentication required", detail=None)
        return web.json_response({"token": self._token, "expires_in": 300})

    async def _get_faults(self, _: web.Request) -> web.Response:
        return web.json_response(asdict(self.faults))

    async def _set_faults(self, request: web.Request) -> web.Response:
        try:
            self.faults.update(await request.json())
        except KeyError as error:
            return web.json_response({"error": f"unknown: {error.args[0]}"}, status=400)
        return web.json_response(asdict(self.faults))

    async def _get_count(self, _: web.Request) -> web.Response:
        return web.json_response(dict(self.count))


def _described(digest: str) -> dict[str, str]:
    return {**_API, "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}


def _error(status: int, code: str, message: str, *, detail: str | None) -> web.Response:
    content = {"errors": [{"code": code, "message": message, "detail": detail}]}
    text = json.dumps(content, separators=(",", ":")) + "\n"
    return web.Response(status=status, body=text.encode(), headers={**_API, "Content-Type": "application/json"})


async def _serve(options: argparse.Namespace) -> None:
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
        asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
