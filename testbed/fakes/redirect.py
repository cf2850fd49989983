"""In front of a real registry, so that the real ``ollama pull`` can use it.

Ollama takes a blob only from a registry that answers with a ``Location`` on another host name (server/download.go); the
CNCF registry answers the blob itself. So blob downloads are redirected to the registry under its other name, and the
rest, which is small, is passed on.
"""

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from testbed.ports import free_ports

_OTHER_NAME: Final = {"127.0.0.1": "localhost", "localhost": "127.0.0.1"}
_KEPT: Final = ("Content-Type", "Docker-Content-Digest", "Content-Length", "WWW-Authenticate")


@asynccontextmanager
async def redirecting(
    upstream: str, *, blobs: str | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[str]:
    """Serve in front of ``upstream`` (``http://HOST:PORT``). Yields the URL to pull from.

    ``blobs`` is where blobs are sent for; if not given, the upstream under the other name of loopback. Its host name
    has to differ from ``host``.
    """
    parts = urlsplit(upstream)
    target = blobs or f"http://{_OTHER_NAME[str(parts.hostname)]}:{parts.port}"
    if urlsplit(target).hostname == host:
        raise ValueError(f"{target}: Ollama follows a redirect to the same host name and then misses a Location")
    async with aiohttp.ClientSession(base_url=upstream) as session:

        async def answer(request: web.Request) -> web.StreamResponse:
            if request.method == "GET" and "/blobs/" in request.path:
                return web.Response(status=307, headers={"Location": f"{target}{request.path}"})
            accept = request.headers.get("Accept", "*/*")
            async with session.request(request.method, request.path, headers={"Accept": accept}) as found:
                kept = {name: found.headers[name] for name in _KEPT if name in found.headers}
                return web.Response(status=found.status, body=await found.read(), headers=kept)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        listening = port or free_ports(1)[0]
        try:
            await web.TCPSite(runner, host, listening).start()
            yield f"http://{host}:{listening}"
        finally:
            await runner.cleanup()


async def _serve(options: argparse.Namespace) -> None:
    async with redirecting(options.upstream, blobs=options.blobs, host=options.host, port=options.port) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """``python -m testbed.fakes.redirect http://127.0.0.1:5000 --port 5001``."""
    parser = argparse.ArgumentParser(prog="python -m testbed.fakes.redirect", description="For the real ollama pull.")
    parser.add_argument("upstream", help="http://HOST:PORT of the registry")
    parser.add_argument("--blobs", help="http://HOST:PORT that blobs are redirected to")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="a free one if not given; the URL is printed")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
