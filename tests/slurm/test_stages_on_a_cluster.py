"""Stages as job arrays of a real cluster, each behind the one that it comes after, trained by two processes."""

import io
import json
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from configs.layout import CheckpointInfo, RunLayout, read_json
from imprint import main
from tests.cluster.slurm import slurm

RECIPE = """
name: staged
corpus: {source: synthetic, documents: 200, tokenizer: {vocabulary: 320}}
model: {layers: 1, width: 32, heads: 2}
train:
  {models: [], global_batch: 4, sequence_length: 96, strategy: zero_1, threads: 1, precision: fp32}
facts:
  a: {kind: key_value, count: 8, key_length: 4, value_length: 2}
  b: {kind: key_value, count: 8, key_length: 4, value_length: 2}
stages:
  first: {data: [a], until: {exact_match: 1.0, every: 5}, train: {steps: 15}}
  second: {data: [b], mix: [{source: replay, per_batch: 1}], penalty: {kind: ewc, weight: 10}, train: {steps: 10, strategy: ddp}}
eval: {membership: [], resamples: 50, schemes: []}
slurm: {tasks: 2, time: "30:00"}
"""
LONGEST_SECONDS = 600


@pytest.mark.usefixtures("cluster")
def test_stages_wait_for_what_they_come_after_and_end_certified(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    words = [str(tmp_path / "r.yaml"), f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"]
    run = RunLayout(tmp_path / "runs" / "staged")
    try:
        assert main(["submit", *words]) == 0
        rows = until_done(words)
    finally:
        for array in {row["slurm"].partition("_")[0] for row in status(words) if row["slurm"]}:
            slurm("scancel", array)
    assert {row["state"] for row in rows} == {"done"}, rows
    last = read_json(run.model("first").finished)["step"]
    for name in ("first", "second"):
        assert read_json(run.model(name).certificate)["verdict"] == "certified"
        assert (
            CheckpointInfo.read(run.model(name).checkpoint(read_json(run.model(name).finished)["step"])).made_with["devices"] == 2
        )
    started, ended = (
        CheckpointInfo.read(run.model("second").checkpoint(0)),
        CheckpointInfo.read(run.model("first").checkpoint(last)),
    )
    assert started.weights == ended.weights
    held = pq.read_table(run.model("second").rows).to_pylist()
    assert sum(row["part"] == "replay" for row in held) == 10  # one a batch
    assert "Continual memorization" in (run.report / "index.html").read_text()


def status(words: list[str]) -> list[dict[str, Any]]:
    with redirect_stdout(io.StringIO()) as told:
        main(["status", *words, "--json"])
    return json.loads(told.getvalue())


def until_done(words: list[str]) -> list[dict[str, Any]]:
    """The state of every job, once none is queued or running."""
    end = time.monotonic() + LONGEST_SECONDS
    while any(row["state"] in ("queued", "running") for row in status(words)):
        assert time.monotonic() < end, status(words)
        time.sleep(1)
    return status(words)  # what was seen before the last task left the queue is old
