"""Which texts probes in training score, and when, a pure function of plan, assignment and settings; and what is asked of a scorer.

A text that is shown in the rows of step e is scored with the weights that step e was taken from (after 0: just before), and with
those that k further steps have led to (after k): the weights of step e + k, which have seen the steps before it, as a checkpoint of
that step has. So after 1 is the model that has just been taught. With it, at the same steps, the same variant of held-out twins of
its stratum is scored: what a text gained is told over theirs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from configs.errors import RecipeError
from configs.layout import fingerprint
from configs.schema import Probes
from inject.design import HELD_OUT

Text = tuple[str, str]  # item and variant


@dataclass(frozen=True)
class Due:
    """A text that is to be scored with the weights of a step."""

    item_id: str
    variant: str
    exposure_step: int | None = None  # the step whose rows hold the copy that is followed; None: a held-out twin
    after: int | None = None  # steps since before that copy was seen

    @property
    def text(self) -> Text:
        return self.item_id, self.variant


Schedule = Mapping[int, Sequence[Due]]  # by the step of the weights


class ProbeScore(NamedTuple):
    """What came of one probe of a text."""

    probe_id: str
    log_prob: float  # mean of the target's tokens, nats
    extracted: bool  # whether greedy decoding from all before the target emits it


class Scorer(Protocol):
    """How texts are scored."""

    def tokens(self, text: Text) -> Sequence[int]:
        """The tokens of a text, with those before it that it is scored after."""

    def scores(self, texts: Sequence[Text], logits: torch.Tensor) -> list[list[ProbeScore]]:
        """The probes of each text, from the logits (n, T, V) fp32 of all its tokens but the last, padded on the right."""


def probe_schedule(
    plan: pa.Table,
    items: pa.Table,
    assignment: pa.Table,
    texts: Sequence[Text],
    settings: Probes,
    global_batch: int,
    steps: int,
) -> dict[int, list[Due]]:
    """What is due at each step that has anything due, in the order of steps; nothing lies beyond the end, the weights of `steps`.

    An item's exposures are the steps that show a copy of it. Of n, `settings.exposures` are followed, those at equal distances by
    their numbers: the first, the last, and further ones between. `plan`: columns row, item_id and variant of the model's own plan;
    `items`: item_id, item_set, stratum; `assignment`: item_id, group, arm; `texts`: those that can be scored. RecipeError for an
    arm that there is not.
    """
    stratum = dict(zip(items["item_id"].to_pylist(), items["stratum"].to_pylist(), strict=True))
    chosen = followed(items, assignment, settings)
    twins: dict[str, list[str]] = defaultdict(list)
    for item, arm in chosen.items():
        if arm == HELD_OUT:
            twins[stratum[item]].append(item)
    known, due = set(texts), defaultdict[int, dict[Due, None]](dict)
    for item, variants in _exposures(plan, [item for item, arm in chosen.items() if arm != HELD_OUT], global_batch):
        exposed = list(variants)
        for number in spread_evenly(len(exposed), settings.exposures):
            step = exposed[number]
            for after in [0, *sorted(settings.after)]:
                if step + after > steps:
                    break
                for variant in variants[step]:
                    own = [Due(item, variant, step, after), *(Due(twin, variant) for twin in twins[stratum[item]])]
                    due[step + after] |= dict.fromkeys(each for each in own if each.text in known)
    return {step: list(due[step]) for step in sorted(due) if due[step]}


def followed(items: pa.Table, assignment: pa.Table, settings: Probes) -> dict[str, str]:
    """The items that are followed, with their arms: of each stratum and arm, `settings.items` groups, and one item of each.

    Which groups, their names alone decide, by a hash: as good as at random, and the same for every model of a run.
    """
    arms = assignment["arm"].to_pylist()
    check_arms(settings, arms)
    columns = [items[name].to_pylist() for name in ("item_id", "item_set", "stratum")]
    sets = {item: (item_set, stratum) for item, item_set, stratum in zip(*columns, strict=True)}
    groups: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for item, group, arm in zip(assignment["item_id"].to_pylist(), assignment["group"].to_pylist(), arms, strict=True):
        item_set, stratum = sets[item]
        if (not settings.sets or item_set in settings.sets) and (not settings.arms or arm in [HELD_OUT, *settings.arms]):
            groups[stratum, arm][group].append(item)
    return {
        min(own[group]): arm
        for (_, arm), own in groups.items()
        for group in sorted(own, key=lambda name: fingerprint(["probes", name]))[: settings.items]
    }


def check_arms(settings: Probes, arms: Iterable[str]) -> None:
    """RecipeError where the settings name an arm that is not one of `arms`."""
    possible = list(dict.fromkeys(arm for arm in arms if arm != HELD_OUT))
    if unknown := [arm for arm in settings.arms if arm not in possible]:
        raise RecipeError(f"train.probes.arms holds {unknown[0]!r}; possible: {', '.join(possible)}")


def spread_evenly(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers 0 to count - 1, the first and the last among them, at equal distances but for rounding.

    >>> spread_evenly(9, 3), spread_evenly(2, 5), spread_evenly(1, 2)
    ([0, 4, 8], [0, 1], [0])
    """
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most)).tolist()})


def _exposures(plan: pa.Table, items: Sequence[str], global_batch: int) -> Iterator[tuple[str, dict[int, list[str]]]]:
    """Each of the items that the plan has, with the variants that each of its steps shows, in the order of steps."""
    own = plan.filter(pc.is_in(plan["item_id"].cast(pa.string()), pa.array(items, pa.string())))
    steps = own["row"].to_numpy() // global_batch  # a plan is sorted by row
    shown: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for item, step, variant in zip(own["item_id"].to_pylist(), steps.tolist(), own["variant"].to_pylist(), strict=True):
        if variant not in shown[item][step]:
            shown[item][step].append(variant)
    yield from ((item, shown[item]) for item in items if item in shown)
