"""Which steps leave a kept checkpoint, which of those can be resumed from, and which leave a resume state.

A checkpoint at step c has seen the steps before c. So the one at the step of a window's first exposure has seen nothing of it
yet, and the first that has seen all of it is the one after the step of its last exposure. The windows are those of the whole
plan, for every model of a run: twins are compared at the same steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import DataError, RecipeError
from configs.schema import Train


@dataclass(frozen=True)
class Milestones:
    """The steps that leave something."""

    kept: dict[int, tuple[str, ...]]  # steps of kept checkpoints, in order, with the reasons
    resumable: frozenset[int]  # of them, those that hold the optimizer's state, too
    states: int  # steps from one resume state to the next

    def keeps(self, step: int) -> bool:
        return step in self.kept

    def resumes(self, step: int) -> bool:
        """Whether a step leaves a resume state. Kept checkpoints have one beside them, so that what follows a kill goes on from the
        checkpoint itself, not from a second computation of it; step 0 is made anew, and nothing follows the last.
        """
        return 0 < step < max(self.kept) and (step in self.kept or step % self.states == 0)


def milestones(settings: Train, windows: Sequence[tuple[int, int]]) -> Milestones:
    """The milestones of a training. `windows`: the steps of the first and last exposure of each window, of `exposure_windows`.

    A window's resumable checkpoint is the last kept one that has seen nothing of the window.
    RecipeError where train.checkpoints lists a step that training does not have.
    """
    last, checkpoints = settings.steps, settings.checkpoints
    if beyond := [step for step in checkpoints.steps if not 0 <= step <= last]:
        raise RecipeError(f"train.checkpoints.steps holds {beyond[0]}; it must lie between 0 and train.steps = {last}")
    reasons: dict[int, list[str]] = {0: ["start"], last: ["end"]}

    def keep(steps: Sequence[int], reason: str) -> None:
        for step in steps:
            reasons.setdefault(step, []).append(reason)

    keep(range(checkpoints.every, last + 1, checkpoints.every), f"every {checkpoints.every}")
    if checkpoints.powers_of_two:
        keep([2**power for power in range(last.bit_length()) if 2**power <= last], "power of two")
    keep(sorted(set(checkpoints.steps)), "listed")
    firsts = sorted({first for first, _ in windows})
    if checkpoints.exposures:
        keep(firsts, "before the first exposure of a window")
        keep(sorted({final + 1 for _, final in windows}), "after the last exposure of a window")
    kept = {step: tuple(reasons[step]) for step in sorted(reasons)}
    steps = np.asarray(list(kept))
    before = steps[np.searchsorted(steps, firsts, "right") - 1].tolist()
    resumable = {"first_exposure": before, "all": list(kept), "none": []}[checkpoints.resumable]
    return Milestones(kept, frozenset(resumable), checkpoints.resume_every)


# ------------------------------------------------------------------------------------------------ windows


def exposure_windows(plan: pa.Table, assignment: pa.Table, global_batch: int) -> list[tuple[int, int]]:
    """The steps of the first and the last exposure of every distinct window of a design that has any, by the plan.

    A window is [first_step, last_step) of a phase, shared by all arms and items that have it; explicit places are a window of their
    own. The phases of one item don't overlap, so the step of an occurrence tells which it belongs to.
    `plan`: columns row and item_id, a dictionary or not; `assignment`: columns item_id and phases. DataError where they don't fit.
    """
    item = _numbers(plan["item_id"], assignment["item_id"])
    step = plan["row"].to_numpy() // global_batch
    phases = pc.list_flatten(assignment["phases"])
    first, last = (pc.struct_field(phases, name).to_numpy() for name in ("first_step", "last_step"))
    count = pc.list_value_length(assignment["phases"]).to_numpy().astype(np.int64)
    phase = (np.cumsum(count) - count)[item]  # the item's first one, among the phases of all
    for number in range(1, count.max(initial=0)):  # phases are in the order of their steps
        following = np.minimum(phase + 1, len(first) - 1)
        phase = np.where((number < count[item]) & (step >= first[following]), following, phase)
    if (outside := (step < first[phase]) | (step >= last[phase])).any():
        i = int(np.argmax(outside))
        raise DataError(f"the plan has a copy of {plan['item_id'][i]} in step {step[i]:,}, outside its windows; make the plan anew")
    explicit = pc.equal(pc.struct_field(phases, "spacing"), "explicit").to_numpy()
    distinct, window_of = np.unique(np.stack([first, last, explicit], 1), axis=0, return_inverse=True)
    window = window_of.reshape(-1)[phase]
    earliest, latest = np.full(len(distinct), np.iinfo(np.int64).max), np.full(len(distinct), -1)
    np.minimum.at(earliest, window, step)
    np.maximum.at(latest, window, step)
    return [(int(f), int(n)) for f, n in zip(earliest, latest, strict=True) if n >= 0]


def _numbers(column: pa.ChunkedArray, names: pa.ChunkedArray) -> np.ndarray:
    """The place of each of a column's names among `names`, int64 (n,). DataError for one that is not there."""
    values = names.combine_chunks()
    parts = [np.zeros(0, np.int64)]
    for chunk in column.chunks:
        encoded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        places = pc.fill_null(pc.index_in(encoded.dictionary, values), -1).to_numpy(zero_copy_only=False)
        part = places[encoded.indices.to_numpy()].astype(np.int64)
        if len(part) and part.min() < 0:
            raise DataError(f"the plan names {chunk[int(np.argmin(part))]}, which has no arm in the assignment; make the plan anew")
        parts.append(part)
    return np.concatenate(parts)
