"""A sweep by the command line, run in process as a user would run it, on a recipe of seconds."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from imprint import main

RECIPE = """
name: tiny
corpus: {source: synthetic, documents: 60, tokenizer: {vocabulary: 300}}
insert:
  codes: {kind: canary, count: 6, text: "Code of {name}: {digits:2}."}
design: {copies: [0, 3], sizes: [3, 3]}
model: {layers: 1, width: 16, heads: 2}
train:
  {steps: 6, global_batch: 4, sequence_length: 64, warmup: 2, checkpoints: {every: 6}, threads: 1, precision: fp32,
   held_out_rows: 0}
eval: {resamples: 50}
sweep: {seed: [1, 2], design.sizes: [[3, 3], [4, 3]]}
"""
FITS, OTHERS = ["seed-1_sizes-3+3", "seed-2_sizes-3+3"], ["seed-1_sizes-4+3", "seed-2_sizes-4+3"]  # 4 + 3 groups are not 6


def imprint(folder: Path, command: str, *arguments: str) -> int:
    return main([command, str(folder / "tiny.yaml"), f"runs={folder / 'runs'}", f"cache={folder / 'cache'}", *arguments])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and its sweep, as far as it can be done."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "tiny.yaml").write_text(RECIPE)
    assert imprint(folder, "run") == 2
    return folder


@pytest.fixture
def fresh(workspace: Path, tmp_path: Path) -> Path:
    shutil.copytree(workspace / "cache", tmp_path / "cache")
    shutil.copyfile(workspace / "tiny.yaml", tmp_path / "tiny.yaml")
    return tmp_path


def test_every_point_that_can_be_done_is_a_run_of_its_own(workspace: Path) -> None:
    for point in FITS:
        root = workspace / "runs" / "tiny" / point
        assert json.loads((root / "perturbed" / "certificate.json").read_text())["verdict"] == "certified"
        assert yaml.safe_load((root / "config.yaml").read_text())["point"] == point
    assert not any((workspace / "runs" / "tiny" / point).exists() for point in OTHERS)


def test_points_of_other_seeds_are_other_models(workspace: Path) -> None:
    checkpoints = [workspace / "runs" / "tiny" / point / "perturbed/checkpoints/step-00000006" for point in FITS]
    first, second = (json.loads((folder / "imprint.json").read_text())["weights"] for folder in checkpoints)
    assert first != second


def test_run_again_it_does_only_what_is_missing_and_names_the_points_that_fail(
    workspace: Path, capsys: pytest.CaptureFixture
) -> None:
    assert imprint(workspace, "run") == 2
    told = capsys.readouterr()
    assert told.out.count("done before") == 2 * 7
    lines = told.err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("imprint: seed-1_sizes-4+3: ")
    assert (
        lines[2]
        == f"imprint: 2 of 4 points failed, for the reasons above: {', '.join(OTHERS)}; run again to do only what is missing"
    )
    assert "seed-1_sizes-3+3 (1 of 4)" in told.out
    assert "Findings by point" in told.out
    assert str(workspace / "runs" / "tiny" / "overview" / "index.html") in told.out


def test_the_overview_has_every_point(workspace: Path) -> None:
    page = (workspace / "runs" / "tiny" / "overview" / "index.html").read_text()
    assert all(f'href="../{point}/report/index.html"' in page for point in FITS)
    assert page.count(">missing</span>") == len(OTHERS)


def test_the_report_alone_leaves_the_overview_too(workspace: Path) -> None:
    shutil.rmtree(workspace / "runs" / "tiny" / "overview")
    assert imprint(workspace, "report", "sweep.design.sizes=[[3,3]]") == 0
    assert (workspace / "runs" / "tiny" / "overview" / "findings.csv").exists()


def test_what_concerns_one_run_names_the_points_of_a_sweep(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    root = workspace / "runs" / "tiny"
    for arguments in (["audit", str(root)], ["inspect", str(root), "--step", "1"], ["job", str(root), "plan"]):
        assert main(arguments) == 2
        assert f"{root} is a sweep; give one of its points, as {root / FITS[0]}, of {', '.join(FITS)}" in capsys.readouterr().err
    assert main(["audit", str(root / FITS[0])]) == 0


def test_the_configuration_of_a_point_is_a_recipe_of_its_own(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    overview = workspace / "runs" / "tiny" / "overview" / "index.html"
    before = overview.stat().st_mtime_ns
    assert main(["run", str(workspace / "runs" / "tiny" / FITS[0] / "config.yaml")]) == 0
    assert capsys.readouterr().out.count("done before") == 7
    assert overview.stat().st_mtime_ns == before


def test_a_dry_run_shows_the_first_point_and_whether_each_fits(fresh: Path, capsys: pytest.CaptureFixture) -> None:
    assert imprint(fresh, "plan", "--dry-run", "sweep.design.sizes=[[3,3]]") == 0
    out = capsys.readouterr().out
    assert out.count("What tiny asks for") == 1
    assert out.count("9 occurrences") == 2
    assert not (fresh / "runs").exists()


@pytest.mark.parametrize("command", ["corpus", "plan"])
def test_a_job_is_done_for_every_point(fresh: Path, command: str) -> None:
    assert imprint(fresh, command, "sweep.design.sizes=[[3,3]]") == 0
    assert sorted(path.parents[1].name for path in fresh.glob(f"runs/tiny/*/jobs/{command}.json")) == FITS
