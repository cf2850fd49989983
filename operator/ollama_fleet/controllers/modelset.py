"""Reconciling a ModelSet: every entry's manifest is looked up once, and the answer stands in the status.

A tag can move; the digest in the status is what deployments pull. It is looked up again when the entry changes, and
on the schedule of the update policy.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from pydantic import ValidationError

from ollama_fleet.api.modelset import ModelSetSpec, ModelSetStatus, ModelSpec, ResolvedModel
from ollama_fleet.api.reasons import Reason
from ollama_fleet.controllers import schedule
from ollama_fleet.controllers.conditions import Done, Stuck, Verdict, Working, conditions
from ollama_fleet.controllers.invalid import first_problem
from ollama_fleet.controllers.together import together
from ollama_fleet.kube import kinds
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.events import EventRecorder
from ollama_fleet.kube.informer import Informer
from ollama_fleet.kube.queue import Key

_RETRY_SECONDS = (2.0, 5.0, 10.0, 20.0, 60.0)
"""A registry that is away, or a model that is not there yet: asked again soon at first, then once a minute."""
_AT_ONCE = 8

_SOMEBODY_MUST_ACT = frozenset(
    {
        Reason.MODEL_NOT_FOUND,
        Reason.DIGEST_MISMATCH,
        Reason.UNAUTHORIZED,
        Reason.SECRET_MISSING,
        Reason.INVALID_SPEC,
    }
)


class Resolver(Protocol):
    """Looks a model up in its registry."""

    async def resolve(
        self, namespace: str, spec: ModelSetSpec, model: ModelSpec, *, before: ResolvedModel | None
    ) -> ResolvedModel:
        """The registry's answer, or ``before`` where it still stands; a failure is an answer too."""
        ...


@dataclass(slots=True)
class ModelSetController:
    """Keeps the status of ModelSets true."""

    client: KubeClient
    model_sets: Informer
    resolver: Resolver
    events: EventRecorder
    now: Callable[[], datetime]
    _failures: dict[Key, int] = field(default_factory=dict)

    async def reconcile(self, key: Key) -> float | None:
        """Look up what is not known yet and write the status if it changed; seconds until it is worth another look."""
        live = self.model_sets.get(key.namespace, key.name)
        if live is None or "deletionTimestamp" in live["metadata"]:
            self._failures.pop(key, None)
            return None
        previous = ModelSetStatus.model_validate(live.get("status", {}))
        try:
            spec = ModelSetSpec.model_validate(live["spec"])
        except ValidationError as error:
            refused = Stuck(Reason.INVALID_SPEC, first_problem(error))
            await self._write(live, previous, previous.models, refused, looked_up=previous.looked_up)
            return None
        refusal = schedule.refusal(spec.update_policy)
        policy = None if refusal else spec.update_policy
        due = schedule.due(policy, looked_up=previous.looked_up, now=self.now())
        resolved = await self._resolve_all(key.namespace, spec, previous, anew=due)
        verdict = judge(resolved)
        looked_up = schedule.stamp(policy, previous.looked_up, due=due, now=self.now())
        said = Stuck(Reason.INVALID_SPEC, refusal) if refusal else verdict
        await self._write(live, previous, resolved, said, looked_up=looked_up)
        return self._next_look(key, verdict) or schedule.wait(policy, looked_up=looked_up, now=self.now())

    def _next_look(self, key: Key, verdict: Verdict) -> float | None:
        if isinstance(verdict, Done):
            self._failures.pop(key, None)
            return None
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]

    async def _resolve_all(
        self, namespace: str, spec: ModelSetSpec, previous: ModelSetStatus, *, anew: bool
    ) -> list[ResolvedModel]:
        known = {model.name: model for model in previous.models}
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def resolve(model: ModelSpec) -> ResolvedModel:
            before = known.get(model.name)
            async with at_once:
                found = await self.resolver.resolve(namespace, spec, model, before=None if anew else before)
            if anew and not found.ready:
                # What is served must not hang on a registry that is away when it is asked for news.
                return await self.resolver.resolve(namespace, spec, model, before=before)
            return found

        return await together(*(resolve(model) for model in spec.models))

    async def _write(
        self,
        live: Mapping[str, Any],
        previous: ModelSetStatus,
        models: list[ResolvedModel],
        verdict: Verdict,
        *,
        looked_up: str,
    ) -> None:
        metadata = live["metadata"]
        status = ModelSetStatus(
            observed_generation=metadata["generation"],
            conditions=conditions(
                verdict, previous=previous.conditions, generation=metadata["generation"], now=self.now()
            ),
            models=models,
            looked_up=looked_up,
            resolved=f"{sum(model.ready for model in models)}/{len(models)}",
            total_bytes=sum(model.size for model in models),
        )
        if status == previous:
            return
        await self.client.apply_status(
            kinds.MODEL_SET, metadata["namespace"], metadata["name"], status.to_wire(), uid=metadata["uid"]
        )
        if isinstance(verdict, Stuck):
            self.events.record(live, reason=verdict.reason, message=verdict.message, event_type="Warning")


def judge(models: list[ResolvedModel]) -> Verdict:
    """What holds for the set as a whole."""
    failed = [model for model in models if not model.ready]
    if not failed:
        total = sum(model.size for model in models)
        return Done(Reason.RESOLVED, f"{len(models)} models known to their registries, {total / 1e9:.1f} GB in all")
    first = failed[0]
    reason = Reason(first.reason)
    message = f"{len(models) - len(failed)}/{len(models)} models known; {first.name}: {first.message}"
    return Stuck(reason, message) if reason in _SOMEBODY_MUST_ACT else Working(reason, message)
