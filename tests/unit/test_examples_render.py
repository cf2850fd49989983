"""Every example is a wish that can be planned and rendered once its models are known."""

import pytest

from tests.support.examples import FILES, planned


def test_there_are_examples() -> None:
    assert len(FILES) == 5


@pytest.mark.parametrize("name", FILES)
def test_an_example_can_be_planned_and_rendered(name: str) -> None:
    wishes = list(planned(name))
    assert wishes
    for wish in wishes:
        assert wish.plan.problems == ()
        assert len(wish.render()) == 5 * len(wish.plan.groups) > 0
