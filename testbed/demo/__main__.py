"""``python -m testbed.demo``: run the demo, or remove what it made."""

import argparse
import sys

from testbed.demo import kind, local
from testbed.demo.story import tell
from testbed.say import say


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m testbed.demo", description=__doc__)
    parser.add_argument("--down", action="store_true", help="remove the cluster and everything it made")
    parser.add_argument("--ollama", default="0.32.3", help="Ollama version to serve with (default: %(default)s)")
    options = parser.parse_args()
    chosen = kind if kind.usable() else local
    if options.down:
        chosen.down()
        say("the demo's cluster is gone")
        return 0
    say(f"cluster: {chosen.DESCRIPTION}")
    try:
        tell(chosen.up(options.ollama))
    except RuntimeError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
