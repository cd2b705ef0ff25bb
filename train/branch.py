"""What a branch begins with: what its parent left at the step where they part, so that nothing before it is trained again."""

from __future__ import annotations

import shutil
from dataclasses import replace

from configs.errors import DataError
from configs.layout import CheckpointInfo, ModelLayout, atomic_file, atomic_folder
from configs.tables import LEDGER, PROBES, read_table, write_table


def branch_off(parent: ModelLayout, branch: ModelLayout, step: int, config: str) -> None:
    """Give a branch the parent's resumable checkpoint of `step`, from which training goes on, unless it has it.

    With it come the parent's ledger before the step, whose rows say that the parent consumed them, its probes up to it, and its
    precision and threads.
    `config`: the fingerprint of the branch's training. The checkpoint comes last: killed before, all is done again. DataError where
    the parent's is damaged.
    """
    own, theirs = branch.checkpoint(step), parent.checkpoint(step)
    if (own / "imprint.json").exists():
        return
    info = CheckpointInfo.read(theirs)
    if damaged := info.damaged(theirs):
        raise DataError(f"{theirs / damaged} is damaged, so nothing can branch off there")
    _share_ledger(parent, branch, step)
    _share_probes(parent, branch, step)
    record = branch.root / "execution.json"
    if not record.exists():
        with atomic_file(record) as temporary:
            shutil.copyfile(parent.root / "execution.json", temporary)
    with atomic_folder(own) as folder:
        shutil.copytree(theirs, folder, dirs_exist_ok=True)
        replace(info, model=branch.root.name, config=config).write(folder)


def _share_ledger(parent: ModelLayout, branch: ModelLayout, step: int) -> None:
    """Write the parent's ledger of steps [0, step) as the branch's first segment."""
    rows = [row for path in parent.ledgers() for row in read_table(path).to_pylist() if row["step"] < step]
    if [row["step"] for row in rows] != list(range(step)):
        raise DataError(f"the ledger in {parent.root} lacks steps before {step:,}, so nothing can branch off there")
    if rows:
        write_table(branch.ledger(0, step), rows, LEDGER)


def _share_probes(parent: ModelLayout, branch: ModelLayout, step: int) -> None:
    """Write what the parent scored around exposures, with weights that are the branch's, too, as its first segment."""
    rows = [row for path in parent.probe_segments() for row in read_table(path).to_pylist() if row["step"] <= step]
    if rows:
        write_table(branch.probes(step), rows, PROBES)
