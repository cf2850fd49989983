"""Downloads of one blob against every fault that a registry can play."""

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ollama_fleet.store import download, journal
from ollama_fleet.store.backoff import Backoff
from ollama_fleet.store.budget import Budget
from ollama_fleet.store.download import Downloader, Source
from ollama_fleet.store.errors import DigestMismatch, DiskFull, NotFound, RateLimited, Unauthorized
from ollama_fleet.store.journal import Parts
from ollama_fleet.store.layout import BlobDirectory
from ollama_fleet.store.manifest import Descriptor
from ollama_fleet.store.partial import paths, try_lock
from testbed.fakes.registry import FakeRegistry
from testbed.fakes.registry_faults import Fault
from tests.support.store_support import FakeClock, Watcher, client, content, reference

MIB = 1024 * 1024
PART = 8 * MIB


@dataclass
class Bench:
    registry: FakeRegistry
    downloader: Downloader
    source: Source
    clock: FakeClock
    watcher: Watcher

    @property
    def directory(self) -> BlobDirectory:
        return self.downloader.directory

    def blob(self, body: bytes) -> Descriptor:
        return Descriptor("x", self.registry.add_blob(body), len(body))

    async def fetch(self, blob: Descriptor) -> bytes:
        await self.downloader.fetch(self.source, blob, self.watcher)
        return self.directory.blob_path(blob.digest).read_bytes()

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.directory.incoming.iterdir())


@asynccontextmanager
async def bench(tmp_path: Path, *, stall_seconds: float = 5.0) -> AsyncIterator[Bench]:
    directory = BlobDirectory(tmp_path / "blobs")
    directory.prepare()
    clock = FakeClock()
    async with FakeRegistry() as registry, client(stall_seconds) as http:
        downloader = Downloader(directory, Budget(4), connections=4, clock=clock, backoff=Backoff(0.01, 0.02))
        yield Bench(registry, downloader, Source(http, reference(registry)), clock, Watcher())


