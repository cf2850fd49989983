"""The puller: all models of a group from their registries into the store.

Three modes:

``init``
    init container: blobs and manifests; retries for ever, because a container that exits runs into CrashLoopBackOff.
``job``
    pre-pull Job of a cache: blobs only; errors that somebody must act on end it with a code of its own.
``verify``
    init container on a cache that a Job fills: asks no registry; waits for the blobs, hashes unknown ones, writes
    manifests.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final, Literal

from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.api.names import PATH_CA_SECRETS, PATH_PULL_SECRETS
from ollama_fleet.api.references import ModelReference
from ollama_fleet.store.backoff import Backoff, Clock, SystemClock
from ollama_fleet.store.budget import Budget
from ollama_fleet.store.credentials import read_certificates, read_docker_config, tls_context
from ollama_fleet.store.derive import check_modelfile
from ollama_fleet.store.download import Downloader, Source, verify
from ollama_fleet.store.errors import (
    DigestMismatch,
    InvalidManifest,
    InvalidModelfile,
    NotFound,
    SecretUnusable,
    StoreError,
    Unauthorized,
    Unreachable,
)
from ollama_fleet.store.install import (
    Store,
    adapter_of,
    cached_manifest,
    derived_manifest,
    install,
    install_manifests,
    needed_blobs,
    put_derived_layers,
    reference_of,
    source_manifests,
)
from ollama_fleet.store.manifest import Descriptor, Manifest, require_model
from ollama_fleet.store.progress import ModelTracker, Tracker
from ollama_fleet.store.progress_server import serve_progress
from ollama_fleet.store.registry import RegistryClient
from ollama_fleet.store.threads import leaf

__all__ = ["ExitCode", "Mode", "install_manifests", "run_puller"]

Mode = Literal["init", "job", "verify"]

_LOG = logging.getLogger(__name__)
_LOG_SECONDS: Final = 5.0
_WAIT_SECONDS: Final = 2.0


class ExitCode(IntEnum):
    """How a puller ends; the Job's ``podFailurePolicy`` fails it on all but `RETRY`."""

    DONE = 0
    RETRY = 1
    """A disk, or a defect of ours: another try may help."""
    MODEL_NOT_FOUND = 10
    UNAUTHORIZED = 11
    DIGEST_MISMATCH = 12
    INVALID = 13
    """A manifest, Modelfile part, reference or Secret that cannot work."""


