"""What a GPU computes, by the real command: `make test-gpu`, on a machine that has one.

The losses of the same small training in other precisions, strategies and kernels, each beside the plain one; stages; and scores
beside those of a processor.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.kill.runs import Runs, faults, kill_at

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

STEPS = 40
RECIPE = """
name: gpu
corpus: {source: synthetic, documents: 400, tokenizer: {vocabulary: 400}}
insert:
  codes: {kind: canary, count: 12, text: "The code of vault {name} is {digits:4}."}
design: {copies: [0, 8], sizes: [6, 6]}
model: {layers: 2, width: 64, heads: 2}
train:
  {steps: STEPS, global_batch: 8, sequence_length: 128, warmup: 4, learning_rate: 3e-3, threads: 2, precision: fp32,
   models: [perturbed], checkpoints: {every: 20, resume_every: 10, exposures: false}}
eval: {resamples: 20, primary: [codes/8]}
""".replace("STEPS", str(STEPS))
STAGES = """
facts:
  a: {kind: key_value, count: 12, key_length: 4, value_length: 2}
  b: {kind: key_value, count: 12, key_length: 4, value_length: 2}
stages:
  first: {data: [a], until: {exact_match: 1.0}, train: &short {steps: 40, global_batch: 8, learning_rate: 3e-3}}
  text: {after: first, data: [b], mix: [{source: text, ratio: 1, words: 4}, {source: replay, per_batch: 1}], train: *short}
  ewc: {after: first, data: [b], penalty: {kind: ewc, weight: 10}, train: *short}
  kl: {after: first, data: [b], penalty: {kind: kl}, train: *short}
  lora: {after: first, data: [b], lora: {rank: 4}, train: *short}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("gpu"), RECIPE)


def losses(runs: Runs, name: str, *settings: str, processor: bool = False) -> np.ndarray:
    """Of every step (STEPS,); trained unless it is there."""
    if not runs.model(name).checkpoint(STEPS).exists():
        training = runs.command(name, *settings, gpu=not processor)
        assert training.wait() == [0], training.told()
    lines = [json.loads(line) for line in runs.model(name).metrics.read_text().splitlines()]
    return np.array([line["loss"] for line in lines if "loss" in line])


def plain(runs: Runs) -> np.ndarray:
    return losses(runs, "plain")


def test_a_gpu_computes_what_a_processor_does(runs: Runs) -> None:
    np.testing.assert_allclose(plain(runs), losses(runs, "processor", processor=True), rtol=1e-4)


@pytest.mark.parametrize("strategy", ["ddp", "zero_1", "zero_2", "zero_3"])
def test_every_strategy_computes_the_same(runs: Runs, strategy: str) -> None:
    np.testing.assert_allclose(losses(runs, strategy, f"train.strategy={strategy}"), plain(runs), rtol=1e-4)


def test_the_optimizer_may_live_in_the_processors_memory(runs: Runs) -> None:
    offloaded = losses(runs, "offloaded", "train.strategy=zero_1", "train.offload=true")
    np.testing.assert_allclose(offloaded, plain(runs), rtol=1e-4)


@pytest.mark.parametrize("setting", ["compile=true", "activation_checkpointing=true", "loss_chunk=96"])
def test_how_it_is_computed_changes_nothing(runs: Runs, setting: str) -> None:
    np.testing.assert_allclose(losses(runs, setting.partition("=")[0], f"train.{setting}"), plain(runs), rtol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_is_near(runs: Runs, precision: str) -> None:
    low = losses(runs, precision, f"train.precision={precision}")
    np.testing.assert_allclose(low, plain(runs), rtol=0.02)
    compiled = losses(runs, f"{precision}-compiled", f"train.precision={precision}", "train.compile=true")
    np.testing.assert_allclose(compiled, plain(runs), rtol=0.02)
    sharded = losses(runs, f"{precision}-zero", f"train.precision={precision}", "train.strategy=zero_1")
    np.testing.assert_allclose(sharded, low, rtol=0.01)


def test_flex_attention_keeps_documents_apart(runs: Runs) -> None:
    masked = losses(runs, "masked", "train.mask_documents=true")
    flex = losses(runs, "flex", "train.mask_documents=true", "train.attention=flex_attention")
    np.testing.assert_allclose(flex, masked, rtol=1e-3)
    assert np.abs(masked - plain(runs)).max() > 1e-3


def test_a_killed_training_goes_on_and_ends_with_the_same_bits(runs: Runs) -> None:
    plain(runs)
    killed = runs.command("killed", gpu=True)
    kill_at(killed, runs.model("killed"), 10)
    again = runs.command("killed", gpu=True)
    killed.wait()
    assert again.wait() == [0], again.told()
    assert "from step" in again.told()
    assert faults(runs.root("killed"), runs.root("plain")) == []


def test_stages_and_scores(tmp_path: Path) -> None:
    """Every method trains and is certified; what the GPU scores, a processor does."""
    runs = Runs(tmp_path, RECIPE + STAGES)
    done = runs.command("whole", job="run", gpu=True)
    assert done.wait(900) == [0], done.told()
    for name in ("perturbed", "first", "text", "ewc", "kl", "lora"):
        assert json.loads((runs.root("whole") / name / "certificate.json").read_text())["verdict"] == "certified"
    again = runs.root("again")
    shutil.copytree(runs.root("whole"), again, symlinks=True)
    for scores in (again / "perturbed" / "scores", again / "kl" / "scores"):
        shutil.rmtree(scores)
    for record in (again / "jobs").glob("eval-*"):
        record.unlink()
    scored = runs.command("again", job="eval")
    assert scored.wait(900) == [0], scored.told()
    for table, value in (("perturbed/scores/scores.parquet", "value"), ("kl/scores/facts.parquet", "log_prob")):
        one, other = (pq.read_table(run / table).to_pandas() for run in (runs.root("whole"), again))
        if "metric" in one:  # ranks and what is emitted may be others by rounding
            one, other = one[one["metric"] == "log_prob"], other[other["metric"] == "log_prob"]
        assert len(one)
        assert one[["step", "item_id"]].to_numpy().tolist() == other[["step", "item_id"]].to_numpy().tolist()
        np.testing.assert_allclose(one[value], other[value], atol=1e-3)
