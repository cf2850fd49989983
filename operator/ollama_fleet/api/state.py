"""The sidecar's state: what it tells the operator, the agent and the gateway about its pod.

``GET /fleet/v1/state`` on the admin port answers one snapshot as JSON; with ``?watch=1`` it answers NDJSON, a
snapshot first and then one line per change.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from ollama_fleet.api.base import Bytes, Digest, Observed, Tokens


class ModelPhase(StrEnum):
    """Where one model of a pod is on its way into memory."""

    PULLING = "Pulling"
    """Its blobs are not all on disk yet."""
    CACHED = "Cached"
    """On disk and known to Ollama, not in memory."""
    LOADING = "Loading"
    """Being loaded, or loaded and not yet proved by a token."""
    WARM = "Warm"
    """In memory with the planned digest and context, and a token was generated."""
    FAILED = "Failed"
    """The last attempt failed; it is tried again."""


class ModelState(Observed):
    """One model of a pod as its sidecar sees it."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9_.:/-]+$")]
    phase: ModelPhase
    digest: Digest | None = None
    """Digest of the derived manifest: the one that ``/api/ps`` must show."""
    weights: Digest | None = None
    """Digest of its weights."""
    slots: int = 1
    in_flight: int = 0
    waiting: int = 0
    size: Bytes = 0
    """Bytes that Ollama claims for the loaded model; 0 while not loaded."""
    size_vram: Bytes = 0
    """Bytes of ``size`` that Ollama claims in GPU memory."""
    context_length: Tokens = 0
    expires_at: Annotated[str, Field(max_length=40, pattern=r"^[0-9TZ:.+-]*$")] = ""
    """When it leaves memory if nobody asks for it, RFC 3339 in UTC; empty: it stays, or is not loaded."""
    load_seconds: float | None = None
    """Seconds from the load request to the first token of the last load."""
    message: str = ""
    """One sentence on the last failure, without prompts or secrets."""


class SidecarState(Observed):
    """A snapshot of one pod."""

    sequence: int
    """Grows with every change, restarts with the sidecar."""
    config_hash: str
    """``GroupConfig.hash()`` of the configuration in force."""
    ready: bool
    """All Pinned models are Warm (with none: Ollama answers) and the pod does not drain."""
    draining: bool = False
    ollama_up: bool = False
    ollama_version: str | None = None
    models: tuple[ModelState, ...] = ()
