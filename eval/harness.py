"""lm-evaluation-harness (Gao et al., https://github.com/EleutherAI/lm-evaluation-harness), both ways: probes as tasks that it runs
on any checkpoint, and the tasks that it knows run on a checkpoint of ours.

It is given strings and tokenizes them itself, so a probe is exported only where it then reads the very tokens that Imprint
scores: its numbers are Imprint's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from configs.errors import DataError, RecipeError
from configs.layout import atomic_folder, read_json
from eval.scores import PERTURBED, ScoredItems
from inject.items.item import CHOICE
from inject.items.texts import split_probe
from inject.tokenizer import encode_with_offsets

FORMAT = 1
LEFT_OUT = "left_out.jsonl"

UNPRECEDED = "nothing precedes the target"
OTHERWISE = "the harness reads other tokens in the text"

PROBES = '''\
"""Probes of Imprint as tasks of lm-evaluation-harness (lm_eval 0.4.13), asked in the tokens that Imprint asks them in. To run them:

lm_eval run --model hf --model_args pretrained=CHECKPOINT,dtype=float32,logits_cache=False --include_path THIS_FOLDER --tasks TAG
"""

import json
from pathlib import Path

from datasets import Dataset
from lm_eval.api.task import ConfigurableTask


class Context(str):
    """What ends where a token ends, be it in a blank: the harness would strip blanks off and score them with the continuation."""

    def rstrip(self, *characters):
        return self


class Probes(ConfigurableTask):
    def __init__(self, config):
        if config["metadata"].get("logits_cache") is not False:
            raise ValueError(
                "add logits_cache=False to --model_args (to --metadata for models that do not know it): with its cache of logits "
                "hf gives a wrong log-likelihood where two continuations in the same text begin in different places"
            )
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, *_, **__):
        """Documents lie beside this file, so that the folder may lie anywhere."""
        lines = Path(__file__).with_name(f"{self.config.task}.jsonl").read_text().splitlines()
        self.dataset = {"test": Dataset.from_list([json.loads(line) for line in lines])}

    def construct_requests(self, doc, ctx, **settings):
        requests = super().construct_requests(doc, ctx, **settings)
        asked = requests if isinstance(requests, list) else [requests]
        for request, continuation in zip(asked, doc["continuations"], strict=True):
            request.arguments = (Context(ctx), continuation)
        return requests


def score(doc, results):
    """Whether greedy decoding emits the target, and the mean log-probability of its tokens, nats."""
    ((log_prob, greedy),) = results
    return {"acc": float(greedy), "log_prob": log_prob / doc["tokens"]}
'''

_TASK = """\
task: {task}
tag: {tag}
class: !function probes.Probes
test_split: test
num_fewshot: 0
target_delimiter: ""
doc_to_text: context
metadata: {{version: {version}, context: {context}}}
"""
_LOG_LIKELIHOOD = """\
output_type: loglikelihood
doc_to_target: target
process_results: !function probes.score
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: log_prob, aggregation: mean, higher_is_better: true}
"""
_MULTIPLE_CHOICE = """\
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""

# ------------------------------------------------------------------------------------------------ probes as tasks


@dataclass(frozen=True)
class Exported:
    """The tasks that were written."""

    tag: str  # names all of them
    tasks: dict[str, int]  # probes of each
    left_out: dict[str, int]  # probes that are in none, by reason

    def __str__(self) -> str:
        told = f"{sum(self.tasks.values()):,} probes in {len(self.tasks)} tasks, all of them named by {self.tag}"
        reasons = "; ".join(f"{count:,}, as {reason}" for reason, count in self.left_out.items())
        return f"{told}; {sum(self.left_out.values()):,} left out ({LEFT_OUT}): {reasons}" if reasons else told


@dataclass(frozen=True)
class _Question:
    """A probe as Imprint asks it, in tokens, and the strings that are to become these tokens."""

    context: str
    continuations: list[str]
    prompt: list[int]
    targets: list[list[int]]  # one a continuation


