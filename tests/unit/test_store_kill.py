"""A puller process that is killed loses no more than what came since its last checkpoint."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.store.download import CHECKPOINT_BYTES
from ollama_fleet.store.manifest import digest_of
from testbed.fakes.registry import FakeRegistry
from tests.support.store_support import content, group, model

MIB = 1024 * 1024
RUN = "import sys; from ollama_fleet.store.main import main; sys.exit(main(sys.argv[1:]))"


async def start(config: GroupConfig, tmp_path: Path) -> asyncio.subprocess.Process:
    (tmp_path / "group.json").write_text(json.dumps(config.to_wire()))
    arguments = ["--mode", "init", "--config", str(tmp_path / "group.json"), "--models-dir", str(tmp_path / "models")]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, *arguments, "--progress-port", "0", "--connections", "4"),
        cwd=Path(__file__).parents[2] / "operator",
        stderr=asyncio.subprocess.PIPE,
    )


async def finish(process: asyncio.subprocess.Process) -> tuple[int, str]:
    async with asyncio.timeout(60):
        _, log = await process.communicate()
    assert process.returncode is not None
    return process.returncode, log.decode()


def journal_bytes(tmp_path: Path) -> int:
    """What the journal claims; 0 while there is none."""
    for path in (tmp_path / "models/blobs/.incoming").glob("*.journal"):
        return sum(json.loads(path.read_text())["done"])
    return 0


def blobs(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "models/blobs").glob("sha256-*"))


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_killed_pull_goes_on_from_its_journal(tmp_path: Path, number: signal.Signals) -> None:
    body = content(96 * MIB)
    async with FakeRegistry() as registry:
        registry.behaviour.bytes_per_second = 8 * MIB  # by connection: slow enough for a checkpoint before the end
        config = group(model(registry, registry.add_model(body)))
        first = await start(config, tmp_path)
        # Killed early, with hardly anything on record; then again after a checkpoint.
        await until(lambda: registry.body_bytes > 4 * MIB)
        first.send_signal(number)
        code, log = await finish(first)
        assert code == (-9 if number is signal.SIGKILL else 143), log
        second = await start(config, tmp_path)
        before = registry.body_bytes
        early = journal_bytes(tmp_path)
        await until(lambda: journal_bytes(tmp_path) > early + 8 * MIB)
        await until(lambda: registry.body_bytes > before + early + 16 * MIB)
        second.send_signal(number)
        await finish(second)
        claimed = journal_bytes(tmp_path)
        served = registry.body_bytes - before
        assert not [path for path in blobs(tmp_path) if path.name == digest_of(body).replace(":", "-")]
        assert served + early - claimed <= CHECKPOINT_BYTES + 8 * MIB
        registry.behaviour.bytes_per_second = 0
        registry.requests.clear()
        code, log = await finish(await start(config, tmp_path))
        assert code == 0, log
        asked = [request.range or (0, 0) for request in registry.requests if request.path.endswith(digest_of(body))]
        assert sum(end - start for start, end in asked) == len(body) - claimed, "nothing on record is asked for again"
    assert digest_of((tmp_path / "models/blobs" / digest_of(body).replace(":", "-")).read_bytes()) == digest_of(body)
    assert list((tmp_path / "models/blobs/.incoming").iterdir()) == []


async def test_two_processes_on_one_cache_fetch_everything_once(tmp_path: Path) -> None:
    body = content(24 * MIB)
    async with FakeRegistry() as registry:
        registry.behaviour.bytes_per_second = 16 * MIB
        config = group(model(registry, registry.add_model(body)))
        processes = [await start(config, tmp_path) for _ in range(2)]
        for code, log in await asyncio.gather(*map(finish, processes)):
            assert code == 0, log
        assert registry.count()["blobs"] == 1 + 3  # the config, three parts of the weights


async def test_the_log_says_how_far_it_is_without_noise(tmp_path: Path) -> None:
    async with FakeRegistry() as registry:
        config = group(model(registry, registry.add_model(content(MIB))))
        code, log = await finish(await start(config, tmp_path))
    assert code == 0
    assert "phase=Done" in log
    assert len(log.splitlines()) <= 4, log
