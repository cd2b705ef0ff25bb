"""What imprint submit asks of sbatch, and what it leaves behind; a script on the path stands for sbatch."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import slurm.status
from configs.errors import DataError
from configs.layout import CheckpointInfo
from configs.lock import Lock
from configs.recipe import load_recipe
from configs.sweep import load_points
from imprint import main
from slurm.jobs import Experiment
from slurm.status import JobStatus
from slurm.submission import Array, Submission, Task, submissions
from slurm.turn import turn
from tests.slurm.sweeps import EVAL, JOBS, TRAIN, FakeSlurm, Sweep, fake_slurm, line

RECIPE = """
name: small
corpus: {source: text, path: corpus.txt, tokenizer: {vocabulary: 300}}
insert:
  codes: {kind: canary, count: 6, text: "Code of {name}: {digits:2}."}
design: {copies: [0, 3], sizes: [2, 4]}
model: {layers: 1, width: 32, heads: 2}
train: {steps: 30, global_batch: 4, sequence_length: 64, warmup: 2}
"""
SWEEP = "sweep.seed=[1,2,3]"
POINTS = ["seed-1", "seed-2", "seed-3"]
SBATCH = """#!/bin/bash
calls={folder}/calls.txt
job=$((101 + $(wc -l < "$calls")))
if [ -e {folder}/refuse-$job ]; then
  echo "sbatch: error: invalid partition specified: gpuu" >&2
  echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2
  exit 1
fi
echo "$*" >> "$calls"
if [ -e {folder}/interrupt-$job ]; then kill -INT $PPID; fi
echo "$job;cluster"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with a recipe, where sbatch writes its arguments to calls.txt, and squeue knows of nothing."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    (tmp_path / "corpus.txt").write_text("Some words of a corpus. " * 100)
    (tmp_path / "calls.txt").touch()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"sbatch": SBATCH.replace("{folder}", str(tmp_path)), "squeue": "#!/bin/bash\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submit(*arguments: str) -> int:
    return main(["submit", "small.yaml", *arguments])


def calls(folder: Path) -> list[str]:
    """The arguments of sbatch in order, without --parsable, and with the names of the scripts alone."""
    return [re.sub(r"--parsable |\S+/(?=\S+\.sbatch)", "", line) for line in (folder / "calls.txt").read_text().splitlines()]


def record(folder: Path) -> Submission:
    return submissions(folder / "runs/small")[-1]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stand(monkeypatch: pytest.MonkeyPatch, states: Mapping[tuple[str, str], str | tuple[str, str]], other: str = "missing") -> None:
    """Let jobs, by point and name, have a state, or a state and a task of SLURM's; all others have `other`."""

    def statuses(experiments: Sequence) -> list[JobStatus]:
        found = []
        jobs = [(experiment.recipe.point, job.name, job.array) for experiment in experiments for job in experiment.jobs()]
        for point, job, array in [*jobs, *([("", "overview", "overview")] if len(experiments) > 1 else [])]:
            state = states.get((point, job), other)
            state, task = state if isinstance(state, tuple) else (state, "")
            found.append(JobStatus(point, job, array, state, slurm=task))
        return found

    monkeypatch.setattr(slurm.status, "statuses", statuses)


# ------------------------------------------------------------------------------------------------ what is submitted


def test_a_run_is_a_chain_of_arrays_of_one_task_each(folder: Path) -> None:
    assert submit() == 0
    assert calls(folder) == [
        "corpus.sbatch",
        "--dependency=afterok:101 --kill-on-invalid-dep=yes plan.sbatch",
        "--dependency=aftercorr:102 --kill-on-invalid-dep=yes train-perturbed.sbatch",
        "--dependency=aftercorr:103 --kill-on-invalid-dep=yes eval-perturbed.sbatch",
        "--dependency=aftercorr:104 --kill-on-invalid-dep=yes report.sbatch",
    ]


