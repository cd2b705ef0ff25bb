"""The scripts that sbatch is given: what they ask for, how they read, and what they do when a training was stopped."""

import contextlib
import io
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from configs.errors import RecipeError
from configs.recipe import load_recipe
from configs.schema import Recipe
from imprint import main
from slurm.scripts import program, render, request
from slurm.submission import Submission, Task
from tests.cluster.slurm import Cluster

CONFIGS = Path(__file__).parents[2] / "configs"
HUBBLE = CONFIGS / "hubble-1b.yaml"
SECTION = re.compile(r"^# -{20} (\S+\.sbatch)$", re.MULTILINE)

GOLDEN = """\
#!/usr/bin/env bash
# Trains the model perturbed of 2 points of quickstart. Written by: imprint submit configs/quickstart.yaml 'sweep.seed=[1,2]'
# May be edited and submitted again: `sbatch FILE` starts every task, `sbatch --array=0 FILE` one. What is done is not done again.
#SBATCH --job-name=train-perturbed
#SBATCH --comment=/home/me/imprint/runs/quickstart/slurm/20261122-223501
#SBATCH --output=/home/me/imprint/runs/quickstart/slurm/20261122-223501/logs/train-perturbed-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --array=0-1%1
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --time=24:00:00
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --signal=USR1@120
#SBATCH --exclusive
# shellcheck disable=SC1090,SC1091

set -euo pipefail
cd /home/me/imprint

# The tasks: the folder of a run, and its jobs.
case "${SLURM_ARRAY_TASK_ID:?submit this script as a job array}" in
  0) run=runs/quickstart/seed-1 jobs=(train-perturbed) ;;
  1) run=runs/quickstart/seed-2 jobs=(train-perturbed) ;;
  *) echo "task $SLURM_ARRAY_TASK_ID is none of this script" >&2; exit 2 ;;
esac
task="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
echo "$(date '+%F %T') $(hostname) job $task start $((${SLURM_RESTART_COUNT:-0} + 1)): $run ${jobs[*]}"

set +u # modules and scripts that set up an environment may use variables that are not set
module load cuda/12.4
source ~/imprint/.venv/bin/activate
set -u

export PYTHONUNBUFFERED=1

# TERM, before a preemption or after scancel, goes to the training, too, which saves its state. This script outlives it.
trap 'echo "asked to end"' TERM
stopped="$run"/perturbed/stopped.json
rm -f "$stopped" # of the start before
status=0
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" imprint job "$run" "${jobs[@]}" || status=$?

# Stopped before its last step, by the time limit or a preemption: the same task queues again, to go on from the state it saved.
# One that was cancelled is no longer RUNNING here, and stays away.
if [ -e "$stopped" ] && [ "$(squeue --noheader --jobs="$task" --format=%T)" = RUNNING ]; then
  echo "saved its state before its last step: queues again, to go on"
  # not the number of the job alone, which may stand for the whole array
  scontrol requeue "$task" || echo "can't queue again: the command at the head of this script, with --missing, goes on" >&2
fi
exit "$status"
"""


def recipe(*settings: str) -> Recipe:
    return load_recipe(CONFIGS / "quickstart.yaml", ["name=quickstart", "slurm.program=imprint", *settings])


def script(
    array: str, *settings: str, here: Path = Path("/home/me/imprint"), points: int = 1, arguments: tuple[str, ...] = ()
) -> str:
    """The script of an array of some points, of which each does the job of the array's name."""
    settled = recipe(*settings)
    submission = Submission(here / "runs/quickstart/slurm/20261122-223501", "configs/quickstart.yaml", list(arguments))
    names = [f"seed-{number + 1}" for number in range(points)] if points > 1 else [""]
    tasks = [Task("", [array])] if array == "overview" else [Task(name, [array]) for name in names]
    return render(settled, array, tasks, {name: settled.folder / name for name in names}, submission, here)


def options(text: str) -> dict[str, str]:
    """The options in the #SBATCH lines; one that is there twice fails."""
    found = re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE)
    assert len(dict(found)) == len(found)
    return dict(found)


