"""What imprint status shows, and says in the end."""

import io
import re

from rich.console import Console

from slurm.status import JobStatus
from slurm.status_table import QUOTED, last_words, show
from tests.slurm.sweeps import TRAIN


def shown(found: list[JobStatus], width: int = 150) -> str:
    console = Console(width=width, file=io.StringIO())
    show(found, "made", console)
    return console.file.getvalue()


def statuses_of(points: int, **of_training) -> list[JobStatus]:
    training = {"state": "running", "step": 812, "steps": 3000} | of_training
    return [
        each
        for number in range(points)
        for each in (JobStatus(f"seed-{number}", "plan", "plan", "done"), JobStatus(f"seed-{number}", TRAIN, TRAIN, **training))
    ]


def test_a_hundred_points_are_a_hundred_lines_that_fit_the_terminal():
    lines = shown(statuses_of(100), width=36).splitlines()
    assert len([line for line in lines if re.search(r"seed-\d+ +│ done +│ 27%", line)]) == 100
    assert max(map(len, lines)) <= 36


def stages_of(points: int) -> list[JobStatus]:
    arrays = [f"stage-{name}" for name in ("learn", "plain", "text", "words", "replay", "ewc", "kl", "lora")]
    return [
        JobStatus(f"seed-{number}", f"train-{array}", array, "done" if number else "missing", why="" if number else "not submitted")
        for number in range(points)
        for array in arrays
    ]


def test_arrays_that_do_not_fit_beside_each_other_are_rows():
    text = shown(stages_of(2), width=60)
    assert re.search(r"job +┃ seed-0 +┃ seed-1", text)
    assert re.search(r"stage-learn +│ missing +│ done", text)


def test_of_many_points_and_arrays_the_points_are_counted():
    text = shown(stages_of(40), width=60)
    assert re.search(r"job +┃ done ┃ running ┃ queued ┃ failed ┃ missing", text)
    assert re.search(r"stage-learn +│ +39 │ +│ +│ +│ +1 ", text)
    assert max(map(len, text.split("\n\n")[0].splitlines())) <= 60


def test_a_running_training_shows_its_steps():
    assert "running 812/3,000" in shown(statuses_of(1))


def test_a_failure_is_shown_with_its_job_point_word_log_and_last_lines():
    text = shown(statuses_of(1, state="failed", why="TIMEOUT", slurm="12_0", log="a/b.out", words=["one", "[two]"]))
    assert "FAILED train-perturbed of seed-0: TIMEOUT (12_0)\n  a/b.out\n  | one\n  | [two]\n" in text


def test_of_many_failures_the_first_are_quoted_and_all_are_named():
    found = [
        JobStatus(f"seed-{number}", TRAIN, TRAIN, "failed", "FAILED", f"12_{number}", f"{number}.out", ["said"])
        for number in range(100)
    ]
    text = shown(found)
    assert text.count("| said") == QUOTED
    assert text.count("FAILED train-perturbed of seed-") == 100


def test_jobs_that_wait_for_the_same_are_told_in_one_line():
    text = shown([JobStatus(f"seed-{number}", TRAIN, TRAIN, "queued", "waits in the queue (Resources)") for number in range(5)])
    names = ", ".join(f"{TRAIN} of seed-{number}" for number in range(3))
    assert f"queued {names} and 2 more: waits in the queue (Resources)\n" in text


def test_in_the_end_it_says_what_to_do_next(tmp_path):
    def said(*states: str) -> str:
        found = [JobStatus("", str(number), "a", state, slurm="1_0") for number, state in enumerate(states)]
        return "\n".join(last_words(found, ["my recipe.yaml", "seed=1"], tmp_path / "index.html"))

    assert said("done", "failed", "missing").startswith("3 jobs: 1 done, 1 failed, 1 missing\n")
    assert said("done", "failed").endswith("imprint submit 'my recipe.yaml' seed=1 --missing")
    assert said("done", "done").endswith(f"The report: {tmp_path / 'index.html'}")
    assert "--missing" not in said("done", "running", "queued")


def test_what_is_held_is_not_said_to_go_on_by_itself(tmp_path):
    held = JobStatus("", TRAIN, TRAIN, "queued", "held by SLURM (JobHeldUser); `scontrol release 12_0` lets it go on", "12_0")
    assert "released" in last_words([held], ["my.yaml"], tmp_path)[-1]


def test_the_overview_is_at_the_foot_of_the_table_and_not_a_point():
    text = shown([*statuses_of(2), JobStatus("", "overview", "overview", "queued", "waits for the reports")])
    assert text.index("seed-1 ") < text.index("overview: queued") < text.index("queued overview: waits for the reports")
    assert len(re.findall(r"^│", text, re.MULTILINE)) == 2


def test_not_everything_is_done_while_the_overview_is_missing(tmp_path):
    found = [*statuses_of(2, state="done"), JobStatus("", "overview", "overview", "missing", slurm="12_0")]
    assert last_words(found, ["my.yaml"], tmp_path)[-1].endswith("imprint submit my.yaml --missing")
