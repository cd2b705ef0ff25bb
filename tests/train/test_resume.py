"""Killed and started again: real processes, real SIGKILL. `make test-kill` does it at many more moments."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from configs.lock import Lock
from tests.kill import __main__ as kill
from tests.kill.points import Files, Moment
from tests.kill.runs import Runs, Training, faults, kill_at

MOMENTS = {
    "between two steps": Moment(0.9),
    "in a checkpoint": Moment(0.01, "checkpoint", 3),
    "in a state": Moment(0.004, "state", 5),
}


@pytest.mark.parametrize("when", MOMENTS)
def test_a_killed_training_goes_on_and_ends_with_the_same_bits(runs: Runs, when: str) -> None:
    name = when.replace(" ", "-")
    outcome = kill.kill_and_resume(runs, name, "unbroken", runs.train, iter([(MOMENTS[when], "leading")]))
    assert outcome.faults == []
    assert len(outcome.kills) == 1


def test_what_the_command_trains_is_what_forked_processes_train(runs: Runs) -> None:
    killed = runs.command("command")
    kill_at(killed, runs.model("command"), 30)
    assert killed.wait() == [-signal.SIGKILL]
    again = runs.command("command")
    assert again.wait() == [0], again.told()
    assert "from step" in again.told()
    assert faults(runs.root("command"), runs.root("unbroken")) == []


@pytest.fixture(scope="module")
def pair(runs: Runs) -> str:
    unbroken = runs.train("unbroken-pair", processes=2)
    assert unbroken.wait() == [0, 0], unbroken.told()
    return "unbroken-pair"


def test_two_killed_processes_go_on_and_end_with_the_same_bits(runs: Runs, pair: str) -> None:
    points = iter([(Moment(0.004, "state", 4), "both")])
    outcome = kill.kill_and_resume(runs, "pair", pair, lambda name: runs.train(name, processes=2), points)
    assert outcome.faults == []
    assert outcome.kills[0].resumed not in ("-", "0")


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["leading", "other", "both"])
def test_whichever_process_of_a_training_is_killed_it_goes_on(runs: Runs, pair: str, whom: str) -> None:
    def start(name: str) -> Training:
        return runs.command(name, "train.devices=2")

    outcome = kill.kill_and_resume(runs, f"killed-{whom}", pair, start, iter([(Moment(0.002, "state", 4), whom)]))
    assert outcome.faults == []  # that of the leading process, when the other is killed, is told in a sentence
    assert outcome.kills[0].whom == whom


@pytest.mark.slow
def test_a_process_that_is_killed_before_it_has_joined_ends_the_training_with_a_sentence(runs: Runs) -> None:
    training = runs.train("never-joined", "train.devices=2")
    while len(training.pids) < 2:
        assert training.running(), training.told()
    training.kill(1)
    assert training.wait(kill.END_SECONDS) == [2]
    assert training.told().endswith("imprint: process 1 of 2 was killed by signal 9: it said nothing\n")


def test_a_damaged_state_is_passed_over_and_named(runs: Runs) -> None:
    settings = "train.checkpoints.resumable=none"
    whole = runs.train("whole", settings)
    assert whole.wait() == [0], whole.told()
    killed = runs.train("damaged", settings)
    kill_at(killed, runs.model("damaged"), 15)
    killed.wait()
    states = sorted(runs.model("damaged").states.glob("step-????????"))
    file = states[-1] / "moments.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    training = runs.train("damaged", settings)
    assert training.wait() == [0], training.told()
    assert "moments.safetensors is damaged" in training.told()
    (aside,) = runs.model("damaged").states.glob("damaged-*")
    assert faults(runs.root("damaged"), runs.root("whole")) == [f"perturbed/state/{aside.name} was left behind"]


def test_a_second_writer_is_refused_while_the_first_lives(runs: Runs) -> None:
    with Lock(runs.root("twice")):
        second = runs.train("twice")
        assert second.wait() == [2]
    assert f"is being written by process {os.getpid()}" in second.told()


# ------------------------------------------------------------------------------------------------ that a difference would be seen


def change_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_whatever_differs_from_the_unbroken_run_is_named(runs: Runs) -> None:
    training = runs.train("changed")
    assert training.wait() == [0]
    changed, unbroken = runs.model("changed"), runs.root("unbroken")
    assert faults(runs.root("changed"), unbroken) == []
    change_bit(changed.checkpoint(20) / "model.safetensors")
    weights = "checkpoints/step-00000020/model.safetensors"
    assert faults(runs.root("changed"), unbroken) == [f"{weights} differs", "step-00000020: model.safetensors is damaged"]
    change_bit(changed.checkpoint(20) / "model.safetensors")
    state = sorted(changed.states.glob("step-????????"))[-1]
    change_bit(state / "trainer.json")
    named = f"state/{state.name}/trainer.json differs"
    assert faults(runs.root("changed"), unbroken) == [named, f"{state.name}: trainer.json is damaged"]
    change_bit(state / "trainer.json")
    (changed.checkpoint(20) / "config.json").unlink()
    gone = "checkpoints/step-00000020/config.json is in one of them only"
    assert faults(runs.root("changed"), unbroken) == [gone, "step-00000020: config.json is damaged"]
    shutil.copy(runs.model("unbroken").checkpoint(20) / "config.json", changed.checkpoint(20))
    changed.ledgers()[3].unlink()
    changed.metrics.write_text("\n".join(changed.metrics.read_text().splitlines()[:-1]))
    (changed.states / "step-00000060.tmp-host-1").mkdir()
    left, *differing = faults(runs.root("changed"), unbroken)
    assert left == "perturbed/state/step-00000060.tmp-host-1 was left behind"
    assert differing == ["the ledger differs", "metrics.jsonl differs"]


def test_it_shows_by_what_is_left_in_what_a_training_was_killed(tmp_path: Path) -> None:
    model = tmp_path / "perturbed"
    (model / "checkpoints/step-00000020").mkdir(parents=True)
    (model / "checkpoints/step-00000020/imprint.json").touch()
    (model / "state/step-00000020").mkdir(parents=True)
    (model / "ledger-00000000-00000020.parquet").touch()
    nothing = Files(frozenset(), 0, -1, 0)
    assert Files.of(tmp_path).hit(nothing) == ""
    (model / "ledger-00000020-00000025.parquet").touch()
    assert Files.of(tmp_path).hit(nothing) == "after the ledger 25"
    assert Files.of(tmp_path).hit(Files.of(tmp_path)) == ""  # it was so when the training was started
    (model / "state/step-00000025.tmp-host-7").mkdir()
    assert Files.of(tmp_path).hit(nothing) == "state 25"
    (model / "state/step-00000025.tmp-host-7").rmdir()
    (model / "state/step-00000025").mkdir()
    (model / "checkpoints/step-00000040").mkdir()
    (model / "checkpoints/step-00000040/imprint.json").touch()
    assert Files.of(tmp_path).hit(nothing) == "after checkpoint 40"