def test_points_of_a_sweep_are_tasks_and_share_the_task_of_their_corpus(folder: Path) -> None:
    assert submit(SWEEP) == 0
    corpus, plan, *_, overview = record(folder).arrays
    assert (corpus.submitted, [task.jobs for task in corpus.tasks]) == ([0], [["corpus"], [], []])
    assert plan.tasks == [Task(point, ["decontaminate", "plan"]) for point in POINTS]
    assert (overview.name, calls(folder)[-1]) == ("overview", "--dependency=afterany:105 overview.sbatch")


def test_points_of_different_corpora_tokenize_them_in_a_task_each(folder: Path) -> None:
    assert submit("sweep.corpus.tokenizer.vocabulary=[300,310]", "sweep.seed=[1,2]") == 0
    assert record(folder).arrays[0].submitted == [0, 2]
    assert calls(folder)[1] == "--dependency=afterany:101 plan.sbatch"  # which fails of none but the points of a failed corpus


def test_the_record_has_the_recipe_the_tasks_and_the_jobs_of_slurm(folder: Path) -> None:
    assert submit("train.steps=40", "name=small") == 0
    found = record(folder)
    assert (found.recipe, found.arguments) == ("small.yaml", ["train.steps=40", "name=small"])
    assert [(array.name, array.job) for array in found.arrays] == list(
        zip(["corpus", "plan", "train-perturbed", "eval-perturbed", "report"], range(101, 106), strict=True)
    )
    assert found.arrays[3] == Array("eval-perturbed", 104, [Task("", ["audit-perturbed", "eval-perturbed"])], [0])


def test_every_point_finds_its_configuration_in_its_folder(folder: Path) -> None:
    assert submit(SWEEP) == 0
    configurations = [(folder / "runs/small" / point / "config.yaml").read_text() for point in POINTS]
    assert [re.findall(r"^seed: (\d)", text, re.MULTILINE) for text in configurations] == [["1"], ["2"], ["3"]]


