"""A step that is left out exposes nothing: told alike by the ledger, the log, the certificate and the scores."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.layout import ModelLayout
from imprint import main

RECIPE = """
name: skipped
corpus: {source: synthetic, documents: 100, tokenizer: {vocabulary: 320}}
insert:
  codes: {kind: canary, count: 6, text: "Code of {name}: {digits:2}."}
design: {copies: [0, 20], sizes: [2, 4]}
model: {layers: 1, width: 32, heads: 2}
train:
  {steps: 60, global_batch: 4, sequence_length: 64, warmup: 2, threads: 1, precision: fp32, held_out_rows: 0,
   checkpoints: {every: 60, exposures: false}, spikes: {deviations: 1.5, window: 20}}
eval: {resamples: 20}
"""


def test_a_step_left_out_is_recorded_and_exposes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert main(["run", str(tmp_path / "r.yaml"), f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"]) == 0
    run = tmp_path / "runs" / "skipped"
    model = ModelLayout(run / "perturbed")
    ledger = [row for path in model.ledgers() for row in pq.read_table(path).to_pylist()]
    left_out = [row["step"] for row in ledger if not row["consumed"]]
    assert 0 < len(left_out) < 20
    assert len(ledger) == 60

    lines = [json.loads(line) for line in model.metrics.read_text().splitlines()]
    told = {line["step"]: line["reason"] for line in lines if not line.get("applied", True)}
    assert list(told) == left_out
    assert all("1.5 standard deviations over its mean" in reason for reason in told.values())

    assert main(["audit", str(run)]) == 0
    assert f"recorded as not consumed: {', '.join(map(str, left_out))}" in capsys.readouterr().out.replace("\n", " ")

    plan = pq.read_table(run / "plan.parquet").to_pylist()
    planned, missed = len(plan), sum(row["row"] // 4 in left_out for row in plan)
    assert missed
    scores = pq.read_table(model.scores / "scores.parquet").to_pandas()
    exposures = scores[scores.step == 60].groupby("item_id").exposures.first()
    assert exposures.sum() == planned - missed
