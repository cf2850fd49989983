"""How the fake behaves: its speed, its size and its faults. Everything can be changed while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(slots=True)
class Behaviour:
    """Set attributes directly in-process, or ``POST /_fake/behaviour`` with any of them as JSON."""

    version: str = "0.32.3"
    load_seconds: float = 0.0
    prompt_seconds: float = 0.0
    """Before the first token. ``1e9`` never ends, as a runner does that hangs in the prompt."""
    tokens_per_second: float = 1000.0
    tokens: int = 20
    """After so many the model stops by itself, unless the request asks for fewer."""
    parallel: int = 1
    """Generations at a time per model; more wait, without a bound, as in the real server."""
    max_loaded: int = 3
    context_length: int = 4096
    size: int = 5_000_000
    """Bytes that a loaded model takes."""
    vram_ratio: float = 1.0
    """Part of ``size`` in GPU memory. 0 is what a server reports that lost its GPU."""
    load_error: str | None = None
    """Loads fail with 500 and this text."""
    queue_full: bool = False
    """Requests that would have to load get 503."""
    hang_paths: list[str] = field(default_factory=list)
    """Requests to these paths never get an answer, not even headers."""
    hang_after_tokens: int | None = None
    cut_after_tokens: int | None = None
    """Break the connection."""
    end_after_tokens: int | None = None
    """End the stream properly, without the object that says ``done``."""
    error_after_tokens: int | None = None
    """End the stream with a line that says ``error``."""

    def update(self, changes: Mapping[str, Any]) -> None:
        """Set attributes by name. Raises KeyError for a name that does not exist, and changes nothing then."""
        known = {one.name for one in fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise KeyError(", ".join(unknown))
        for name, value in changes.items():
            setattr(self, name, value)
