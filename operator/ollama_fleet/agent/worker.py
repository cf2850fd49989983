"""A thread for calls that may never return. It can be left alone with such a call, but not stopped."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """What a call gave: a value, or an error."""

    value: T | None = None
    error: Exception | None = None


class Worker(Generic[T]):
    """Runs one call at a time. While one is under way no other is taken."""

    def __init__(self, name: str) -> None:
        """The thread starts now and never keeps the process from ending."""
        self._calls: SimpleQueue[Callable[[], T]] = SimpleQueue()
        self._results: SimpleQueue[Done[T]] = SimpleQueue()
        self.busy = False
        """Whether a call is under way, or its result was not taken yet."""
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, call: Callable[[], T]) -> None:
        """Start a call. The worker must not be busy."""
        if self.busy:
            raise RuntimeError("one call at a time")
        self.busy = True
        self._calls.put(call)

    def take(self, seconds: float) -> Done[T] | None:
        """The result, None when there is none after ``seconds``."""
        try:
            done = self._results.get(timeout=seconds) if seconds > 0 else self._results.get_nowait()
        except Empty:
            return None
        self.busy = False
        return done

    def _run(self) -> None:
        while True:
            call = self._calls.get()
            try:
                done = Done(value=call())
            except Exception as error:
                done = Done(error=error)
            self._results.put(done)