def shellcheck(folder: Path, scripts: Mapping[str, str]) -> str:
    """What shellcheck says of scripts, by name."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    for name, text in scripts.items():
        (folder / f"{name}.sbatch").write_text(text)
    return subprocess.run(["shellcheck", *folder.glob("*.sbatch")], capture_output=True, text=True).stdout


# ------------------------------------------------------------------------------------------------ as they read


def test_the_script_of_a_training_reads_as_ever() -> None:
    text = script(
        "train-perturbed",
        *("slurm.partition=gpu", "slurm.account=lab", "slurm.nodes=2", "slurm.gpus=4", "slurm.cpus=8", "slurm.parallel=1"),
        *(
            "slurm.modules=[cuda/12.4]",
            "slurm.setup=[source ~/imprint/.venv/bin/activate]",
            "slurm.train.options={exclusive: true}",
        ),
        points=2,
        arguments=("sweep.seed=[1,2]",),
    )
    assert text == GOLDEN


SETTINGS: dict[str, list[str]] = {
    "plain": [],
    "GPUs and cores": ["slurm.gpus=8", "slurm.cpus=6", "slurm.memory=200G"],
    "setup": ["slurm.modules=[cuda/12]", "slurm.setup=[source ~/x/bin/activate, export A=1]"],
    "pyxis": ["slurm.container=nvcr.io#nvidia/pytorch:26.01-py3", "slurm.mounts=['/data/my sets:/data']", "slurm.gpus=1"],
    "apptainer": ["slurm.container=my images/x.sif", "slurm.runtime=apptainer", "slurm.mounts=[/data]", "slurm.cpus=2"],
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_shellcheck_finds_nothing(tmp_path: Path, settings: str) -> None:
    arrays = ["corpus", "plan", "train-perturbed", "eval-perturbed", "report", "overview"]
    scripts = {array: script(array, *SETTINGS[settings], here=Path("/home/my imprint"), points=2) for array in arrays}
    assert shellcheck(tmp_path, scripts) == ""


def test_the_first_lines_are_comments_also_of_arguments_with_several_lines() -> None:
    text = script("plan", arguments=("slurm.setup=[a,\nrm -rf x]",))
    assert all(line.startswith("#") for line in text.partition("set -euo")[0].splitlines() if line)


# ------------------------------------------------------------------------------------------------ what they ask for


@pytest.mark.parametrize(
    ("array", "settings", "expected"),
    [
        ("train-perturbed", "slurm.nodes=4 slurm.gpus=8", "nodes=4 ntasks-per-node=8 gpus-per-node=8"),
        ("train-perturbed", "slurm.nodes=2 train.devices=4", "nodes=2 ntasks-per-node=2 gpus-per-node=None"),
        ("train-perturbed", "slurm.nodes=2 slurm.tasks=4", "nodes=2 ntasks-per-node=4 signal=USR1@120"),
        ("train-perturbed", "slurm.warning=60", "nodes=1 ntasks-per-node=1 signal=USR1@60"),
        ("corpus", "slurm.nodes=4 slurm.gpus=8 slurm.cpus=9", "nodes=1 ntasks-per-node=1 gpus-per-node=None cpus-per-task=9"),
        ("eval-perturbed", "slurm.nodes=4 slurm.gpus=8", "nodes=1 ntasks-per-node=1 gpus-per-node=1 signal=None"),
        ("eval-perturbed", "slurm.nodes=4 slurm.tasks=8", "nodes=1 ntasks-per-node=1 gpus-per-node=None"),
        ("eval-perturbed", "slurm.gpus=8 slurm.eval.gpus=0", "gpus-per-node=None"),
        ("plan", "slurm.time=9:00:00 slurm.plan.time=0:30:00 slurm.plan.partition=cpu", "time=0:30:00 partition=cpu"),
        ("plan", "slurm.partition=gpu slurm.constraint=a100|h100 slurm.qos=long", "partition=gpu constraint=a100|h100 qos=long"),
        ("plan", "slurm.options.no_requeue=true", "no-requeue= requeue=None"),
        ("plan", "slurm.options.requeue=false", "requeue=None"),
        ("train-perturbed", "slurm.options.signal=USR1@300", "signal=USR1@300"),
        ("plan", "slurm.memory=9G slurm.options.mem-per-cpu=2G", "mem=None mem-per-cpu=2G"),
        ("plan", "slurm.options.gres=disk:1 slurm.plan.options.gres=disk:2", "gres=disk:2"),
        ("plan", "slurm.parallel=3", "array=0 open-mode=append"),
    ],
)
def test_settings_become_options_of_sbatch(array: str, settings: str, expected: str) -> None:
    found = options(script(array, *settings.split(" ")))
    wanted = dict(pair.split("=", 1) for pair in expected.split(" "))
    assert {name: found.get(name, "None") for name in wanted} == wanted


def test_processes_that_nodes_cannot_share_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"train.devices is 4, which the 3 nodes of slurm.nodes can't share"):
        request(recipe("slurm.nodes=3", "train.devices=4"), "train")


def test_paths_with_spaces_and_signs_are_quoted() -> None:
    text = script("plan", here=Path("/home/my 100% run"))
    assert '#SBATCH --comment="/home/my 100% run/runs' in text
    assert '#SBATCH --output="/home/my 100%% run/runs' in text  # where a % begins a placeholder
    assert "cd '/home/my 100% run'" in text


def test_the_program_is_that_of_this_installation_unless_told_otherwise() -> None:
    settled = load_recipe(CONFIGS / "quickstart.yaml", [])
    assert program(settled.slurm).endswith("/bin/imprint")
    assert program(recipe("slurm.program=uv run imprint").slurm) == "uv run imprint"
    settled.slurm.container = "x.sif"
    assert program(settled.slurm) == "imprint"


def test_a_container_sees_where_runs_and_corpora_lie() -> None:
    text = script("plan", "slurm.container=x.sqsh", "slurm.mounts=[/data]", "cache=/scratch/cache", "runs=../runs")
    assert (
        "--container-mounts=/home/me/imprint:/home/me/imprint,/home/me/runs:/home/me/runs,/scratch/cache:/scratch/cache,/data:/data"
        in text
    )
    assert "--container-workdir=/home/me/imprint" in text


@pytest.mark.parametrize(("array", "expected"), [("eval-perturbed", True), ("plan", False)])
def test_apptainer_hands_over_gpus_only_where_there_are_some(array: str, expected: bool) -> None:
    text = script(array, "slurm.container=x.sif", "slurm.runtime=apptainer", "slurm.gpus=4", "train.global_batch=8")
    assert ("--nv" in text) == expected


# ------------------------------------------------------------------------------------------------ when a training was stopped


SRUN = 'echo "srun $*" >> calls.txt; test ! -e stops || echo "{}" > runs/quickstart/perturbed/stopped.json; exit $(cat status)'
PROGRAMS = {
    "srun": SRUN,
    "squeue": 'echo "squeue $*" >> calls.txt; cat state',
    "scontrol": 'echo "scontrol $*" >> calls.txt; test ! -e forbidden',
}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A folder in which the script of a training runs, as task 12_0 of job 12, with programs in place of SLURM's."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "runs/quickstart/perturbed").mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "status").write_text("75")
    (tmp_path / "state").write_text("RUNNING\n")
    (tmp_path / "train.sbatch").write_text(script("train-perturbed", here=tmp_path))
    return tmp_path


def start(task: Path, index: str = "0", **environment: str) -> subprocess.CompletedProcess[str]:
    numbers = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": index, "SLURM_JOB_ID": "12"}
    known: Mapping[str, str] = {"PATH": f"{task / 'bin'}:/usr/bin:/bin", **numbers, **environment}
    return subprocess.run(["bash", task / "train.sbatch"], env=known, capture_output=True, text=True)


def asked(task: Path) -> list[str]:
    return (task / "calls.txt").read_text().splitlines()


def test_a_stopped_training_queues_again_by_the_number_of_its_task(task: Path) -> None:
    (task / "stops").touch()
    ended = start(task)
    assert asked(task)[0] == "srun --kill-on-bad-exit=1 imprint job runs/quickstart train-perturbed"
    assert asked(task)[-1] == "scontrol requeue 12_0"
    assert "queues again" in ended.stdout


def test_a_stopped_training_that_was_cancelled_stays_away(task: Path) -> None:
    (task / "stops").touch()
    (task / "state").write_text("COMPLETING\n")
    assert start(task).returncode == 75
    assert not any("scontrol" in line for line in asked(task))


def test_where_requeue_is_forbidden_the_task_fails_and_says_what_goes_on(task: Path) -> None:
    (task / "stops").touch()
    (task / "forbidden").touch()
    ended = start(task)
    assert ended.returncode == 75
    assert "with --missing" in ended.stderr


def test_a_training_that_fails_does_not_queue_again_for_the_stop_before(task: Path) -> None:
    (task / "runs/quickstart/perturbed/stopped.json").write_text("{}")
    (task / "status").write_text("1")
    assert start(task).returncode == 1
    assert not any("scontrol" in line for line in asked(task))


def test_a_training_that_is_done_ends_well(task: Path) -> None:
    (task / "status").write_text("0")
    assert start(task).returncode == 0


def test_the_log_tells_when_and_where_and_which_start(task: Path) -> None:
    (task / "status").write_text("0")
    out = start(task, SLURM_RESTART_COUNT="2").stdout
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+ job 12_0 start 3: runs/quickstart train-perturbed\n", out)


def test_an_index_that_the_script_does_not_have_is_told(task: Path) -> None:
    ended = start(task, index="7")
    assert (ended.returncode, ended.stderr) == (2, "task 7 is none of this script\n")


# ------------------------------------------------------------------------------------------------ Hubble-1B on 4 nodes of 8 GPUs


@pytest.fixture(scope="module")
def hubble(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The scripts of a dry run of the recipe, by array."""
    folder, out = tmp_path_factory.mktemp("hubble"), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out):
        assert main(["submit", str(HUBBLE), "--dry-run"]) == 0
    assert list(folder.iterdir()) == []
    printed = SECTION.split(out.getvalue().partition("# -------------------- how")[0])
    return {Path(path).stem: text.strip() + "\n" for path, text in zip(printed[1::2], printed[2::2], strict=True)}


