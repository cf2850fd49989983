"""What a workload profile means where the spec says nothing."""

from dataclasses import dataclass
from typing import Final

from ollama_fleet.api.ollamadeployment import Profile

MOST_SLOTS: Final = 64
"""Where as many as fit are wanted: a GPU that is not busy with so many requests has another bottleneck."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What stands where neither model nor tuning says anything."""

    parallel: int
    """Slots; with ``as_many_as_fit`` only where nothing says how large a GPU is."""
    context_length: int
    """Tokens per slot."""
    max_queue: int
    """Requests that Ollama lets wait for a load."""
    prompt_cache: int
    """Most MiB of host memory per model for prompts of conversations that have no slot at the moment."""
    as_many_as_fit: bool = False


PROFILES: Final[dict[Profile, Defaults]] = {
    # People wait: few at a time, and somebody far back in a queue has given up before it is their turn.
    "chat": Defaults(parallel=4, context_length=8192, max_queue=128, prompt_cache=1024),
    # Programs wait, and come back with the same long prompt again and again.
    "agent": Defaults(parallel=6, context_length=16384, max_queue=2048, prompt_cache=4096),
    # Nobody waits, and no two requests belong together.
    "batch": Defaults(parallel=8, context_length=8192, max_queue=4096, prompt_cache=0, as_many_as_fit=True),
    # Ollama runs models for embeddings with one slot whatever is asked for: replicas scale them.
    "embedding": Defaults(parallel=1, context_length=2048, max_queue=512, prompt_cache=0),
}
