"""The puller's progress: ``GET /progress`` on the progress port while it runs."""

from enum import StrEnum

from ollama_fleet.api.base import Bytes, Observed


class PullPhase(StrEnum):
    """Where the pull of one model is."""

    WAITING = "Waiting"
    PULLING = "Pulling"
    VERIFYING = "Verifying"
    DONE = "Done"
    RETRYING = "Retrying"
    """The last attempt failed; ``message`` says why."""


class ModelProgress(Observed):
    """The pull of one model."""

    name: str
    phase: PullPhase
    completed_bytes: Bytes = 0
    total_bytes: Bytes = 0
    reason: str = ""
    """A reason of ``ollama_fleet.api.reasons`` while retrying, e.g. ``RegistryUnreachable``."""
    message: str = ""


class PullProgress(Observed):
    """All pulls of one puller."""

    models: tuple[ModelProgress, ...] = ()
