import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inject.permutation import Permutation, mix

quick = settings(max_examples=60, deadline=None)  # shared machines stall


@quick
@given(size=st.integers(1, 2000), key=st.integers(-(2**70), 2**70))
def test_every_element_is_hit_once_whatever_the_size_and_key(size, key):
    assert np.array_equal(np.sort(Permutation(size, key)(np.arange(size))), np.arange(size))


@quick
@given(size=st.integers(1, 2**62), key=st.integers(0, 2**64 - 1), data=st.data())
def test_images_of_any_size_stay_inside_and_apart(size, key, data):
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True))
    images = Permutation(size, key)(np.asarray(positions, np.int64))
    assert images.dtype == np.int64
    assert images.min() >= 0
    assert images.max() < size
    assert len(set(images.tolist())) == len(positions)


@quick
@given(size=st.integers(1, 500), key=st.integers(0, 2**32), data=st.data())
def test_an_image_does_not_depend_on_what_else_is_asked(size, key, data):
    permutation = Permutation(size, key)
    chosen = np.asarray(data.draw(st.lists(st.integers(0, size - 1), min_size=1)))
    assert np.array_equal(permutation(chosen), permutation(np.arange(size))[chosen])


def test_the_positions_asked_for_are_not_changed():
    positions = np.arange(100, dtype=np.uint64)
    Permutation(100, 1)(positions)
    assert np.array_equal(positions, np.arange(100))


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2**32 + 1), (5, 5 + 0x9E3779B97F4A7C15), (2**63, 0)])
def test_different_keys_give_different_orders(one, other):
    positions = np.arange(1000)
    assert (Permutation(1000, one)(positions) == Permutation(1000, other)(positions)).mean() < 0.02


def test_where_an_element_goes_is_uniform_over_keys():
    images = np.asarray([Permutation(10, key)(np.asarray([3]))[0] for key in range(2000)])
    counts = np.bincount(images, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_neighbours_do_not_stay_neighbours():
    images = Permutation(10_000, 1)(np.arange(10_000))
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.05


@pytest.mark.parametrize("size", [0, -1])
def test_a_permutation_of_nothing_is_refused(size):
    with pytest.raises(ValueError, match="at least one element"):
        Permutation(size, 1)


def test_the_order_of_a_key_never_changes():
    assert Permutation(10, key=1)(np.arange(10)).tolist() == [8, 2, 6, 1, 9, 3, 5, 4, 7, 0]
    assert Permutation(10**12, key=2**40 + 3)(np.asarray([0, 1, 10**12 - 1])).tolist() == [880520903295, 973806754158, 640876235435]


def test_mix_is_the_finalizer_of_splitmix64():
    golden = 0x9E3779B97F4A7C15  # SplitMix64 of seed 0: the outputs of Steele's reference implementation
    states = np.asarray([golden, 2 * golden % 2**64, 3 * golden % 2**64], np.uint64)
    assert mix(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
