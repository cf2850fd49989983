"""Measurements beat formulas, failures make cautious, and the memory of both is bounded."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_fleet.cli import catalogue
from ollama_fleet.sizing.calibration import MAX_ENTRIES, Calibration, Key
from ollama_fleet.sizing.estimate import GIB, Estimate, estimate
from ollama_fleet.sizing.load import Engine, Load

KEY = Key("sha256:a", 8192, 4, "f16", flash_attention=True, gpu="L4", gpus=1, ollama="0.32")


def guess(*, gpus: int = 1) -> Estimate:
    model = catalogue.look_up("llama3.1:8b")
    assert model is not None
    return estimate(model, Load(context=8192, parallel=4), Engine.LLAMA_SERVER, gpus=gpus)


def test_a_measurement_takes_the_formula_s_place_and_says_so() -> None:
    found = Calibration().record(KEY, 8 * GIB).record(KEY, 9 * GIB).correct(guess(), KEY)
    assert found.confidence == "measured"
    assert found.parts[0].formula == "largest of 2 loads"
    assert found.total == pytest.approx(9 * GIB, rel=1e-6)
    assert found.reserve == pytest.approx(10 * GIB, rel=1e-6)


def test_the_reserve_keeps_some_room_however_equal_the_loads() -> None:
    found = Calibration().record(KEY, 8 * GIB).correct(guess(), KEY)
    assert found.reserve == pytest.approx(8 * GIB * 1.02, rel=1e-6)


def test_other_options_are_another_matter() -> None:
    known = Calibration().record(KEY, 8 * GIB)
    for other in (replace(KEY, context=4096), replace(KEY, ollama="0.33"), replace(KEY, gpu="T4")):
        assert known.correct(guess(), other) == guess()


def test_running_out_of_memory_raises_the_reserve_until_a_load_works() -> None:
    once = Calibration().out_of_memory(KEY)
    assert once.correct(guess(), KEY).reserve == pytest.approx(guess().reserve * 1.1, rel=1e-6)
    often = once
    for _ in range(20):
        often = often.out_of_memory(KEY)
    assert often.correct(guess(), KEY).reserve == pytest.approx(guess().reserve * 1.5, rel=1e-6)
    worked = often.record(KEY, 8 * GIB).correct(guess(), KEY)
    assert worked.reserve == pytest.approx(8 * GIB * 1.02, rel=1e-6)


def test_over_several_gpus_the_shares_keep_their_proportion() -> None:
    both = guess(gpus=2)
    found = Calibration().record(KEY, 2 * both.total).correct(both, KEY)
    assert [round(a / b) for a, b in zip(found.per_gpu, both.per_gpu, strict=True)] == [2, 2]


def test_entries_of_versions_that_nobody_runs_go() -> None:
    known = Calibration().record(KEY, GIB).record(replace(KEY, ollama="0.24"), GIB)
    assert set(known.only({"0.24"}).entries) == {replace(KEY, ollama="0.24")}


def test_the_oldest_is_forgotten_first() -> None:
    known = Calibration()
    for number in range(MAX_ENTRIES + 3):
        known = known.record(replace(KEY, context=number + 1), GIB).record(KEY, GIB)
    assert len(known.entries) == MAX_ENTRIES
    assert KEY in known.entries
    assert replace(KEY, context=1) not in known.entries


def test_nothing_is_no_measurement() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        Calibration().record(KEY, 0)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 2**40)), max_size=20))
def test_it_survives_being_written(loads: list[tuple[int, int]]) -> None:
    known = Calibration()
    for context, size in loads:
        known = known.record(replace(KEY, context=context), size)
    assert Calibration.from_wire(known.to_wire()) == known


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"entries": 3, "turn": 1}', '{"entries": [{"weights": 1}], "turn": 1}']
)
def test_what_makes_no_sense_is_dropped(text: str) -> None:
    assert dict(Calibration.from_wire(text).entries) == {}
