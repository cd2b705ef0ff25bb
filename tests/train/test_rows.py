"""Rows for passes that train nothing."""

from types import SimpleNamespace

import pytest

from configs.schema import Train
from train.rows import at_once, padded, shared


def test_rows_are_padded_on_the_right() -> None:
    assert padded([[5, 6], [7]]).tolist() == [[5, 6], [7, 0]]


@pytest.mark.parametrize(
    ("length", "vocabulary", "rows"),
    [
        (9, 1000, 7),  # 4 rows of 16 + 1 tokens are 68
        (68, 1000, 1),
        (500, 1000, 1),  # longer than a pass of training: one nevertheless
        (9, 2**24, 1),  # of fp32 logits 2**30 bytes hold 16 tokens
        (8, 2**24, 2),
    ],
)
def test_a_pass_has_no_more_tokens_than_one_of_training_nor_logits_than_a_device_holds(
    length: int, vocabulary: int, rows: int
) -> None:
    assert at_once(Train(micro_batch=4, sequence_length=16), length, vocabulary) == rows


def test_every_process_has_as_many_passes_and_no_row_is_in_two() -> None:
    shares = [shared(10, 2, SimpleNamespace(size=3, rank=rank)).tolist() for rank in range(3)]
    assert shares == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]  # 10 and 11 are no rows
