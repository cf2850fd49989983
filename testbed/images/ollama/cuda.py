#!/usr/bin/python3 -I
"""Stands in the place of ``llama-server`` and puts the GPUs of the fake driver into what the real one prints.

Ollama from 0.30 on knows of GPUs only by that: ``--list-devices`` names them, and lines of the log say in which memory
the buffers of a model are. So it schedules and reports as on a GPU, while the real llama-server computes on the CPU.
What the model takes is told to the fake driver, as CUDA would do: it stands in a memory file whose place among the file
descriptors the simulator knows. Where the driver shows no GPU, or CUDA does not start, nothing is put in: Ollama then
falls back to the CPU without a word, as it does on real machines.

It runs with the Python of the image, without this project.
"""

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DRIVER = Path("/run/fake-nvidia/driver")
"""The fake driver's state, where the container runtime puts it."""
ENGINE = "/usr/lib/ollama/engine/llama-server"
ALLOCATIONS = 250
"""File descriptor of the memory file. Its content is the bytes in the CUDA buffers, in decimal."""
ALLOCATIONS_NAME = "fake-cuda"

_BUFFER = re.compile(rb"(\w+):\s+(\S+) (model|KV|compute|output|RS) buffer size =\s+([\d.]+) MiB")
_LAYERS = re.compile(rb"offloaded \d+/(\d+) layers to GPU")


@dataclass(frozen=True)
class Gpu:
    """As CUDA shows it."""

    uuid: str
    product: str
    total: int
    free: int


def gpus(state: str, visible: str) -> list[Gpu]:
    """The GPUs and instances that CUDA can use, by a driver's state and by the variable of the container runtime."""
    found: list[Gpu] = []
    lost: set[str] = set()
    for line in state.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "cuda" and rest != "0":
            return []
        if kind == "gpu":
            words = rest.split(" ", 14)
            total, reserved, used = map(int, words[6:9])
            if words[2] != "0":
                lost.add(words[0])
            elif words[5] == "0":
                found.append(Gpu(words[1], words[14], total, total - reserved - used))
        elif kind == "mig" and rest.split(" ", 1)[0] not in lost:
            words = rest.split(" ", 6)
            total, reserved, used = map(int, words[3:6])
            found.append(Gpu(words[2], words[6], total, total - reserved - used))
    wanted = visible.split(",")
    return [gpu for gpu in found if gpu.uuid in wanted or "all" in wanted]


def devices(found: list[Gpu]) -> Iterator[str]:
    """What llama-server says of them when it lists devices."""
    for index, gpu in enumerate(found):
        yield f"  Device {index}: {gpu.product}, compute capability 9.0, VMM: yes"
    for index, gpu in enumerate(found):
        yield f"  CUDA{index}: {gpu.product} ({gpu.total >> 20} MiB, {gpu.free >> 20} MiB free)"


class Disguise:
    """Rewrites the log of a load: its buffers are on CUDA0."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[bytes, ...], float] = {}

    def line(self, line: bytes) -> bytes:
        """One line, rewritten."""
        found = _BUFFER.search(line)
        if found:
            # Ollama too lets a later line about the same buffer count.
            self._buffers[found[1], found[2], found[3]] = float(found[4])
            return line[: found.start(2)] + b"CUDA0" + line[found.end(2) :]
        return _LAYERS.sub(rb"offloaded \1/\1 layers to GPU", line)

    @property
    def bytes(self) -> int:
        """In all buffers."""
        return int(sum(self._buffers.values()) * 2**20)


def main() -> None:
    """Become llama-server."""
    found = _visible()
    if found and "--list-devices" in sys.argv:
        print("\n".join(devices(found)), flush=True)
    if found and "--model" in sys.argv:
        _disguise()
    os.execv(ENGINE, [ENGINE, *sys.argv[1:]])


def _disguise() -> None:
    """Have the output of this process rewritten by another one."""
    reader, writer = os.pipe()
    allocations = os.memfd_create(ALLOCATIONS_NAME)
    if os.fork() == 0:
        os.close(writer)
        _rewrite(reader, allocations)
        os._exit(0)
    # The real one keeps this process: Ollama waits for it, signals it, and sees how it ends.
    os.dup2(allocations, ALLOCATIONS)
    for output in (1, 2):
        os.dup2(writer, output)


def _visible() -> list[Gpu]:
    try:
        return gpus(DRIVER.read_text(), os.environ.get("NVIDIA_VISIBLE_DEVICES", ""))
    except OSError:
        return []


def _rewrite(reader: int, allocations: int) -> None:
    disguise = Disguise()
    with open(reader, "rb") as log:
        for line in log:
            os.write(1, disguise.line(line))
            os.pwrite(allocations, str(disguise.bytes).encode(), 0)


if __name__ == "__main__":
    main()
