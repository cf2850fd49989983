"""One HTTP exchange with the API server, over the official client's connection and authentication.

The generated API classes and models are left out: they cost CPU per call and know nothing of our kinds.
"""

import asyncio
import os
import ssl
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from pydantic_core import from_json

from ollama_fleet.kube import errors

Json = dict[str, Any]
Objects = list[Json]
OnRequest = Callable[[str, str, str, float], None]
"""(verb, resource, code, seconds) of each finished exchange; ``code`` is the status or the error's name."""

MAX_BODY: Final = 64 * 2**20
"""Bytes of one response: a page of 500 large objects fits, a runaway does not."""
CONNECT_TIMEOUT: Final = 10.0
USER_AGENT: Final = "ollama-fleet"
LEAVES_TLS_OPEN: Final = sys.version_info < (3, 12, 8) or (3, 13, 0) <= sys.version_info < (3, 13, 1)
"""Whether aiohttp aborts what asyncio fails to close (https://github.com/python/cpython/pull/118960); else it warns."""


class Credentials:
    """Where the API server is and who we are, read again on demand."""

    def __init__(self, *, kubeconfig: str | None = None, context: str | None = None) -> None:
        """Without ``kubeconfig`` the pod's service account is used when there is one."""
        # Else each request asks two threads, for a proxy and for ~/.netrc, and one that has an entry there is not sent.
        self.configuration = Configuration(client_session_kwargs={"trust_env": False})
        self._in_cluster = kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ
        self._kubeconfig = kubeconfig
        self._context = context

    async def load(self) -> None:
        """Read the token (or kubeconfig, or exec plugin) into ``configuration``.

        Certificates count only until the first request: a client certificate that expires needs a restart.
        Raises Unauthorized when there is nothing usable.
        """
        try:
            if self._in_cluster:
                kube_config.load_incluster_config(  # type: ignore[no-untyped-call]
                    client_configuration=self.configuration
                )
            else:
                await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=self._kubeconfig,
                    context=self._context,
                    client_configuration=self.configuration,
                    persist_config=False,
                )
        except (kube_config.ConfigException, OSError, ValueError) as error:
            raise errors.Unauthorized(f"no usable credentials: {error}") from error
        self.configuration.proxy = self.configuration.proxy or _proxy_of(self.configuration.host)

    async def header(self) -> dict[str, str]:
        """The Authorization header; a service account's token is read again once a minute."""
        try:
            settings = await self.configuration.auth_settings()
        except (kube_config.ConfigException, OSError) as error:
            raise errors.Unauthorized(f"the token cannot be read: {error}") from error
        token = settings.get("BearerToken")
        if not token or not token["value"]:
            return {}
        return {"Authorization": str(token["value"]).strip()}


def _proxy_of(host: str) -> str | None:
    """The proxy that the environment names for the API server (``HTTPS_PROXY``, ``NO_PROXY``), if any."""
    url = urllib.parse.urlsplit(host)
    if not url.hostname or urllib.request.proxy_bypass(url.netloc):
        return None
    return urllib.request.getproxies().get(url.scheme)


class _Rest(RESTClientObject):
    def _create_connector(self) -> aiohttp.TCPConnector:
        # An interrupted connection is closed by a handshake, which a path that went dead never ends.
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, enable_cleanup_closed=LEAVES_TLS_OPEN)


class Transport:
    """Sends requests; turns every failure into an error of :mod:`ollama_fleet.kube.errors`."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        on_request: OnRequest | None = None,
        max_body: int = MAX_BODY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``credentials`` must be loaded."""
        self._credentials = credentials
        self._rest = _Rest(credentials.configuration)
        self._on_request = on_request
        self._max_body = max_body
        self._clock = clock

    async def close(self) -> None:
        """Close all connections."""
        await self._rest.close()

    async def json(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        resource: str,
        body: Any = None,
        content_type: str = "application/json",
        timeout: float,
    ) -> Json:
        """One request, one JSON object back.

        A 401 makes the credentials be read again and the request sent once more.
        """
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, CONNECT_TIMEOUT))
        async with self._response(
            method, path, verb=verb, resource=resource, body=body, content_type=content_type, timeout=limits
        ) as response:
            return _parse(await _read(response, self._max_body))

    @asynccontextmanager
    async def stream(self, path: str, *, resource: str, stall: float) -> AsyncIterator[aiohttp.StreamReader]:
        """A long response; once it has begun, more than ``stall`` seconds without a byte are a Silence."""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=stall)
        async with self._response(
            "GET",
            path,
            verb="watch",
            resource=resource,
            body=None,
            content_type="application/json",
            timeout=limits,
        ) as response:
            try:
                yield response.content
            except aiohttp.SocketTimeoutError as error:
                raise errors.Silence(f"GET {path.partition('?')[0]}: silent for {stall:g} s") from error

    @asynccontextmanager
    async def _response(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        resource: str,
        body: Any,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        started = self._clock()
        code = "error"
        try:
            response = await self._send(method, path, body, content_type, timeout)
            if response.status == 401:
                response.release()
                await self._credentials.load()
                response = await self._send(method, path, body, content_type, timeout)
            code = str(response.status)
            try:
                if response.status >= 400:
                    raise await _error(response)
                yield response
            finally:
                # Reads to the end of what is buffered or closes: the connection is never leaked.
                response.release()
        except errors.KubeError as error:
            code = str(error.code or type(error).__name__)
            raise
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            code = "Timeout"
            raise errors.Timeout(f"{method} {path.partition('?')[0]}: no answer in time") from error
        except (aiohttp.ClientError, ssl.SSLError, OSError) as error:
            code = "Unavailable"
            raise errors.Unavailable(f"{method} {path.partition('?')[0]}: {error or type(error).__name__}") from error
        except asyncio.CancelledError:
            code = "cancelled"
            raise
        finally:
            if self._on_request is not None:
                self._on_request(verb, resource, code, self._clock() - started)

    async def _send(
        self, method: str, path: str, body: Any, content_type: str, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        headers = {
            "Accept": "application/json",
            "Content-Type": content_type,
            "User-Agent": USER_AGENT,
            **await self._credentials.header(),
        }
        answer = await self._rest.request(  # type: ignore[no-untyped-call]
            method,
            self._credentials.configuration.host + path,
            headers=headers,
            body=body,
            _request_timeout=timeout,
        )
        response = answer.response
        assert isinstance(response, aiohttp.ClientResponse)
        return response


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body, at most ``limit`` bytes after decompression."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            response.close()
            raise errors.Unavailable(f"the response is larger than {limit} bytes", code=response.status)
        chunks.append(chunk)
    return b"".join(chunks)


def _parse(body: bytes) -> Json:
    try:
        value = from_json(body)
    except ValueError as error:
        raise errors.Unavailable(f"the response is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise errors.Unavailable("the response is not a JSON object")
    return value


async def _error(response: aiohttp.ClientResponse) -> errors.KubeError:
    body = await _read(response, 2**20)
    try:
        status = from_json(body)
    except ValueError:
        status = {}
    if not isinstance(status, dict):
        status = {}
    return errors.from_status(response.status, status, retry_after=_seconds(response.headers.get("Retry-After")))


def _seconds(value: str | None) -> float | None:
    """Seconds of a ``Retry-After``; Kubernetes never sends the date form."""
    return float(value) if value is not None and value.isdecimal() else None