_EXIT_CODES: Final[Mapping[type[StoreError], ExitCode]] = {
    NotFound: ExitCode.MODEL_NOT_FOUND,
    Unauthorized: ExitCode.UNAUTHORIZED,
    DigestMismatch: ExitCode.DIGEST_MISMATCH,
    InvalidManifest: ExitCode.INVALID,
    InvalidModelfile: ExitCode.INVALID,
    SecretUnusable: ExitCode.INVALID,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a puller needs besides the group's configuration."""

    models_dir: Path
    mode: Mode
    progress_port: int
    connections: int = 8
    """Connections at a time, over all models."""
    pull_secrets: Path = Path(PATH_PULL_SECRETS)
    ca_secrets: Path = Path(PATH_CA_SECRETS)
    stall_seconds: float = 30.0
    backoff: Backoff = field(default_factory=Backoff)
    clock: Clock = field(default_factory=SystemClock)


async def run_puller(
    config: GroupConfig, settings: Settings, *, listening: Callable[[int], None] = lambda _port: None
) -> ExitCode:
    """Pull everything. In modes ``init`` and ``verify`` it returns only when all is there.

    ``listening`` is told the progress port once it answers.
    """
    tracker = Tracker(config)
    async with AsyncExitStack() as stack:
        listening(await stack.enter_async_context(serve_progress(tracker.snapshot, port=settings.progress_port)))
        puller = _Puller(settings, tracker, stack)
        with suppress(OSError) if settings.mode == "verify" else nullcontext():  # its cache may be read-only
            puller.store.blobs.prepare()
        logging_task = asyncio.create_task(_log_regularly(tracker, settings.clock))
        try:
            return await puller.run(config)
        finally:
            logging_task.cancel()
            tracker.log()


async def _log_regularly(tracker: Tracker, clock: Clock) -> None:
    while True:
        tracker.log()
        await clock.sleep(_LOG_SECONDS)


class _Puller:
    def __init__(self, settings: Settings, tracker: Tracker, stack: AsyncExitStack) -> None:
        self.store = Store.at(settings.models_dir)
        self._settings = settings
        self._tracker = tracker
        self._stack = stack
        self._clients: dict[tuple[str | None, str | None], RegistryClient] = {}
        self._blob_locks: dict[str, asyncio.Lock] = {}
        self._downloader = Downloader(
            self.store.blobs,
            Budget(settings.connections),
            connections=settings.connections,
            clock=settings.clock,
            backoff=settings.backoff,
        )

    async def run(self, config: GroupConfig) -> ExitCode:
        """Pull all models side by side; Pinned ones, and among them the important ones, get connections first."""
        if self._settings.mode != "job":
            self.store.manifests.keep_only(frozenset(model.name for model in config.models))
        ordered = sorted(config.models, key=lambda model: (model.residency != "Pinned", -model.priority))
        outcomes = await asyncio.gather(*(self._persist(model, rank) for rank, model in enumerate(ordered)))
        return next((outcome for outcome in outcomes if outcome is not ExitCode.DONE), ExitCode.DONE)

    async def _persist(self, model: GroupModel, rank: int) -> ExitCode:
        """Repeat until the model is there; in a Job, give up on what only somebody can change."""
        tracker = self._tracker.models[model.name]
        failures = 0
        while True:
            try:
                if await self._attempt(model, rank, tracker):
                    tracker.done()
                    return ExitCode.DONE
                await self._settings.clock.sleep(_WAIT_SECONDS)
            except (StoreError, OSError) as error:
                failures += 1
                tracker.retrying(error)
                if self._settings.mode == "job" and not _passes(error):
                    return _exit_code(error)
                await self._settings.clock.sleep(self._settings.backoff.delay(failures))

    async def _attempt(self, model: GroupModel, rank: int, tracker: ModelTracker) -> bool:
        """Whether the model is there now. Raises `StoreError` or `OSError`."""
        if self._settings.mode == "verify":
            await self._verify(model, tracker)
        else:
            await self._pull(model, rank, tracker)
        if self._settings.mode != "job":
            return await asyncio.to_thread(install, self.store, model) is not None
        derived = await asyncio.to_thread(derived_manifest, self.store.blobs, model)
        if derived is not None:
            await asyncio.to_thread(put_derived_layers, self.store.blobs, derived)
        return derived is not None

    async def _pull(self, model: GroupModel, rank: int, tracker: ModelTracker) -> None:
        check_modelfile(model.modelfile, model.context_length)
        reference, adapter_reference = reference_of(model), adapter_of(model)
        source = await self._manifest(model, reference)
        require_model(source, model.name)
        adapter = await self._manifest(model, adapter_reference) if adapter_reference else None
        tracker.expect(needed_blobs(source, adapter))
        origins = dict.fromkeys((blob.digest for blob in source.blobs), reference)
        try:
            async with asyncio.TaskGroup() as group:
                for blob in needed_blobs(source, adapter):
                    origin = Source(self._client(model), origins.get(blob.digest, adapter_reference or reference), rank)
                    # Models may share weights: one download, the others wait for it.
                    lock = self._blob_locks.setdefault(blob.digest, asyncio.Lock())
                    group.create_task(_locked(lock, self._downloader, origin, blob=blob, tracker=tracker))
        except BaseExceptionGroup as errors:
            raise leaf(errors, StoreError, OSError) from None

    async def _verify(self, model: GroupModel, tracker: ModelTracker) -> None:
        found = source_manifests(self.store.blobs, model)
        if found is None:
            tracker.waiting(f"manifest {model.manifest_digest} is not in the cache yet")
            return
        blobs = needed_blobs(*found)
        tracker.expect(blobs)
        for blob in blobs:
            if self.store.blobs.has(blob) or await verify(self.store.blobs, blob):
                tracker.received(blob.digest, blob.size)
            else:
                tracker.waiting(f"blob {blob.digest} is not in the cache yet")
                return

    async def _manifest(self, model: GroupModel, reference: ModelReference) -> Manifest:
        """From the cache, else from the registry and then kept."""
        try:
            cached = cached_manifest(self.store.blobs, reference.digest or "")
        except DigestMismatch:
            self.store.blobs.remove(reference.digest or "")
            cached = None
        if cached is not None:
            return cached
        resolved = await self._client(model).resolve(reference)
        await asyncio.to_thread(self.store.blobs.put, resolved.raw)
        return resolved.manifest

    def _client(self, model: GroupModel) -> RegistryClient:
        """One client per pair of Secrets. Raises `SecretUnusable`; a Secret that comes later is read by a later try."""
        key = (model.pull_secret, model.ca_secret)
        if key not in self._clients:
            self._clients[key] = self._new_client(*key)
            self._stack.push_async_exit(self._clients[key])
        return self._clients[key]

    def _new_client(self, pull_secret: str | None, ca_secret: str | None) -> RegistryClient:
        settings = self._settings
        certificates = read_certificates(settings.ca_secrets / ca_secret / "ca.crt") if ca_secret else None
        docker_config = (
            functools.partial(read_docker_config, settings.pull_secrets / pull_secret / ".dockerconfigjson")
            if pull_secret
            else None
        )
        return RegistryClient(
            docker_config=docker_config,
            tls=tls_context(certificates),
            connections=settings.connections,
            stall_seconds=settings.stall_seconds,
        )


async def _locked(
    lock: asyncio.Lock, downloader: Downloader, source: Source, *, blob: Descriptor, tracker: ModelTracker
) -> None:
    async with lock:
        await downloader.fetch(source, blob, tracker)


def _passes(error: StoreError | OSError) -> bool:
    return isinstance(error, Unreachable)


def _exit_code(error: StoreError | OSError) -> ExitCode:
    return _EXIT_CODES.get(type(error), ExitCode.RETRY) if isinstance(error, StoreError) else ExitCode.RETRY
