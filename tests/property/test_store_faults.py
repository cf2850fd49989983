"""Whatever a registry does, the store ends verified or the puller says what is wrong; nothing in between."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Literal
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_fleet.api.references import InvalidReference, parse_reference
from ollama_fleet.store import journal
from ollama_fleet.store.errors import InvalidManifest
from ollama_fleet.store.journal import Parts
from ollama_fleet.store.manifest import digest_of, parse_manifest
from ollama_fleet.store.puller import ExitCode, run_puller
from testbed.fakes.registry import FakeRegistry, Request
from testbed.fakes.registry_faults import Fault
from tests.support import store_support

SIZE = 20_000
PART = 3_000

FAULTS = st.one_of(
    st.just(Fault()),
    st.builds(Fault, status=st.sampled_from([400, 401, 403, 404, 416, 429, 500, 503])),
    st.builds(Fault, reset_after=st.integers(0, SIZE)),
    st.builds(Fault, stall_after=st.integers(0, SIZE)),
    st.builds(Fault, short=st.integers(1, PART)),
    st.just(Fault(corrupt=True)),
)


def check(models_dir: Path) -> int:
    """Every manifest has all its blobs, every blob is what its name says. Returns the number of manifests."""
    for path in (models_dir / "blobs").glob("sha256-*"):
        assert digest_of(path.read_bytes()) == path.name.replace("-", ":")
    manifests = list((models_dir / "manifests").glob("*/*/*/*"))
    for path in manifests:
        for blob in parse_manifest(path.read_bytes()).blobs:
            assert (models_dir / "blobs" / blob.digest.replace(":", "-")).exists()
    return len(manifests)


async def scenario(
    models_dir: Path, faults: list[Fault], *, ranges: bool, mode: Literal["init", "job"], interrupt: int | None
) -> ExitCode | None:
    body = store_support.content(SIZE)
    async with FakeRegistry() as registry:
        config = store_support.group(store_support.model(registry, registry.add_model(body), context_length=512))
        registry.behaviour.ranges = ranges
        queue = list(faults)
        reached = asyncio.Event()

        def next_fault(_request: Request) -> Fault:
            check(models_dir)
            if len(registry.requests) == interrupt:
                reached.set()
            return queue.pop(0) if queue else Fault()

        registry.fault_for = next_fault
        run = run_puller(config, store_support.settings(models_dir, mode, stall_seconds=0.05))
        pulling = asyncio.create_task(run)
        if interrupt is not None:
            await asyncio.wait({pulling, asyncio.ensure_future(reached.wait())}, return_when=asyncio.FIRST_COMPLETED)
            pulling.cancel()
        try:
            return await asyncio.wait_for(pulling, 30)
        except asyncio.CancelledError:
            return None


@settings(max_examples=60)
@given(
    faults=st.lists(FAULTS, max_size=12),
    ranges=st.booleans(),
    mode=st.sampled_from(["init", "job"]),
    interrupt=st.none() | st.integers(1, 10),
)
def test_any_faults_end_in_a_verified_store_or_a_typed_error(
    *, faults: list[Fault], ranges: bool, mode: Literal["init", "job"], interrupt: int | None
) -> None:
    with tempfile.TemporaryDirectory() as directory, patch.object(journal, "_PART_MIN", PART):
        models_dir = Path(directory)
        outcome = asyncio.run(scenario(models_dir, faults, ranges=ranges, mode=mode, interrupt=interrupt))
        manifests = check(models_dir)
        if mode == "job":
            assert manifests == 0
        elif outcome is not None:
            assert (outcome, manifests) == (ExitCode.DONE, 1)
        if outcome is None or outcome is not ExitCode.DONE:
            # Whatever was left behind, a good registry mends it.
            mended = asyncio.run(scenario(models_dir, [], ranges=ranges, mode="init", interrupt=None))
            assert (mended, check(models_dir)) == (ExitCode.DONE, 1)
        weights = digest_of(store_support.content(SIZE)).replace(":", "-")
        assert (models_dir / "blobs" / weights).exists()
        assert list((models_dir / "blobs" / ".incoming").iterdir()) == []


@given(st.text(max_size=40) | st.from_regex(r"([a-zA-Z0-9_.:/@-]{0,12}/){0,3}[a-zA-Z0-9_.:@-]{1,20}", fullmatch=True))
def test_a_reference_is_refused_or_stays_what_it_is(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidReference as error:
        assert repr(text) in str(error)  # noqa: PT017 - either outcome is fine, each has its own claim
    else:
        again = parse_reference(f"{reference.scheme}://{reference}")
        assert again == reference
        assert ".." not in str(reference).split("/")


BLOB = st.fixed_dictionaries(
    {
        "mediaType": st.text(max_size=5),
        "digest": st.sampled_from(["sha256:" + "a" * 64, "sha256:" + "b" * 64, "md5:x", ""]),
        "size": st.integers(-1, 1 << 51),
    }
)
MANIFEST = st.fixed_dictionaries(
    {"schemaVersion": st.just(2), "config": BLOB, "layers": st.lists(BLOB, max_size=3) | st.none()}
)


@given(st.binary(max_size=200) | MANIFEST.map(lambda wire: json.dumps(wire).encode()))
def test_any_bytes_are_a_manifest_or_an_invalid_one(raw: bytes) -> None:
    try:
        manifest = parse_manifest(raw)
    except InvalidManifest:
        return
    assert parse_manifest(manifest.encode()) == manifest


@given(size=st.integers(0, 200_000), cuts=st.lists(st.integers(0, 200_000), max_size=20))
def test_parts_cover_a_blob_exactly(size: int, cuts: list[int]) -> None:
    with patch.object(journal, "_PART_MIN", PART):
        parts = Parts.fresh(size)
    edges = [parts.range(index) for index in range(len(parts.done))]
    assert [edge for pair in edges for edge in pair] == sorted(edge for pair in edges for edge in pair)
    assert sum(end - start for start, end in edges) == size
    at = 0
    for cut in sorted(min(cut, size) for cut in cuts):
        parts.add(at, cut)
        at = cut
        assert parts.completed == at
        assert parts.frontier(0)[1] == at
    parts.add(at, size)
    assert parts.incomplete() == []


@given(
    wire=st.dictionaries(
        st.sampled_from(["version", "inode", "size", "part", "done"]),
        st.integers(-5, 5)
        | st.lists(st.integers(-5, 50), max_size=5)
        | st.none()
        | st.booleans()
        | st.text(max_size=2),
    )
    | st.fixed_dictionaries(
        {
            "version": st.just(1),
            "inode": st.just(7),
            "size": st.just(100),
            "part": st.integers(-5, 60) | st.booleans() | st.none(),
            "done": st.lists(st.integers(-5, 60) | st.text(max_size=1), max_size=5),
        }
    )
)
def test_a_damaged_journal_counts_for_nothing(wire: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "journal")
        path.write_text(json.dumps(wire))
        parts = journal.load(path, size=100, inode=7)
        if parts is not None:
            assert all(parts.range(i)[0] <= parts.missing(i)[0] <= parts.range(i)[1] for i in range(len(parts.done)))
            assert parts.range(len(parts.done) - 1)[1] == 100
