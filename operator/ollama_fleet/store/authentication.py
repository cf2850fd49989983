"""Answers to a registry's 401: Basic, or a Bearer token from the endpoint that the challenge names.

The challenge is the registry's word, so it is bounded: credentials go to an https endpoint only, unless the registry
itself was asked for in plain HTTP.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx

from ollama_fleet.api.references import ModelReference
from ollama_fleet.store.credentials import Credentials
from ollama_fleet.store.errors import Unauthorized, Unreachable
from ollama_fleet.store.transport import read_bounded, refusal

_TOKEN_LIMIT: Final = 64 * 1024
_ITEM: Final = re.compile(r'([\w-]+)(?:="([^"]*)"|=([^\s,"]+))?')
"""A scheme, or a parameter of the scheme before it."""
_KNOWN: Final = ("bearer", "basic")
"""The first that is offered is answered."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One of the ways that a ``WWW-Authenticate`` header offers."""

    scheme: str
    """``basic`` or ``bearer``, or whatever else the registry asks for."""
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, header: str) -> "Challenge":
        """The one to answer; the caller refuses a scheme that is not known."""
        offered: list[tuple[str, dict[str, str]]] = []
        for name, quoted, bare in (item.groups() for item in _ITEM.finditer(header)):
            if quoted is None and bare is None:
                offered.append((name.lower(), {}))
            elif offered:
                offered[-1][1][name.lower()] = bare if quoted is None else quoted
        known = sorted((way for way in offered if way[0] in _KNOWN), key=lambda way: _KNOWN.index(way[0]))
        return cls(*(known or offered or [("", {})])[0])


async def answer(
    http: httpx.AsyncClient, challenge: Challenge, *, reference: ModelReference, credentials: Credentials | None
) -> str:
    """The ``Authorization`` header that answers the challenge. Raises `Unauthorized` or `Unreachable`."""
    if challenge.scheme == "basic":
        if credentials is None:
            raise Unauthorized(f"{reference}: {reference.host} asks for a password and no pull secret covers it")
        return credentials.basic()
    if challenge.scheme == "bearer":
        return f"Bearer {await _token(http, challenge, reference=reference, credentials=credentials)}"
    raise Unauthorized(f"{reference}: {reference.host} asks for authentication of unknown kind {challenge.scheme!r}")


async def _token(
    http: httpx.AsyncClient, challenge: Challenge, *, reference: ModelReference, credentials: Credentials | None
) -> str:
    realm = httpx.URL(challenge.parameters.get("realm", ""))
    if realm.scheme not in {"https", reference.scheme} or not realm.host:
        raise Unauthorized(f"{reference}: token endpoint {str(realm)!r} is not an https address")
    query = {"scope": challenge.parameters.get("scope", f"repository:{reference.repository}:pull")}
    if service := challenge.parameters.get("service"):
        query["service"] = service
    headers = {"Authorization": credentials.basic()} if credentials else {}
    async with http.stream("GET", realm.copy_merge_params(query), headers=headers) as response:
        if response.status_code != 200:
            raise refusal(response, f"token for {reference} from {realm.host}")
        body = await read_bounded(response, _TOKEN_LIMIT)
    return _parse_token(body, realm.host)


def _parse_token(body: bytes, host: str) -> str:
    try:
        wire = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreachable(f"token endpoint {host} answered with something that is not JSON") from error
    token = (wire.get("token") or wire.get("access_token")) if isinstance(wire, dict) else None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise Unreachable(f"token endpoint {host} answered without a token")
    return token
