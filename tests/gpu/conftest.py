"""Tests on a real NVIDIA GPU; where there is none they are skipped."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from ollama_fleet.agent.nvml import Nvml, NvmlFailed
from ollama_fleet.agent.system import system_memory

Hold = Callable[[int], int]
"""Takes MiB of the first GPU in a new process; its number."""


@pytest.fixture
def nvml() -> Nvml:
    """The driver's own library, started."""
    found = Nvml(system_memory=system_memory)
    try:
        _, count = found.start()
    except NvmlFailed as error:
        pytest.skip(f"no NVIDIA driver: {error}")
    if not count:
        pytest.skip("no NVIDIA GPU")
    return found


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Processes that hold memory until the test ends."""
    with ExitStack() as stack:

        def start(mebibytes: int) -> int:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.support.cuda", str(mebibytes)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            return process.pid

        yield start
