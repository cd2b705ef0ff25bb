"""Asked to stop by a signal: every process saves at the same step, and what goes on ends with the same bits."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

import imprint
from tests.kill.runs import STEPS, Runs, Training, faults, kill_at, ledger
from tests.kill.signals import AtStart, InSave, InStep
from train.stop import SIGNALS, STOPPED, Stop

USR1, TERM = signal.SIGUSR1, signal.SIGTERM


def stopped(runs: Runs, name: str) -> dict:
    return json.loads(runs.model(name).stopped.read_text())


def states(runs: Runs, name: str) -> list[int]:
    return sorted(int(path.name[5:]) for path in runs.model(name).states.glob("step-????????"))


def ends_as_unbroken(runs: Runs, name: str, unbroken: str = "unbroken", processes: int = 1) -> Training:
    """Train a run to its end, which must have the bits of one that was never stopped."""
    training = runs.train(name, processes=processes)
    assert training.wait() == [0] * processes, training.told()
    assert faults(runs.root(name), runs.root(unbroken)) == []
    assert not runs.model(name).stopped.exists()
    return training


# ------------------------------------------------------------------------------------------------ the flag


def test_a_signal_sets_a_flag_with_its_name_and_nothing_else() -> None:
    with Stop() as stop:
        assert stop.asked is None
        signal.raise_signal(USR1)
        assert stop.asked == "SIGUSR1"


def test_the_first_signal_is_the_one_that_is_told() -> None:
    with Stop() as stop:
        signal.raise_signal(USR1)
        signal.raise_signal(TERM)
    assert stop.asked == "SIGUSR1"


def test_a_nested_block_listens_on_and_the_outer_end_restores_what_was_before() -> None:
    before = signal.getsignal(TERM)
    with Stop() as stop:
        with stop:
            pass
        signal.raise_signal(TERM)
    assert stop.asked == "SIGTERM"
    assert signal.getsignal(TERM) is before


# ------------------------------------------------------------------------------------------------ one process


@pytest.mark.parametrize("number", [USR1, TERM])
def test_a_training_stops_after_the_step_it_is_in_and_ends_with_the_same_bits(runs: Runs, number: signal.Signals) -> None:
    name = f"between-{number.name}"
    training = runs.train(name, before=InStep(32, number))
    assert training.wait() == [STOPPED], training.told()
    assert stopped(runs, name) == {"step": 33, "steps": STEPS, "signal": number.name}
    told = f"imprint: perturbed stopped at step 33 of {STEPS}, as {number.name} asked; its state is saved, and run again it goes on"
    assert training.told().splitlines()[-1] == told
    assert states(runs, name)[-1] == 33
    assert len(ledger(runs.model(name))) == 33
    assert "from step 33" in ends_as_unbroken(runs, name).told()


def test_a_training_that_is_stopped_again_and_again_ends_with_the_same_bits(runs: Runs) -> None:
    for step in (7, 8, 33):
        training = runs.train("often", before=InStep(step))
        assert training.wait() == [STOPPED], training.told()
        assert stopped(runs, "often")["step"] == step + 1
    ends_as_unbroken(runs, "often")


def test_asked_before_its_first_step_a_training_takes_one_and_stops(runs: Runs) -> None:
    training = runs.train("early", before=AtStart())
    assert training.wait() == [STOPPED], training.told()
    assert stopped(runs, "early")["step"] == 1
    ends_as_unbroken(runs, "early")


def test_asked_in_its_last_step_a_training_just_ends(runs: Runs) -> None:
    training = runs.train("late", before=InStep(STEPS - 1))
    assert training.wait() == [0], training.told()
    assert not runs.model("late").stopped.exists()
    assert STEPS not in states(runs, "late")
    assert faults(runs.root("late"), runs.root("unbroken")) == []


def test_asked_while_it_saves_a_training_takes_one_more_step(runs: Runs) -> None:
    training = runs.train("saving", before=InSave(20, TERM))
    assert training.wait() == [STOPPED], training.told()
    assert stopped(runs, "saving")["step"] == 21
    assert states(runs, "saving") == [20, 21]
    ends_as_unbroken(runs, "saving")


def test_stopped_at_the_step_of_a_checkpoint_a_training_leaves_it_too(runs: Runs) -> None:
    training = runs.train("kept", before=InStep(19))
    assert training.wait() == [STOPPED], training.told()
    assert 20 in runs.model("kept").checkpoints()
    assert states(runs, "kept")[-1] == 20
    ends_as_unbroken(runs, "kept")


def test_a_run_that_is_stopped_in_its_training_keeps_its_folder_and_goes_no_further(runs: Runs) -> None:
    training = runs.fork(runs.arguments("run", "whole"), before=InStep(0))
    assert training.wait() == [STOPPED], training.told()
    root = runs.root("whole")
    assert (root / "config.yaml").exists()
    assert [path.name for path in root.glob("jobs/*.json") if path.stem.split("-")[0] in ("train", "audit", "eval")] == []
    assert list(root.rglob("lock.json")) == []
    ends_as_unbroken(runs, "whole")


# ------------------------------------------------------------------------------------------------ two processes


@pytest.fixture(scope="module")
def pair(runs: Runs) -> str:
    unbroken = runs.train("unbroken-pair", processes=2)
    assert unbroken.wait() == [0, 0], unbroken.told()
    return "unbroken-pair"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(runs: Runs, pair: str, rank: int) -> None:
    name = f"rank-{rank}"
    training = runs.train(name, processes=2, before=InStep(32, rank=rank))
    assert training.wait() == [STOPPED, STOPPED], training.told()
    assert stopped(runs, name) == {"step": 33, "steps": STEPS, "signal": "SIGUSR1"}
    assert training.told().count("its state is saved") == 1  # the leading one tells it
    assert "Traceback" not in training.told()
    assert list(runs.root(name).rglob("lock.json")) == []
    ends_as_unbroken(runs, name, pair, processes=2)


@pytest.mark.slow
def test_a_process_that_the_command_started_stops_with_the_leading_one(runs: Runs, pair: str) -> None:
    training = runs.command("workers", "train.devices=2")
    while not runs.model("workers").states.exists() or len(training.pids) < 2:
        assert training.running(), training.told()
    os.kill(training.pids[1], TERM)  # the other one
    assert training.wait() == [STOPPED], training.told()
    assert stopped(runs, "workers")["signal"] == "SIGTERM"
    assert training.told().endswith("run again it goes on\n")
    ends_as_unbroken(runs, "workers", pair, processes=2)


# ------------------------------------------------------------------------------------------------ what is told at the start


def test_checkpoints_that_were_kept_and_are_gone_are_told(runs: Runs) -> None:
    killed = runs.train("thinned", before=InStep(43))
    assert killed.wait() == [STOPPED], killed.told()
    layout = runs.model("thinned")
    for step in (0, 20):
        shutil.rmtree(layout.checkpoint(step))
    training = runs.train("thinned")
    assert training.wait() == [0], training.told()
    assert "  checkpoints that were kept are missing, 2 up to step 44: 0, 20; training goes on" in training.told()
    assert not layout.checkpoint(20).exists()


def test_nothing_is_told_of_checkpoints_where_all_are_there(runs: Runs) -> None:
    killed = runs.train("all-there")
    kill_at(killed, runs.model("all-there"), 30)
    killed.wait()
    training = runs.train("all-there")
    assert training.wait() == [0], training.told()
    assert "missing" not in training.told().split("train-perturbed")[1].splitlines()[1:]


@pytest.mark.parametrize("resumable", [True, False])
def test_it_is_told_whether_the_averages_of_the_model_to_start_from_came_along(runs: Runs, resumable: bool) -> None:
    checkpoint = runs.model("unbroken").checkpoint(20)
    if not resumable:
        copy = Path(shutil.copytree(checkpoint, runs.folder / "released"))
        for name in ("moments.safetensors", "trainer.json", "imprint.json"):
            (copy / name).unlink()
        checkpoint = copy
    tokenizer = f"corpus.tokenizer.path={checkpoint / 'tokenizer.json'}"
    training = runs.train(f"started-{resumable}", f"model.start={checkpoint}", tokenizer, before=InStep(0))
    assert training.wait() == [STOPPED], training.told()
    averages = "with the optimizer's averages of its training" if resumable else "which holds no averages of an optimizer"
    assert f"starts from {checkpoint}, {averages}" in training.told()


def test_a_signal_that_comes_when_a_job_has_ended_is_not_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        def do(self, names: list[str]) -> None:
            pass

    monkeypatch.setattr("slurm.jobs.Experiment.of", lambda root, stop: Done())
    before = [signal.getsignal(number) for number in SIGNALS]
    try:
        assert imprint.main(["job", str(tmp_path), "train-perturbed"]) == 0
        assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_IGN] * len(SIGNALS)
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
