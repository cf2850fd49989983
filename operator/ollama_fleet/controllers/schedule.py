"""When a ModelSet's tags are looked up again. Pure."""

from datetime import UTC, datetime
from typing import Final

from cronsim import CronSim, CronSimError

from ollama_fleet.api.modelset import UpdatePolicy
from ollama_fleet.controllers.conditions import timestamp

_HOURLY: Final = "0 * * * *"


def refusal(policy: UpdatePolicy | None) -> str:
    """Why the schedule cannot be followed, empty where it can: the API server knows only what one looks like."""
    try:
        _next(policy, "2000-01-01T00:00:00Z")
    except CronSimError as error:
        return f"spec.updatePolicy.schedule: {error}: correct the cron expression"
    return ""


def due(policy: UpdatePolicy | None, *, looked_up: str, now: datetime) -> bool:
    """Whether the registry is to be asked again for what it already answered."""
    return _follows(policy) and bool(looked_up) and _next(policy, looked_up) <= now


def stamp(policy: UpdatePolicy | None, looked_up: str, *, due: bool, now: datetime) -> str:
    """When the registry was last asked on the schedule; the first look starts the clock."""
    if not _follows(policy):
        return ""
    return timestamp(now) if due or not looked_up else looked_up


def wait(policy: UpdatePolicy | None, *, looked_up: str, now: datetime) -> float | None:
    """Seconds until the next look, None without a schedule."""
    if not _follows(policy):
        return None
    return max(1.0, (_next(policy, looked_up) - now).total_seconds())


def _follows(policy: UpdatePolicy | None) -> bool:
    return policy is not None and policy.type == "IfChanged"


def _next(policy: UpdatePolicy | None, looked_up: str) -> datetime:
    expression = (policy.schedule if policy else None) or _HOURLY
    last = datetime.fromisoformat(looked_up).astimezone(UTC)
    found: datetime = next(CronSim(expression, last))
    return found
