"""A step's rows shared out among devices and forward passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.batch import share_out
from configs.errors import RecipeError


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        ((8, 1, None, None), (8, 1)),
        ((8, 2, None, None), (4, 1)),
        ((8, 2, 1, None), (1, 4)),
        ((8, 2, None, 2), (2, 2)),
        ((8, 2, 2, 2), (2, 2)),
    ],
)
def test_what_is_not_given_is_what_is_left(given: tuple, shared: tuple) -> None:
    assert share_out(*given) == shared


def test_an_impossible_sharing_lists_the_possible_ones() -> None:
    with pytest.raises(RecipeError) as told:
        share_out(12, 2, 4, None)
    assert str(told.value) == (
        "train.devices = 2, train.micro_batch = 4 can't make up train.global_batch = 12 rows; "
        "possible (devices x micro_batch x accumulation): 2 x 6 x 1, 2 x 3 x 2, 2 x 2 x 3, 2 x 1 x 6"
    )


def test_devices_that_do_not_divide_the_batch_are_told_the_numbers_that_do() -> None:
    with pytest.raises(RecipeError, match=r"train.devices = 5 can't .*: 1 x 4 x 1, 1 x 2 x 2, 1 x 1 x 4, 2 x 2 x 1"):
        share_out(4, 5, None, None)


@given(st.integers(1, 200), st.integers(1, 16), st.none() | st.integers(1, 40), st.none() | st.integers(1, 40))
def test_a_sharing_makes_up_the_batch_or_is_refused(batch: int, devices: int, micro: int | None, passes: int | None) -> None:
    try:
        shared = share_out(batch, devices, micro, passes)
    except RecipeError:
        divides = batch % devices == 0
        rows = batch // devices
        assert not (
            divides
            and rows % (micro or 1) == 0
            and rows % (passes or 1) == 0
            and (not (micro and passes) or micro * passes == rows)
        )
        return
    assert devices * shared[0] * shared[1] == batch
    assert micro in (None, shared[0])
    assert passes in (None, shared[1])
