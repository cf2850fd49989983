"""``python -m testbed.demo``: run the demo, or remove what it made."""

import argparse
import shutil
import sys
from typing import Final

from testbed.build import BuildFailed
from testbed.controlplane import DifferentTestBed, NotReady
from testbed.demo import kind, local
from testbed.demo.story import tell
from testbed.images import ImageFailed
from testbed.nodes import NodesInUse
from testbed.packages import NotInstalled
from testbed.say import say

_EXPECTED: Final = (BuildFailed, ImageFailed, NotInstalled, NotReady, DifferentTestBed, NodesInUse)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m testbed.demo", description=__doc__)
    parser.add_argument("--down", action="store_true", help="remove the cluster and everything it made")
    parser.add_argument("--ollama", default="0.32.3", help="Ollama version to serve with (default: %(default)s)")
    options = parser.parse_args()
    try:
        if options.down:
            _down()
        else:
            _up(options.ollama)
    except (*_EXPECTED, RuntimeError, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted: make demo goes on, make down removes what there is")
        return 130
    return 0


def _up(ollama_version: str) -> None:
    if not shutil.which("kubectl"):
        raise RuntimeError("kubectl is not installed: see https://kubernetes.io/docs/tasks/tools/")
    why = kind.missing()
    if not why:
        say(f"cluster: {kind.DESCRIPTION}")
        tell(kind.up(ollama_version))
    elif not (needed := local.missing()):
        say(f"cluster: {local.DESCRIPTION} ({why})")
        tell(local.up(ollama_version))
    else:
        raise RuntimeError(f"no cluster can be made here.\nwith kind: {why}\nwithout it: {needed}")


def _down() -> None:
    """Whatever an earlier run chose: Docker may have come or gone since."""
    local.down()
    kind.down()
    say("the demo's cluster is gone")


if __name__ == "__main__":
    sys.exit(main())