async def test_a_small_blob_takes_one_request_and_no_range(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(1000)
        assert await b.fetch(b.blob(body)) == body
        assert [request.range for request in b.registry.requests] == [None]
        assert b.leftovers() == []


async def test_an_empty_blob_needs_no_request(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert await b.fetch(b.blob(b"")) == b""
        assert b.registry.requests == []


async def test_a_large_blob_takes_one_request_per_part(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(3 * PART + 5)
        assert await b.fetch(b.blob(body)) == body
        ranges = sorted(request.range or (-1, -1) for request in b.registry.requests)
        assert ranges == [(0, PART), (PART, 2 * PART), (2 * PART, 3 * PART), (3 * PART, 3 * PART + 5)]
        assert b.registry.body_bytes == len(body)


async def test_a_reset_goes_on_where_it_broke(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(PART)
        b.registry.faults = [Fault(reset_after=5 * MIB), Fault(reset_after=MIB)]
        assert await b.fetch(b.blob(body)) == body
        assert len(b.registry.requests) == 3
        assert len(b.watcher.errors) == 2
        # What a reset throws away on the way is in buffers of the two machines, not ours to keep.
        assert b.registry.body_bytes <= len(body) + 2 * MIB
        assert b.registry.requests[2].range is not None
        assert b.registry.requests[2].range[0] > MIB


async def test_a_stall_is_cut_and_goes_on(tmp_path: Path) -> None:
    async with bench(tmp_path, stall_seconds=0.2) as b:
        body = content(2 * MIB)
        b.registry.faults = [Fault(stall_after=MIB)]
        assert await b.fetch(b.blob(body)) == body
        assert [request.range for request in b.registry.requests] == [None, (MIB, 2 * MIB)]


async def test_a_body_that_ends_early_is_an_error_not_a_blob(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(MIB)
        b.registry.faults = [Fault(short=10)]
        assert await b.fetch(b.blob(body)) == body
        assert len(b.watcher.errors) == 1


async def test_too_many_requests_waits_as_long_as_the_registry_asks(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(10)
        b.registry.faults = [Fault(status=429, headers={"Retry-After": "17"})]
        assert await b.fetch(b.blob(body)) == body
        assert b.clock.slept == [17.0]
        assert isinstance(b.watcher.errors[0], RateLimited)
        assert len(b.registry.requests) == 2


async def test_a_registry_that_asks_to_wait_no_time_is_not_asked_in_a_loop(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(10)
        asked = ("0", "Wed, 21 Oct 2015 07:28:00 GMT") * 4
        b.registry.faults = [Fault(status=429, headers={"Retry-After": header}) for header in asked]
        assert await b.fetch(b.blob(body)) == body
        assert len(b.registry.requests) == len(asked) + 1
        assert b.clock.now >= len(asked) * 0.0049


async def test_server_errors_back_off_until_they_pass(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(10)
        b.registry.faults = [Fault(status=503)] * 20
        assert await b.fetch(b.blob(body)) == body
        assert len(b.clock.slept) == 20
        assert all(0.005 <= wait <= 0.02 for wait in b.clock.slept)


async def test_a_registry_without_ranges_is_read_once_from_the_start(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.behaviour.ranges = False
        body = content(6 * PART)
        assert await b.fetch(b.blob(body)) == body
        assert len(b.registry.requests) <= 5  # four first attempts, one stream
        assert b.registry.requests[-1].range is None


async def test_a_stream_without_ranges_survives_resets(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.behaviour.ranges = False
        body = content(2 * PART)
        b.registry.faults = [Fault(), Fault(), Fault(reset_after=12 * MIB)]
        assert await b.fetch(b.blob(body)) == body


async def test_wrong_bytes_are_removed_and_fetched_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(MIB)
        b.registry.faults = [Fault(corrupt=True)]
        blob = b.blob(body)
        assert await b.fetch(blob) == body
        assert len(b.registry.requests) == 2
        assert [type(error) for error in b.watcher.errors] == [DigestMismatch]
        assert b.leftovers() == []


async def test_bytes_that_stay_wrong_are_an_error_and_leave_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        blob = b.blob(content(MIB))
        b.registry.faults = [Fault(corrupt=True)] * 3
        with pytest.raises(DigestMismatch, match=blob.digest):
            await b.fetch(blob)
        assert not b.directory.blob_path(blob.digest).exists()
        assert b.leftovers() == []


@pytest.mark.parametrize(("status", "error"), [(404, NotFound), (403, Unauthorized)])
async def test_refusals_are_not_repeated(tmp_path: Path, status: int, error: type[Exception]) -> None:
    async with bench(tmp_path) as b:
        b.registry.faults = [Fault(status=status)]
        with pytest.raises(error):
            await b.fetch(b.blob(content(10)))
        assert len(b.registry.requests) == 1


async def test_a_refusal_behind_a_redirect_is_repeated(tmp_path: Path) -> None:
    async with bench(tmp_path) as b, FakeRegistry() as storage:
        body = content(10)
        b.registry.behaviour.redirect_to = storage.url
        storage.add_blob(body)
        storage.faults = [Fault(status=403)]
        assert await b.fetch(b.blob(body)) == body
        assert len(storage.requests) == 2


async def test_a_full_disk_is_noticed_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path) as b:
        monkeypatch.setattr("ollama_fleet.store.partial.free_bytes", lambda _path: 999)
        with pytest.raises(DiskFull) as caught:
            await b.fetch(b.blob(content(1000)))
        assert (caught.value.needed, caught.value.free) == (1000, 999)
        assert b.registry.requests == []


async def test_downloads_do_not_count_on_the_same_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tmp_path, stall_seconds=0.5) as b:
        monkeypatch.setattr("ollama_fleet.store.partial.free_bytes", lambda _path: 1000)
        first, second = b.blob(content(600, 1)), b.blob(content(500, 2))
        b.registry.faults = [Fault(stall_after=100)]
        running = asyncio.create_task(b.fetch(first))
        async with asyncio.timeout(10):
            while not b.registry.requests:
                await asyncio.sleep(0.001)
        with pytest.raises(DiskFull) as caught:
            await b.fetch(second)
        assert caught.value.needed == 1100
        await running
        assert await b.fetch(second) == content(500, 2)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_disk_that_fills_up_on_the_way_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with bench(tmp_path) as b:

        def full(*_args: object) -> None:
            raise OSError(number, "full")

        monkeypatch.setattr("ollama_fleet.store.partial.write_all", full)
        with pytest.raises(DiskFull):
            await b.fetch(b.blob(content(1000)))
        assert len(b.registry.requests) == 1


async def test_a_foreign_file_of_the_right_content_is_hashed_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(MIB)
        blob = b.blob(body)
        b.directory.blob_path(blob.digest).write_bytes(body)
        assert await b.fetch(blob) == body
        assert await b.fetch(blob) == body
        again = BlobDirectory(b.directory.path)
        assert again.has(blob)
        assert b.registry.requests == []
        assert b.watcher.verifications == 1


async def test_a_foreign_file_of_wrong_content_is_replaced(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(MIB)
        blob = b.blob(body)
        b.directory.blob_path(blob.digest).write_bytes(bytes(MIB))
        assert await b.fetch(blob) == body
        assert len(b.registry.requests) == 1


async def test_a_changed_file_loses_its_mark(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(MIB)
        blob = b.blob(body)
        await b.fetch(blob)
        path = b.directory.blob_path(blob.digest)
        before = path.stat()
        path.chmod(0o644)
        path.write_bytes(bytes(MIB))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # a tool that keeps mtime
        assert not b.directory.has(blob)
        assert await b.fetch(blob) == body


async def test_modes_let_the_group_share_the_cache(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        async with bench(tmp_path) as b:
            blob = b.blob(content(10))
            await b.fetch(blob)
            assert stat.S_IMODE(b.directory.path.stat().st_mode) == 0o2775
            assert stat.S_IMODE(b.directory.incoming.stat().st_mode) == 0o2775
            assert stat.S_IMODE(b.directory.blob_path(blob.digest).stat().st_mode) == 0o444
            with try_lock(b.directory, Descriptor("x", "sha256:" + "0" * 64, 1)):
                path, _ = paths(b.directory, "sha256:" + "0" * 64)
                assert stat.S_IMODE(path.stat().st_mode) == 0o664
    finally:
        os.umask(old)


async def test_a_journal_of_an_earlier_process_spares_its_bytes(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(3 * PART)
        blob = b.blob(body)
        with try_lock(b.directory, blob) as partial:
            assert partial is not None
            parts = partial.open_parts()
            partial.write(bytearray(body[: PART + MIB]), 0)
            parts.add(0, PART + MIB)
            partial.checkpoint(parts)
        assert await b.fetch(blob) == body
        assert sorted(request.range or (-1, -1) for request in b.registry.requests) == [
            (PART + MIB, 2 * PART),
            (2 * PART, 3 * PART),
        ]


async def test_a_journal_of_another_file_counts_for_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(2 * PART)
        blob = b.blob(body)
        file, path = paths(b.directory, blob.digest)
        file.write_bytes(bytes(len(body)))
        full = Parts.fresh(len(body))
        full.add(0, len(body))
        journal.save(path, full, inode=file.stat().st_ino + 1)
        assert await b.fetch(blob) == body
        assert b.watcher.errors == []
        assert len(b.registry.requests) == 2


def test_a_lock_on_a_file_that_was_renamed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = BlobDirectory(tmp_path)
    directory.prepare()
    blob = Descriptor("x", "sha256:" + "0" * 64, 1)
    flock = fcntl.flock

    def finish_first(descriptor: int, operation: int) -> None:
        directory.adopt(blob.digest, paths(directory, blob.digest)[0])  # the other puller, between our open and lock
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", finish_first)
    with try_lock(directory, blob) as partial:
        assert partial is None


async def test_a_wrong_journal_costs_a_download_and_never_a_wrong_blob(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(2 * PART)
        blob = b.blob(body)
        with try_lock(b.directory, blob) as partial:
            assert partial is not None
            parts = partial.open_parts()
            parts.add(0, len(body))  # claims bytes that were never written
            partial.checkpoint(parts)
        assert await b.fetch(blob) == body
        assert [type(error) for error in b.watcher.errors] == [DigestMismatch]


async def test_a_second_puller_waits_for_the_first_and_fetches_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        body = content(PART)
        blob = b.blob(body)
        with try_lock(b.directory, blob) as partial, try_lock(b.directory, blob) as second:
            assert partial is not None
            assert second is None
            partial.write(bytearray(body), 0)

            async def finish(_seconds: float) -> None:
                partial.finish()

            b.clock.sleep = finish  # type: ignore[method-assign]
            assert await b.fetch(blob) == body
        assert b.registry.requests == []
        assert b.leftovers() == []


async def test_checkpoints_come_by_bytes_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tmp_path) as b:
        saved: list[int] = []
        real = journal.save

        def save(path: Path, parts: Parts, *, inode: int) -> None:
            saved.append(parts.completed)
            real(path, parts, inode=inode)

        monkeypatch.setattr(journal, "save", save)
        monkeypatch.setattr(download, "CHECKPOINT_BYTES", 2 * MIB)
        await b.fetch(b.blob(content(PART)))
        assert len(saved) >= 3
        assert all(later - earlier <= 3 * MIB for earlier, later in zip([0, *saved], saved, strict=False))


async def test_important_waiters_get_connections_first(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        budget = Budget(1)
        downloader = Downloader(b.directory, budget, connections=1, clock=b.clock)
        blobs = {rank: b.blob(content(100, rank)) for rank in (3, 1, 2)}
        async with asyncio.TaskGroup() as group, budget.slot(0):
            for rank, blob in blobs.items():
                source = Source(b.source.client, b.source.reference, rank)
                group.create_task(downloader.fetch(source, blob, b.watcher))
            await asyncio.sleep(0.05)
            assert b.registry.requests == []
        served = [request.path.rsplit("/", 1)[1] for request in b.registry.requests]
        assert served == [blobs[rank].digest for rank in (1, 2, 3)]


async def test_a_cancelled_waiter_passes_its_slot_on() -> None:
    budget = Budget(1)
    async with budget.slot(0):
        waiting = [asyncio.create_task(_hold(budget)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
    waiting[1].cancel()  # the slot is on its way to this one
    await asyncio.wait_for(waiting[2], 1)
    await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(1), budget.slot(0):
        pass


async def _hold(budget: Budget) -> None:
    async with budget.slot(0):
        await asyncio.sleep(0)
