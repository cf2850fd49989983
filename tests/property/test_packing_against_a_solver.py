"""Packings of small instances against the best there are, by an exact solver."""

import pytest

from benchmarks.exact import Instance, instances
from ollama_fleet.planning.packing import Item, fits, levels_of, pack
from ollama_fleet.planning.scheduler import Footprint, ServerShape
from ollama_fleet.planning.versions import Generation

GIB = 2**30


def worths(instance: Instance) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bytes in memory by level: ours, and the solver's."""
    levels, best = levels_of(instance.items), instance.best()
    return pack(instance.items, instance, servers=instance.servers).worth(levels), tuple(best[one] for one in levels)


@pytest.mark.parametrize("generation", list(Generation))
def test_packed_memory_is_within_five_percent_of_the_best(generation: Generation) -> None:
    """Of the most important models in every instance; of all models, over all instances."""
    ours = best = 0
    for instance in instances(40, seed=7, generation=generation):
        mine, theirs = worths(instance)
        assert mine[0] >= 0.95 * theirs[0]
        ours, best = ours + sum(mine), best + sum(theirs)
    assert ours >= 0.95 * best


def test_on_several_gpus_it_is_close_even_to_a_seating_that_ollama_does_not_offer() -> None:
    ours = best = 0
    for instance in instances(25, seed=7, generation=Generation.IN_PROCESS, gpus=2):
        mine, theirs = worths(instance)
        ours, best = ours + sum(mine), best + sum(theirs)
    assert ours >= 0.95 * best


@pytest.mark.parametrize("generation", list(Generation))
def test_the_solver_s_program_says_what_the_simulation_says(generation: Generation) -> None:
    """On one server: whatever fits by the simulation fits by the program, and nothing else."""
    for instance in instances(40, seed=11, generation=generation):
        pinned = [instance.prints[item.name] for item in instance.items if item.pinned]
        guests = [instance.prints[item.name] for item in instance.items if not item.pinned]
        clash = any(item.clashes for item in instance.items)
        fit = not clash and fits(instance.shape, pinned, guests).misfit is None
        one = Instance(instance.items, instance.prints, instance.shape, 1)
        everything = sum(item.size for item in instance.items)
        assert (sum(one.best().values()) >= 0.999 * everything) is fit


def test_the_program_knows_ollama_s_prediction() -> None:
    """With a quantised cache a model fits that Ollama would evict another for."""
    prints = {"a": Footprint("a", 8 * GIB, 0, 20 * GIB), "b": Footprint("b", 8 * GIB, 0, 14 * GIB)}
    items = [Item(name, 8 * GIB) for name in prints]
    for generation, packed in ((Generation.LLAMA_SERVER, 8), (Generation.IN_PROCESS, 16)):
        found = Instance(items, prints, ServerShape(1, 24 * GIB, GIB, generation), 1).best()
        assert sum(found.values()) == pytest.approx(packed * GIB, rel=0.001)


def test_it_takes_a_few_times_the_questions_of_one_pass() -> None:
    asked = [0, 0]
    for instance in instances(40, seed=3, generation=Generation.LLAMA_SERVER):
        pack(instance.items, instance, servers=instance.servers)
        once = Instance(instance.items, instance.prints, instance.shape, instance.servers)
        pack(once.items, once, servers=once.servers, thorough=False)
        asked = [asked[0] + instance.asked, asked[1] + once.asked]
    assert asked[0] <= 4 * asked[1]
