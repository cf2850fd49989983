"""What the API server may answer, as a small tree.

::

    KubeError
    ├── NotFound                404
    ├── Conflict                409  stale resourceVersion, or another uid (which some patches get as 422)
    │   └── AlreadyExists       409  create of a name that is taken
    ├── Gone                    410  the resourceVersion or continue token is too old: list again
    ├── Invalid                 400, 415, 422  the object is wrong; ``causes`` name the fields
    │                                (an apply with unknown fields or wrong types gets it as 500)
    ├── Unauthorized            401  after the token was read again
    ├── Forbidden               403  RBAC or an admission plugin
    │   ├── QuotaExceeded       403  a ResourceQuota is used up
    │   └── PodSecurityForbidden 403 the namespace's Pod Security level refuses the pod
    ├── TooManyRequests         429  ``retry_after`` seconds
    ├── Unavailable             5xx, connection refused, reset, broken or oversized body
    └── Timeout                 no answer in time: the write may or may not have happened
        └── Silence                  a watch that the server had begun told nothing for long

``Retryable`` is what an unchanged second try may cure: Conflict, TooManyRequests, Unavailable, Timeout.
"""

from collections.abc import Mapping
from typing import Any

_MAX_MESSAGE = 1000


class KubeError(Exception):
    """An API request failed. ``code`` is the HTTP status, 0 where there was none."""

    def __init__(
        self,
        message: str,
        *,
        code: int = 0,
        reason: str = "",
        causes: tuple[tuple[str, str], ...] = (),
        retry_after: float | None = None,
    ) -> None:
        """``causes`` are (field, message) pairs, ``retry_after`` is in seconds."""
        super().__init__(message[:_MAX_MESSAGE])
        self.code = code
        self.reason = reason
        self.causes = causes
        self.retry_after = retry_after


class NotFound(KubeError):
    """The object, or its kind, does not exist."""


class Conflict(KubeError):
    """Somebody else changed the object first, or it is another object of the same name."""


class AlreadyExists(Conflict):
    """A create met an object of that name."""


class Gone(KubeError):
    """The history asked for was compacted away: only a new list helps."""


class Invalid(KubeError):
    """The request can never succeed as it is."""


class Unauthorized(KubeError):
    """The credentials are refused."""


class Forbidden(KubeError):
    """RBAC or admission refuses; ``message`` names the verb or the rule."""


class QuotaExceeded(Forbidden):
    """A ResourceQuota of the namespace is used up."""


class PodSecurityForbidden(Forbidden):
    """The namespace's Pod Security level refuses this pod."""


class TooManyRequests(KubeError):
    """The API server, or an eviction budget, asks to come back later."""


class Unavailable(KubeError):
    """The API server cannot be reached or cannot answer."""


class Timeout(KubeError):
    """No answer within the request's time."""


class Silence(Timeout):
    """A watch told nothing for as long as the client waits: nothing happened, or the connection is dead."""


Retryable = (Conflict, TooManyRequests, Unavailable, Timeout)

_BY_CODE: dict[int, type[KubeError]] = {
    400: Invalid,
    401: Unauthorized,
    404: NotFound,
    410: Gone,
    415: Invalid,
    422: Invalid,
    429: TooManyRequests,
    504: Timeout,
}


def from_status(code: int, status: Mapping[str, Any], *, retry_after: float | None = None) -> KubeError:
    """The error for an HTTP ``code`` and the ``Status`` object that came with it (empty if none did)."""
    reason = str(status.get("reason") or "")
    message = str(status.get("message") or f"HTTP {code}")
    details = status.get("details")
    details = details if isinstance(details, Mapping) else {}
    if retry_after is None and isinstance(details.get("retryAfterSeconds"), int):
        retry_after = float(details["retryAfterSeconds"])
    causes = _causes(details)
    found = _class_for(code, reason, message)
    if found is Invalid and causes and all(field == "metadata.uid" for field, _ in causes):
        found = Conflict
    return found(message, code=code, reason=reason, causes=causes, retry_after=retry_after)


def _class_for(code: int, reason: str, message: str) -> type[KubeError]:
    if code == 409:
        return AlreadyExists if reason == "AlreadyExists" else Conflict
    if code == 403:
        return _forbidden(message)
    if code == 500 and "typed patch object" in message:
        return Invalid
    default = Unavailable if code >= 500 else KubeError
    return _BY_CODE.get(code, default)


def _forbidden(message: str) -> type[KubeError]:
    """The server tells these apart by their text only."""
    if "exceeded quota" in message:
        return QuotaExceeded
    if "violates PodSecurity" in message:
        return PodSecurityForbidden
    return Forbidden


def _causes(details: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    causes = details.get("causes")
    if not isinstance(causes, list):
        return ()
    return tuple(
        (str(cause.get("field") or ""), str(cause.get("message") or ""))
        for cause in causes
        if isinstance(cause, Mapping)
    )
