"""Which claims can hold the cache of a plan: one Job writes, every server of the plan reads."""

from collections.abc import Iterator

from ollama_fleet.api.ollamadeployment import EPHEMERAL, StorageSpec
from ollama_fleet.api.reasons import Reason
from ollama_fleet.planning.problems import Problem
from ollama_fleet.planning.request import ClaimView, PlanRequest

_FIELD = "spec.storage.cache.claimName"


def objections(request: PlanRequest, *, groups: int) -> Iterator[Problem]:
    """Why the claim of the cache cannot serve this many groups; nothing for other caches."""
    cache = (request.spec.storage or StorageSpec()).cache or EPHEMERAL
    if cache.type != "Claim":
        return
    what = f"PersistentVolumeClaim {cache.claim_name}"
    if request.claim is None:
        yield Problem(
            Reason.CLAIM_MISSING,
            f"{what} does not exist in namespace {request.namespace}: create it or correct {_FIELD}",
        )
        return
    modes = ", ".join(sorted(request.claim.access_modes))
    if not request.claim.access_modes & {"ReadWriteOnce", "ReadWriteMany"}:
        yield Problem(
            Reason.INVALID_SPEC,
            f"{_FIELD}: {what} allows {modes}, but a Job writes to it while servers read: "
            "use a claim with ReadWriteMany or ReadWriteOnce",
        )
        return
    servers = 1 if request.spec.replicas is None else request.spec.replicas
    if single_node(request.claim) and max(servers, groups) > 1:
        yield Problem(
            Reason.INVALID_SPEC,
            f"{_FIELD}: {what} allows {modes}, which one node can use, but {servers} servers in each of {groups} "
            "groups are wanted: use a claim with ReadWriteMany, or spec.replicas: 1 and models that fit one group",
        )


def single_node(claim: ClaimView | None) -> bool:
    """Whether all that use the claim must be on one node: then no new server can start beside an old one elsewhere."""
    return claim is not None and "ReadWriteMany" not in claim.access_modes
