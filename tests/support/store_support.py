"""Builders for tests of the store."""

import asyncio
import random
from pathlib import Path

from ollama_fleet.api.group import GroupConfig, GroupModel, Modelfile
from ollama_fleet.api.references import ModelReference, parse_reference
from ollama_fleet.store.backoff import Backoff
from ollama_fleet.store.errors import StoreError
from ollama_fleet.store.puller import Mode, Settings
from ollama_fleet.store.registry import RegistryClient
from testbed.fakes.registry import FakeRegistry


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class FakeClock:
    """Time passes only in ``sleep``, which returns at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0.001)


class Watcher:
    """Collects what a download tells."""

    def __init__(self) -> None:
        self.completed: dict[str, int] = {}
        self.errors: list[StoreError] = []
        self.verifications = 0

    def received(self, digest: str, completed: int) -> None:
        self.completed[digest] = completed

    def retrying(self, error: StoreError) -> None:
        self.errors.append(error)

    def verifying(self) -> None:
        self.verifications += 1


def client(stall_seconds: float = 5.0, **kwargs: object) -> RegistryClient:
    return RegistryClient(stall_seconds=stall_seconds, **kwargs)  # type: ignore[arg-type]


def reference(registry: FakeRegistry, name: str = "library/tiny:latest", digest: str | None = None) -> ModelReference:
    suffix = f"@{digest}" if digest else ""
    return parse_reference(f"http://{registry.address}/{name}{suffix}")


def model(registry: FakeRegistry, manifest_digest: str, *, name: str = "tiny", **kwargs: object) -> GroupModel:
    values: dict[str, object] = {
        "name": name,
        "registry": registry.address,
        "repository": "library/tiny",
        "manifest_digest": manifest_digest,
        "tag": "latest",
        "insecure": True,
        "modelfile": Modelfile(),
        **kwargs,
    }
    return GroupModel.model_validate(values)


def group(*models: GroupModel) -> GroupConfig:
    return GroupConfig(namespace="default", deployment="chat", group="chat-a", ollama_version="0.32.3", models=models)


def settings(models_dir: Path, mode: Mode = "init", **kwargs: object) -> Settings:
    return Settings(
        models_dir=models_dir,
        mode=mode,
        progress_port=0,
        clock=FakeClock(),
        backoff=Backoff(base=0.01, cap=0.02),
        **kwargs,  # type: ignore[arg-type]
    )