def export_tasks(
    items: pa.Table, texts: pa.Table, assignment: pa.Table | None, tokenizer: PreTrainedTokenizerFast, folder: Path, context: str
) -> Exported:
    """Write a folder that `lm_eval run --include_path` takes, whole or not at all: a task for each item set and kind of probe.

    Verbatim and generative probes: `acc` is whether greedy decoding emits the target, `log_prob` the mean of its tokens, nats (the
    logged samples have the sum). Choice probes: `acc` compares sums of log-probabilities, `acc_norm` the same a character. Each
    document says of its item: `item_id`, `probe_id`, `group`, `arm`, `copies`; the last two are null without an assignment.
    `context` is eval.context: eot begins each context with the end-of-text token's string, none with nothing.

    A probe is left out, and named in the folder's `left_out.jsonl`, where the harness would not read the tokens that Imprint
    scores. DataError where that is so of all probes, where the tokenizer does not encode the string of its end-of-text token to
    that token, or where the folder is there already; RecipeError for another context.
    """
    if folder.exists():
        raise DataError(f"{folder} is there already; remove it, or export to another folder")
    lead, lead_tokens = _lead(tokenizer, context)
    known = {row["item_id"]: row for row in items.select(["item_id", "item_set", "group"]).to_pylist()}
    if assignment is not None:
        for row in assignment.select(["item_id", "arm", "copies"]).to_pylist():
            known[row["item_id"]] |= row
    tag = "imprint_" + re.sub(r"[^\w.-]", "_", folder.name)
    documents: dict[str, list[dict[str, Any]]] = defaultdict(list)
    left_out: list[dict[str, str]] = []
    for item, probe, question in _questions(tokenizer, ScoredItems.from_tables(items, texts), texts):
        about = {"item_id": item, "probe_id": probe["probe_id"]}
        if reason := _refusal(tokenizer, lead, lead_tokens, question):
            left_out.append({**about, "why": reason})
            continue
        about |= {name: known[item].get(name) for name in ("group", "arm", "copies")}
        asked = {"context": lead + question.context, "continuations": question.continuations}
        kind = probe["kind"] + ("_perturbed" if probe["probe_id"].startswith(PERTURBED) else "")
        documents[f"{tag}_{known[item]['item_set']}_{kind}"].append({**about, **asked, **_answer(probe, question)})
    reasons = dict(Counter(row["why"] for row in left_out).most_common())
    if not documents:
        raise DataError(
            f"lm-evaluation-harness can ask none of the {len(left_out)} probes, as {', '.join(reasons) or 'there are none'}"
        )
    with atomic_folder(folder) as temporary:
        (temporary / "probes.py").write_text(PROBES)
        for task, rows in documents.items():
            head = _TASK.format(task=task, tag=tag, version=FORMAT, context=context)
            (temporary / f"{task}.yaml").write_text(head + (_MULTIPLE_CHOICE if "choices" in rows[0] else _LOG_LIKELIHOOD))
            _write_lines(temporary / f"{task}.jsonl", rows)
        _write_lines(temporary / LEFT_OUT, left_out)
    return Exported(tag, {task: len(rows) for task, rows in documents.items()}, reasons)


def _lead(tokenizer: PreTrainedTokenizerFast, context: str) -> tuple[str, list[int]]:
    """What precedes every prompt: its string and its tokens."""
    if context == "none":
        return "", []
    if context != "eot":
        raise RecipeError(f"eval.context is {context!r}; lm-evaluation-harness can be asked with eot or none")
    lead, tokens = str(tokenizer.eos_token), [tokenizer.eos_token_id]
    if (read := _harness_tokens(tokenizer, lead)) != tokens:
        raise DataError(
            f"lm-evaluation-harness reads {lead!r}, the end-of-text token {tokens[0]}, as the tokens {read}, so that it can't "
            "precede a probe; eval.context=none goes without it"
        )
    return lead, tokens


def _questions(
    tokenizer: PreTrainedTokenizerFast, scored: ScoredItems, texts: pa.Table
) -> Iterator[tuple[str, dict[str, Any], _Question]]:
    """Every probe with its item, as it is asked."""
    for row in texts.select(["item_id", "variant", "text", "tokens"]).to_pylist():
        text, tokens = row["text"], row["tokens"]
        _, offsets = encode_with_offsets(tokenizer, text)
        for probe, target in scored.targets[row["item_id"], row["variant"]]:
            start, end = _characters(offsets, target.start), _characters(offsets, target.stop)
            yield row["item_id"], probe, _Question(text[:start], [text[start:end]], tokens[: target.start], [tokens[target]])
    for item, probe in [*scored.choices, *scored.generative]:
        continuations = probe["candidates"] if probe["kind"] == CHOICE else [probe["target"]]
        prompt, targets = split_probe(tokenizer, probe["prompt"], continuations)
        start = _characters(encode_with_offsets(tokenizer, probe["prompt"] + continuations[0])[1], len(prompt))
        moved = probe["prompt"][start:]  # what tokens of the target share with the prompt
        yield item, probe, _Question(probe["prompt"][:start], [moved + each for each in continuations], prompt, targets)


def _characters(offsets: Sequence[tuple[int, int]], tokens: int) -> int:
    """Where the first so many tokens end; a blank that tokenizers leave out of their offsets begins the next token."""
    return max((end for _, end in offsets[:tokens]), default=0)


