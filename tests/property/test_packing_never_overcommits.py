"""Whatever the models and GPUs: what the planner seats fits, twice the same, and nobody moves without need."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_fleet.planning.packing import Item, Packing, fits, pack
from ollama_fleet.planning.scheduler import Footprint, ServerShape, seat
from ollama_fleet.planning.versions import Generation

GIB = 2**30


@dataclass
class Servers:
    """Servers of one shape for models of given footprints; counts how often it is asked."""

    shape: ServerShape
    prints: dict[str, Footprint]
    asked: int = field(default=0, compare=False)

    def holds(self, group: str, items: Sequence[Item]) -> bool:
        self.asked += 1
        pinned = [self.prints[item.name] for item in items if item.pinned]
        guests = [self.prints[item.name] for item in items if not item.pinned]
        return fits(self.shape, pinned, guests).misfit is None


def plain(shape: ServerShape, sizes: dict[str, int], **groups: str) -> tuple[Servers, list[Item]]:
    """Models of so many GiB, by name, and where they run."""
    prints = {name: Footprint(name, size * GIB, size * GIB, size * GIB) for name, size in sizes.items()}
    items = [Item(name, size * GIB, group=groups.get(name), settled=name in groups) for name, size in sizes.items()]
    return Servers(shape, prints), items


@st.composite
def servers(draw: st.DrawFn) -> ServerShape:
    return ServerShape(
        gpus=draw(st.sampled_from([1, 2, 4])),
        usable=draw(st.integers(8, 80)) * GIB,
        margin=GIB,
        generation=draw(st.sampled_from(Generation)),
        spread=draw(st.booleans()),
    )


@st.composite
def wishes(draw: st.DrawFn, *, most: int = 8) -> tuple[dict[str, Footprint], list[Item]]:
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=most))
    prints = {
        f"m{index}": Footprint(f"m{index}", whole=size * GIB, split=size * GIB // 2, predicted=int(0.9 * size * GIB))
        for index, size in enumerate(sizes)
    }
    items = [
        Item(name, print_.whole, pinned=draw(st.booleans()), priority=draw(st.integers(0, 3)))
        for name, print_ in prints.items()
    ]
    return prints, items


def names(packing: Packing) -> dict[str, list[str]]:
    return {group: [item.name for item in items] for group, items in packing.groups.items()}


@given(wishes(), servers(), st.integers(1, 4))
def test_every_model_has_one_place_or_a_reason_and_every_group_fits(
    wish: tuple[dict[str, Footprint], list[Item]], server: ServerShape, count: int
) -> None:
    prints, items = wish
    room = Servers(server, prints)
    found = pack(items, room, servers=count)
    placed = [name for group in names(found).values() for name in group]
    assert sorted([*placed, *(item.name for item in found.left_out)]) == sorted(item.name for item in items)
    assert len(found.groups) <= count
    for group in found.groups.values():
        pinned = [prints[item.name] for item in group if item.pinned]
        for guest in ([], *([prints[item.name]] for item in group if not item.pinned)):
            seating = fits(server, pinned, guest)
            assert seating.misfit is None
            assert all(used <= server.room for used in seating.used)
    for item in found.left_out:
        assert not any(room.holds(name, [*group, item]) for name, group in found.groups.items())


@given(wishes(), servers(), st.integers(1, 4), st.randoms())
def test_the_order_of_the_wish_does_not_matter(
    wish: tuple[dict[str, Footprint], list[Item]], server: ServerShape, count: int, random: object
) -> None:
    prints, items = wish
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    room = Servers(server, prints)
    assert names(pack(items, room, servers=count)) == names(pack(shuffled, room, servers=count))


@given(wishes(most=6), st.integers(1, 60), servers(), st.integers(1, 4), st.integers(0, 2))
def test_a_newcomer_moves_at_most_the_budget_and_turns_nobody_out(
    wish: tuple[dict[str, Footprint], list[Item]], size: int, server: ServerShape, count: int, budget: int
) -> None:
    prints, items = wish
    prints["new"] = Footprint("new", size * GIB, size * GIB // 2, int(0.9 * size * GIB))
    room = Servers(server, prints)
    before = pack(items, room, servers=count)
    running = [replace(item, group=group, settled=True) for group, members in before.groups.items() for item in members]
    after = pack([*running, Item("new", size * GIB)], room, servers=count, move_budget=budget)
    assert after.moves <= budget
    assert {item.name for item in after.left_out} <= {"new"}


def test_a_move_makes_room_where_the_budget_allows_one() -> None:
    server = ServerShape(1, 24 * GIB, GIB, Generation.IN_PROCESS)
    room, items = plain(server, {"a": 10, "b": 8, "new": 14}, a="g0", b="g1")
    assert pack(items, room, servers=2).left_out == ()
    room, tight = plain(server, {"c": 6, "a": 10, "b": 8, "new": 14}, a="g0", b="g1", c="g1")
    stuck = pack(tight, room, servers=2)
    assert [item.name for item in stuck.left_out] == ["new"]
    eased = pack(tight, room, servers=2, move_budget=1)
    assert (eased.left_out, eased.moves) == ((), 1)


def test_what_runs_is_not_asked_whether_it_fits() -> None:
    """A smaller GPU in the fleet, or a program that takes memory, must not tear down what works."""
    room, items = plain(ServerShape(1, 12 * GIB, GIB, Generation.IN_PROCESS), {"a": 10, "b": 8}, a="g0", b="g0")
    assert names(pack(items, room, servers=2)) == {"g0": ["a", "b"]}
    assert room.asked == 0


def test_a_new_group_does_not_take_the_name_of_one_that_runs() -> None:
    room, items = plain(ServerShape(1, 12 * GIB, GIB, Generation.IN_PROCESS), {"a": 10, "b": 10, "c": 10})
    items = [replace(items[0], group="g0"), replace(items[1], group="g0"), replace(items[2], group="g1")]
    assert names(pack(items, room, servers=3)) == {"g0": ["a"], "g1": ["c"], "g2": ["b"]}


@pytest.mark.parametrize("count", [50, 200, 800])
def test_models_that_fit_are_placed_with_few_questions(count: int) -> None:
    """One each for a new model: where it fits, and none again for groups that are full by their sum would be better
    still, but is the room's business."""
    room, items = plain(
        ServerShape(1, 80 * GIB, GIB, Generation.LLAMA_SERVER), {f"m{n}": 40 + n % 20 for n in range(count)}
    )
    assert len(pack(items, room, servers=count).groups) == count
    assert room.asked <= count * (count + 1) / 2


