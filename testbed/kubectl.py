"""How programs of this package and tests run kubectl."""

import os
from typing import Final

_EXEC: Final = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false"}
"""Seen with kubectl 1.32: over WebSockets ``kubectl exec`` now and then drops what comes first ("Unknown stream id 1,
discarding message")."""


def environment() -> dict[str, str]:
    """For kubectl: that of this process, and what makes it reliable."""
    return {**os.environ, **_EXEC}
