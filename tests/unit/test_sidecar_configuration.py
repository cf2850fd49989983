"""A configuration that changes under a running sidecar, as the kubelet swaps it."""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.sidecar import configuration
from ollama_fleet.sidecar.configuration import follow, read
from testbed.fakes.ollama import FakeOllama
from testbed.models import push
from tests.support.sidecar_bench import ManualClock, group_config, group_model, pulled, sidecar

DIGEST = "sha256:" + "0" * 64
ONE = group_config(group_model("one", DIGEST))
TWO = group_config(group_model("two", DIGEST))


@pytest.fixture(autouse=True)
def _little_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "_POLL_SECONDS", 0.001)


class Mount:
    """A ConfigMap as the kubelet mounts it: a file behind two symlinks, of which one is swapped."""

    def __init__(self, root: Path) -> None:
        self.path = root / "group.json"
        self._root = root
        self._versions = 0
        self.path.symlink_to("..data/group.json")

    def write(self, content: str) -> None:
        self._versions += 1
        version = self._root / f"..{self._versions}"
        version.mkdir()
        (version / "group.json").write_text(content)
        (self._root / "..data_tmp").symlink_to(version.name)
        (self._root / "..data_tmp").rename(self._root / "..data")

    def put(self, config: GroupConfig) -> None:
        self.write(json.dumps(config.to_wire()))


@dataclass
class Applied:
    """Takes configurations, and says that they are incomplete as often as asked."""

    seen: list[GroupConfig] = field(default_factory=list)
    incomplete: int = 0

    async def __call__(self, config: GroupConfig) -> bool:
        self.seen.append(config)
        self.incomplete -= 1
        return self.incomplete < 0


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    (tmp_path / "mount").mkdir()
    return Mount(tmp_path / "mount")


@asynccontextmanager
async def following(mount: Mount, apply: Applied) -> AsyncIterator[Callable[[], "asyncio.Future[None]"]]:
    """``await turn()`` returns after the file was looked at anew, at least once from beginning to end."""
    reads = 0

    def counted(path: Path) -> GroupConfig:
        nonlocal reads
        reads += 1
        return read(path)

    async def turn() -> None:
        wanted = reads + 2
        async with asyncio.timeout(10):
            while reads < wanted:
                await asyncio.sleep(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configuration, "read", counted)
        task = asyncio.create_task(follow(mount.path, apply))
        yield lambda: asyncio.ensure_future(turn())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_each_configuration_is_applied_once(mount: Mount) -> None:
    mount.put(ONE)
    async with following(mount, apply := Applied()) as turn:
        await turn()
        mount.put(ONE)
        await turn()
        mount.put(TWO)
        await turn()
    assert apply.seen == [ONE, TWO]


async def test_an_incomplete_one_is_applied_again_until_it_is_complete(mount: Mount) -> None:
    mount.put(ONE)
    async with following(mount, apply := Applied(incomplete=3)) as turn:
        for _ in range(4):
            await turn()
    assert apply.seen == [ONE] * 4


def test_what_a_newer_operator_adds_is_left_out_and_its_hash_is_that_of_the_whole(tmp_path: Path) -> None:
    """An upgraded operator must reach sidecars that still run: it waits until they report the hash of what it wrote."""
    wrote = ONE.to_wire() | {"addedLater": {"any": 1}}
    file = tmp_path / "group.json"
    file.write_text(json.dumps(wrote, indent=1))
    found = read(file)
    assert found.models == ONE.models
    canonical = json.dumps(wrote, sort_keys=True, separators=(",", ":"))
    assert found.hash() == hashlib.sha256(canonical.encode()).hexdigest()[:16] != ONE.hash()
    file.write_text(json.dumps(ONE.to_wire(), indent=1))
    assert (read(file), read(file).hash()) == (ONE, ONE.hash())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        json.dumps(ONE.to_wire() | {"version": 2}),
        json.dumps({**ONE.to_wire(), "models": [{"name": "one"}]}),
        json.dumps(ONE.to_wire()) + " " * 2**20,
    ],
)
async def test_a_broken_one_changes_nothing_and_is_told(
    mount: Mount, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    mount.put(ONE)
    async with following(mount, apply := Applied()) as turn:
        await turn()
        mount.write(content)
        await turn()
        assert apply.seen == [ONE]
        assert {record.getMessage() for record in caplog.records} == {"configuration cannot be read"}
        mount.put(TWO)
        await turn()
    assert apply.seen == [ONE, TWO]
    assert all(record.levelno == logging.WARNING for record in caplog.records)


async def test_one_that_is_not_there_yet_is_waited_for(mount: Mount) -> None:
    async with following(mount, apply := Applied()) as turn:
        await turn()
        assert apply.seen == []
        mount.put(ONE)
        await turn()
    assert apply.seen == [ONE]


async def test_the_state_reports_the_hash_in_force(mount: Mount, tmp_path: Path) -> None:
    store = tmp_path / "store"
    digest = pulled(store, push.image("chat"))
    configs = [group_config(group_model("chat", digest, parallel=slots)) for slots in (1, 2)]
    async with (
        FakeOllama(store=store) as ollama,
        sidecar(ollama.url, store, clock=ManualClock()) as under_test,
    ):
        task = asyncio.create_task(follow(mount.path, under_test.warmer.apply))
        for config in configs:
            mount.put(config)
            await under_test.until(lambda config=config: under_test.board.applied_hash == config.hash())
            state = (await under_test.admin.get("/fleet/v1/state")).json()
            assert state["configHash"] == config.hash()
        assert state["models"][0]["slots"] == 2
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
