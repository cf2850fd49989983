"""Keeps memory as the configuration wants it: loads Pinned models, proves each with a token, notices losses.

One loop, level-triggered: look at Ollama, compare, act, wait. OnDemand models are loaded by their clients' requests; a
client that gives up aborts that load, and then it is done here.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.api.state import ModelPhase
from ollama_fleet.relay.upstream import UpstreamFailed
from ollama_fleet.sidecar.board import Board
from ollama_fleet.sidecar.bodies import is_zero, keep_alive
from ollama_fleet.sidecar.ollama import Ollama, OllamaError, Resident
from ollama_fleet.sidecar.pending import possible
from ollama_fleet.sidecar.residents import Residents
from ollama_fleet.store.install import install_manifests

logger = logging.getLogger(__name__)

FAST_SECONDS: Final = 0.5
"""Between looks while something is missing."""
SLOW_SECONDS: Final = 5.0
"""Between looks while all is well. A look is one ``/api/ps``: no slot, no prompt cache is touched."""
LOOK_SECONDS: Final = 15.0
"""How long Ollama may take to say what is in memory; longer is a hang."""
_PROOF_STAY: Final = "1m"
"""Of a model that stays in memory for its requests only, when it proves the server."""
_NOWHERE: Final[dict[str, Any]] = {"size": 0, "size_vram": 0, "context_length": 0, "expires_at": ""}
_RETRY_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0)


class Warmer:
    """The loop over one Ollama."""

    def __init__(
        self, board: Board, ollama: Ollama, models: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``models`` is the pod's store."""
        self._board = board
        self._ollama = ollama
        self._models = models
        self._clock = clock
        self._failures: dict[str, int] = {}
        self._retry_at: dict[str, float] = {}
        self._embedders: dict[str, bool] = {}
        self._residents = Residents()
        self._load: tuple[str, asyncio.Task[None]] | None = None
        self._leaves_since: dict[str, float] = {}
        self._wake = asyncio.Event()

    async def apply(self, config: GroupConfig) -> bool:
        """Take a configuration into force: manifests, names and slots now, memory as soon as it can be.

        False while files of a model are missing, or one that leaves is in memory: to be called again. Only then is the
        hash not reported as applied.
        """
        board = self._board
        held = [model for model in (board.config.models if board.config else ()) if board.warmth[model.name].digest]
        ready = possible(config, held=held, models=self._models)
        leaving = self._changed(ready)
        board.leave((model.name for model in leaving), wanted=(model.name for model in ready.models))
        now = self._clock()
        self._leaves_since = {model.name: self._leaves_since.get(model.name, now) for model in leaving}
        if await self._gone(leaving):
            return self._install(ready, wish=config)
        self._break_off(before=now - config.drain_seconds)
        return False

    def _install(self, config: GroupConfig, *, wish: GroupConfig) -> bool:
        digests = install_manifests(config, self._models)
        self._residents = Residents(digests, models=self._models)
        removed = sorted(self._board.leaving)
        self._board.configure(config, weights=self._residents.weights())
        for model in config.models:
            digest, known = digests.get(model.name), self._board.warmth[model.name]
            if digest is None:
                self._board.update(model.name, phase=ModelPhase.PULLING, digest=None)
            elif known.digest != digest:
                weights = self._residents.weights()[model.name]
                self._board.update(model.name, phase=ModelPhase.CACHED, digest=digest, weights=weights, message="")
                self._retry_at.pop(model.name, None)
        complete = config.models == wish.models and all(model.name in digests for model in config.models)
        if complete:
            self._board.applied_hash = wish.hash()
            logger.info("configuration applied", extra={"hash": wish.hash(), "removed": removed})
        self._board.touch()
        self._wake.set()
        return complete

    def _changed(self, config: GroupConfig) -> list[GroupModel]:
        """Models in force that leave, or that Ollama has to load anew."""
        wanted = {model.name: (model.manifest_digest, model.context_length, model.modelfile) for model in config.models}
        return [
            model
            for model in (self._board.config.models if self._board.config else ())
            if wanted.get(model.name) != (model.manifest_digest, model.context_length, model.modelfile)
        ]

    async def _gone(self, leaving: Sequence[GroupModel]) -> bool:
        """Whether models are out of memory. Ollama frees it when they are idle, and while it knows them by name."""
        if not leaving:
            return True
        if self._load is not None and self._load[0] in self._board.leaving:
            self._load[1].cancel()
            await asyncio.wait({self._load[1]})
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                for model in await self._held(leaving):
                    await self._ollama.unload(model.name, embedder=await self._is_embedder(model))
                return not await self._held(leaving)
        except (OllamaError, UpstreamFailed, TimeoutError) as error:
            names = sorted(self._board.leaving)
            logger.warning("models cannot be unloaded", extra={"models": names, "error": str(error)[:256]})
            return False

    def _break_off(self, *, before: float) -> None:
        """End what still uses models that have been leaving since then: a pod that leaves waits no longer either."""
        for name, since in self._leaves_since.items():
            count = self._board.slots[name].abort() if since <= before else 0
            if count:
                logger.warning("requests broken off: their model leaves", extra={"model": name, "count": count})

    async def _held(self, leaving: Sequence[GroupModel]) -> list[GroupModel]:
        """Those that are in memory: an encoder that is not would be loaded to be unloaded."""
        held = {entry.digest for entry in await self._ollama.resident()}
        return [model for model in leaving if self._board.warmth[model.name].digest in held]

    async def run(self) -> None:
        """Look and act until cancelled."""
        try:
            while True:
                self._wake.clear()
                try:
                    pause = await self._look()
                except (UpstreamFailed, OllamaError, TimeoutError) as error:
                    self._lost(error)
                    pause = FAST_SECONDS
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
        finally:
            if self._load is not None:
                self._load[1].cancel()

    async def _look(self) -> float:
        board = self._board
        self._end_load()
        async with asyncio.timeout(LOOK_SECONDS):
            if board.ollama_version is None:
                board.ollama_version = await self._ollama.version()
                board.reopen()
                board.touch()
            resident = await self._ollama.resident()
        for model in board.served:
            # What a load found in memory may be newer than this look.
            if self._load is None or model.name != self._load[0]:
                self._compare(model, resident)
        chosen = self._next() if self._load is None else None
        if chosen is not None:
            load = asyncio.create_task(self._prove(chosen))
            load.add_done_callback(lambda _: self._wake.set())
            self._load = (chosen.name, load)
        return SLOW_SECONDS if board.ready and self._load is None else FAST_SECONDS

    def _compare(self, model: GroupModel, resident: tuple[Resident, ...]) -> None:
        """Write down what Ollama says; a Warm model that is gone is cold again."""
        known = self._board.warmth[model.name]
        found = self._residents.find(model.name, resident)
        if known.phase is ModelPhase.WARM:
            if found is None:
                logger.warning("model left the memory", extra={"model": model.name})
                self._board.update(model.name, phase=ModelPhase.CACHED, **_NOWHERE)
            else:
                self._measure(model, found)
        elif model.residency == "OnDemand":
            if known.phase is ModelPhase.CACHED and found is not None:
                # A request loaded it, and was answered: that is the proof.
                self._measure(model, found, phase=ModelPhase.WARM, message="")
            elif known.phase is ModelPhase.FAILED and found is None and self._board.proved:
                # Others did prove the server: this one is left to its clients again.
                self._board.update(model.name, phase=ModelPhase.CACHED)

    def _measure(self, model: GroupModel, found: Resident, **changes: Any) -> None:
        self._board.update(
            model.name,
            size=found.size,
            size_vram=found.size_vram,
            context_length=found.context_length,
            expires_at=found.expires_at,
            **changes,
        )

    def _next(self) -> GroupModel | None:
        """The model to load now: the configuration is ordered by priority.

        OnDemand ones are left to their clients while these have the patience; but where there are no others, one of
        them has to prove the server.
        """
        board, now = self._board, self._clock()
        for model in board.served:
            known = board.warmth[model.name]
            wanted = model.residency == "Pinned" or not board.proved or known.abandoned
            cold = known.phase in {ModelPhase.CACHED, ModelPhase.FAILED, ModelPhase.LOADING}
            due = now >= self._retry_at.get(model.name, 0.0) and model.name not in board.leaving
            if wanted and cold and due:
                return model
        return None

    def _end_load(self) -> None:
        """Raises what the load ended with. It was cancelled where a new configuration took the model away."""
        if self._load is not None and self._load[1].done():
            load, self._load = self._load[1], None
            if not load.cancelled():
                load.result()

    async def _prove(self, model: GroupModel) -> None:
        board, started = self._board, self._clock()
        board.update(model.name, phase=ModelPhase.LOADING)
        limit = board.config.load_timeout_seconds if board.config else 0
        stay = keep_alive(model, board.served)
        if is_zero(stay):
            # It would be gone before it is seen.
            stay = _PROOF_STAY
        try:
            async with asyncio.timeout(limit):
                embedder = await self._is_embedder(model)
                await self._ollama.load(model.name, keep_alive=stay, embedder=embedder)
                await self._ollama.prove(model.name, keep_alive=stay, embedder=embedder)
                self._accept(model, await self._ollama.resident(), seconds=self._clock() - started)
        except TimeoutError:
            board.unanswered += 1
            self._failed(model, f"not in memory after {limit} s")
        except OllamaError as error:
            board.unanswered = 0
            self._failed(model, str(error))
        except UpstreamFailed as error:
            # A load that kills Ollama must not be repeated as fast as it restarts.
            self._failed(model, f"Ollama went away during the load: {error}")
            raise

    def _accept(self, model: GroupModel, resident: tuple[Resident, ...], *, seconds: float) -> None:
        found = self._residents.find(model.name, resident)
        if found is None or found.size == 0:
            raise OllamaError("loaded, but not under the planned digest")
        wanted = model.context_length
        if wanted and found.context_length and found.context_length < wanted:
            # Models with a shorter trained context are clipped to it; the status shows the real figure.
            logger.info("context is clipped", extra={"model": model.name, "context": found.context_length})
        self._failures.pop(model.name, None)
        self._board.unanswered = 0
        self._measure(model, found, phase=ModelPhase.WARM, load_seconds=round(seconds, 3), message="")
        logger.info("model is warm", extra={"model": model.name, "seconds": round(seconds, 3), "bytes": found.size})

    def _failed(self, model: GroupModel, message: str) -> None:
        failures = self._failures.get(model.name, 0) + 1
        self._failures[model.name] = failures
        self._retry_at[model.name] = self._clock() + _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS)) - 1]
        self._board.update(model.name, phase=ModelPhase.FAILED, message=message[:256], abandoned=False)
        logger.warning("model does not load", extra={"model": model.name, "error": message[:256], "try": failures})

    async def _is_embedder(self, model: GroupModel) -> bool:
        digest = self._board.warmth[model.name].digest or ""
        if digest not in self._embedders:
            self._embedders[digest] = await self._ollama.is_embedder(model.name)
        return self._embedders[digest]

    def _lost(self, error: Exception) -> None:
        """Ollama does not answer: it starts, restarts or hangs; whatever was in memory is not to be relied on."""
        board = self._board
        if board.ollama_version is not None:
            logger.warning("Ollama does not answer", extra={"error": str(error)})
        board.ollama_version = None
        board.unanswered, board.answered = 0, False
        for name, known in board.warmth.items():
            if known.phase is ModelPhase.WARM:
                board.update(name, phase=ModelPhase.CACHED, **_NOWHERE)
        board.touch()
