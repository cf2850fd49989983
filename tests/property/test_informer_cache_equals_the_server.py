"""Events lost, replayed or late: after a list the cache is the server, and handlers have seen every step."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ollama_fleet.kube.cache import Cache, Changes, Name, name_of
from ollama_fleet.kube.transport import Json

names = st.sampled_from("abcd")


class CacheMachine(RuleBasedStateMachine):
    """A server with its history, a watch that may skip and go back, and what a handler has put together."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 0
        self.server: dict[str, Json] = {}
        self.history: list[tuple[str, Json]] = []
        self.position = 0
        self.cache = Cache({"color": lambda obj: [obj["color"]]})
        self.told: dict[Name, Json] = {}

    @rule(name=names, color=st.sampled_from(["red", "blue"]))
    def write(self, name: str, color: str) -> None:
        self.version += 1
        uid = self.server[name]["metadata"]["uid"] if name in self.server else f"uid-{self.version}"
        self.server[name] = self._object(name, uid, color)
        self.history.append(("PUT", self.server[name]))

    @rule(name=names)
    def remove(self, name: str) -> None:
        if name in self.server:
            self.version += 1
            gone = self.server.pop(name)
            self.history.append(("DELETED", self._object(name, gone["metadata"]["uid"], gone["color"])))

    @rule()
    def deliver(self) -> None:
        if self.position < len(self.history):
            self._take(*self.history[self.position])
            self.position += 1

    @rule(back=st.integers(1, 3))
    def replay(self, back: int) -> None:
        """The events from a little before, in order, as after a break."""
        for event in self.history[max(0, self.position - back) : self.position]:
            self._take(*event)

    @rule()
    def lose_and_list(self) -> None:
        self.position = len(self.history)
        self._tell(self.cache.replace(list(self.server.values())))

    @invariant()
    def the_cache_is_the_server_as_of_the_last_event(self) -> None:
        state: dict[Name, Json] = {}
        for kind, obj in self.history[: self.position]:
            if kind == "DELETED":
                del state[name_of(obj)]
            else:
                state[name_of(obj)] = obj
        assert self._content() == state

    @invariant()
    def handlers_know_what_the_cache_knows(self) -> None:
        assert self.told == self._content()

    @invariant()
    def indices_hold_exactly_the_objects(self) -> None:
        for color in ("red", "blue"):
            expected = {name for name, obj in self._content().items() if obj["color"] == color}
            assert {name_of(obj) for obj in self.cache.by_index("color", color)} == expected

    def teardown(self) -> None:
        while self.position < len(self.history):
            self.deliver()
        self.lose_and_list()

    def _take(self, kind: str, obj: Json) -> None:
        self._tell(self.cache.drop(obj) if kind == "DELETED" else self.cache.put(obj))

    def _tell(self, changes: Changes) -> None:
        for old, new in changes:
            if old is not None:
                assert self.told.pop(name_of(old)) == old, "a handler saw another state before"
            if new is not None:
                assert name_of(new) not in self.told
                self.told[name_of(new)] = new

    def _content(self) -> dict[Name, Json]:
        return {name_of(obj): obj for obj in self.cache.select(None)}

    def _object(self, name: str, uid: str, color: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": str(self.version)}
        return {"metadata": metadata, "color": color}


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=150, stateful_step_count=50)
