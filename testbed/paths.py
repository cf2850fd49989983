"""Where the test bed keeps things: what can be made again in the cache, what runs in a state directory."""

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
"""The repository."""

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ollama-fleet" / "testbed"
"""Binaries, images and models, each keyed by its inputs."""

STATE: Final = Path("/var/tmp/ollama-fleet-testbed")
"""One directory per running test bed. Short, because sockets below it have at most 107 characters."""
