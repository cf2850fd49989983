"""When an objection closes a gate: hysteresis, the budget of a group, and its last server."""

from hypothesis import given
from hypothesis import strategies as st

from ollama_fleet.api.reasons import Reason
from ollama_fleet.controllers.demotion import HOLD_SECONDS, PROVE_SECONDS, Case, Demotions, Judgment, Ruling
from ollama_fleet.controllers.vram import Objection, Severity

SLOW = Objection(Reason.CPU_OFFLOAD, "slow", Severity.SOFT)
EVICTED = Objection(Reason.NOT_RESIDENT, "evicted", Severity.HARD)
LOST = Objection(Reason.GPU_UNHEALTHY, "lost", Severity.AT_ONCE)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Group:
    """Servers whose gates follow the rulings; ``starting`` are those that no report speaks of yet."""

    def __init__(self, servers: int, *, starting: int = 0) -> None:
        self.starting = starting
        self.clock = Clock()
        self.demotions = Demotions(self.clock)
        self.open = dict.fromkeys((f"pod-{number}" for number in range(servers)), True)
        self.demoted: set[str] = set()
        self.flips = 0

    def look(self, **against: Objection) -> dict[str, Judgment]:
        """One round; ``against`` is by pod, with a _ for the -."""
        objections = {name.replace("_", "-"): found for name, found in against.items()}
        cases = [
            Case(uid, open_, serving=open_, demoted=uid in self.demoted, objection=objections.get(uid))
            for uid, open_ in self.open.items()
        ]
        servers = len(self.open) + self.starting
        judged = self.demotions.rule(cases, servers=servers, serving=sum(self.open.values()))
        for uid, judgment in judged.items():
            self._follow(uid, judgment)
        return judged

    def _follow(self, uid: str, judgment: Judgment) -> None:
        wanted = {Ruling.OPEN: True, Ruling.SPARE: True, Ruling.CLOSE: False}.get(judgment.ruling, self.open[uid])
        self.flips += wanted != self.open[uid]
        if self.open[uid] and not wanted:
            self.demoted.add(uid)
        if wanted:
            self.demoted.discard(uid)
        self.open[uid] = wanted


def test_a_single_sample_closes_nothing() -> None:
    group = Group(2)
    judged = group.look(pod_0=EVICTED)
    assert judged["pod-0"] == Judgment(Ruling.WAIT, again=HOLD_SECONDS)
    group.clock.now += 1
    assert group.look()["pod-0"] == Judgment(Ruling.OPEN)
    group.clock.now += HOLD_SECONDS
    assert group.look(pod_0=EVICTED)["pod-0"].ruling is Ruling.WAIT
    assert group.flips == 0


def test_what_stands_closes_the_gate_within_ten_seconds_and_opens_it_again_when_it_is_gone_for_good() -> None:
    group = Group(2)
    group.look(pod_0=EVICTED)
    group.clock.now += HOLD_SECONDS
    assert group.look(pod_0=EVICTED)["pod-0"] == Judgment(Ruling.CLOSE)
    assert HOLD_SECONDS < 10
    assert group.look()["pod-0"] == Judgment(Ruling.WAIT, again=PROVE_SECONDS)
    group.clock.now += PROVE_SECONDS
    assert group.look()["pod-0"] == Judgment(Ruling.OPEN)


def test_a_lost_gpu_closes_at_once_even_the_last_gate() -> None:
    group = Group(1)
    assert group.look(pod_0=LOST)["pod-0"] == Judgment(Ruling.CLOSE)


def test_an_evicted_model_closes_even_the_last_gate_in_the_end() -> None:
    group = Group(1)
    group.look(pod_0=EVICTED)
    group.clock.now += HOLD_SECONDS
    assert group.look(pod_0=EVICTED)["pod-0"] == Judgment(Ruling.CLOSE)


def test_the_last_server_is_spared_what_is_only_slow_and_says_so() -> None:
    group = Group(1)
    group.look(pod_0=SLOW)
    group.clock.now += HOLD_SECONDS
    judgment = group.look(pod_0=SLOW)["pod-0"]
    assert (judgment.ruling, judgment.why) == (Ruling.SPARE, "it is the last ready server and keeps serving")


def test_of_many_slow_servers_a_quarter_leaves_service() -> None:
    group = Group(8)
    everybody = dict.fromkeys((f"pod_{number}" for number in range(8)), SLOW)
    group.look(**everybody)
    group.clock.now += HOLD_SECONDS
    judged = group.look(**everybody)
    assert [uid for uid, one in judged.items() if one.ruling is Ruling.CLOSE] == ["pod-0", "pod-1"]
    assert all(one.ruling is Ruling.SPARE for uid, one in judged.items() if uid not in {"pod-0", "pod-1"})
    group.clock.now += 60
    group.look(**everybody)
    assert sum(group.open.values()) == 6


