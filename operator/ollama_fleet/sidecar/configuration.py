"""The group configuration as the kubelet mounts it: a file behind a symlink that is swapped when it changes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from ollama_fleet.api.group import GroupConfig

logger = logging.getLogger(__name__)

_POLL_SECONDS: Final = 1.0
_LIMIT_BYTES: Final = 1024 * 1024


def read(path: Path) -> GroupConfig:
    """Read a configuration. Raises OSError, and ValueError for one that cannot be understood."""
    with path.open("rb") as handle:
        content = handle.read(_LIMIT_BYTES + 1)
    if len(content) > _LIMIT_BYTES:
        raise ValueError(f"{path} has more than {_LIMIT_BYTES} bytes")
    return GroupConfig.from_wire(content)


async def follow(path: Path, apply: Callable[[GroupConfig], Awaitable[bool]]) -> None:
    """Apply the configuration whenever it changes, and again until ``apply`` says that it is complete.

    A broken one leaves the last in force. Runs until cancelled.
    """
    applied = ""
    while True:
        try:
            config = read(path)
            if config.hash() != applied and await apply(config):
                applied = config.hash()
        except (OSError, ValidationError, ValueError) as error:
            logger.warning("configuration cannot be read", extra={"path": str(path), "error": str(error)[:256]})
        await asyncio.sleep(_POLL_SECONDS)
