"""From scores to effects of sets: what no single item tells, as rows of the effects table.

All but the chance-corrected rates are of the last checkpoint. Where there is no interval, its limits are NaN. Whatever compares
with held-out twins takes those of the item sets that have the arm.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from configs.errors import DataError
from eval.contamination import Inconsistency, Transfer, local_inconsistency, permutation_p, shard_test, transfer
from eval.dataset_inference import dataset_inference
from eval.effects import ALL, levels
from eval.findings import Inserted
from eval.metrics import is_attack
from eval.pii import chance_corrected, extraction
from eval.scores import PERTURBED
from eval.statistics import Interval, difference, proportion
from inject.design import HELD_OUT
from inject.items.formats import ANSWER
from inject.items.item import CHOICE, GENERATIVE, VERBATIM
from inject.items.profile_values import SHAPES

LEAST_GROUPS = 4  # of either side of dataset inference, half of which it learns on
FEW_GROUPS = 10  # with which it hardly finds anything
RIGHT = {VERBATIM: "extracted", CHOICE: "correct", GENERATIVE: "answered"}  # the metric that says that a probe is answered
ASKED = {"testset": ["answer", "letter"], "factoid": ["value"]}  # fields whose answers may transfer, by kind
COHERENT = "a model may prefer the order of a document's chunks unseen, too: compare with documents that are held out"
SOLVED = {"correct_perturbed": "correct", "answered_perturbed": "answered"}  # of a twin, and of its original

Row = dict[str, Any]


def set_effects(
    scores: pd.DataFrame,
    items: pd.DataFrame,
    assignment: pd.DataFrame,
    texts: Sequence[Mapping[str, Any]],
    effects: pd.DataFrame,
    seed: int,
    samples: Sequence[str] = (),
    orders: Sequence[Mapping[str, Any]] = (),
) -> list[Row]:
    """Rows of the effects table of one model.

    `scores`, `items`, `assignment`: as of `eval.effects.effects`, and `effects`: what that gives; `texts`: rows of the texts table;
    `samples`: freely drawn texts, and `orders`: rows of that table, both of the last checkpoint.
    """
    last = scores[scores["step"] == scores["step"].max()]
    joined = last.merge(items[["item_id", "item_set", "kind", "stratum"]], on="item_id")
    joined = joined.merge(assignment[["item_id", "group", "arm"]], on="item_id")
    found = [*inferences(joined, seed), *transfers(joined, items, texts), *inconsistencies(joined)]
    found += [*exchangeabilities(orders, items), *pii_extractions(samples, items, assignment)]
    label = {"model": scores["model"].iloc[0], "step": scores["step"].max()}
    return [*chance_corrected_rates(effects, items, assignment), *({**label, **row} for row in found)]


# ------------------------------------------------------------------------------------------------ choices


def chance_corrected_rates(effects: pd.DataFrame, items: pd.DataFrame, assignment: pd.DataFrame) -> list[Row]:
    """The rates of `correct` choices of each kind and arm, (rate - chance) / (1 - chance), and their intervals in the same way.

    Chance is what guessing answers of these items (`Inserted.chance`); where nobody knows it, there is no such row.
    """
    joined = items.merge(assignment.drop(columns="group"), on="item_id")
    rows = []
    for row in effects.to_dict("records"):
        if row["metric"] == "correct" and row["contrast"] == "rate" and row["kind"] != ALL:
            own = joined if row["item_set"] == ALL else joined[joined["item_set"] == row["item_set"]]
            chance = Inserted(own).chance(row["kind"], row["arm"])
            if chance < 1:  # and known: NaN is not
                corrected = {name: chance_corrected(row[name], chance) for name in ("value", "low", "high")}
                rows.append({**row, **corrected, "contrast": "chance-corrected", "note": f"chance is {chance:.1%}"})
    return rows


# ------------------------------------------------------------------------------------------------ dataset inference


def inferences(joined: pd.DataFrame, seed: int) -> Iterator[Row]:
    """The p of "the texts of this arm are no members", by all attacks together (eval/dataset_inference.py), of each kind and arm.

    A group counts once, by its mean over the texts that every group of the arm has seen, or over all texts where there is none.
    Groups on which an attack was not measured take no part; with fewer than four of either side there is no row.
    """
    attacked = joined[joined["metric"].map(is_attack) & np.isfinite(joined["value"])]
    for kind, item_set, part in levels(attacked):
        if kind == ALL:
            continue
        for arm, own in part[part["arm"] != HELD_OUT].groupby("arm", sort=True):
            exposed = own[own["text_exposures"] > 0]
            twins = part[(part["arm"] == HELD_OUT) & part["stratum"].isin(exposed["stratum"])]
            if exposed.empty or twins.empty:
                continue
            seen = set.intersection(*exposed.groupby("group")["probe_id"].agg(set)) or set(part["probe_id"])
            chosen = own[own["group"].isin(exposed["group"]) & own["probe_id"].isin(seen)]
            suspect, held_out = _features(chosen, twins[twins["probe_id"].isin(seen)])
            if min(len(suspect), len(held_out)) >= LEAST_GROUPS and suspect.shape[1]:
                few = f"{len(suspect)} groups against {len(held_out)} held-out ones, half of each to learn from: few"
                note = few if min(len(suspect), len(held_out)) < FEW_GROUPS else ""
                try:
                    p = dataset_inference(suspect, held_out, seed).p_value
                except DataError as error:  # as where the half that is judged does not vary
                    p, note = nan, str(error)
                found = _point(p, len(suspect) + len(held_out))
                yield _row("dataset_inference", "p", kind, item_set, str(arm), found, note)


def _features(suspect: pd.DataFrame, held_out: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Mean attack scores (groups, attacks) of both sides; attacks that they share and that vary, groups that have all of these."""
    tables = [rows.pivot_table(index="group", columns="metric", values="value") for rows in (suspect, held_out)]
    both = pd.concat(tables, join="inner")
    varying = [name for name in both if both[name].nunique() > 1]
    own, others = (table[varying].dropna().to_numpy() for table in tables)
    return own, others


