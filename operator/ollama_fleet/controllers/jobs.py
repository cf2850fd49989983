"""What a pre-pull Job says about itself. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ollama_fleet.api.reasons import Reason
from ollama_fleet.manifests.prepull import ANNOTATION_NODE, LABEL_PULLS_FOR

_REASONS: Final = {
    "10": Reason.MODEL_NOT_FOUND,
    "11": Reason.UNAUTHORIZED,
    "12": Reason.DIGEST_MISMATCH,
    "13": Reason.INVALID_SPEC,
}
"""By exit code of the puller (``store.puller.ExitCode``)."""


@dataclass(frozen=True, slots=True)
class JobView:
    """The facts of one Job."""

    name: str
    uid: str
    group: str
    node: str | None
    """None: it fills a claim."""
    done: bool
    failed_at: datetime | None
    reason: Reason
    message: str


def view(job: Mapping[str, Any]) -> JobView:
    """The facts of a Job as the API server sends it."""
    metadata = job["metadata"]
    held = {c["type"]: c for c in job.get("status", {}).get("conditions", ()) if c["status"] == "True"}
    failed = held.get("Failed", {})
    message = failed.get("message", "")
    code = re.search(r"exit code (\d+)", message)
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        group=metadata.get("labels", {}).get(LABEL_PULLS_FOR, ""),
        node=metadata.get("annotations", {}).get(ANNOTATION_NODE),
        done="Complete" in held,
        failed_at=datetime.fromisoformat(failed["lastTransitionTime"]) if failed else None,
        reason=_REASONS.get(code[1], Reason.CONTAINER_CRASHING) if code else Reason.CONTAINER_CRASHING,
        message=message,
    )
