"""The work queue against a model: no key is lost, doubled or in two hands, and its memory is bounded."""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ollama_fleet.kube.backoff import Backoff, TokenBucket
from ollama_fleet.kube.kinds import MODEL_SET, OLLAMA_DEPLOYMENT
from ollama_fleet.kube.queue import Key, Priority, WorkQueue

KEYS = [
    Key(kind, namespace, name)
    for kind in (MODEL_SET, OLLAMA_DEPLOYMENT)
    for namespace in ("a", "b")
    for name in ("1", "2")
]
keys = st.sampled_from(KEYS)


class QueueMachine(RuleBasedStateMachine):
    """The model: which keys owe a look now, which later and when, and which are in work."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queue = WorkQueue(
            clock=lambda: self.now,
            backoff=Backoff(first=1, limit=300, rng=random.Random(0)),
            retries=TokenBucket(rate=10, burst=100, clock=lambda: self.now),
        )
        self.due: dict[Key, float] = {}
        self.ready: set[Key] = set()
        self.active: set[Key] = set()

    @rule(key=keys, priority=st.sampled_from(Priority))
    def add(self, key: Key, priority: Priority) -> None:
        self.queue.add(key, priority=priority)
        self.ready.add(key)

    @rule(key=keys, delay=st.floats(0, 50), priority=st.sampled_from(Priority))
    def add_after(self, key: Key, delay: float, priority: Priority) -> None:
        self.queue.add_after(key, delay, priority=priority)
        if delay <= 0:
            self.ready.add(key)
        else:
            self.due[key] = min(self.due.get(key, float("inf")), self.now + delay)

    @rule(key=keys)
    def retry(self, key: Key) -> None:
        delay = self.queue.retry(key)
        assert 0.5 <= delay <= 300
        self.due[key] = min(self.due.get(key, float("inf")), self.now + delay)

    @rule(key=keys)
    def forget(self, key: Key) -> None:
        self.queue.forget(key)

    @rule(seconds=st.floats(0.01, 400))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def pop(self) -> None:
        self._come_due()
        waiting = self.ready - self.active
        key = self.queue.pop()
        if key is None:
            assert not waiting, "a key is ready and nobody gets it"
            return
        assert key not in self.active, "a key is in two hands"
        assert key in waiting, "a key came that nobody added"
        self.ready.discard(key)
        self.active.add(key)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.active, key=str)))
        self.active.discard(key)
        self.queue.done(key)

    @invariant()
    def the_next_time_is_known(self) -> None:
        expected = min(self.due.values(), default=None)
        assert self.queue.next_due() == expected

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.queue._heap) <= 2 * len(KEYS) + 64 + 1

    def teardown(self) -> None:
        """Whatever happened: everything that is owed comes out, once each."""
        for key in self.active:
            self.queue.done(key)
        self.active = set()
        self.now += 1000
        self._come_due()
        came = []
        while (key := self.queue.pop()) is not None:
            came.append(key)
        assert sorted(came, key=str) == sorted(self.ready, key=str)
        for key in came:
            self.queue.done(key)
        assert self.queue.depth() == self.queue.delayed() == 0
        assert self.queue.longest_active() is None

    def _come_due(self) -> None:
        for key in [key for key, due in self.due.items() if due <= self.now]:
            del self.due[key]
            self.ready.add(key)


TestWorkQueue = QueueMachine.TestCase
TestWorkQueue.settings = settings(max_examples=150, stateful_step_count=60)
