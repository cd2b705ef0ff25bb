"""What a model says to facts: each number from one pass, and tables that are written once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import PreTrainedModel

from configs.schema import Eval, Model
from configs.tables import FACT_SCORES, LAYERS, STAGE_ROWS
from eval.evaluation import Checkpoint
from eval.facts import AskedFact, exposures_before, fact_layers, fact_scores, read_scores, score_stage
from eval.lens import LogitLens
from train.model import build_model

EOT = 0


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    built = build_model(Model(layers=2, width=32, heads=2), vocabulary=50, sequence_length=32, end_of_text=EOT, seed=3).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(4)
    return built


def greedy(model: PreTrainedModel, question: list[int], length: int) -> list[int]:
    tokens = [EOT, *question]
    for _ in range(length):
        with torch.inference_mode():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[1 + len(question) :]


@pytest.fixture(scope="module")
def facts(model: PreTrainedModel) -> list[AskedFact]:
    """One whose answer greedy decoding emits, and the same with its last token replaced; both with a closing token."""
    question = [7, 3, 9]
    right = greedy(model, question, 3)
    wrong = [*right[:2], (right[2] + 1) % 50]
    return [AskedFact(name, "A", [*question, *answer, EOT], slice(3, 6)) for name, answer in (("right", right), ("wrong", wrong))]


def test_greedy_decoding_emits_an_answer_where_every_token_is_the_argmax(model: PreTrainedModel, facts: list[AskedFact]) -> None:
    right, wrong = fact_scores(model, facts, {"wrong": 2}, EOT, 100)
    assert (right["emitted"], right["token_accuracy"], right["exposures"]) == (True, 1.0, 0)
    assert (wrong["emitted"], wrong["token_accuracy"], wrong["exposures"]) == (False, pytest.approx(2 / 3), 2)


def test_the_log_probability_is_the_mean_of_the_answer_without_the_token_that_closes_it(
    model: PreTrainedModel, facts: list[AskedFact]
) -> None:
    for row, fact in zip(fact_scores(model, facts, {}, EOT, 100), facts, strict=True):
        sequence = torch.tensor([[EOT, *fact.tokens[:6]]])
        with torch.inference_mode():
            log_probs = model(sequence).logits[0].double().log_softmax(-1)
        assert row["log_prob"] == pytest.approx(np.mean([float(log_probs[at, sequence[0, at + 1]]) for at in (3, 4, 5)]), abs=1e-5)


def test_the_lens_reads_the_first_token_of_the_answer(model: PreTrainedModel, facts: list[AskedFact]) -> None:
    [row, _] = fact_layers(LogitLens(model), facts, EOT, 100)
    with torch.inference_mode():
        last = model(torch.tensor([[EOT, 7, 3, 9]])).logits[0, -1].softmax(-1)[facts[0].tokens[3]]
    assert row["probability"][-1] == pytest.approx(float(last), rel=1e-4)
    assert 1 <= row["first"] <= 2


def test_exposures_are_those_of_consumed_steps_before() -> None:
    rows = pa.table({"row": [0, 3, 4, 9], "item_id": ["a", "b", "a", "a"], "part": ["data"] * 4}, STAGE_ROWS)
    consumed = {0: True, 1: False, 2: True}
    assert exposures_before(rows, consumed, global_batch=4, step=3) == {"a": 2, "b": 1}
    assert exposures_before(rows, consumed, global_batch=4, step=2) == {"a": 1, "b": 1}
    assert exposures_before(rows, consumed, global_batch=4, step=0) == {}


def test_a_checkpoint_is_scored_once_and_again_only_where_something_differs(
    model: PreTrainedModel, facts: list[AskedFact], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "weights")
    checkpoint = Checkpoint(tmp_path / "weights", "none", 50, "digest")
    path = tmp_path / "scores" / "facts-00000050" / "facts.parquet"

    def scored(exposures: dict[str, int], lens: bool = True) -> int:
        score_stage(checkpoint, tmp_path / "scores", facts, exposures, EOT, Eval(), lens)
        return path.stat().st_mtime_ns

    first = scored({"right": 1})
    assert scored({"right": 1, "wrong": 0}) == first
    assert scored({"right": 2}) > first
    found, layers = read_scores([tmp_path / "scores"])
    assert (found.schema, layers.schema) == (FACT_SCORES, LAYERS)
    assert found.select(["model", "step", "item_id", "exposures"]).to_pylist() == [
        {"model": "none", "step": 50, "item_id": "right", "exposures": 2},
        {"model": "none", "step": 50, "item_id": "wrong", "exposures": 0},
    ]
    assert layers.num_rows == 2
    scored({"right": 2}, lens=False)
    assert read_scores([tmp_path / "scores"])[1].num_rows == 0


def test_a_model_without_a_lens_is_scored_all_the_same(
    model: PreTrainedModel, facts: list[AskedFact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    model.save_pretrained(tmp_path / "weights")
    monkeypatch.setattr("eval.lens.transformer_blocks", lambda model: [])
    score_stage(Checkpoint(tmp_path / "weights", "none", 0, ""), tmp_path / "scores", facts, {}, EOT, Eval())
    found, layers = read_scores([tmp_path / "scores"])
    assert (found.num_rows, layers.num_rows) == (2, 0)
    assert "no layers: the logit lens doesn't know gpt_neox" in capsys.readouterr().out
