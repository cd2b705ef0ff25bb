"""What imprint submit asks of sbatch, and what it leaves behind; a script on the path stands for sbatch."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import slurm.status
from configs.errors import DataError
from configs.recipe import load_recipe
from configs.sweep import load_points
from imprint import main
from slurm.arrays import Arrays, Call, Wait
from slurm.jobs import Experiment, Job
from slurm.status import JobStatus
from slurm.submission import Array, Submission, Task, submissions

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
        for point, job in [(experiment.recipe.point, job) for experiment in experiments for job in experiment.jobs()]:
            state = states.get((point, job.name), other)
            state, task = state if isinstance(state, tuple) else (state, "")
            found.append(JobStatus(point, job.name, job.array, state, slurm=task))
        return found

    monkeypatch.setattr(slurm.status, "statuses", statuses)


# ------------------------------------------------------------------------------------------------ what is submitted


def test_a_run_is_a_chain_of_arrays_of_one_task_each(folder: Path) -> None:
    assert submit() == 0
    assert calls(folder) == [
        "corpus.sbatch",
        "--dependency=afterany:101 plan.sbatch",
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
    assert calls(folder)[0] == "--dependency=afterany:12_1 plan.sbatch"


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
    assert re.search(r'^plan=\$\(sbatch --parsable "--dependency=afterany:\$\{corpus\}" \S+/plan.sbatch\)$', out, re.MULTILINE)
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


# ------------------------------------------------------------------------------------------------ arrays


def job(name: str, array: str, *needs: str) -> Job:
    return Job(name, "", [], lambda: None, Path(name), list(needs), array, Path())


def arrays(*points: Sequence[Job]) -> Arrays:
    names = [f"point-{number}" for number in range(len(points))]
    states = {(point, each.name): ("missing", "") for point, own in zip(names, points, strict=True) for each in own}
    return Arrays(names, points, states, list(range(len(points))))


def test_jobs_of_one_array_that_need_nothing_of_each_other_are_tasks_of_their_own() -> None:
    models = [job(f"eval-{name}", "eval", "items") for name in "abc"]
    found = arrays([job("items", ""), *models, job("report", "report", *(each.name for each in models))])
    assert found.tasks["eval"] == [Task("point-0", [f"eval-{name}"]) for name in "abc"]
    assert found.calls() == [
        Call("eval", [0, 1, 2], []),
        Call("report", [0], [Wait("afterok", 0)]),
    ]


def test_an_array_of_several_tasks_a_point_is_waited_for_by_the_tasks_of_the_point() -> None:
    models = [job(f"eval-{name}", "eval") for name in "ab"]
    found = arrays(*([*models, job("report", "report", "eval-a", "eval-b")] for _ in range(2)))
    assert found.calls()[1:] == [
        Call("report", [0], [Wait("afterok", 0, 0), Wait("afterok", 0, 1)]),
        Call("report", [1], [Wait("afterok", 0, 2), Wait("afterok", 0, 3)]),
    ]


def test_points_with_other_models_keep_their_index_in_every_array() -> None:
    def point(*models: str) -> list[Job]:
        trained = [job(f"train-{model}", f"train-{model}") for model in models]
        evaluated = [job(f"eval-{model}", f"eval-{model}", f"train-{model}") for model in models]
        return [*trained, *evaluated, job("report", "report", *(each.name for each in evaluated))]

    found = arrays(point("perturbed"), point("standard"), point("perturbed", "standard"))
    assert [task.jobs for task in found.tasks["train-standard"]] == [[], ["train-standard"], ["train-standard"]]
    assert found.calls()[4:] == [
        Call("report", [0], [Wait("aftercorr", 2)]),
        Call("report", [1], [Wait("aftercorr", 3)]),
        Call("report", [2], [Wait("aftercorr", 2), Wait("aftercorr", 3)]),
    ]


# ------------------------------------------------------------------------------------------------ the record


def test_a_submission_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Submission(tmp_path / "slurm/20261122-223501", "a.yaml", ["train.steps=5"])
    written.arrays = [Array("plan", 7, [Task("seed-1", ["plan"]), Task("seed-2", [])], [0]), Array("report", None, [], [])]
    written.write()
    assert submissions(tmp_path) == [written]


def test_submissions_come_oldest_first_also_of_one_second(tmp_path: Path) -> None:
    stamps = ["20251231-235959", "20261122-223501", "20261122-223501-2", "20261122-223501-10", "20261123-000000"]
    for stamp in reversed(stamps):
        Submission(tmp_path / "slurm" / stamp, "a.yaml", []).write()
    assert [found.folder.name for found in submissions(tmp_path)] == stamps


def test_a_new_submission_has_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "20261122-223501")
    for expected in ("20261122-223501", "20261122-223501-2", "20261122-223501-3"):
        new = Submission.new(tmp_path, "a.yaml", [])
        assert new.folder == tmp_path / "slurm" / expected
        new.write()


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: "{}", lambda text: json.dumps({"arrays": [{}]})])
def test_a_damaged_record_is_told_with_its_path(tmp_path: Path, damage: Callable[[str], str]) -> None:
    written = Submission(tmp_path / "slurm/20261122-223501", "a.yaml", [])
    written.write()
    path = written.folder / "submission.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=r"submission.json is damaged"):
        submissions(tmp_path)


def test_no_submission_is_no_error(tmp_path: Path) -> None:
    assert submissions(replace(Submission(tmp_path / "never", "", []), arrays=[]).folder) == []
