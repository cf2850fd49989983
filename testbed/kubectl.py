"""How programs of this package and tests run kubectl."""

import os
from typing import Final

ENVIRONMENT: Final = {**os.environ, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false"}
"""Seen with kubectl 1.32: over WebSockets ``kubectl exec`` now and then drops what comes first ("Unknown stream id 1,
discarding message")."""