def _refusal(tokenizer: PreTrainedTokenizerFast, lead: str, lead_tokens: list[int], question: _Question) -> str | None:
    """Why the harness (`_encode_pair` of its api/model.py) would not ask this question, or None where it does, token for token."""
    context = lead + question.context
    if not context:
        return UNPRECEDED
    prompt = _harness_tokens(tokenizer, context)
    targets = [_harness_tokens(tokenizer, context + each)[len(prompt) :] for each in question.continuations]
    return None if (prompt, targets) == ([*lead_tokens, *question.prompt], question.targets) else OTHERWISE


def _harness_tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """What the harness's `HFLM.tok_encode` makes of a string: special tokens are added unless it begins with the first of them."""
    first = tokenizer.eos_token if tokenizer.bos_token_id is None else tokenizer.bos_token
    tokens: list[int] = tokenizer.encode(text, add_special_tokens=not text.startswith(str(first)))
    return tokens


def _answer(probe: dict[str, Any], question: _Question) -> dict[str, Any]:
    if probe["kind"] == CHOICE:
        return {"choices": probe["candidates"], "answer": probe["candidates"].index(probe["target"])}
    return {"target": probe["target"], "tokens": len(question.targets[0])}


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# ------------------------------------------------------------------------------------------------ tasks on a checkpoint


def run_tasks(
    checkpoint: Path,
    tasks: Sequence[str],
    include: Path | None = None,
    output: Path | None = None,
    shots: int | None = None,
    device: str | None = None,
    batch_size: int = 16,
) -> dict[str, dict[str, float]]:
    """Run tasks of the harness, or their tags and groups, on a Hugging Face folder in fp32: the value of each metric by task.

    `include`: a folder with more tasks; `output`: where the harness leaves its results and samples, nowhere if not given; `shots`:
    worked examples before each question, as many as the task says if not given. A metric of a filter other than none has its name
    behind a comma, as `exact_match,strict-match`; standard errors end in `_stderr`.

    DataError where the harness is not installed, there is no such checkpoint or task, data can't be had, or the harness fails.
    """
    if not (checkpoint / "config.json").exists():
        raise DataError(f"{checkpoint} is no checkpoint: it has no config.json")
    model = {"pretrained": str(checkpoint.absolute()), "dtype": "float32", "logits_cache": False}  # why: PROBES
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", json.dumps(model)]
    command += ["--tasks", ",".join(tasks), "--batch_size", str(batch_size)]
    command += ["--include_path", str(include)] if include is not None else []
    command += ["--num_fewshot", str(shots)] if shots is not None else []
    command += ["--device", device] if device is not None else []
    with tempfile.TemporaryDirectory() as temporary:
        written = output or Path(temporary)
        command += ["--output_path", str(written), *(["--log_samples"] if output else [])]
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
        if done.returncode:
            raise DataError(_failure(done.stderr))
        newest = max(written.rglob("results_*.json"), key=lambda path: path.stat().st_mtime_ns)
        results = read_json(newest)["results"]
    return {task: dict(_metrics(told)) for task, told in results.items()}


def _metrics(told: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Metrics by name, which the harness writes with their filters: `acc,none`, `acc_stderr,none`, `exact_match,strict-match`."""
    for key, value in told.items():
        name, comma, chosen = key.partition(",")
        if comma and isinstance(value, int | float):  # others tell of the task, or that there is no standard error
            yield name if chosen == "none" else key, value


def _environment() -> dict[str, str]:
    """The environment of the harness. DataError where it, or accelerate, which it needs, is not installed."""
    apart = Path(sys.prefix) / "harness"  # where the Makefile puts accelerate, and why
    beside = [str(apart)] if (apart / "accelerate").exists() else []
    missing = [name for name in ("lm_eval", *([] if beside else ["accelerate"])) if find_spec(name) is None]
    if missing:
        raise DataError(
            f"lm-evaluation-harness needs {' and '.join(missing)}, not installed here; make .venv/ready-dev installs it"
        )
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*beside, *filter(None, [os.environ.get("PYTHONPATH")])])}


def _failure(stderr: str) -> str:
    """Why the harness failed, in one sentence, by the last line that it wrote."""
    last = ([line.strip() for line in stderr.splitlines() if line.strip()] or ["it did not say why"])[-1]
    if unknown := re.search("Tasks not found: (.*)", last):
        return f"lm-evaluation-harness has no task {unknown[1]}; python -m lm_eval ls tasks lists what it has"
    if re.search("ConnectionError|OfflineMode|LocalEntryNotFound|Max retries", last):
        return f"lm-evaluation-harness needs data that is not on this machine, and could not reach it: {last}"
    return f"lm-evaluation-harness failed: {last}"
