"""What the API server refuses, as a verdict on the OllamaDeployment. Pure."""

from typing import Final

from ollama_fleet.api.reasons import Reason
from ollama_fleet.controllers.children import NameTaken
from ollama_fleet.controllers.conditions import Stuck
from ollama_fleet.kube import errors

REFUSALS: Final = (NameTaken, errors.Invalid, errors.Forbidden)
"""What a second try cures only after somebody changed something."""

_TERMINATING: Final = "because it is being terminated"
"""How the API server refuses new objects in a namespace that is being deleted."""


def verdict(refused: Exception, *, kind: str) -> Stuck:
    """One of ``REFUSALS`` that met the write of an object of this kind."""
    if isinstance(refused, errors.Invalid):
        field, message = refused.causes[0] if refused.causes else ("", str(refused))
        return Stuck(Reason.INVALID_SPEC, f"The API server refuses {kind} {field}: {message}")
    if _TERMINATING in str(refused):
        # The namespace is being deleted and took the children first; the OllamaDeployment follows.
        return Stuck(Reason.INVALID_SPEC, "The namespace is being deleted")
    return Stuck(reason(str(refused)), str(refused))


def reason(message: str) -> Reason:
    """The reason behind a refusal."""
    # The API server gives no other handle on why a pod was refused than the text of its admission plugins.
    if "exceeded quota" in message:
        return Reason.QUOTA_EXCEEDED
    if "violates PodSecurity" in message:
        return Reason.POD_SECURITY_FORBIDDEN
    return Reason.INVALID_SPEC
