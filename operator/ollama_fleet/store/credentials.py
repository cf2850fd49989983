"""Registry credentials and certificates from mounted Secrets."""

import base64
import binascii
import functools
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from ollama_fleet.store.errors import SecretUnusable

_LIMIT: Final = 1024 * 1024
"""Bytes of a Secret; the API server keeps the same limit."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name and password for one registry."""

    username: str
    password: str = field(repr=False)

    def basic(self) -> str:
        """The value of an ``Authorization`` header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """Credentials by registry (and path), from a Secret of type ``kubernetes.io/dockerconfigjson``."""

    entries: Mapping[str, Credentials]

    @classmethod
    def parse(cls, content: bytes) -> "DockerConfig":
        """Raises `SecretUnusable`; the message says which entry is malformed, never what it holds."""
        try:
            wire = json.loads(content)
        except (ValueError, RecursionError):
            raise SecretUnusable("pull secret: .dockerconfigjson is not JSON") from None
        auths = wire.get("auths") if isinstance(wire, dict) else None
        if not isinstance(auths, dict):
            raise SecretUnusable("pull secret: .dockerconfigjson has no object 'auths'")
        return cls({_location(key): _credentials(key, entry) for key, entry in auths.items()})

    def find(self, registry: str, repository: str) -> Credentials | None:
        """The entry with the longest path that covers the repository, as the kubelet chooses."""
        wanted = f"{registry.lower()}/{repository}"
        covering = [key for key in self.entries if wanted == key or wanted.startswith(f"{key}/")]
        return self.entries[max(covering, key=len)] if covering else None


def read_docker_config(path: Path) -> DockerConfig:
    """Read a mounted ``.dockerconfigjson``. Raises `SecretUnusable`."""
    return DockerConfig.parse(_read(path))


def tls_context(certificates: bytes | None = None) -> ssl.SSLContext:
    """Public authorities, and those of a private registry beside them (its redirects may leave for public hosts)."""
    if certificates is None:
        return _public_tls_context()
    context = httpx.create_ssl_context()
    try:
        context.load_verify_locations(cadata=certificates.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise SecretUnusable("certificate secret: ca.crt holds no PEM certificate") from error
    return context


@functools.cache
def _public_tls_context() -> ssl.SSLContext:
    """Reading all public authorities takes tens of milliseconds; one context serves any number of clients."""
    return httpx.create_ssl_context()


def read_certificates(path: Path) -> bytes:
    """Read a mounted ``ca.crt``. Raises `SecretUnusable`."""
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LIMIT + 1)
    except OSError as error:
        raise SecretUnusable(f"{path}: {error.strerror}") from error
    if len(content) > _LIMIT:
        raise SecretUnusable(f"{path}: larger than {_LIMIT} bytes")
    return content


def _location(key: str) -> str:
    """``https://host/v1/`` (the form of ``docker login``), ``host`` and ``host/path`` name the same kind of place."""
    bare = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    host, _, path = bare.partition("/")
    return host.lower() if path in {"", "v1", "v2"} else f"{host.lower()}/{path}"


def _credentials(key: str, entry: object) -> Credentials:
    if not isinstance(entry, dict):
        raise SecretUnusable(f"pull secret: entry {key!r} is not an object")
    username, password, auth = entry.get("username"), entry.get("password"), entry.get("auth")
    if isinstance(username, str) and isinstance(password, str):
        return Credentials(username, password)
    if isinstance(auth, str):
        try:
            username, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            raise SecretUnusable(f"pull secret: 'auth' of entry {key!r} is not base64") from None
        if colon:
            return Credentials(username, password)
    raise SecretUnusable(f"pull secret: entry {key!r} has neither 'auth' nor 'username' and 'password'")
