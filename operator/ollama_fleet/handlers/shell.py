"""kopf, embedded."""

import asyncio
from collections.abc import Callable

from ollama_fleet.kube.kinds import Kind


async def run_shell(
    *,
    enqueue: Callable[[Kind, str, str], None],
    on_started: Callable[[], None],
    stop: asyncio.Event,
    kubeconfig: str | None = None,
    context: str | None = None,
) -> None:
    """Run kopf in a thread of its own until ``stop`` is set; start it again when it ends by itself.

    ``enqueue`` and ``on_started`` are called in the caller's loop.
    """
    raise NotImplementedError
