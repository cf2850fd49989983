"""What can go wrong between a registry and the store.

    StoreError
    ├── NotFound            the registry does not know the model (404)
    ├── Unauthorized        the registry refuses these credentials (401, 403)
    ├── SecretUnusable      a pull secret or certificate is missing or cannot be read
    ├── InvalidManifest     the registry's answer is no manifest of a model
    ├── InvalidModelfile    a Modelfile part of the spec that Ollama would refuse
    ├── DigestMismatch      the bytes are not those that the digest names
    ├── DiskFull            the store has too little room
    └── Unreachable         anything that may pass: resets, time-outs, 5xx
        └── RateLimited     429; ``retry_after`` seconds

Every error carries the `Reason` that conditions and progress show. `DiskFull` and `Unreachable` may pass by themselves;
after the others somebody must change something.
"""

from typing import ClassVar

from ollama_fleet.api.reasons import Reason


class StoreError(Exception):
    """Base of the tree; the message carries the numbers and the name of what failed."""

    reason: ClassVar[Reason]


class NotFound(StoreError):
    """The registry does not know the repository, the tag, the manifest or a blob."""

    reason = Reason.MODEL_NOT_FOUND


class Unauthorized(StoreError):
    """The registry refuses these credentials, or asks for some where there are none."""

    reason = Reason.UNAUTHORIZED


class SecretUnusable(StoreError):
    """A mounted Secret is absent or malformed. The message never holds its content."""

    reason = Reason.SECRET_MISSING


class InvalidManifest(StoreError):
    """The answer is no manifest of an Ollama model."""

    reason = Reason.INVALID_MANIFEST


class InvalidModelfile(StoreError):
    """A Modelfile part that Ollama would refuse or ignore; the message names it."""

    reason = Reason.INVALID_SPEC


class DigestMismatch(StoreError):
    """Bytes whose sha256 is not the one that names them."""

    reason = Reason.DIGEST_MISMATCH


class DiskFull(StoreError):
    """The file system of the store has too little room. Sizes in bytes."""

    reason = Reason.DISK_FULL

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"{needed} bytes needed, {free} bytes free")
        self.needed = needed
        self.free = free


class Unreachable(StoreError):
    """The registry does not answer as it should; trying again may help."""

    reason = Reason.REGISTRY_UNREACHABLE

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status, where there was an answer."""


class RateLimited(Unreachable):
    """The registry asks to wait."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message, 429)
        self.retry_after = retry_after
