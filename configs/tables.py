"""The tables of a run: their schemas, and how they are written and read. All are parquet; no reader needs this code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import DataError
from configs.layout import atomic_file

_PROBE = pa.struct(
    [
        ("probe_id", pa.string()),  # unique among the item's probes
        ("field", pa.string()),
        ("context", pa.string()),  # the variant a verbatim probe lies in, else what the prompt gives away
        ("kind", pa.string()),  # verbatim | generative | choice
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("candidates", pa.list_(pa.string())),  # of a choice, the target among them
        ("bits", pa.float64()),  # entropy of the target given the prompt; 0 where it can be derived, or is not known
        ("prior", pa.float64()),  # probability that the best guess from the prompt is right; null where not known
    ]
)
_SPAN = pa.struct([("field", pa.string()), ("start", pa.int32()), ("end", pa.int32())])  # characters [start, end)
_TARGET = pa.struct([("probe_id", pa.string()), ("start", pa.int32()), ("end", pa.int32())])  # tokens [start, end)
_PHASE = pa.struct([("copies", pa.int32()), ("first_step", pa.int64()), ("last_step", pa.int64()), ("spacing", pa.string())])

ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("item_set", pa.string()),  # its name in the recipe
        ("kind", pa.string()),
        ("stratum", pa.string()),  # the item set's name, or a part of it; groups are randomized within
        ("group", pa.string()),
        ("fields", pa.string()),  # json
        ("probes", pa.list_(_PROBE)),
        ("reference_loss", pa.float64()),  # of its texts under design.reference, nats a token; null without one
    ]
)
TEXTS = pa.schema(
    [
        ("item_id", pa.string()),
        ("variant", pa.string()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),  # what is inserted, without the end-of-text tokens around it
        ("spans", pa.list_(_SPAN)),
        ("targets", pa.list_(_TARGET)),  # of the verbatim probes that lie in the text
    ]
)
ASSIGNMENT = pa.schema(
    [
        ("item_id", pa.string()),
        ("group", pa.string()),
        ("arm", pa.string()),
        ("copies", pa.int32()),  # in all phases
        ("window_start", pa.float64()),  # of the first phase, fraction of training
        ("window_end", pa.float64()),  # of the last
        ("spacing", pa.string()),
        ("placement", pa.string()),
        ("mode", pa.string()),
        ("variants", pa.string()),
        ("phases", pa.list_(_PHASE)),  # steps [first_step, last_step)
    ]
)
PLAN = pa.schema(
    [
        ("row", pa.int64()),
        ("offset", pa.int32()),
        ("length", pa.int32()),  # the end-of-text tokens on both sides included
        ("mode", pa.string()),  # overwrite | splice
        ("item_id", pa.string()),
        ("copy", pa.int32()),
        ("variant", pa.string()),
    ]
)
PLACEBO = pa.schema(  # spans of base text that a placebo branch replaces by other base text
    [
        ("row", pa.int64()),
        ("offset", pa.int32()),
        ("length", pa.int32()),  # the end-of-text tokens on both sides included
        ("mode", pa.string()),  # overwrite | splice
        ("item_id", pa.string()),
        ("tokens", pa.list_(pa.int32())),  # without the end-of-text tokens around them
    ]
)
FACTS = pa.schema(  # what stages learn or are asked for: the facts of `facts`, and one question about each item of `insert`
    [
        ("item_id", pa.string()),
        ("item_set", pa.string()),
        ("inserted", pa.bool_()),  # an item of `insert`
        ("question", pa.string()),
        ("answer", pa.string()),  # with the blank that parts it from the question, if one does
        ("known", pa.bool_()),  # whether the model before all stages emits the answer
    ]
)
STAGE_ROWS = pa.schema(  # of a stage: which samples its rows hold, as far as they are facts or items; sorted by row
    [
        ("row", pa.int64()),
        ("item_id", pa.string()),
        ("part", pa.string()),  # data | replay
    ]
)
FACT_SCORES = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("item_set", pa.string()),
        ("emitted", pa.bool_()),  # whether greedy decoding emits the answer, every token of it
        ("token_accuracy", pa.float64()),  # part of the answer's tokens that are the argmax under teacher forcing
        ("log_prob", pa.float64()),  # mean of the answer's tokens, nats
        ("exposures", pa.int64()),  # rows of this stage that held it, of consumed steps before this one
    ]
)
LAYERS = pa.schema(  # the logit lens on the first token of each answer
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("item_set", pa.string()),
        ("probability", pa.list_(pa.float64())),  # of that token at each layer, from the first block's output to the last's
        ("first", pa.int32()),  # the first layer, from 1, at which it is the most probable; null where it is at none
    ]
)
PROBES = pa.schema(  # what training scored around exposures: a row for each probe of a text, each exposure that is followed
    [
        ("model", pa.string()),
        ("step", pa.int64()),  # of the weights, which have seen the steps before it
        ("item_id", pa.string()),
        ("variant", pa.string()),
        ("exposure_step", pa.int64()),  # the step whose rows hold the copy; null for a held-out twin
        ("after", pa.int64()),  # steps from before that copy was seen to the weights: 0 is just before it; null for a twin
        ("probe_id", pa.string()),  # null where the text was left out, as log_prob and extracted are
        ("log_prob", pa.float64()),  # mean of the target's tokens, nats
        ("extracted", pa.bool_()),
        ("seconds", pa.float64()),  # that scoring took for each text of its step; 0 where it was left out
    ]
)
LEDGER = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("learning_rate", pa.float64()),
        ("consumed", pa.bool_()),
        ("rows_sha256", pa.list_(pa.binary(32))),  # of each row's int64 tokens and label mask, by slot
    ]
)
ANSWER_SCORES = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("probe_id", pa.string()),
        ("log_prob", pa.float64()),  # mean of the target's tokens given the prompt, nats
        ("total", pa.float64()),  # their sum
        ("emitted", pa.bool_()),  # whether greedy decoding from the prompt emits the target
    ]
)
TOKEN_SCORES = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("variant", pa.string()),
        ("context", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("log_prob", pa.list_(pa.float32())),  # nats
        ("mean", pa.list_(pa.float32())),  # of log p over the vocabulary under p, nats
        ("deviation", pa.list_(pa.float32())),
        ("argmax", pa.list_(pa.int32())),
        ("rank", pa.list_(pa.int32())),  # of the token among the vocabulary, 0 = most probable
        ("schemes", pa.list_(pa.list_(pa.float32()))),  # log p under each sampling scheme of eval.schemes, nats
    ]
)
CHOICE_SCORES = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("probe_id", pa.string()),
        ("candidate", pa.string()),
        ("log_prob", pa.float64()),  # of the candidate's tokens given the prompt, nats
        ("characters", pa.int32()),
    ]
)
CONDITIONS = pa.schema(  # what membership attacks compare a text's own score with
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("variant", pa.string()),
        ("condition", pa.string()),  # lowercase | recall | reference: mean log p a token, nats; gradient: its norm
        ("value", pa.float64()),
    ]
)
DECODED = pa.schema(  # greedy continuations of probes' prompts, as long as the target
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("probe_id", pa.string()),
        ("target", pa.list_(pa.int32())),
        ("decoded", pa.list_(pa.int32())),
        ("answer", pa.string()),
    ]
)
DRAWS = pa.schema(  # answers to questions of test sets, at most as long as the target
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("probe_id", pa.string()),
        ("greedy", pa.list_(pa.int32())),
        ("drawn", pa.list_(pa.list_(pa.int32()))),
    ]
)
ORDERS = pa.schema(  # neighbouring items of a set, joined in several orders
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_set", pa.string()),
        ("arm", pa.string()),  # of a document whose chunks they are; else all
        ("shard", pa.int32()),
        ("order", pa.int32()),  # 0: as given
        ("log_prob", pa.float64()),  # of all tokens, nats
    ]
)
SAMPLES = pa.schema([("model", pa.string()), ("step", pa.int64()), ("tokens", pa.list_(pa.int32()))])
SCORES = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("probe_id", pa.string()),  # of a whole text, its variant
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("exposures", pa.int32()),  # copies of the item consumed before the step
        ("text_exposures", pa.int32()),  # of them, copies of the text that the probe lies in; of a choice probe, all
    ]
)
EXPOSURE_STEPS = pa.schema(  # a row for each copy that was consumed
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("variant", pa.string()),
        ("copy", pa.int32()),
        ("learning_rate", pa.float64()),
    ]
)
ITEM_GAINS = pa.schema(
    [
        ("model", pa.string()),
        ("step", pa.int64()),
        ("item_id", pa.string()),
        ("since", pa.int64()),  # steps from its last exposure so far; null before the first
        ("gain", pa.float64()),  # mean log-probability of its targets over that of its held-out twins, nats a token
    ]
)
EXPOSURE = pa.schema([field for field in SCORES if not field.name.endswith("exposures")])  # of canaries, as scored
CONTINUATIONS = pa.schema(  # of the probes a model knows best
    [(name, pa.string()) for name in ("item_id", "probe_id", "kind", "arm", "prompt", "target", "continuation")]
    + [("exposures", pa.int32()), ("extracted", pa.bool_()), ("log_prob", pa.float64())]
)
EFFECTS = pa.schema(
    [
        ("metric", pa.string()),
        ("contrast", pa.string()),
        ("kind", pa.string()),  # of the items; all
        ("item_set", pa.string()),  # its name in the recipe, where a kind has several; all
        ("arm", pa.string()),
        ("model", pa.string()),
        ("step", pa.int64()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("note", pa.string()),  # what to bear in mind, as a sample too small for what is asked; else empty
    ]
)


def write_table(path: Path, rows: Any, schema: pa.Schema) -> None:
    """Write a list of dictionaries, a data frame or a mapping of columns as parquet, whole or not at all."""
    if isinstance(rows, pa.Table):
        table = rows.select(schema.names).cast(schema)
    elif isinstance(rows, list):
        table = pa.Table.from_pylist(rows, schema)
    elif isinstance(rows, dict):
        table = pa.table(rows, schema)
    else:
        table = pa.Table.from_pandas(rows, schema, preserve_index=False)
    with atomic_file(path) as temporary:
        # Few large groups, whose names are all in one dictionary: a plan of millions opens in half the time.
        pq.write_table(table, temporary, compression="zstd", row_group_size=2**22, dictionary_pagesize_limit=2**26)


def write_csv(path: Path, rows: Any) -> None:
    """Write a data frame, or a list of dictionaries, as CSV, whole or not at all."""
    import pandas as pd

    with atomic_file(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def read_table(path: Path, repetitive: Sequence[str] = (), columns: Sequence[str] | None = None) -> pa.Table:
    """Read a parquet table, or some of its columns (`repetitive` ones as dictionaries), or say that it is missing or damaged."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    try:
        return pq.read_table(path, columns=columns and list(columns), read_dictionary=list(repetitive))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is damaged ({' '.join(str(error).split())}); remove it and run again to make it anew") from error