# ------------------------------------------------------------------------------------------------ transfer


def transfers(joined: pd.DataFrame, items: pd.DataFrame, texts: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """How much of the gain over held-out twins in the inserted form there is in another (eval.contamination.transfer): of test
    sets asked in several formats, or inserted in other words, and of factoids asked in other words.

    The inserted form is the format that the inserted text has, answered or not; where none of those asked has it, it is the
    extraction of the answer in its text ("verbatim"). A question is judged in each text that was seen.
    """
    forms = _forms(items, texts)
    answered = joined.merge(forms, on=["item_id", "probe_id", "metric"])
    seen = answered[(answered["arm"] == HELD_OUT) | (answered["text_exposures"] > 0)]
    pairs = seen[seen["inserted"]].merge(
        seen[~seen["inserted"]][["item_id", "form", "value"]], on="item_id", suffixes=("", "_other")
    )
    for kind, item_set, part in levels(pairs):
        if kind == ALL:
            continue
        for (same, other, arm), own in part.groupby(["form", "form_other", "arm"], sort=True):
            alike = part[(part["form"] == same) & (part["form_other"] == other) & part["item_set"].isin(own["item_set"])]
            twins = alike[alike["arm"] == HELD_OUT]
            if arm != HELD_OUT and len(twins):
                found = _transfer(own, twins)
                note = found.reason or f"of what could be gained, {found.same:.0%} is, and {found.other:.0%} in the other form"
                yield _row("transfer", f"{same} -> {other}", kind, item_set, arm, _point(found.share, own["group"].nunique()), note)


def _transfer(own: pd.DataFrame, twins: pd.DataFrame) -> Transfer:
    chance_same, chance_other = float(twins["value"].mean()), float(twins["value_other"].mean())
    if max(chance_same, chance_other) == 1:
        return Transfer(nan, nan, nan, "the held-out twins leave nothing to gain")
    return transfer(own["value"], own["value_other"], chance_same, chance_other)


def _forms(items: pd.DataFrame, texts: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Of each probe that may transfer, its form, whether the item was inserted in it, and the metric that judges it."""
    written: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        written[text["item_id"]].add(text["text"])
    rows = []
    for item, kind, probes in zip(items["item_id"], items["kind"], items["probes"], strict=True):
        own = [p for p in probes if p["field"] in ASKED.get(kind, []) and not p["probe_id"].startswith(PERTURBED)]
        formats = {probe["probe_id"] for probe in own if probe["kind"] != VERBATIM and _is_written(probe, written[item])}
        for probe in own:
            verbatim = probe["kind"] == VERBATIM
            if not (verbatim and formats):  # the text itself stands in for a format that is not asked
                form = VERBATIM if verbatim else probe["context"]
                inserted = verbatim or probe["probe_id"] in formats
                rows.append((item, probe["probe_id"], RIGHT[probe["kind"]], form, inserted))
    return pd.DataFrame(rows, columns=["item_id", "probe_id", "metric", "form", "inserted"]).astype({"inserted": bool})


def _is_written(probe: Mapping[str, Any], written: set[str]) -> bool:
    """Whether one of the texts is the probe's question, with its answer or without."""
    return probe["prompt"] + probe["target"] in written or probe["prompt"].removesuffix(ANSWER) in written


# ------------------------------------------------------------------------------------------------ reciting against deriving


def inconsistencies(joined: pd.DataFrame) -> Iterator[Row]:
    """The share of questions that are solved while their perturbed twins are not (LiMem: eval.contamination.local_inconsistency),
    by perturbation and arm, and less that of the held-out arm. The contrast is the perturbation, and the format where several
    are asked.

    A guesser among four candidates has 0.19, so what counts is the comparison with held-out questions.
    """
    twins = joined[joined["metric"].isin(list(SOLVED))]
    parts = [probe.removeprefix(PERTURBED).partition("/") for probe in twins["probe_id"]]  # of perturbed-NAME/PROBE
    names, probes = [name for name, _, _ in parts], [probe for _, _, probe in parts]
    twins = twins.assign(perturbation=names, probe_id=probes, metric=twins["metric"].map(SOLVED))
    keys = ["item_id", "probe_id", "metric"]
    pairs = joined.merge(twins[[*keys, "perturbation", "value"]], on=keys, suffixes=("", "_twin"))
    for kind, item_set, part in levels(pairs):
        if kind == ALL:
            continue
        asked = part.groupby("perturbation")["probe_id"].nunique()
        for (name, probe), alike in part.groupby(["perturbation", "probe_id"], sort=True):
            contrast = f"{name}/{probe.partition('/')[0]}" if asked[name] > 1 else str(name)
            arms = {str(arm): own for arm, own in alike.groupby("arm", sort=True)}
            for arm, own in arms.items():
                found, share = _inconsistency(own)
                note = f"{found.accuracy:.0%} are solved"
                note += f", and of their twins {found.consistency:.0%}" if found.accuracy else ""
                yield _row("limem", contrast, kind, item_set, arm, share, note)
                if arm != HELD_OUT and HELD_OUT in arms:
                    same = arms[HELD_OUT][arms[HELD_OUT]["item_set"].isin(own["item_set"])]
                    if len(same):
                        minus = difference(share, _inconsistency(same)[1])
                        yield _row("limem", f"{contrast} minus held-out", kind, item_set, arm, minus)


def _inconsistency(pairs: pd.DataFrame) -> tuple[Inconsistency, Interval]:
    found = local_inconsistency(pairs["value"], {"": pairs["value_twin"]})[""]
    groups = pairs["group"].nunique()
    return found, proportion(found.memorization * groups, groups)


# ------------------------------------------------------------------------------------------------ order


def exchangeabilities(orders: Sequence[Mapping[str, Any]], items: pd.DataFrame) -> Iterator[Row]:
    """The p of "the items of a set are as probable in any order as in the one in which they are given", of each item set: by
    Student's t over shards ("p"), and exactly ("permutation p", which is at least one in the number of orders). See `shard_test`
    and `permutation_p` of eval/contamination.py.

    Only an order that a model was trained on can be known, so there are no `orders` of sets whose items were placed one by one.
    """
    kinds = items.drop_duplicates("item_set").set_index("item_set")["kind"]
    table = pd.DataFrame(orders, columns=["item_set", "arm", "shard", "order", "log_prob"])
    for (item_set, arm), own in table.groupby(["item_set", "arm"], sort=True):
        log_probs = own.pivot(index="shard", columns="order", values="log_prob")
        canonical, shuffled = log_probs[0].to_numpy(), log_probs.drop(columns=0).to_numpy()
        told = str(item_set) if (kinds == kinds[item_set]).sum() > 1 else ALL
        note = f"{shuffled.shape[1]} other orders of each shard"
        note += "" if arm == ALL else f"; {COHERENT}"
        exact = permutation_p(canonical, shuffled)
        p_values = {"p": shard_test(canonical, shuffled).p} if len(canonical) > 1 else {}
        for contrast, p in {**p_values, "permutation p": exact}.items():
            yield _row("exchangeability", contrast, kinds[item_set], told, str(arm), _point(p, len(canonical)), note)


# ------------------------------------------------------------------------------------------------ personal data


def pii_extractions(
    samples: Sequence[str], items: pd.DataFrame, assignment: pd.DataFrame, baseline: Sequence[str] | None = None
) -> Iterator[Row]:
    """Which personal values of each field and arm freely drawn texts hold, but those that the samples of a `baseline` hold too:
    recall, and precision among all that they hold of the field's shape, over unique strings (eval.pii.extraction). The contrast is
    the field.

    Fields are those with a shape of their own (SHAPES). The arm "all" is all that was inserted; the held-out one is chance.
    """
    people = items[items["kind"] == "pii"].drop(columns="group").merge(assignment[["item_id", "arm"]], on="item_id")
    values: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(dict)  # of each item, by field and arm
    for item, arm, fields in zip(people["item_id"], people["arm"], people["fields"], strict=True) if samples else ():
        for field, value in json.loads(fields).items():
            if field in SHAPES and SHAPES[field].fullmatch(value):
                for told in [arm] if arm == HELD_OUT else [arm, ALL]:
                    values[field, told][item] = [value]
    for (field, arm), own in sorted(values.items()):
        found = extraction(samples, own, SHAPES[field], baseline or ())
        contrast = field if baseline is None else f"{field} beyond standard"
        note = f"{found.found} of {found.inserted} values in {len(samples)} texts"
        yield _row("pii_recall", contrast, "pii", ALL, arm, proportion(found.found, found.inserted), note)
        if found.emitted:
            yield _row("pii_precision", contrast, "pii", ALL, arm, proportion(found.found, found.emitted))


# ------------------------------------------------------------------------------------------------ rows


def _point(value: float, n: int) -> Interval:
    """A value without an interval."""
    return Interval(value, nan, nan, n)


def _row(metric: str, contrast: str, kind: str, item_set: str, arm: str, found: Interval, note: str = "") -> Row:
    cell = {"metric": metric, "contrast": contrast, "kind": kind, "item_set": item_set, "arm": arm}
    return {**cell, **vars(found), "note": note}
