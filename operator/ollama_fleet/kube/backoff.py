"""Delays: exponential back-off with jitter, and a token bucket."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait after the nth failure: doubling from ``first`` up to ``limit``, then jittered down.

    A delay lies in [0.5, 1] of the computed value, so that many keys that failed together come back apart.
    """

    first: float = 1.0
    limit: float = 300.0
    rng: random.Random = field(default_factory=random.Random, compare=False)

    def delay(self, failures: int) -> float:
        """After ``failures`` (1 is the first) failures in a row."""
        # The exponent is capped before it is used: endless failures must not overflow.
        full = min(self.limit, self.first * 2.0 ** min(failures - 1, 32))
        return full * self.rng.uniform(0.5, 1.0)


class TokenBucket:
    """``rate`` tokens per second, at most ``burst`` at once; a reservation says how long to wait for it."""

    def __init__(self, *, rate: float, burst: float, clock: Callable[[], float]) -> None:
        """The bucket starts full."""
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = burst
        self._at = clock()

    def reserve(self) -> float:
        """Take a token, on credit if need be; returns the seconds until it is covered."""
        self._fill()
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)

    def take(self) -> bool:
        """Take a token if there is one."""
        self._fill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
