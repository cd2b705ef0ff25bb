"""Trainings whose loss leaves labels out: what a step's loss is; the way of computing it, kills and audits change nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.layout import CheckpointInfo
from configs.schema import Loss, Model, Train
from inject.corpus import Corpus
from inject.labels import label_mask
from inject.stream import Stream
from tests.kill import __main__ as kill
from tests.kill.points import Moment
from tests.kill.runs import GLOBAL_BATCH, STEPS, Runs, Training, ledger, lines
from train.engine import Replicated, connected
from train.execution import Execution
from train.loop import accumulate
from train.model import build_model
from train.objective import Objective
from train.world import World

KINDS = ("goldfish", "random")
LENGTH, ROWS = 31, np.arange(6)

# ------------------------------------------------------------------------------------------------ one step


@pytest.mark.parametrize("kind", ["full", *KINDS])
@pytest.mark.parametrize("micro_batch", [6, 3, 2, 1])
def test_a_steps_loss_is_the_sum_over_kept_labels_by_their_number_in_all_rows(
    small_corpus: Corpus, kind: str, micro_batch: int
) -> None:
    """Parts of a step keep different numbers of labels, so a mean of the parts' means would be another loss."""
    stream = Stream(small_corpus, 7, LENGTH, label_mask=label_mask(Loss(kind=kind, k=3), 1))
    tokens, labels, _ = stream.rows(ROWS)
    assert kind == "full" or len(set(labels.sum(axis=1).tolist())) > 1
    shape = Model(layers=1, width=16, heads=2)
    model = build_model(shape, small_corpus.vocabulary, LENGTH, small_corpus.end_of_text, 3, small_corpus.tokenizer)
    logits = model(input_ids=torch.from_numpy(tokens[:, :-1])).logits
    kept = torch.from_numpy(labels)
    expected = torch.nn.functional.cross_entropy(logits[kept], torch.from_numpy(tokens[:, 1:])[kept])
    norm = torch.nn.utils.get_total_norm(torch.autograd.grad(expected, list(model.parameters())))

    settings = Train(strategy="single", clip=0.0, micro_batch=micro_batch, accumulation=len(ROWS) // micro_batch)
    with connected(settings, World()) as fabric:
        objective = Objective(model, small_corpus.end_of_text)
        engine = Replicated(fabric, objective, settings, Execution("fp32", 1), World(), lambda *_: True)
        accumulate(engine, tokens, labels, ROWS, int(labels.sum()), settings)
        step = engine.step(0.0)
    assert step.loss == pytest.approx(expected.item(), rel=1e-5)
    assert step.grad_norm == pytest.approx(norm.item(), rel=1e-4)


# ------------------------------------------------------------------------------------------------ whole trainings


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def unbroken(runs: Runs, kind: str) -> str:
    """The name of a run in one process that was never killed, with a loss of this kind."""
    training = runs.train(kind, setting(kind))
    assert training.wait() == [0], training.told()
    return kind


def setting(kind: str) -> str:
    return f"train.loss={{kind: {kind}, k: 4, context: 5}}"


def certificate(root: Path) -> dict:
    return json.loads((root / "perturbed" / "certificate.json").read_text())


def test_a_training_is_certified_with_a_fourth_of_its_labels_left_out(runs: Runs, unbroken: str) -> None:
    assert runs.audit(unbroken).wait() == [0]
    found = certificate(runs.root(unbroken))
    assert (found["verdict"], found["rows"]) == ("certified", STEPS * GLOBAL_BATCH)
    assert found["labels_left_out"] / (STEPS * GLOBAL_BATCH * 64) == pytest.approx(0.25, abs=0.02)


def test_the_same_rows_with_other_labels_are_not_certified(runs: Runs, unbroken: str) -> None:
    """A run that says it was trained with the full loss, and was not."""
    config = runs.root(unbroken) / "config.yaml"
    said = config.read_text()
    config.write_text(said.replace(f"kind: {unbroken}", "kind: full"))
    audit = runs.audit(unbroken)
    try:
        assert audit.wait() == [1]
        found = certificate(runs.root(unbroken))
        assert {entry["kind"] for entry in found["violations"]["listed"]} == {"differs"}
        assert found["violations"]["total"] == STEPS * GLOBAL_BATCH
    finally:
        config.write_text(said)


def test_the_loss_makes_another_model_of_the_same_rows(runs: Runs, unbroken: str) -> None:
    """`runs` has an unbroken run of the full loss."""
    own, full = (CheckpointInfo.read(runs.model(name).checkpoint(STEPS)) for name in (unbroken, "unbroken"))
    assert (own.corpus, own.plan) == (full.corpus, full.plan)
    assert own.config != full.config
    assert own.weights != full.weights


def test_a_killed_training_goes_on_with_the_same_labels_and_ends_with_the_same_bits(runs: Runs, unbroken: str) -> None:
    def start(name: str) -> Training:
        return runs.train(name, setting(unbroken))

    outcome = kill.kill_and_resume(runs, f"{unbroken}-killed", unbroken, start, iter([(Moment(0.004, "state", 5), "leading")]))
    assert outcome.faults == []
    assert len(outcome.kills) == 1


@pytest.mark.parametrize(("processes", "more"), [(1, "train.micro_batch=1"), (2, "train.strategy=zero_1")])
def test_a_step_that_is_shared_out_has_the_same_labels_and_loss(runs: Runs, unbroken: str, processes: int, more: str) -> None:
    name = f"{unbroken}-{processes}"
    training = runs.train(name, setting(unbroken), more, processes=processes)
    assert training.wait() == [0] * processes, training.told()
    assert ledger(runs.model(name)) == ledger(runs.model(unbroken))  # digests of tokens and labels
    for line, whole in zip(lines(runs.model(name)), lines(runs.model(unbroken)), strict=True):
        assert line.keys() == whole.keys()
        for loss in {"loss", "held_out_loss"} & line.keys():
            assert line[loss] == pytest.approx(whole[loss], rel=2e-6)
