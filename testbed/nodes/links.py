"""The host's ends of the pods' network links."""

import ipaddress
import json
import subprocess
from typing import Final

_GATEWAY: Final = 1
"""Number of the address in a pod subnet that every link's host end has."""


def remove(subnet: str) -> None:
    """Delete the links of the pods of a subnet, and so their routes.

    The kernel does it by itself when a pod's network namespace ends, which can be much later: a new pod with the same
    address would then get no route of its own, and lose the old one.
    """
    gateway = ipaddress.ip_network(subnet)[_GATEWAY]
    listed = subprocess.run(
        ["ip", "-json", "address", "show", "to", str(gateway)], check=True, capture_output=True, text=True
    )
    for link in json.loads(listed.stdout or "[]"):
        # One that goes at the same moment is gone, which is all that is wanted.
        subprocess.run(["ip", "link", "delete", link["ifname"]], check=False, capture_output=True)
