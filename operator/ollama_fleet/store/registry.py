"""Registry client: manifests by tag or digest, blobs as (ranged) streams.

HTTP/1.1. Redirects are followed, also to other hosts; ``httpx`` drops ``Authorization`` on the way there. Raises the
tree of `ollama_fleet.store.errors` only.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

import httpx

from ollama_fleet.api.references import ModelReference
from ollama_fleet.store.authentication import Challenge, answer
from ollama_fleet.store.credentials import DockerConfig, tls_context
from ollama_fleet.store.errors import DigestMismatch, NotFound, Unreachable
from ollama_fleet.store.manifest import ACCEPT, MANIFEST_LIMIT, Descriptor, ResolvedManifest, digest_of
from ollama_fleet.store.transport import read_bounded, refusal, translated

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_MAX_REDIRECTS: Final = 5


@dataclass(frozen=True, slots=True)
class BlobStream:
    """An open answer with bytes of a blob."""

    start: int
    """Offset of the first byte that comes: 0 where the registry ignored the range."""
    chunks: AsyncIterator[bytes]


class RegistryClient:
    """One set of credentials and certificates; any number of registries and repositories. An async context manager.

    ``docker_config`` is called when a registry asks for credentials, so that rotated ones count.
    """

    def __init__(
        self,
        *,
        docker_config: Callable[[], DockerConfig] | None = None,
        tls: ssl.SSLContext | None = None,
        connections: int = 8,
        connect_seconds: float = 10.0,
        stall_seconds: float = 30.0,
    ) -> None:
        self._docker_config = docker_config or (lambda: DockerConfig({}))
        self._authorizations: dict[tuple[str, str], str] = {}
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._http = httpx.AsyncClient(
            verify=tls or tls_context(),
            follow_redirects=True,
            max_redirects=_MAX_REDIRECTS,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            timeout=httpx.Timeout(stall_seconds, connect=connect_seconds, pool=None),
            # The digest is that of the bytes on the wire.
            headers={"Accept-Encoding": "identity", "User-Agent": "ollama-fleet"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def resolve(self, reference: ModelReference) -> ResolvedManifest:
        """The manifest that the reference names: by its digest where it has one, else by its tag.

        Some registries serve no manifests by digest (registry.ollama.ai, ollama/ollama#5298): then the tag is asked,
        and another digest than the pinned one refused.
        """
        if reference.digest is None:
            return await self._manifest(reference, reference.tag)
        try:
            return await self._manifest(reference, reference.digest)
        except NotFound:
            return await self._pinned_by_tag(reference)
        except Unreachable as error:
            if error.status is None or error.status == 429:
                raise
            return await self._pinned_by_tag(reference)

    async def _pinned_by_tag(self, reference: ModelReference) -> ResolvedManifest:
        found = await self._manifest(reference, reference.tag)
        if found.digest != reference.digest:
            raise DigestMismatch(
                f"{reference}: {reference.host} has no such manifest; its tag {reference.tag!r} is {found.digest}"
            )
        return found

    async def _manifest(self, reference: ModelReference, name: str) -> ResolvedManifest:
        what = str(replace(reference, digest=None))
        async with self._get(reference, f"manifests/{name}", headers={"Accept": ACCEPT}) as response:
            if response.status_code != 200:
                raise refusal(response, f"manifest {name} of {what}")
            raw = await read_bounded(response, MANIFEST_LIMIT)
            declared = response.headers.get("Docker-Content-Digest")
        found = digest_of(raw)
        # A tag has nothing else to hold the body against than what the registry declares.
        expected = name if name.startswith("sha256:") else declared
        if expected is not None and expected.startswith("sha256:") and found != expected:
            raise DigestMismatch(f"manifest {name} of {what}: expected {expected}, got {found}")
        return ResolvedManifest.from_bytes(raw)

    @asynccontextmanager
    async def open_blob(
        self, reference: ModelReference, blob: Descriptor, *, start: int, end: int
    ) -> AsyncIterator[BlobStream]:
        """Bytes ``start`` to ``end`` (exclusive) of a blob; the whole blob where the registry ignores ranges.

        The stream may end early or bring too much: the caller counts.
        """
        what = f"blob {blob.digest} of {reference}"
        whole = start == 0 and end == blob.size
        headers = {} if whole else {"Range": f"bytes={start}-{end - 1}"}
        async with self._get(reference, f"blobs/{blob.digest}", headers=headers) as response:
            if response.status_code == 206 and not whole:
                _check_range(response, what, start=start, size=blob.size)
                yield BlobStream(start, response.aiter_raw())
            elif response.status_code == 200:
                yield BlobStream(0, response.aiter_raw())
            else:
                raise refusal(response, what)

    @asynccontextmanager
    async def _get(
        self, reference: ModelReference, path: str, *, headers: dict[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """An answered request; a 401 of the registry itself is answered once."""
        url = f"{reference.scheme}://{reference.host}/v2/{reference.repository}/{path}"
        key = (reference.host, reference.repository)
        with translated(f"{reference.host}"):
            response = await self._send(url, headers or {}, self._authorizations.get(key))
            if response.status_code == 401 and not response.history:
                try:
                    authorization = await self._authorize(reference, response, key)
                finally:
                    await response.aclose()
                response = await self._send(url, headers or {}, authorization)
            try:
                yield response
            finally:
                await response.aclose()

    async def _send(self, url: str, headers: dict[str, str], authorization: str | None) -> httpx.Response:
        if authorization is not None:
            headers = {**headers, "Authorization": authorization}
        return await self._http.send(self._http.build_request("GET", url, headers=headers), stream=True)

    async def _authorize(self, reference: ModelReference, response: httpx.Response, key: tuple[str, str]) -> str:
        used = response.request.headers.get("Authorization")
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._authorizations.get(key)
            if known is not None and known != used:
                return known  # another request was faster
            challenge = Challenge.parse(response.headers.get("WWW-Authenticate", ""))
            credentials = self._docker_config().find(*key)
            if not challenge.scheme:
                raise refusal(response, str(reference))
            authorization = await answer(self._http, challenge, reference=reference, credentials=credentials)
            self._authorizations[key] = authorization
            return authorization


def _check_range(response: httpx.Response, what: str, *, start: int, size: int) -> None:
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != start or int(match[3]) != size:
        raise Unreachable(f"{what}: {response.url.host} answered with another range than asked for", 206)
