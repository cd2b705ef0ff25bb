import pytest

from slurm.logs import TAIL_BYTES, last_line, last_words


@pytest.fixture
def log(tmp_path):
    return tmp_path / "a.out"


def test_the_last_words_are_the_last_lines_that_say_something(log):
    log.write_text("one\n\n two \nthree\n \n\n")
    assert last_words(log, lines=2) == [" two", "three"]


def test_progress_is_left_out(log):
    log.write_text(
        "perturbed: starts\n"
        "  perturbed: 1,200 of 3,600 steps, loss 4.100, 0:12 left\n"
        "  tokenizing: 120 documents, 40 documents/s\n"
        "Loading weights:  40%|####      | 2/5 [00:01<00:02]\rLoading weights: 100%|####| 5/5 [00:02<00:00]\n"
        "slurmstepd: error: *** JOB 12 CANCELLED ***\n"
    )
    assert last_words(log) == ["perturbed: starts", "slurmstepd: error: *** JOB 12 CANCELLED ***"]


def test_progress_is_better_than_nothing(log):
    log.write_text("  perturbed: 1,200 of 3,600 steps, loss 4.100, 0:12 left\n")
    assert last_words(log) == ["  perturbed: 1,200 of 3,600 steps, loss 4.100, 0:12 left"]


def test_colours_and_what_was_written_over_are_not_shown(log):
    log.write_text("\x1b[1;31mError\x1b[0m: no\r\nwaiting\rdone\n")
    assert last_words(log) == ["Error: no", "done"]


def test_of_a_long_log_only_the_end_is_read_whatever_its_bytes(log):
    log.write_bytes(b"\xff\xfe" * TAIL_BYTES + b"\nthe end\n")
    assert last_words(log)[-1] == "the end"


def test_a_log_that_is_gone_says_nothing(log):
    assert last_words(log) == []


@pytest.mark.parametrize(("text", "last"), [("", ""), ("torn", ""), ("a\n", "a"), ("a\nb\nto", "b")])
def test_the_last_line_is_a_whole_one(text, last, log):
    log.write_text(text)
    assert last_line(log) == last
