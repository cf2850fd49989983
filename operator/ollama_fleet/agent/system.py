"""The node's own memory."""

from pathlib import Path
from typing import Final

from ollama_fleet.agent.gpu import Memory

_LIMIT_BYTES: Final = 64 * 1024


def system_memory(path: Path = Path("/proc/meminfo")) -> Memory:
    """Memory of the node; what the kernel could free counts as free. Raises OSError and ValueError."""
    with path.open() as file:
        lines = file.read(_LIMIT_BYTES).splitlines()
    found = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    try:
        total, free = (int(found[name][0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path} lacks MemTotal or MemAvailable") from error
    return Memory(total=total, reserved=0, used=max(0, total - free), free=free, source="system")
