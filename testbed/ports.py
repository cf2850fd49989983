"""Free TCP ports."""

import random
import socket
from typing import Final

_RANGE: Final = range(10_000, 30_000)
"""Below what the kernel gives to outgoing connections: a port from there may be taken again before it is used, or
while a component that was killed is started anew. Below the node ports of Services, too."""
_ATTEMPTS: Final = 200


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on now, all different."""
    found: list[int] = []
    for port in random.sample(_RANGE, _ATTEMPTS):
        if len(found) < count and _free(host, port):
            found.append(port)
    if len(found) < count:
        raise OSError(f"no {count} free ports on {host} between {_RANGE.start} and {_RANGE.stop}")
    return found


def _free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
