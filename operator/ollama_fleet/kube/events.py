"""Kubernetes events that aggregate."""

from collections.abc import Mapping
from typing import Any, Literal

from ollama_fleet.kube.client import KubeClient


class EventRecorder:
    """``record`` never blocks and never fails; ``run`` writes."""

    def __init__(self, client: KubeClient, *, component: str, instance: str) -> None:
        raise NotImplementedError

    def record(
        self,
        regarding: Mapping[str, Any],
        *,
        reason: str,
        message: str,
        type: Literal["Normal", "Warning"] = "Normal",
        topic: str = "",
    ) -> None:
        """About object ``regarding`` (apiVersion, kind, metadata).

        Equal (object, type, reason, topic) is one event with a count and the newest message.
        """
        raise NotImplementedError

    async def run(self) -> None:
        """Write until cancelled."""
        raise NotImplementedError
