"""The benchmark of the trainer on a GPU: that it runs, here on a processor, and that its table's numbers fit each other."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
TINY = "--preset neox-0.5m --vocabulary 1024 --sequence-length 64 --micro-batch 2 --steps 3 --warm-up 1 --no-compile --threads 1"


def test_a_row_of_the_table_tells_rate_mfu_and_the_peak_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    found = importlib.util.spec_from_file_location("gpu", SCRIPT)
    assert found is not None
    assert found.loader is not None
    gpu = importlib.util.module_from_spec(found)
    found.loader.exec_module(gpu)

    gpu.main([*TINY.split(), "--precision", "fp32", "--peak-tflops", "0.01"])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"`python benchmarks/gpu.py {TINY} --precision fp32 --peak-tflops 0.01`"
    header, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in (lines[-3], lines[-1]))
    row = dict(zip(header, cells, strict=True))
    assert (row["preset"], row["strategy"], row["micro-batch x accumulation"]) == ("neox-0.5m", "single", "2 x 4")
    assert row["peak assumed, TFLOP/s"] == "0.01"
    blocks, head, attention = 3 * 12 * 96 * 96, 1024 * 96, 12 * 3 * 96 * 64  # neox-0.5m; 6 operations for each weight
    per_token = 6 * (blocks + head) + attention
    rate = float(row["tokens/s"].replace(",", ""))
    assert float(row["MFU"].rstrip("%")) / 100 == pytest.approx(rate * per_token / 0.01e12, abs=6e-4)
