"""What the fake GPUs of real nodes are made of, without a node: see tests/e2e for all of it together."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testbed.fakes.gpus.hardware import RESOURCE, Hardware, Offer, labels, offers, read, write
from testbed.fakes.gpus.runtime import amend
from testbed.fakes.gpus.simulator import CONTEXT, Claim, claims, occupied
from testbed.fakes.nvml import GIB, MIB, Driver, Gpu, Mig, Process, Xid
from testbed.fakes.nvml import write as write_driver
from testbed.images.ollama import cuda

L4 = Gpu("GPU-a", "NVIDIA L4", total=23034 * MIB, reserved=458 * MIB)
TWO = Driver((L4, replace(L4, uuid="GPU-b")))
PART = Mig("MIG-a", total=4864 * MIB, reserved=MIB)
SPLIT = Gpu("GPU-s", "NVIDIA A100-SXM4-40GB", total=40 * GIB, mig=(PART, None, replace(PART, uuid="MIG-b")))


def ids(offered: tuple[Offer, ...]) -> list[str]:
    return [one.id for one in offered]


def test_hardware_is_read_as_it_was_written(tmp_path: Path) -> None:
    wanted = Hardware(Driver((L4, SPLIT), xids=(Xid(1, 0, 79),)), replicas=3, mixed=True)
    write(tmp_path / "hardware.json", wanted)
    assert read(tmp_path / "hardware.json") == wanted


def test_devices_are_offered_whole_shared_and_split() -> None:
    assert ids(offers(Hardware(TWO))[RESOURCE]) == ["GPU-a", "GPU-b"]
    shared = offers(Hardware(TWO, replicas=2))[RESOURCE]
    assert ids(shared) == ["GPU-a::0", "GPU-a::1", "GPU-b::0", "GPU-b::1"]
    assert ids(offers(Hardware(Driver((SPLIT,))))[RESOURCE]) == ["MIG-a", "MIG-b"]
    mixed = offers(Hardware(Driver((SPLIT, L4)), mixed=True))
    assert {name: ids(found) for name, found in mixed.items()} == {
        "nvidia.com/mig-1g.5gb": ["MIG-a", "MIG-b"],
        RESOURCE: ["GPU-a"],
    }


@pytest.mark.parametrize(
    ("driver", "healthy"),
    [
        (replace(TWO, gpus=(replace(L4, error=15), TWO.gpus[1])), [False, True]),
        (replace(TWO, xids=(Xid(1, 1, 79),)), [True, False]),
        (replace(TWO, xids=(Xid(1, 1, 31), Xid(2, 1, 13))), [True, True]),
    ],
    ids=["lost", "error of the GPU", "errors of programs"],
)
def test_sick_gpus_are_offered_as_such(driver: Driver, healthy: list[bool]) -> None:
    assert [one.healthy for one in offers(Hardware(driver))[RESOURCE]] == healthy


def test_labels_are_those_of_gpu_feature_discovery() -> None:
    whole = labels(Hardware(TWO))
    assert (whole["nvidia.com/gpu.product"], whole["nvidia.com/gpu.memory"]) == ("NVIDIA-L4", "23034")
    assert whole["nvidia.com/gpu.count"] == "2"
    shared = labels(Hardware(TWO, replicas=4))
    assert (shared["nvidia.com/gpu.product"], shared["nvidia.com/gpu.replicas"]) == ("NVIDIA-L4-SHARED", "4")
    part = labels(Hardware(Driver((replace(SPLIT, mig=(replace(PART, product=f"{SPLIT.product} MIG 1g.5gb"),)),))))
    assert part["nvidia.com/gpu.product"] == "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"
    assert part["nvidia.com/gpu.memory"] == "4864"
    assert labels(Hardware(Driver((replace(L4, memory_code=3),))))["nvidia.com/gpu.memory"] is None


def claim(pid: int, *visible: str, buffers: int = GIB, ordinal: int = 0) -> Claim:
    return Claim(pid, buffers, frozenset(visible), ordinal)


def test_processes_are_on_the_device_that_they_chose_among_their_own() -> None:
    driver = occupied(TWO, [claim(9, "GPU-b"), claim(8, "GPU-a", "GPU-b", ordinal=1), claim(7, "GPU-other")])
    assert driver.gpus[0] == L4
    assert driver.gpus[1].processes == (Process(8, GIB + CONTEXT), Process(9, GIB + CONTEXT))
    assert driver.gpus[1].used == 2 * (GIB + CONTEXT)


def test_what_was_there_before_stays() -> None:
    foreign = replace(L4, used=5 * GIB, processes=(Process(1, 5 * GIB),))
    (gpu,) = occupied(Driver((foreign,)), [claim(9, "GPU-a", buffers=0)]).gpus
    assert (gpu.used, gpu.processes) == (5 * GIB + CONTEXT, (Process(1, 5 * GIB), Process(9, CONTEXT)))


def test_instances_have_their_own_processes() -> None:
    (gpu,) = occupied(Driver((SPLIT,)), [claim(9, "MIG-b")]).gpus
    assert gpu.mig is not None
    assert [part and part.processes for part in gpu.mig] == [(), None, (Process(9, GIB + CONTEXT),)]
    assert gpu.processes == ()


def start(*, memory_file: bool, **environment: str) -> "subprocess.Popen[str]":
    """A process with bytes in its CUDA buffers, as a disguised llama-server has them, or with another file there."""
    make = f"os.memfd_create('{cuda.ALLOCATIONS_NAME}')" if memory_file else "os.pipe()[0]"
    script = (
        f"import os, sys; fd = {make}; os.dup2(fd, {cuda.ALLOCATIONS});"
        f"{memory_file} and os.write(fd, b'1234'); print('there', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


@pytest.fixture
def process() -> Iterator["subprocess.Popen[str]"]:
    made = start(memory_file=True, NVIDIA_VISIBLE_DEVICES="GPU-a,GPU-b", CUDA_VISIBLE_DEVICES="1")
    yield made
    made.communicate()


def test_processes_with_buffers_are_found_while_they_live(process: "subprocess.Popen[str]") -> None:
    other = start(memory_file=False, NVIDIA_VISIBLE_DEVICES="GPU-a")
    mine = {one.pid: one for one in claims() if one.pid in {process.pid, other.pid}}
    assert mine == {process.pid: claim(process.pid, "GPU-a", "GPU-b", buffers=1234, ordinal=1)}
    other.communicate()
    process.communicate()
    assert process.pid not in {one.pid for one in claims()}


def amended(*environment: str) -> list[str]:
    config: dict[str, Any] = {"process": {"env": list(environment)}, "mounts": [{"destination": "/proc"}]}
    amend(config, library=Path("/build/lib/libnvidia-ml.so.1"), state=Path("/node/gpus/state"))
    added = config["mounts"][1:]
    assert all("ro" in mount["options"] for mount in added)
    return [f"{mount['source']} {mount['destination'].rpartition('/')[2]}" for mount in added]


STATE, LIBRARY = "/node/gpus/state fake-nvidia", "/build/lib/libnvidia-ml.so.1 libnvidia-ml.so.1"


@pytest.mark.parametrize(
    ("environment", "mounts"),
    [
        ((), []),
        (("NVIDIA_VISIBLE_DEVICES=",), []),
        (("NVIDIA_VISIBLE_DEVICES=void", "NVIDIA_DRIVER_CAPABILITIES=all"), []),
        (("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=utility"), [STATE, LIBRARY]),
        (("NVIDIA_VISIBLE_DEVICES=GPU-a", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"), [STATE, LIBRARY]),
        (("NVIDIA_VISIBLE_DEVICES=GPU-a", "NVIDIA_DRIVER_CAPABILITIES=compute"), [STATE]),
        # The last of several counts, as for the program that is started.
        (("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=void"), []),
    ],
)
def test_containers_get_the_driver_that_they_ask_for(environment: tuple[str, ...], mounts: list[str]) -> None:
    assert amended(*environment) == mounts


def state_of(driver: Driver, folder: Path) -> str:
    write_driver(folder / "driver", driver)
    return (folder / "driver").read_text()


def visible(driver: Driver, folder: Path, *uuids: str) -> list[str]:
    return [gpu.uuid for gpu in cuda.gpus(state_of(driver, folder), ",".join(uuids))]


def test_cuda_shows_the_devices_of_the_container_that_work(tmp_path: Path) -> None:
    both = Driver((L4, SPLIT))
    assert visible(both, tmp_path, "all") == ["GPU-a", "MIG-a", "MIG-b"]
    assert visible(both, tmp_path, "MIG-b") == ["MIG-b"]
    assert visible(both, tmp_path, "void") == []
    assert visible(Driver((L4, replace(SPLIT, error=15))), tmp_path, "all") == ["GPU-a"]
    assert visible(replace(both, cuda_code=999), tmp_path, "all") == []
    (gpu,) = cuda.gpus(state_of(Driver((replace(L4, used=GIB),)), tmp_path), "GPU-a")
    assert list(cuda.devices([gpu]))[1] == "  CUDA0: NVIDIA L4 (23034 MiB, 21552 MiB free)"


LOAD = b"""\
load_tensors: offloaded 0/5 layers to GPU
load_tensors:   CPU_Mapped model buffer size =     0.75 MiB
llama_kv_cache:        CPU KV buffer size =     4.00 MiB
sched_reserve:        CPU compute buffer size =     9.00 MiB
sched_reserve:        CPU compute buffer size =     5.25 MiB
main: server is listening
"""


def test_a_load_is_told_as_one_on_the_gpu() -> None:
    disguise = cuda.Disguise()
    told = b"".join(disguise.line(line) for line in LOAD.splitlines(keepends=True))
    assert told == LOAD.replace(b"CPU_Mapped", b"CUDA0").replace(b"CPU", b"CUDA0").replace(b"0/5", b"5/5")
    # The second time that the engine reserves its buffer counts.
    assert disguise.bytes == 10 * MIB
