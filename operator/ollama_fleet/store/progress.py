"""How far each model is: collected from downloads, told to the operator and to the log."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.progress import ModelProgress, PullPhase, PullProgress
from ollama_fleet.store.errors import StoreError
from ollama_fleet.store.manifest import Descriptor

_LOG = logging.getLogger(__name__)
_MESSAGE_LIMIT = 500


@dataclass(slots=True)
class ModelTracker:
    """One model; the observer of its downloads."""

    name: str
    total: int
    received_bytes: dict[str, int]
    """Bytes in the store by digest; one dictionary for all models, which may share blobs."""
    phase: PullPhase = PullPhase.WAITING
    reason: str = ""
    message: str = ""
    _digests: tuple[str, ...] = ()

    def expect(self, blobs: Iterable[Descriptor]) -> None:
        """The manifest is known: these blobs make the model."""
        blobs = tuple(blobs)
        self.total = sum(blob.size for blob in blobs)
        self._digests = tuple(blob.digest for blob in blobs)
        self._enter(PullPhase.PULLING)

    def received(self, digest: str, completed: int) -> None:
        """So many bytes of a blob are in the store."""
        if completed > self.received_bytes.get(digest, 0):
            self._enter(PullPhase.PULLING)
        self.received_bytes[digest] = completed

    def waiting(self, message: str) -> None:
        """Somebody else has to bring something first."""
        self._enter(PullPhase.WAITING)
        self.message = message

    def verifying(self) -> None:
        """A file that was there is being hashed."""
        self._enter(PullPhase.VERIFYING)

    def retrying(self, error: StoreError | OSError) -> None:
        """An attempt failed."""
        self.phase = PullPhase.RETRYING
        self.reason = error.reason.value if isinstance(error, StoreError) else ""
        self.message = str(error)[:_MESSAGE_LIMIT]
        _LOG.warning("pull failed: model=%s reason=%s error=%s", self.name, self.reason, self.message)

    def done(self) -> None:
        """The model is in the store."""
        self._enter(PullPhase.DONE)

    def progress(self) -> ModelProgress:
        """What the operator is told."""
        completed = sum(self.received_bytes.get(digest, 0) for digest in self._digests)
        return ModelProgress(
            name=self.name,
            phase=self.phase,
            completed_bytes=completed,
            total_bytes=max(self.total, completed),
            reason=self.reason,
            message=self.message,
        )

    def _enter(self, phase: PullPhase) -> None:
        self.phase, self.reason, self.message = phase, "", ""


class Tracker:
    """All models of the group."""

    def __init__(self, config: GroupConfig) -> None:
        received: dict[str, int] = {}
        self.models = {model.name: ModelTracker(model.name, model.size, received) for model in config.models}
        self._logged = PullProgress()

    def snapshot(self) -> PullProgress:
        """What ``GET /progress`` answers."""
        return PullProgress(models=tuple(model.progress() for model in self.models.values()))

    def log(self) -> None:
        """One line for each model whose state moved since the last call."""
        now = self.snapshot()
        before = {model.name: model for model in self._logged.models}
        for model in now.models:
            if before.get(model.name) != model:
                _LOG.info(
                    "pull: model=%s phase=%s completed=%d total=%d reason=%s",
                    *(model.name, model.phase.value, model.completed_bytes, model.total_bytes, model.reason),
                )
        self._logged = now
