"""The benchmark of scoring: that it runs, at tiny sizes, and that two ways which answer differently are not timed."""

import numpy as np
import pytest

from benchmarks import scoring


@pytest.mark.parametrize("name", scoring.COMPARED)
def test_each_comparison_runs_once_both_ways_gave_the_same_answers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    scoring.main(["--quick", "--rounds", "2", "--only", name])

    expected = len(scoring.COMPARED[name])
    printed = capsys.readouterr().out
    assert printed.count("same answers, 2 rounds") == expected
    header, _, *rows = [line.strip("|").split("|") for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) == expected
    assert all(float(dict(zip(map(str.strip, header), row, strict=True))["theirs, s"]) > 0 for row in rows)


def test_answers_that_differ_are_not_timed() -> None:
    comparison = scoring.Comparison("a way that is wrong", 1.0, lambda: np.array([1.0]), lambda: np.array([1.001]))
    with pytest.raises(AssertionError, match="a way that is wrong"):
        scoring.measure(comparison, rounds=1, seconds=0)


def test_half_of_the_documents_are_not_emitted_to_their_end() -> None:
    """So that the answers which extraction compares are not all the same."""
    subject = scoring.Subject(scoring.SHAPES[scoring.QUICKEST], 300, scoring.QUICK)
    emitted = scoring.extraction(subject, documents=4).ours()
    lengths = np.array([28, 24, 20, 16])
    assert (emitted[1::2] == lengths).all()
    assert (emitted[::2] < lengths).any(axis=1).all()