def test_hubble_trains_two_models_on_32_gpus_with_a_process_each(hubble: dict[str, str]) -> None:
    models = ["perturbed", "standard"]
    assert list(hubble) == ["corpus", "plan", *(f"train-{m}" for m in models), *(f"eval-{m}" for m in models), "report"]
    found = options(hubble["train-standard"])
    assert (found["nodes"], found["ntasks-per-node"], found["gpus-per-node"], found["time"]) == ("4", "8", "8", "24:00:00")


def test_shellcheck_finds_nothing_in_hubbles_scripts(hubble: dict[str, str], tmp_path: Path) -> None:
    assert shellcheck(tmp_path, hubble) == ""


def test_sbatch_would_take_hubbles_scripts(hubble: dict[str, str], cluster: Cluster, tmp_path: Path) -> None:
    if len(cluster.nodes) < 4 or cluster.gpus < 8:
        pytest.skip(f"the cluster has {len(cluster.nodes)} nodes of {cluster.gpus} GPUs; this needs 4 nodes of 8")
    for array, text in hubble.items():
        path = tmp_path / f"{array}.sbatch"
        path.write_text(text)
        ended = subprocess.run(["sbatch", "--test-only", path], capture_output=True, text=True)
        assert (ended.returncode, "to start at" in ended.stderr) == (0, True), ended.stderr


def test_sbatch_would_take_a_script_with_spaces_in_its_paths(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "train.sbatch"
    path.write_text(script("train-perturbed", "slurm.options.mail-user=a b#c", here=tmp_path / "my runs"))
    ended = subprocess.run(["sbatch", "--test-only", path], capture_output=True, text=True)
    assert (ended.returncode, "to start at" in ended.stderr) == (0, True), ended.stderr
