"""Progress for people: one line when something long starts, one when it is done."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """A line on stderr, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def step(text: str) -> Iterator[None]:
    """Say that a step starts, and how long it took or that it failed."""
    started = time.monotonic()
    say(f"  {text} ...")
    try:
        yield
    except BaseException:
        say(f"  {text}: failed after {time.monotonic() - started:.1f} s")
        raise
    say(f"  {text}: {time.monotonic() - started:.1f} s")