def test_a_clash_needs_another_server() -> None:
    room, _ = plain(ServerShape(1, 80 * GIB, GIB, Generation.LLAMA_SERVER), {"a": 1, "b": 1})
    items = [Item("a", GIB, clashes=frozenset({"b"})), Item("b", GIB, clashes=frozenset({"a"}))]
    assert names(pack(items, room, servers=2)) == {"g0": ["a"], "g1": ["b"]}
    assert [item.name for item in pack(items, room, servers=1).left_out] == ["b"]


def test_ollama_s_prediction_evicts_what_would_fit() -> None:
    """With a quantised cache the need is half of what Ollama predicts: the second model would push the first out."""
    server = ServerShape(1, 24 * GIB, GIB, Generation.LLAMA_SERVER)
    first, second = Footprint("a", 8 * GIB, 0, 8 * GIB), Footprint("b", 8 * GIB, 0, 14 * GIB)
    found = seat(server, [first, second])
    assert found.misfit is not None
    assert found.misfit.evicts
    older = ServerShape(1, 24 * GIB, GIB, Generation.IN_PROCESS)
    assert seat(older, [first, second]).misfit is None


def test_a_model_larger_than_a_gpu_is_spread_over_all_of_them() -> None:
    server = ServerShape(4, 24 * GIB, GIB, Generation.LLAMA_SERVER)
    found = seat(server, [Footprint("a", 60 * GIB, 17 * GIB, 55 * GIB), Footprint("b", 4 * GIB, 2 * GIB, 3 * GIB)])
    assert found.misfit is None
    assert [seated.gpus for seated in found.seats] == [(0, 1, 2, 3), (0,)]
    assert found.used == (21 * GIB, 17 * GIB, 17 * GIB, 17 * GIB)


@pytest.mark.parametrize("generation", list(Generation))
def test_a_server_that_spreads_puts_every_model_on_all_gpus(generation: Generation) -> None:
    server = ServerShape(2, 24 * GIB, GIB, generation, spread=True)
    found = seat(server, [Footprint("a", 4 * GIB, 3 * GIB, 4 * GIB), Footprint("b", 2 * GIB, 2 * GIB, 2 * GIB)])
    assert [seated.gpus for seated in found.seats] == [(0, 1), (0, 1)]
    assert found.used == (5 * GIB, 5 * GIB)


@pytest.mark.parametrize("generation", list(Generation))
def test_an_on_demand_model_only_needs_room_beside_the_pinned_ones(generation: Generation) -> None:
    server = ServerShape(1, 30 * GIB, GIB, generation)
    prints = {"p": Footprint("p", 10 * GIB, 0, 9 * GIB)}
    prints |= {f"o{i}": Footprint(f"o{i}", 12 * GIB, 0, 11 * GIB) for i in range(3)}
    items = [Item(name, one.whole, pinned=name == "p") for name, one in prints.items()]
    assert pack(items, Servers(server, prints), servers=1).left_out == ()