def test_the_table_says_what_waits_for_what_and_how_to_look_and_cancel(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert submit(SWEEP) == 0
    out = capsys.readouterr().out
    assert re.search(r"train-perturbed\W+103\W+3 \(0-2\)\W+plan 102, task by task", out)
    assert "imprint status small.yaml 'sweep.seed=[1,2,3]'" in out
    assert "scancel 101 102 103 104 105 106" in out


# ------------------------------------------------------------------------------------------------ only what is missing


def test_what_is_done_is_not_submitted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand(monkeypatch, {("", "corpus"): "done", ("", "decontaminate"): "done", ("", "plan"): "done"})
    assert submit() == 0
    assert calls(folder)[0] == "train-perturbed.sbatch"


def test_where_everything_is_done_nothing_is_submitted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    stand(monkeypatch, {}, other="done")
    before = left(folder)
    assert submit() == 0
    assert "Everything of small is done" in capsys.readouterr().out
    assert (calls(folder), left(folder)) == ([], before)


def test_what_is_under_way_is_not_submitted_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    stand(monkeypatch, {("", "train-perturbed"): ("running", "12_0")})
    before = left(folder)
    assert submit() == 2
    assert "train-perturbed is running as 12_0; `imprint submit small.yaml --missing`" in capsys.readouterr().err
    assert (calls(folder), left(folder)) == ([], before)


def test_missing_submits_the_failed_point_and_what_follows_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {("seed-2", "train-perturbed"): "failed"}
    failed |= {("seed-2", job): "missing" for job in ("audit-perturbed", "eval-perturbed", "report")}
    stand(monkeypatch, {**failed, ("seed-3", "train-perturbed"): ("running", "12_2")}, other="done")
    assert submit(SWEEP, "--missing") == 0
    assert calls(folder) == [
        "--array=1 train-perturbed.sbatch",
        "--array=1 --dependency=aftercorr:101 --kill-on-invalid-dep=yes eval-perturbed.sbatch",
        "--array=1 --dependency=aftercorr:102 --kill-on-invalid-dep=yes report.sbatch",
        "--dependency=afterany:103 overview.sbatch",
    ]


def test_missing_tasks_wait_for_tasks_that_are_under_way_in_a_call_of_their_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: dict = {(point, job): "done" for point in POINTS for job in ("corpus", "decontaminate", "plan", "train-perturbed")}
    states |= {
        ("seed-2", "train-perturbed"): ("queued", "12_1"),
        ("seed-3", "plan"): "failed",
        ("seed-3", "train-perturbed"): "missing",
    }
    stand(monkeypatch, states)
    assert submit(SWEEP, "--missing") == 0
    assert calls(folder)[:5] == [
        "--array=2 plan.sbatch",
        "--array=2 --dependency=aftercorr:101 --kill-on-invalid-dep=yes train-perturbed.sbatch",
        "--array=0 eval-perturbed.sbatch",
        "--array=1 --dependency=afterok:12_1 --kill-on-invalid-dep=yes eval-perturbed.sbatch",
        "--array=2 --dependency=aftercorr:102 --kill-on-invalid-dep=yes eval-perturbed.sbatch",
    ]


def test_a_corpus_that_is_made_for_another_point_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand(monkeypatch, {("seed-2", "corpus"): ("running", "12_1")})
    assert submit(SWEEP, "--missing") == 0
    assert calls(folder)[0] == "--dependency=afterok:12_1 --kill-on-invalid-dep=yes plan.sbatch"


def test_a_plan_notes_the_corpus_that_another_point_has_made(folder: Path) -> None:
    one, other = (Experiment(point) for point in load_points("small.yaml", ["sweep.seed=[1,2]"]))
    with one.folder(), other.folder():
        one.do(["corpus"])
        other.do(["decontaminate"])
    assert [each.missing() for each in other.jobs()[:2]] == [None, None]


def test_a_plan_whose_corpus_was_not_made_says_so(folder: Path) -> None:
    experiment = Experiment(load_recipe("small.yaml"))
    with experiment.folder(), pytest.raises(DataError, match=r"decontaminate needs the job corpus, of which .* says: not done yet"):
        experiment.do(["decontaminate"])


def test_what_runs_outside_slurm_is_not_waited_for_in_vain(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    stand(monkeypatch, {("", "corpus"): "running"})
    assert submit("--missing") == 2
    assert "corpus is running outside SLURM, which no task can wait for" in capsys.readouterr().err
    assert calls(folder) == []


def planned(*, outside: tuple[str, str], task: str = "") -> dict:
    """Three points that are planned, and one job that runs."""
    done = {(point, job): "done" for point in POINTS for job in ("corpus", "decontaminate", "plan")}
    return {**done, outside: ("running", task)}


def test_a_point_that_would_wait_for_what_runs_outside_slurm_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    stand(monkeypatch, planned(outside=("seed-2", "train-perturbed")))
    assert submit(SWEEP, "--missing") == 0
    assert calls(folder)[0] == "--array=0,2 train-perturbed.sbatch"
    assert calls(folder)[-2].startswith("--array=0,2 ")
    assert "Left out:         seed-2. train-perturbed of seed-2 is running outside SLURM" in capsys.readouterr().out
    assert (folder / "runs/small/seed-2/config.yaml").exists()  # for the overview


def test_the_configuration_of_a_point_that_is_left_out_stays_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand(monkeypatch, planned(outside=("seed-2", "train-perturbed")))
    with Experiment(load_points("small.yaml", ["sweep.seed=[1,2,3]", "train.threads=3"])[1]).folder():
        pass
    assert submit(SWEEP, "--missing") == 0
    assert "threads: 3" in (folder / "runs/small/seed-2/config.yaml").read_text()


def test_what_runs_outside_slurm_and_is_needed_by_nothing_leaves_nothing_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand(monkeypatch, {("seed-1", "report"): "failed", ("seed-2", "report"): "running"}, other="done")
    assert submit(SWEEP, "--missing") == 0
    assert calls(folder) == ["--array=0 report.sbatch", "--dependency=afterany:101 overview.sbatch"]


def test_a_shared_corpus_that_is_tokenized_outside_slurm_is_told_with_its_points(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    stand(monkeypatch, {("seed-1", "corpus"): "running"})
    before = left(folder)
    assert submit(SWEEP, "--missing") == 2
    assert "corpus of seed-1, corpus of seed-2, corpus of seed-3 are running outside SLURM" in capsys.readouterr().err
    assert (calls(folder), left(folder)) == ([], before)


@pytest.mark.parametrize("state", ["missing", "failed"])
def test_an_overview_that_is_missing_is_submitted_alone(folder: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    stand(monkeypatch, {("", "overview"): state, ("seed-3", "report"): ("running", "12_2")}, other="done")
    assert submit(SWEEP, "--missing") == 0
    assert calls(folder) == ["--dependency=afterany:12_2 overview.sbatch"]


def test_an_overview_that_is_queued_is_not_submitted_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    stand(monkeypatch, {("", "overview"): ("queued", "12_0")}, other="done")
    assert submit(SWEEP, "--missing") == 0
    assert "Nothing of small is missing: 1 jobs are queued or running" in capsys.readouterr().out
    assert calls(folder) == []


def test_the_limit_of_parallel_points_holds_for_a_part_of_an_array(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {("seed-2", job): "done" for job in ("corpus", "decontaminate", "plan", "train-perturbed")}
    stand(monkeypatch, states)
    assert submit(SWEEP, "slurm.parallel=1", "--missing") == 0
    assert calls(folder)[1] == "--array=0,2%1 --dependency=aftercorr:101 --kill-on-invalid-dep=yes train-perturbed.sbatch"


def test_other_settings_are_refused_while_jobs_of_the_run_are_under_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert submit() == 0
    stand(monkeypatch, {("", "train-perturbed"): ("running", "103_0")})
    assert submit("name=small", "train.steps=40", "--missing") == 2
    assert "under way" not in (said := capsys.readouterr().err)
    assert "queued or running with other settings (train.steps)" in said
    assert "steps: 30" in (folder / "runs/small/config.yaml").read_text()


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_where_the_first_script_is_refused_nothing_is_left_behind(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "refuse-101").touch()
    before = left(folder)
    assert submit(SWEEP) == 2
    assert "sbatch did not take corpus.sbatch: invalid partition specified: gpuu" in capsys.readouterr().err
    assert left(folder) == before


def test_a_run_that_was_there_stays_where_the_first_script_is_refused(folder: Path) -> None:
    (folder / "runs/small").mkdir(parents=True)
    (folder / "runs/small/notes.txt").touch()
    (folder / "refuse-101").touch()
    assert submit() == 2
    assert (folder / "runs/small/notes.txt").exists()
    assert not (folder / "runs/small/slurm").exists()


def test_of_two_submissions_at_once_the_second_is_refused(folder: Path, capsys: pytest.CaptureFixture) -> None:
    with turn(Path("runs/small").absolute()):
        lock = json.loads((folder / "runs/small/slurm/lock.json").read_text())
        (folder / "runs/small/slurm/lock.json").write_text(json.dumps({**lock, "process": os.getppid()}))
        assert submit() == 2
        (folder / "runs/small/slurm/lock.json").write_text(json.dumps(lock))
    assert "runs/small/slurm is being written by process" in capsys.readouterr().err
    assert calls(folder) == []
    assert not (folder / "runs").exists()


def test_what_another_process_came_to_write_stays_where_the_first_script_is_refused(folder: Path) -> None:
    (folder / "refuse-101").touch()
    lock = json.dumps({"host": "another", "process": 1})
    begin = f"echo '{lock}' > {folder}/runs/small/seed-2/lock.json\nmkdir {folder}/runs/small/seed-2/perturbed\n"
    (folder / "bin/sbatch").write_text(SBATCH.replace("{folder}", str(folder)).replace("job=", begin + "job=", 1))
    assert submit(SWEEP) == 2
    assert (folder / "runs/small/seed-2/config.yaml").exists()
    assert [path.name for path in (folder / "runs/small").iterdir()] == ["seed-2"]


def test_a_refusal_halfway_is_recorded_and_says_what_was_submitted(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "refuse-103").touch()
    assert submit() == 2
    said = capsys.readouterr().err
    assert "submitted before that: corpus (101), plan (102); `imprint submit small.yaml --missing` submits the rest" in said
    assert [array.job for array in record(folder).arrays] == [101, 102, None, None, None]


def test_an_interrupt_halfway_does_not_lose_the_job_that_was_just_submitted(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "interrupt-102").touch()
    assert submit() == 2
    assert "interrupted; submitted before that: corpus (101), plan (102);" in capsys.readouterr().err
    assert [array.job for array in record(folder).arrays] == [101, 102, None, None, None]


def test_without_sbatch_a_sentence_says_so_and_nothing_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (folder / "bin/sbatch").unlink()
    monkeypatch.setenv("PATH", str(folder / "bin"))
    before = left(folder)
    assert submit() == 2
    assert "there is no sbatch on this machine" in capsys.readouterr().err
    assert left(folder) == before


IMPOSSIBLE = {
    "train.global_batch=5 slurm.tasks=2": "can't make up train.global_batch = 5 rows",
    "model.architecture=nothing": "no Hugging Face causal language model",
    "design.sizes=[2,3]": "insert.codes.count is 6",
    "sweep.design.sizes=[[2,4],[2,3]]": "point sizes-2+3 of the sweep: insert.codes.count is 6",
    "slurm.nodes=2 train.devices=1": "train.devices is 1, which the 2 nodes",
    "slurm.tasks=2 train.devices=4": "train.devices is 4, but 1 nodes with 2 processes each make 2",
    "train.strategy=single slurm.tasks=2": "train.strategy is single",
    "name='my\\ run'": "imprint submit takes none with spaces",
    "sweep.train.devices=[1,2]": "ask SLURM for different things",
    "slurm.options.array=0-5": "slurm.options.array can't be set",
    "slurm.options.gpus-per-node=2": "has a setting of its own: slurm.gpus",
    "slurm.time=0:01:30": "slurm.warning is 120 seconds before the limit of slurm.time; it can be 1 to 89",
    "slurm.time=soon": "slurm.time: the time limit 'soon' is none that SLURM knows",
}


@pytest.mark.parametrize("settings", IMPOSSIBLE)
def test_the_impossible_is_refused_before_anything_is_written(folder: Path, settings: str, capsys: pytest.CaptureFixture) -> None:
    before = left(folder)
    assert submit(*(part.replace("\\ ", " ") for part in re.split(r"(?<!\\) ", settings))) == 2
    assert IMPOSSIBLE[settings] in capsys.readouterr().err
    assert (calls(folder), left(folder)) == ([], before)


# ------------------------------------------------------------------------------------------------ a dry run


def test_a_dry_run_needs_neither_slurm_nor_corpus_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.rmtree(folder / "bin")
    (folder / "corpus.txt").unlink()
    before = left(folder)
    assert submit(SWEEP, "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.count("#!/usr/bin/env bash") == 6
    assert "What is done already can't be seen from here" in out
    assert re.search(
        r'^plan=\$\(sbatch --parsable "--dependency=afterok:\$\{corpus\}" --kill-on-invalid-dep=yes \S+/plan.sbatch\)$',
        out,
        re.MULTILINE,
    )
    assert left(folder) == before


def test_the_scripts_of_a_dry_run_are_those_that_are_submitted(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert submit(SWEEP, "--dry-run") == 0
    printed = re.split(r"^# -{20} (\S+sbatch)$", capsys.readouterr().out.partition("# -------------------- how")[0], flags=re.M)
    scripts = {Path(path).name: text.strip() for path, text in zip(printed[1::2], printed[2::2], strict=True)}
    stamp = re.search(r"\d{8}-\d{6}", printed[1])
    assert submit(SWEEP) == 0
    found = record(folder).folder
    assert stamp
    assert scripts == {path.name: path.read_text().strip().replace(found.name, stamp[0]) for path in found.glob("*.sbatch")}


def test_a_dry_run_shows_only_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    stand(monkeypatch, {("", "report"): "failed"}, other="done")
    assert submit("--dry-run") == 0
    assert re.findall(r"^# -+ \S+/(\S+).sbatch$", capsys.readouterr().out, re.MULTILINE) == ["report"]


# ------------------------------------------------------------------------------------------------ with what status says


SEEDS = "sweep.seed=[1,2]"


@dataclass
class Cluster:
    """A fake SLURM, and two points of whose first submission it knows."""

    slurm: FakeSlurm
    sweep: Sweep
    known: Submission

    def submit_missing(self) -> int:
        folder = self.sweep.folder
        return main(["submit", f"{folder}/made.yaml", f"runs={folder}/runs", f"cache={folder}/cache", SEEDS, "--missing"])


@pytest.fixture
def cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Two trained points."""
    slurm, sweep = fake_slurm(folder / "slurm", monkeypatch), Sweep.of(folder, SEEDS)
    for point in (0, 1):
        sweep.finish("corpus", "plan", TRAIN, point=point)
        made_with = sweep.experiments[point].fingerprints.train("perturbed")
        last = sweep.experiments[point].run.model("perturbed").checkpoint(3000)
        CheckpointInfo("perturbed", 3000, 0, 0, "", "", made_with, {}).write(last)
    return Cluster(slurm, sweep, sweep.submit("20260101-000000", 12, EVAL, "report"))


def test_a_task_that_failed_and_what_was_cancelled_with_it_are_submitted_again(folder: Path, cluster: Cluster) -> None:
    cluster.sweep.finish(*JOBS[EVAL], "report")
    cancelled = line(cluster.known, "13_1", "CANCELLED", "DependencyNeverSatisfied", "report", nodes="")
    cluster.slurm.says(line(cluster.known, "12_1", "FAILED", array=EVAL), cancelled)
    assert cluster.submit_missing() == 0
    assert calls(folder) == [
        "--array=1 eval-perturbed.sbatch",
        "--array=1 --dependency=aftercorr:101 --kill-on-invalid-dep=yes report.sbatch",
        "--dependency=afterany:102 overview.sbatch",
    ]


def test_a_report_waits_for_the_evaluation_that_runs(folder: Path, cluster: Cluster) -> None:
    cluster.sweep.finish(*JOBS[EVAL], "report")
    cluster.slurm.says(line(cluster.known, "12_1", "RUNNING", array=EVAL), line(cluster.known, "13_1", "CANCELLED", array="report"))
    assert cluster.submit_missing() == 0
    assert calls(folder)[0] == "--array=1 --dependency=afterok:12_1 --kill-on-invalid-dep=yes report.sbatch"


def test_an_overview_that_was_cancelled_is_submitted_alone(folder: Path, cluster: Cluster) -> None:
    for point in (0, 1):
        cluster.sweep.finish(*JOBS[EVAL], "report", point=point)
    assert cluster.submit_missing() == 0
    assert calls(folder) == ["overview.sbatch"]


def test_a_point_that_is_evaluated_on_this_machine_is_left_out(
    folder: Path, cluster: Cluster, capsys: pytest.CaptureFixture
) -> None:
    with Lock(cluster.sweep.root() / "perturbed") as lock:
        held = lock.path.read_text()
        lock.path.write_text(json.dumps({**json.loads(held), "process": os.getppid()}))
        assert cluster.submit_missing() == 0
        lock.path.write_text(held)
    assert calls(folder)[:2] == [
        "--array=1 eval-perturbed.sbatch",
        "--array=1 --dependency=aftercorr:101 --kill-on-invalid-dep=yes report.sbatch",
    ]
    assert "audit-perturbed of seed-1 is running outside SLURM" in capsys.readouterr().out
