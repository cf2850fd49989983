"""What NVIDIA's container runtime does, around runc: containers that are given GPUs get the driver's library.

It goes by ``NVIDIA_VISIBLE_DEVICES`` in the container's environment, as the real one does, and runs for every call of
containerd: only Python's own library, and nothing of this project, is imported.
"""

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

DRIVER = "/run/fake-nvidia"
"""In the container: a directory with the driver's state."""
_NONE = {"", "void"}


def amend(config: dict[str, Any], *, library: Path, state: Path) -> None:
    """Add to an OCI container configuration what its environment asks for."""
    environment = dict(entry.partition("=")[::2] for entry in config["process"].get("env") or ())
    if environment.get("NVIDIA_VISIBLE_DEVICES", "") in _NONE:
        return
    capabilities = environment.get("NVIDIA_DRIVER_CAPABILITIES", "").split(",")
    mounts = config.setdefault("mounts", [])
    mounts.append(_bind(state, DRIVER))
    if {"utility", "all"} & {*capabilities}:
        mounts.append(_bind(library, f"/usr/lib/{platform.machine()}-linux-gnu/{library.name}"))


def _bind(source: Path, destination: str) -> dict[str, Any]:
    options = ["ro", "nosuid", "nodev", "rbind", "rprivate"]
    return {"type": "bind", "source": str(source), "destination": destination, "options": options}


def main(library: Path, state: Path, arguments: list[str]) -> None:
    """Become runc."""
    if "create" in arguments:
        config = Path(arguments[arguments.index("--bundle") + 1], "config.json")
        document = json.loads(config.read_text())
        amend(document, library=library, state=state)
        config.write_text(json.dumps(document))
    os.execvp("runc", ["runc", *arguments])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
