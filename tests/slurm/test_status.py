import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from configs.errors import DataError
from imprint import main
from slurm import status as status_module
from tests.slurm.sweeps import EVAL, JOBS, TRAIN, FakeSlurm, Sweep, fake_slurm, line, write_log

STAMP, LATER = "20260101-000000", "20260102-000000"
EVERYTHING = [job for jobs in JOBS.values() for job in jobs]
FAILURE = "imprint: something is impossible\nsrun: error: node1: task 0: Exited with exit code 2\n"


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    return fake_slurm(tmp_path / "bin", monkeypatch)


@pytest.fixture
def one(tmp_path, slurm) -> Sweep:
    """A run that is planned, and not trained."""
    sweep = Sweep.of(tmp_path)
    sweep.finish("corpus", "plan")
    return sweep


@pytest.fixture
def two(tmp_path, slurm) -> Sweep:
    """Two points, of which nothing is done, with different corpora."""
    return Sweep.of(tmp_path, "sweep.seed=[1,2]")


def silent(slurm: FakeSlurm) -> None:
    slurm.script("squeue", "exit 1")


def lock(folder, host="another", **more) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lock.json").write_text(json.dumps({"host": host, "process": 1, **more}))


# ------------------------------------------------------------------------------------------------ files alone


def test_a_run_of_which_nothing_exists_is_missing_and_not_submitted(tmp_path, slurm):
    found = Sweep.of(tmp_path).statuses().values()
    assert [status.job for status in found] == EVERYTHING
    assert {(status.state, status.why) for status in found} == {("missing", "not submitted")}
    assert not (tmp_path / "runs").exists()


def test_jobs_are_done_as_far_as_their_records_and_outputs_go(one):
    one.finish(TRAIN)
    assert list(one.states().values()) == ["done", "done", "done", "missing", "missing", "missing"]


def test_a_job_whose_settings_have_changed_is_missing_and_says_so(one, tmp_path):
    one.finish(TRAIN)
    found = Sweep.of(tmp_path, "train.learning_rate=1e-3", "name=made").statuses()
    assert (found["plan"].state, found[TRAIN].state, found[TRAIN].why) == ("done", "missing", "its settings or inputs have changed")


def test_a_job_whose_output_is_gone_is_missing_and_says_which(one):
    one.finish(TRAIN, EVAL)
    (one.root() / "perturbed/scores/effects.parquet").unlink()
    assert one.statuses()[EVAL].why == "effects.parquet is missing"


def test_a_damaged_record_is_a_failure_that_names_it(one):
    (one.root() / "jobs/plan.json").write_text("{")
    found = one.statuses()["plan"]
    assert found.state == "failed"
    assert str(one.root() / "jobs/plan.json") in found.why


def test_a_corpus_that_another_run_made_is_done(two, tmp_path):
    one = Sweep.of(tmp_path, "sweep.train.learning_rate=[1e-3,2e-3]")
    one.finish("corpus")
    assert [one.states()[job] for job in ("corpus", "corpus@1")] == ["done", "done"]
    assert two.states()["corpus@1"] == "missing"


