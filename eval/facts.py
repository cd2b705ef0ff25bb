"""What a model says to questions with one answer: whether it emits the answer, how probable it is, and at which layers.

The tables FACT_SCORES and LAYERS of a checkpoint, each by one teacher-forced pass over the questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import PreTrainedModel

from configs.errors import DataError
from configs.layout import fingerprint
from configs.schema import Eval
from configs.tables import FACT_SCORES, LAYERS, read_table
from eval.evaluation import Checkpoint, score_once
from eval.extraction import target_log_prob
from eval.lens import LogitLens, first_layers
from eval.scoring import score_tokens

FORMAT = 1

Row = dict[str, Any]


@dataclass(frozen=True)
class AskedFact:
    """A question and its answer, as tokens."""

    item_id: str
    item_set: str
    tokens: Sequence[int]  # without the end-of-text tokens before and after
    answer: slice  # of tokens


def fact_scores(
    model: PreTrainedModel, facts: Sequence[AskedFact], exposures: Mapping[str, int], end_of_text: int, batch_tokens: int
) -> Iterator[Row]:
    """Rows of FACT_SCORES, without model and step, in the order of `facts`. Each question comes after the end-of-text token.

    `exposures`: of each fact by its item, 0 where it has none. What comes after the answer, the closing end-of-text token, is no
    part of it. Greedy decoding emits the answer if and only if the argmax is right at each of its tokens (eval/extraction.py).
    """
    texts = [fact.tokens[: fact.answer.stop] for fact in facts]
    scored = dict(score_tokens(model, texts, [[end_of_text]], batch_tokens)) if facts else {}
    for i, fact in enumerate(facts):
        right = scored[i].argmax[fact.answer] == fact.tokens[fact.answer]
        yield {
            "item_id": fact.item_id,
            "item_set": fact.item_set,
            "emitted": bool(right.all()),
            "token_accuracy": float(right.mean()),
            "log_prob": target_log_prob(scored[i].log_prob, fact.answer)[1],
            "exposures": exposures.get(fact.item_id, 0),
        }


def fact_layers(lens: LogitLens, facts: Sequence[AskedFact], end_of_text: int, batch_tokens: int) -> Iterator[Row]:
    """Rows of LAYERS, without model and step: the logit lens on the first token of each answer."""
    prompts = [[end_of_text, *fact.tokens[: fact.answer.start]] for fact in facts]
    probabilities, top = lens.read(prompts, [fact.tokens[fact.answer.start] for fact in facts], batch_tokens)
    for fact, probability, first in zip(facts, probabilities.tolist(), first_layers(top), strict=True):
        yield {"item_id": fact.item_id, "item_set": fact.item_set, "probability": probability, "first": first}


def exposures_before(rows: pa.Table, consumed: Mapping[int, bool], global_batch: int, step: int) -> Mapping[str, int]:
    """How many rows of a stage held each item in the consumed steps before `step`. `rows`: STAGE_ROWS; `consumed`: the ledger's."""
    steps = (rows["row"].to_numpy() // global_batch).tolist()
    items = rows["item_id"].to_pylist()
    return Counter(item for at, item in zip(steps, items, strict=True) if at < step and consumed.get(at, False))


def score_stage(
    checkpoint: Checkpoint,
    scores: Path,
    facts: Sequence[AskedFact],
    exposures: Mapping[str, int],
    end_of_text: int,
    settings: Eval,
    lens: bool = True,
) -> None:
    """Write the tables of one checkpoint to `scores`/facts-STEP, unless they are there already for the same weights, facts and
    exposures. Where the lens doesn't know the architecture, its table is left out, and the reason printed.
    """
    folder = scores / f"facts-{checkpoint.step:08d}"
    asked = [(fact.item_id, fact.item_set, list(fact.tokens), fact.answer.start, fact.answer.stop) for fact in facts]
    seen = sorted((item, count) for item, count in exposures.items() if count)
    identity = fingerprint([FORMAT, astuple(checkpoint)[1:], asked, seen, end_of_text, settings.precision, lens])

    def tables(model: PreTrainedModel) -> Iterator[tuple[str, Iterator[Row], pa.Schema]]:
        yield "facts", fact_scores(model, facts, exposures, end_of_text, settings.batch_tokens), FACT_SCORES
        if lens and (found := _lens(model)):
            yield "layers", fact_layers(found, facts, end_of_text, settings.batch_tokens), LAYERS

    score_once(folder, checkpoint, identity, settings, tables, {})


def _lens(model: PreTrainedModel) -> LogitLens | None:
    """The lens on a model; None, and a line that says so, where its architecture has none. All else can be measured still."""
    try:
        return LogitLens(model)
    except DataError as error:
        print(f"  no layers: {error}", flush=True)
        return None


def read_scores(folders: Iterable[Path]) -> tuple[pa.Table, pa.Table]:
    """FACT_SCORES and LAYERS of all checkpoints of models, whose folders of scores these are."""
    found: dict[str, list[pa.Table]] = {"facts": [FACT_SCORES.empty_table()], "layers": [LAYERS.empty_table()]}
    for scores in folders:
        for path in sorted(scores.glob("facts-????????/*.parquet")):
            found[path.stem].append(read_table(path))
    return pa.concat_tables(found["facts"]), pa.concat_tables(found["layers"])