def test_the_last_of_few_that_serve_is_spared_however_many_exist() -> None:
    group = Group(2, starting=6)
    group.look(pod_0=SLOW, pod_1=SLOW)
    group.clock.now += HOLD_SECONDS
    judged = group.look(pod_0=SLOW, pod_1=SLOW)
    assert (judged["pod-0"].ruling, judged["pod-1"].ruling) == (Ruling.CLOSE, Ruling.SPARE)
    assert judged["pod-1"].why == "it is the last ready server and keeps serving"


def test_a_slow_server_serves_on_when_the_only_other_one_fails_at_the_same_moment() -> None:
    group = Group(2)
    group.look(pod_0=SLOW)
    group.clock.now += HOLD_SECONDS
    judged = group.look(pod_0=SLOW, pod_1=LOST)
    assert (judged["pod-0"].ruling, judged["pod-1"].ruling) == (Ruling.SPARE, Ruling.CLOSE)


def test_hard_faults_count_against_the_budget_of_soft_ones() -> None:
    group = Group(4)
    group.look(pod_0=LOST, pod_1=SLOW)
    group.clock.now += HOLD_SECONDS
    judged = group.look(pod_0=LOST, pod_1=SLOW)
    assert judged["pod-1"].why == "it keeps serving until those that are out are back"


def test_a_pod_that_was_never_open_waits_for_nothing() -> None:
    demotions = Demotions(Clock())
    fresh = Case("new", open=False, serving=False, demoted=False, objection=None)
    assert demotions.rule([fresh], servers=1, serving=0)["new"] == Judgment(Ruling.OPEN)
    bad = Case("new", open=False, serving=False, demoted=False, objection=SLOW)
    assert demotions.rule([bad], servers=1, serving=0)["new"] == Judgment(Ruling.CLOSE)


def test_a_report_that_comes_after_the_models_are_warm_opens_a_new_gate_at_once() -> None:
    demotions = Demotions(Clock())
    for demoted in (False, True):
        behind = Case("new", open=False, serving=False, demoted=demoted, objection=EVICTED)
        assert demotions.rule([behind], servers=1, serving=0)["new"] == Judgment(Ruling.CLOSE)
    seen = Case("new", open=False, serving=False, demoted=True, objection=None)
    assert demotions.rule([seen], servers=1, serving=0)["new"] == Judgment(Ruling.OPEN)


def test_one_that_was_open_is_new_no_more() -> None:
    demotions = Demotions(Clock())
    for open_ in (False, True):
        demotions.rule([Case("a", open=open_, serving=open_, demoted=False, objection=None)], servers=2, serving=2)
    closed = Case("a", open=False, serving=False, demoted=True, objection=None)
    assert demotions.rule([closed], servers=2, serving=1)["a"] == Judgment(Ruling.WAIT, again=PROVE_SECONDS)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.1, 3.0)), min_size=1, max_size=200))
def test_samples_that_alternate_do_not_make_a_gate_flap(samples: list[tuple[bool, float]]) -> None:
    """Two flips of a gate are never closer than the shorter of the two times."""
    group = Group(2)
    last, closest = float("-inf"), float("inf")
    for bad, pause in samples:
        before = group.flips
        group.look(**({"pod_0": EVICTED} if bad else {}))
        if group.flips > before:
            closest, last = min(closest, group.clock.now - last), group.clock.now
        group.clock.now += pause
    assert closest >= min(HOLD_SECONDS, PROVE_SECONDS)


@given(
    servers=st.integers(8, 16),
    reported=st.integers(1, 4),
    rounds=st.lists(st.lists(st.sampled_from([None, SLOW, EVICTED, LOST]), min_size=4, max_size=4), max_size=12),
)
def test_soft_reasons_never_take_more_than_their_share_nor_the_last_server(
    servers: int, reported: int, rounds: list[list[Objection | None]]
) -> None:
    group = Group(reported, starting=servers - reported)
    for found in rounds:
        against = {f"pod_{number}": one for number, one in enumerate(found[:reported]) if one is not None}
        before = dict(group.open)
        judged = group.look(**against)
        closed = [uid for uid, was in before.items() if was and not group.open[uid]]
        soft = [uid for uid in closed if against[uid.replace("-", "_")].severity is Severity.SOFT]
        assert len(soft) <= servers // 4
        assert not soft or any(group.open.values())
        assert judged.keys() == group.open.keys()
        group.clock.now += HOLD_SECONDS