def test_a_damaged_submission_is_one_sentence_and_status_two(one, tmp_path, capsys):
    one.submit(STAMP, 12, TRAIN).folder.joinpath("submission.json").write_text("{}")
    with pytest.raises(DataError, match=r"submission\.json is damaged"):
        one.statuses()
    assert main(["status", str(tmp_path / "made.yaml"), f"runs={tmp_path}/runs", f"cache={tmp_path}/cache"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ------------------------------------------------------------------------------------------------ running


def test_the_first_job_of_a_running_task_that_is_not_done_runs_and_those_after_it_are_queued(one, slurm):
    one.finish(TRAIN)
    submission = one.submit(STAMP, 12, EVAL)
    slurm.says(line(submission, "12_0", "RUNNING", array=EVAL))
    found = one.statuses()
    assert [found[job].state for job in JOBS[EVAL]] == ["running", "queued"]
    one.finish("audit-perturbed")
    assert [one.states()[job] for job in JOBS[EVAL]] == ["done", "running"]


def test_what_is_done_is_done_although_slurm_still_says_running(one, slurm):
    slurm.says(line(one.submit(STAMP, 12, TRAIN), "12_0", "RUNNING"))
    one.finish(TRAIN)
    assert one.states()[TRAIN] == "done"


def test_a_task_that_is_ending_runs(one, slurm):
    slurm.says(line(one.submit(STAMP, 12, TRAIN), "12_0", "COMPLETING"))
    assert (one.statuses()[TRAIN].state, one.statuses()[TRAIN].why) == ("running", "COMPLETING")


def test_a_running_training_tells_its_step_by_the_last_whole_line_of_a_long_log(one, slurm):
    slurm.says(line(one.submit(STAMP, 12, TRAIN), "12_0", "RUNNING"))
    assert (one.statuses()[TRAIN].step, one.statuses()[TRAIN].steps) == (None, 3000)
    metrics = one.root() / "perturbed/metrics.jsonl"
    metrics.parent.mkdir()
    metrics.write_text("".join(f'{{"step": {step}, "loss": 4.0}}\n' for step in range(10_000)) + '{"step": 10000, "lo')
    assert one.statuses()[TRAIN].step == 10_000  # after step 9,999
    metrics.write_text('{"step": 3, "loss": 4.0}\n{"step": 600, "held_out_loss": 4.0}\n')
    assert one.statuses()[TRAIN].step == 600


def test_a_job_whose_folder_a_process_of_this_machine_holds_runs_without_slurm(one):
    lock(one.root() / "perturbed", os.uname().nodename, process=os.getppid())
    found = one.statuses()
    assert [found[job].state for job in (TRAIN, *JOBS[EVAL])] == ["running", "missing", "missing"]
    one.finish(TRAIN)
    assert [one.states()[job] for job in (TRAIN, *JOBS[EVAL])] == ["done", "running", "missing"]


def test_the_lock_of_the_run_is_that_of_the_first_of_its_own_jobs_that_is_not_done(two):
    two.finish("corpus")
    lock(two.root())
    assert [two.states()[job] for job in ("corpus", "plan", TRAIN, "report")] == ["done", "running", "missing", "missing"]


def test_a_lock_of_a_process_that_is_gone_or_silent_is_no_sign_of_life(one):
    dead = subprocess.Popen(["true"])
    dead.wait()
    lock(one.root() / "perturbed", os.uname().nodename, process=dead.pid)
    assert one.states()[TRAIN] == "missing"
    lock(one.root() / "perturbed")
    assert one.states()[TRAIN] == "running"
    os.utime(one.root() / "perturbed/lock.json", (time.time() - 200,) * 2)
    assert one.states()[TRAIN] == "missing"


def test_the_lock_that_a_lost_node_left_does_not_hide_that_its_job_is_queued_again(one, slurm):
    submission = one.submit(STAMP, 12, TRAIN)
    lock(one.root() / "perturbed", "node1", job="77")
    slurm.says(line(submission, "12_0", "PENDING", "BeginTime", job="77"))
    assert one.states()[TRAIN] == "queued"
    slurm.says(line(submission, "12_0", "NODE_FAIL", job="77"))
    assert one.states()[TRAIN] == "failed"


# ------------------------------------------------------------------------------------------------ queued


def test_a_queued_job_says_what_it_waits_for(one, slurm):
    submission = one.submit(STAMP, 12, TRAIN, EVAL)
    slurm.says(line(submission, "12_0", "PENDING", "Priority"), line(submission, "13_0", "PENDING", "Dependency", EVAL))
    found = one.statuses()
    assert [(found[job].state, found[job].slurm) for job in (TRAIN, *JOBS[EVAL])] == [
        ("queued", "12_0"),
        ("queued", "13_0"),
        ("queued", "13_0"),
    ]
    assert found[TRAIN].why == "waits in the queue (Priority)"
    assert found["audit-perturbed"].why == f"waits for {TRAIN}"
    assert found[EVAL].why == "follows audit-perturbed, in the same task"


@pytest.mark.parametrize("reason", ["JobHeldUser", "JobHeldAdmin", "launch failed requeued held"])
def test_a_task_that_is_held_is_told_with_how_to_release_it(one, slurm, reason):
    submission = one.submit(STAMP, 12, TRAIN)
    slurm.says(line(submission, "12_0", "PENDING", reason))
    found = one.statuses()[TRAIN]
    assert (found.state, found.why) == ("queued", f"held by SLURM ({reason}); `scontrol release 12_0` lets it go on")


@pytest.mark.parametrize("reason", ["QOSUsageThreshold", "Priority"])
def test_a_task_that_only_waits_needs_no_release(one, slurm, reason):
    submission = one.submit(STAMP, 12, TRAIN)
    slurm.says(line(submission, "12_0", "PENDING", reason))
    assert one.statuses()[TRAIN].why == f"waits in the queue ({reason})"


@pytest.mark.parametrize("text", ['{"step": "x", "steps": 5, "signal": "SIGTERM"}', "[]", "{"])
def test_a_damaged_note_of_a_stop_is_as_none(one, text):
    (one.root() / "perturbed").mkdir(parents=True)
    (one.root() / "perturbed/stopped.json").write_text(text)
    assert (one.statuses()[TRAIN].state, one.statuses()[TRAIN].step) == ("missing", None)


def test_a_training_that_was_stopped_and_is_queued_again_says_where_it_goes_on(one, slurm):
    submission = one.submit(STAMP, 12, TRAIN)
    write_log(submission, "12_0", "saved its state\n")
    (one.root() / "perturbed").mkdir()
    (one.root() / "perturbed/stopped.json").write_text('{"step": 812, "steps": 3000, "signal": "SIGUSR1"}')
    slurm.says(line(submission, "12_0", "PENDING", "BeginTime"))
    found = one.statuses()[TRAIN]
    assert (found.state, found.why) == ("queued", "goes on from step 812 of 3,000; waits in the queue (BeginTime)")
    assert (found.step, found.steps) == (812, 3000)


def test_a_newer_task_in_the_queue_counts_and_not_the_failure_of_an_older(one, slurm):
    write_log(one.submit(STAMP, 12, TRAIN), "12_0", FAILURE)
    slurm.says(line(one.submit(LATER, 15, TRAIN), "15_0", "PENDING", "Resources"))
    found = one.statuses()[TRAIN]
    assert (found.state, found.slurm, found.log, found.words) == ("queued", "15_0", "", [])


def test_a_script_that_was_submitted_again_by_hand_is_found(one, slurm):
    submission = one.submit(STAMP, 12, TRAIN)
    old = line(submission, "12_0", "FAILED", "NonZeroExitCode")
    slurm.says(old, line(submission, "3_0", "RUNNING", submitted="2026-01-03T00:00:00"))
    assert (one.statuses()[TRAIN].state, one.statuses()[TRAIN].slurm) == ("running", "3_0")


def test_a_corpus_is_under_way_for_all_points_that_share_it(tmp_path, slurm):
    sweep = Sweep.of(tmp_path, "sweep.train.learning_rate=[1e-3,2e-3]")
    submission = sweep.submit(STAMP, 12, "corpus", "plan")
    slurm.says(
        line(submission, "12_0", "RUNNING", array="corpus"),
        *(line(submission, f"13_{i}", "PENDING", "Dependency", "plan") for i in (0, 1)),
    )
    found = sweep.statuses()
    assert [(found[job].state, found[job].slurm) for job in ("corpus", "corpus@1")] == [("running", "12_0")] * 2
    assert found["corpus@1"].why == "the same corpus as that of learning_rate-0.001"
    assert found["plan@1"].why == "waits for corpus"


# ------------------------------------------------------------------------------------------------ failed


@pytest.mark.parametrize("word", ["FAILED", "TIMEOUT", "OUT_OF_MEMORY", "CANCELLED", "PREEMPTED"])
def test_a_failure_has_slurms_word_and_the_last_words_of_its_log(word, one, slurm):
    submission = one.submit(STAMP, 12, TRAIN)
    log = write_log(submission, "12_0", "first\n" * 20 + "  perturbed: 1,200 of 3,000 steps, loss 4.100, 0:12 left\n\n" + FAILURE)
    slurm.says(line(submission, "12_0", word))
    found = one.statuses()[TRAIN]
    assert (found.state, found.why, found.slurm, found.log) == ("failed", word, "12_0", str(log))
    assert found.words == ["first"] * 6 + FAILURE.splitlines()


def test_a_lost_node_is_named(one, slurm):
    slurm.says(line(one.submit(STAMP, 12, TRAIN), "12_0", "NODE_FAIL", nodes="node7"))
    assert one.statuses()[TRAIN].why == "NODE_FAIL (node7)"


def test_the_log_is_that_of_the_task_that_failed_last(one, slurm):
    submission = one.submit(STAMP, 12, TRAIN)
    write_log(submission, "12_0", "newer by its time\n", seconds_ago=100)
    write_log(submission, "3_0", "by hand\n", seconds_ago=600)
    slurm.says(line(submission, "12_0", "FAILED"), line(submission, "3_0", "FAILED", submitted="2026-01-03T00:00:00"))
    assert one.statuses()[TRAIN].words == ["by hand"]


def test_what_slurm_has_forgotten_failed_where_it_left_a_log(one):
    write_log(one.submit(STAMP, 12, TRAIN), "12_0", FAILURE)
    found = one.statuses()[TRAIN]
    assert (found.state, found.why, found.slurm) == ("failed", "ended; SLURM knows no more of how", "12_0")
    assert found.words == FAILURE.splitlines()


def test_the_accounts_tell_how_a_job_ended_that_the_queue_has_forgotten(one, slurm):
    write_log(one.submit(STAMP, 12, TRAIN), "12_0", FAILURE)
    slurm.accounts(f"12_0|12|CANCELLED by 1000|None|2026-01-01T00:00:10|node1|{TRAIN}|")
    assert (one.statuses()[TRAIN].state, one.statuses()[TRAIN].why) == ("failed", "CANCELLED by 1000")


def test_of_a_task_with_two_jobs_the_first_that_is_not_done_failed(one, slurm):
    one.finish(TRAIN)
    submission = one.submit(STAMP, 12, EVAL, "report")
    write_log(submission, "12_0", FAILURE, EVAL)
    cancelled = line(submission, "13_0", "CANCELLED", "DependencyNeverSatisfied", "report", nodes="")
    slurm.says(line(submission, "12_0", "FAILED", array=EVAL), cancelled)
    found = one.statuses()
    assert [found[job].state for job in (*JOBS[EVAL], "report")] == ["failed", "missing", "missing"]
    assert found[EVAL].why == "waits for audit-perturbed, which failed"
    assert found["report"].why == "cancelled by SLURM: waits for audit-perturbed, which failed"


def test_what_still_waits_in_the_queue_for_a_job_that_failed_is_missing(one, slurm):
    submission = one.submit(STAMP, 12, TRAIN, EVAL, "report")
    waiting = [line(submission, task, "PENDING", "Dependency", array) for task, array in (("13_0", EVAL), ("14_0", "report"))]
    slurm.says(line(submission, "12_0", "FAILED"), *waiting)
    found = one.statuses()
    assert [found[job].state for job in (TRAIN, *JOBS[EVAL], "report")] == ["failed", "missing", "missing", "missing"]
    assert {found[job].why for job in (*JOBS[EVAL], "report")} == {f"waits for {TRAIN}, which failed"}


def test_what_waits_for_a_job_that_failed_and_was_submitted_again_is_queued(one, slurm):
    old, new = one.submit(STAMP, 12, TRAIN), one.submit(LATER, 15, TRAIN, EVAL)
    slurm.says(
        line(old, "12_0", "FAILED"),
        line(new, "15_0", "PENDING", "Priority"),
        line(new, "16_0", "PENDING", "Dependency", EVAL),
    )
    assert [one.states()[job] for job in (TRAIN, *JOBS[EVAL])] == ["queued", "queued", "queued"]


def test_a_job_that_was_cancelled_before_it_began_has_no_log(one, slurm):
    slurm.says(line(one.submit(STAMP, 12, TRAIN), "12_0", "CANCELLED", nodes=""))
    found = one.statuses()[TRAIN]
    assert (found.state, found.why, found.log) == ("failed", "CANCELLED before it began", "")


def test_the_failure_of_an_older_submission_is_not_that_of_a_newer_which_never_began(one):
    write_log(one.submit(STAMP, 12, TRAIN), "12_0", FAILURE)
    one.submit(LATER, 15, TRAIN)
    found = one.statuses()[TRAIN]
    assert (found.state, found.slurm, found.log) == ("missing", "15_0", "")


def test_a_job_that_was_done_since_it_was_submitted_did_not_fail_when_its_settings_change(one, tmp_path):
    write_log(one.submit(STAMP, 12, TRAIN), "12_0", "all is well\n")
    one.finish(TRAIN)
    found = Sweep.of(tmp_path, "train.learning_rate=1e-3", "name=made").statuses()[TRAIN]
    assert (found.state, found.why) == ("missing", "its settings or inputs have changed")


def test_a_task_that_completed_without_its_job_being_done_is_missing(one, slurm):
    slurm.says(line(one.submit(STAMP, 12, TRAIN), "12_0", "COMPLETED"))
    found = one.statuses()[TRAIN]
    assert (found.state, found.why) == ("missing", "SLURM says COMPLETED, but: not done yet")


def test_a_point_that_was_not_submitted_is_missing_beside_one_that_failed(two, slurm):
    two.finish("corpus", "plan")
    two.finish("corpus", "plan", point=1)
    submission = two.submit(STAMP, 12, TRAIN, points=[1])
    slurm.says(line(submission, "12_1", "FAILED"))
    found = two.statuses()
    assert [found[job].state for job in (TRAIN, f"{TRAIN}@1")] == ["missing", "failed"]
    assert found[TRAIN].why == "not submitted"


# ------------------------------------------------------------------------------------------------ races, and SLURM gone


def test_a_job_that_ends_between_slurms_answer_and_the_files_is_done(one, slurm):
    slurm.says(line(one.submit(STAMP, 12, TRAIN), "12_0", "RUNNING"))
    (folder := one.folder / "later").mkdir()
    there = one.experiments[0].run
    one.finish(TRAIN)
    shutil.move(there.job(TRAIN), folder)
    slurm.script("squeue", f"cat {slurm.folder}/squeue.txt; cp {folder}/* {there.root}/jobs/")
    assert one.states()[TRAIN] == "done"


def test_a_task_that_is_submitted_between_two_looks_is_queued_and_not_lost(one, slurm):
    submission = one.submit(STAMP, 12, TRAIN)
    slurm.says(line(submission, "12_0", "PENDING", "Priority"))
    again = f"test -e {slurm.folder}/asked && cat {slurm.folder}/squeue.txt; touch {slurm.folder}/asked"
    slurm.script("squeue", again)
    assert one.states()[TRAIN] == "queued"


def test_slurm_is_not_asked_where_nothing_was_submitted(one, monkeypatch):
    monkeypatch.setattr(status_module, "ask", lambda submitted: pytest.fail("asked"))
    assert one.states()[TRAIN] == "missing"


def test_slurm_is_asked_once_where_its_answer_leaves_nothing_open(one, slurm, monkeypatch):
    submission = one.submit(STAMP, 12, TRAIN)
    slurm.says(line(submission, "12_0", "RUNNING"))
    asked = []
    ask = status_module.ask
    monkeypatch.setattr(status_module, "ask", lambda submitted: asked.append(1) or ask(submitted))
    one.statuses()
    assert asked == [1]


def test_without_slurm_a_submitted_task_that_left_nothing_is_missing(one, slurm):
    silent(slurm)
    one.submit(STAMP, 12, TRAIN)
    found = one.statuses()[TRAIN]
    assert (found.state, found.why, found.slurm) == ("missing", "submitted, but SLURM does not answer", "12_0")


def test_without_slurm_a_log_that_has_been_silent_for_long_is_of_a_failure(one, slurm):
    silent(slurm)
    write_log(one.submit(STAMP, 12, TRAIN), "12_0", FAILURE)
    found = one.statuses()[TRAIN]
    assert (found.state, found.why, found.words) == ("failed", "ended; SLURM does not answer", FAILURE.splitlines())


def test_without_slurm_a_log_of_just_now_is_of_a_job_that_may_run(one, slurm):
    silent(slurm)
    write_log(one.submit(STAMP, 12, TRAIN), "12_0", "starts\n", seconds_ago=1)
    assert one.states()[TRAIN] == "running"


def test_without_slurm_a_training_that_was_stopped_did_not_fail(one, slurm):
    silent(slurm)
    write_log(one.submit(STAMP, 12, TRAIN), "12_0", "saved\n")
    (one.root() / "perturbed").mkdir()
    (one.root() / "perturbed/stopped.json").write_text('{"step": 812, "steps": 3000, "signal": "SIGUSR1"}')
    found = one.statuses()[TRAIN]
    assert found.state == "missing"
    assert found.why == "SLURM does not answer; stopped by SIGUSR1, goes on from step 812 of 3,000"


def test_without_slurm_a_lock_says_that_a_job_runs(one, slurm):
    silent(slurm)
    write_log(one.submit(STAMP, 12, TRAIN), "12_0", "starts\n")
    lock(one.root() / "perturbed", "node1", job="77")
    assert one.states()[TRAIN] == "running"


# ------------------------------------------------------------------------------------------------ the overview of a sweep


def reported(sweep):
    for point in range(len(sweep.experiments)):
        sweep.finish(*EVERYTHING, point=point)
    return sweep.home / "overview/index.html"


def write_page(page, seconds_ago=0.0):
    page.parent.mkdir(exist_ok=True)
    page.touch()
    os.utime(page, (time.time() - seconds_ago,) * 2)


def test_an_overview_is_done_where_its_page_is_there_and_no_report_is_newer(two):
    page = reported(two)
    assert (two.statuses()["overview"].state, two.statuses()["overview"].why) == ("missing", "not submitted")
    write_page(page)
    assert two.states()["overview"] == "done"
    write_page(page, seconds_ago=60)
    assert (two.statuses()["overview"].state, two.statuses()["overview"].why) == ("missing", "a report is newer")


def test_an_overview_of_some_points_is_done_until_another_report_is(two):
    two.finish(*EVERYTHING)
    write_page(two.home / "overview/index.html", seconds_ago=-1)
    assert (two.states()["report@1"], two.states()["overview"]) == ("missing", "done")


def test_an_overview_that_failed_has_slurms_word_and_its_last_words(two, slurm):
    reported(two)
    submission = two.submit(STAMP, 12, "overview")
    log = write_log(submission, "12_0", FAILURE, "overview")
    slurm.says(line(submission, "12_0", "OUT_OF_MEMORY", array="overview"))
    found = two.statuses()["overview"]
    assert (found.point, found.array, found.state, found.why) == ("", "overview", "failed", "OUT_OF_MEMORY")
    assert (found.log, found.words) == (str(log), FAILURE.splitlines())


def test_an_overview_waits_for_the_reports_also_for_one_that_failed(two, slurm):
    two.finish(*EVERYTHING)
    submission = two.submit(STAMP, 12, "report", "overview")
    failed = line(submission, "12_1", "FAILED", array="report")
    slurm.says(failed, line(submission, "13_0", "PENDING", "Dependency", "overview"))
    assert (two.statuses()["overview"].state, two.statuses()["overview"].why) == ("queued", "waits for the reports")
    slurm.says(failed, line(submission, "13_0", "RUNNING", array="overview"))
    assert (two.statuses()["overview"].state, two.statuses()["overview"].slurm) == ("running", "13_0")


def test_a_run_and_a_single_point_have_no_overview(one, tmp_path):
    assert "overview" not in one.states()
    assert "overview" not in Sweep.of(tmp_path, "sweep.seed=[1]").states()


def test_a_plan_whose_corpus_failed_is_missing_and_says_so(tmp_path, slurm):
    sweep = Sweep.of(tmp_path, "sweep.train.learning_rate=[1e-3,2e-3]")
    submission = sweep.submit(STAMP, 12, "corpus", "plan")
    cancelled = [line(submission, f"13_{i}", "CANCELLED", "DependencyNeverSatisfied", "plan", nodes="") for i in (0, 1)]
    slurm.says(line(submission, "12_0", "FAILED", array="corpus"), *cancelled)
    found = sweep.statuses()
    assert {(found[job].state, found[job].why) for job in ("plan", "plan@1")} == {
        ("missing", "cancelled by SLURM: waits for corpus, which failed")
    }


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_shows_a_column_an_array_and_no_points_of_what_is_no_sweep(one, tmp_path, capsys):
    arguments = [str(tmp_path / "made.yaml"), f"runs={tmp_path}/runs", f"cache={tmp_path}/cache"]
    assert main(["status", *arguments]) == 0
    out = capsys.readouterr().out
    assert re.search(r"│ done +│ done │ missing +│ missing +│ missing │", out)
    assert "point" not in out.split("missing")[0]
    assert "6 jobs: 2 done, 4 missing" in out


def test_json_is_all_that_is_printed_and_has_all_fields(two, slurm, tmp_path, capsys):
    slurm.says(line(two.submit(STAMP, 12, TRAIN), "12_1", "RUNNING"))
    arguments = [str(tmp_path / "made.yaml"), f"runs={tmp_path}/runs", f"cache={tmp_path}/cache", "sweep.seed=[1,2]"]
    assert main(["status", *arguments, "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert [(row["point"], row["job"]) for row in out] == [(f"seed-{seed}", job) for seed in (1, 2) for job in EVERYTHING] + [
        ("", "overview")
    ]
    row = out[len(EVERYTHING) + EVERYTHING.index(TRAIN)]
    assert row == {
        **{"point": "seed-2", "job": TRAIN, "array": TRAIN, "state": "running", "why": "", "slurm": "12_1", "log": ""},
        **{"words": [], "step": None, "steps": 3000},
    }


def test_the_configuration_of_a_run_is_as_good_as_its_recipe(two, slurm, capsys):
    two.finish("corpus", point=1)
    with two.experiments[1].folder():
        pass
    slurm.says(line(two.submit(STAMP, 12, "plan"), "12_1", "PENDING", "Priority", "plan"))
    assert main(["status", str(two.root(1) / "config.yaml"), "--json"]) == 0
    found = {row["job"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert (found["corpus"], found["plan"], found[TRAIN]) == ("done", "queued", "missing")


def test_a_wrong_setting_is_one_sentence_and_status_two(one, tmp_path, capsys):
    assert main(["status", str(tmp_path / "made.yaml"), "train.stepz=1"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_status_needs_no_library_that_takes_seconds_to_import(one, tmp_path):
    arguments = ["status", str(tmp_path / "made.yaml"), f"runs={tmp_path}/runs", f"cache={tmp_path}/cache", "--json"]
    heavy = ("torch", "transformers", "lightning", "pandas", "datasets", "scipy")
    code = f"import sys, imprint; imprint.main({arguments!r}); sys.exit(', '.join(m for m in {heavy!r} if m in sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr.strip() == ""
