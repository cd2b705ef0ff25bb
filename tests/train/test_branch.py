"""What a branch begins with, however often it was interrupted."""

import json
from pathlib import Path

import pytest

from configs.errors import DataError
from configs.layout import CheckpointInfo, ModelLayout, file_fingerprint, remove_leftovers
from configs.tables import LEDGER, read_table, write_table
from train import branch
from train.branch import branch_off

STEP = 6


def parent_in(folder: Path) -> ModelLayout:
    """A parent with a ledger of ten steps and a checkpoint, as far as a branch reads them."""
    layout = ModelLayout(folder / "perturbed")
    for first, last in ((0, 4), (4, 10)):
        steps = [
            {"model": "perturbed", "step": s, "learning_rate": 0.1, "consumed": s != 2, "rows_sha256": [bytes([s]) * 32]}
            for s in range(first, last)
        ]
        write_table(layout.ledger(first, last), steps, LEDGER)
    checkpoint = layout.checkpoint(STEP)
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_text("weights")
    (checkpoint / "moments.safetensors").write_text("moments")
    files = {path.name: file_fingerprint(path) for path in checkpoint.iterdir()}
    CheckpointInfo("perturbed", STEP, 60, 24, "corpus", "plan", "theirs", files, "w").write(checkpoint)
    (layout.root / "execution.json").write_text(json.dumps({"precision": "fp32", "threads": {"1": 1}}))
    return layout


def found(folder: Path) -> tuple:
    own = ModelLayout(folder / "branch")
    steps = [row for path in own.ledgers() for row in read_table(path).to_pylist()]
    info = CheckpointInfo.read(own.checkpoint(STEP))
    names = sorted(str(path.relative_to(own.root)) for path in own.root.rglob("*") if path.is_file())
    return steps, info, info.damaged(own.checkpoint(STEP)), names


def begin(folder: Path) -> None:
    branch_off(ModelLayout(folder / "perturbed"), ModelLayout(folder / "branch"), STEP, "own")


def test_it_has_the_parents_steps_state_and_precision_under_its_own_name(tmp_path: Path) -> None:
    parent_in(tmp_path)
    begin(tmp_path)
    steps, info, damaged, names = found(tmp_path)
    assert [(row["model"], row["step"], row["consumed"]) for row in steps] == [("perturbed", s, s != 2) for s in range(STEP)]
    assert (info.model, info.config, info.step, info.weights, damaged) == ("branch", "own", STEP, "w", None)
    assert "execution.json" in names


def test_killed_at_any_stage_it_is_done_again_to_the_same_end(killed_at_every_stage, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    parent_in(whole)
    begin(whole)
    for folder in killed_at_every_stage(parent_in, begin, branch):
        begin(folder)
        for place in ("branch", "branch/checkpoints"):  # as every start of a training does
            remove_leftovers(folder / place)
        assert found(folder) == found(whole)


def test_what_a_branch_has_is_never_written_again(tmp_path: Path) -> None:
    layout = parent_in(tmp_path)
    begin(tmp_path)
    (layout.checkpoint(STEP) / "model.safetensors").write_text("other")
    begin(tmp_path)
    assert found(tmp_path)[2] is None


def test_a_damaged_checkpoint_or_a_gap_in_the_ledger_is_refused(tmp_path: Path) -> None:
    layout = parent_in(tmp_path)
    layout.ledger(0, 4).unlink()
    with pytest.raises(DataError, match="lacks steps before 6"):
        begin(tmp_path)
    (layout.checkpoint(STEP) / "moments.safetensors").write_text("other")
    with pytest.raises(DataError, match=r"moments\.safetensors is damaged"):
        begin(tmp_path)
