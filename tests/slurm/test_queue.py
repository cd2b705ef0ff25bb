import time
from pathlib import Path

import pytest

from slurm import queue
from slurm.queue import Place, ask, recall
from slurm.submission import Array, Submission, Task
from tests.slurm.sweeps import FakeSlurm, fake_slurm, line

ACCOUNTED = "12_1|91|NODE_FAIL|None|2026-11-22T22:40:00|node[1-2]|train-perturbed|"


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    return fake_slurm(tmp_path / "bin", monkeypatch)


@pytest.fixture
def submission(tmp_path) -> Submission:
    tasks = [Task("seed-1", ["train-perturbed"]), Task("seed-2", ["train-perturbed"])]
    return Submission(tmp_path / "runs/a|b/slurm/20261122-223501", "a.yaml", [], [Array("train-perturbed", 12, tasks, [0, 1])])


def test_a_task_is_found_by_the_folder_of_its_submission_array_and_index(slurm, submission):
    slurm.says(line(submission, "12_1", "RUNNING"))
    (task,) = ask([submission]).at(Place(str(submission.folder), "train-perturbed", 1))
    assert (task.name, task.state, task.reason, task.nodes, task.runs) == ("12_1", "RUNNING", "", "node1", True)


def test_how_a_user_likes_to_see_the_queue_does_not_matter(slurm, submission, monkeypatch):
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    monkeypatch.setenv("SQUEUE_PARTITION", "gpu")
    slurm.says(line(submission, "12_1", "RUNNING"))
    slurm.script("squeue", f'test "$SLURM_TIME_FORMAT,$SQUEUE_PARTITION" = standard, && cat {slurm.folder}/squeue.txt')
    assert [task.name for task in ask([submission]).tasks] == ["12_1"]


def test_a_task_of_the_same_number_that_is_not_of_these_submissions_is_left_out(slurm, submission):
    slurm.says(line(submission, "12_1", "RUNNING", comment="/another/slurm/20261122-223501"))
    assert ask([submission]).tasks == []


def test_a_task_of_another_number_is_found_and_counts_as_the_newest(slurm, submission):
    first = line(submission, "12_1", "FAILED", "NonZeroExitCode")
    slurm.says(line(submission, "5_1", "PENDING", "Priority", submitted="2026-01-01T00:00:01"), first)
    found = ask([submission]).at(Place(str(submission.folder), "train-perturbed", 1))
    assert [task.name for task in found] == ["12_1", "5_1"]
    assert [task.waits for task in found] == [False, True]


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "SIGNALING"])
def test_a_task_that_holds_its_nodes_runs(state, slurm, submission):
    slurm.says(line(submission, "12_1", state))
    assert [task.runs for task in ask([submission]).tasks] == [True]


@pytest.mark.parametrize(
    "state", ["FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "CANCELLED", "PREEMPTED", "BOOT_FAIL", "DEADLINE"]
)
def test_a_task_that_is_neither_waiting_nor_running_has_ended(state, slurm, submission):
    slurm.says(line(submission, "12_1", state))
    assert [task.ended for task in ask([submission]).tasks] == [True]


def test_lines_of_jobs_that_are_no_arrays_and_half_a_line_are_left_out(slurm, submission):
    slurm.says(line(submission, "12_N/A", "RUNNING"), line(submission, "12_1", "RUNNING")[:30], "")
    assert ask([submission]).tasks == []


def test_no_answer_is_told_from_an_empty_one(slurm, submission):
    assert ask([submission]).tasks == []
    slurm.script("squeue", "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    assert ask([submission]) is None


def test_where_there_is_no_squeue_there_is_no_answer(slurm, submission, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert ask([submission]) is None


def test_an_answer_that_takes_too_long_is_none(slurm, submission, monkeypatch):
    monkeypatch.setattr(queue, "SECONDS", 0.2)
    slurm.script("squeue", "exec sleep 60")
    start = time.monotonic()
    assert ask([submission]) is None
    assert time.monotonic() - start < 20


def test_accounts_without_comments_are_matched_by_number_name_and_time(slurm, submission):
    slurm.accounts(ACCOUNTED)
    (task,) = recall([submission]).tasks
    assert (task.place, task.state) == (Place(str(submission.folder), "train-perturbed", 1), "NODE_FAIL")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("12_1", "13_1"),
        ("train-perturbed", "train-other"),
        ("T22:40:00", "T22:30:00"),
        ("NODE_FAIL", "RUNNING"),
        ("12_1", "12_[0-1]"),
    ],
)
def test_accounts_of_another_number_name_or_time_or_of_what_has_not_ended_are_left_out(old, new, slurm, submission):
    slurm.accounts(ACCOUNTED.replace(old, new))
    assert recall([submission]).tasks == []


def test_an_account_whose_comment_names_the_submission_is_found_whatever_its_number(slurm, submission):
    slurm.accounts(ACCOUNTED.replace("12_1", "77_0") + str(submission.folder))
    (task,) = recall([submission]).tasks
    assert task.place == Place(str(submission.folder), "train-perturbed", 0)


def test_where_no_accounts_are_kept_nothing_is_recalled(slurm, submission):
    assert recall([submission]).tasks == []


def test_a_folder_that_is_reached_by_a_link_is_the_same(slurm, submission, tmp_path):
    submission.folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    linked = Submission(tmp_path / "link" / Path(*submission.folder.parts[-3:]), "a.yaml", [], submission.arrays)
    slurm.says(line(submission, "12_0", "RUNNING"))
    assert [task.place.folder for task in ask([linked]).tasks] == [str(linked.folder)]
