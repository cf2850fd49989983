"""Choosing a node for a server whose cache is filled first."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_fleet.planning.placement import Demand, Load, NodeView, choose


def node(name: str, *, cpu: int = 4, usable: bool = True, **more: Any) -> NodeView:
    return NodeView(name, usable, allocatable={"cpu": Decimal(cpu)}, **more)


def demand(cpu: int = 1, **more: Any) -> Demand:
    return Demand({"cpu": Decimal(cpu)}, **more)


def used(cpu: int, *, servers: int = 0, cached: bool = False) -> Load:
    return Load({"cpu": Decimal(cpu)}, servers, cached)


def test_a_filled_cache_comes_first_then_few_servers_then_the_name() -> None:
    nodes = [node("a"), node("b"), node("c")]
    assert choose(demand(), nodes, {}) == "a"
    assert choose(demand(), nodes, {"a": used(0, servers=1)}) == "b"
    assert choose(demand(), nodes, {"c": used(0, servers=2, cached=True)}) == "c"


def test_nodes_that_could_not_take_the_models_come_last_the_latest_at_the_end() -> None:
    nodes = [node("a"), node("b"), node("c")]
    loads = {"a": Load(failed=2.0), "b": Load(failed=1.0), "c": used(0, servers=9)}
    assert choose(demand(), nodes, loads) == "c"
    assert choose(demand(), nodes[:2], loads) == "b"


def test_what_is_taken_counts() -> None:
    assert choose(demand(2), [node("a"), node("b")], {"a": used(3)}) == "b"
    assert choose(demand(2), [node("a")], {"a": used(3)}) is None
    assert choose(Demand({"nvidia.com/gpu": Decimal(1)}), [node("a")], {}) is None


def test_cordoned_and_lost_nodes_take_nothing() -> None:
    assert choose(demand(), [node("a", usable=False)], {}) is None


@pytest.mark.parametrize(
    ("operator", "values", "fits"),
    [
        ("In", ["x"], True),
        ("In", ["y"], False),
        ("NotIn", ["y"], True),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
    ],
)
def test_required_affinity_is_read_as_the_scheduler_does(operator: str, values: list[str], *, fits: bool) -> None:
    terms = [{"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]}]
    found = choose(demand(terms=terms), [node("a", labels={"zone": "x"})], {})
    assert (found == "a") is fits


def test_numbers_compare_as_numbers() -> None:
    terms = [{"matchExpressions": [{"key": "memory", "operator": "Gt", "values": ["22000"]}]}]
    nodes = [node("small", labels={"memory": "9000"}), node("large", labels={"memory": "23034"}), node("none")]
    assert choose(demand(terms=terms), nodes, {}) == "large"


def named(*names: str, operator: str = "In") -> dict[str, Any]:
    return {"matchFields": [{"key": "metadata.name", "operator": operator, "values": [name]} for name in names]}


def test_a_term_may_name_nodes() -> None:
    nodes = [node("a"), node("b"), node("c", labels={"zone": "x"})]
    assert choose(demand(terms=[named("b")]), nodes, {}) == "b"
    assert choose(demand(terms=[named("c"), named("b")]), nodes, {}) == "b"
    assert choose(demand(terms=[named("a", operator="NotIn")]), nodes, {}) == "b"
    assert choose(demand(terms=[named("b", "c")]), nodes, {}) is None, "all fields of a term must hold"
    zone = {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}
    assert choose(demand(terms=[zone | named("a")]), nodes, {}) is None
    assert choose(demand(terms=[zone | named("c")]), nodes, {}) == "c"


def test_a_term_that_asks_for_nothing_takes_no_node_as_with_the_scheduler() -> None:
    assert choose(demand(terms=[{}]), [node("a")], {}) is None
    assert choose(demand(terms=[{}, named("a")]), [node("a")], {}) == "a"


def test_one_of_several_terms_is_enough_and_the_selector_always_counts() -> None:
    terms = [{"matchExpressions": [{"key": key, "operator": "Exists"}]} for key in ("one", "two")]
    assert choose(demand(terms=terms), [node("a", labels={"two": ""})], {}) == "a"
    assert choose(demand(terms=terms, selector={"x": "y"}), [node("a", labels={"two": ""})], {}) is None


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "value": "yes", "effect": "NoSchedule"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
    ],
)
def test_taints_need_a_toleration(toleration: dict[str, Any], *, fits: bool) -> None:
    tainted = node("a", taints=({"key": "gpu", "value": "yes", "effect": "NoSchedule"},))
    assert choose(demand(), [tainted], {}) is None
    assert (choose(demand(tolerations=[toleration]), [tainted], {}) == "a") is fits


def test_a_soft_taint_is_none() -> None:
    assert choose(demand(), [node("a", taints=({"key": "k", "effect": "PreferNoSchedule"},))], {}) == "a"


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1),
    st.integers(1, 8),
)
def test_a_choice_always_fits_and_does_not_depend_on_order(nodes: dict[str, tuple[int, int]], cpu: int) -> None:
    views = [node(name, cpu=room) for name, (room, _) in nodes.items()]
    loads = {name: used(taken) for name, (_, taken) in nodes.items()}
    found = choose(demand(cpu), views, loads)
    assert found == choose(demand(cpu), reversed(views), loads)
    fitting = {name for name, (room, taken) in nodes.items() if taken + cpu <= room}
    assert found in fitting if fitting else found is None
