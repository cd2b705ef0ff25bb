"""lm-evaluation-harness gives the numbers that the model's own logits give, of every probe that is exported to it."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import ByteLevel, TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from configs.errors import DataError, RecipeError
from configs.insert import CanarySet, FactoidSet, ItemSet, ProfileSet, RandomTokenSet, TestSet
from configs.schema import Model
from configs.tables import ITEMS, TEXTS
from eval import harness
from eval.harness import Exported, export_tasks, run_tasks
from inject.corpus import Corpus
from inject.items.item import Item, Material, Text, render, verbatim
from inject.items.make import make_items
from inject.items.texts import split_probe, tokenize_texts
from inject.tokenizer import vocabulary_size
from train.model import build_model

SETS: dict[str, ItemSet] = {
    "codes": CanarySet(count=4, text="The code of {name} is {digits:4}."),
    "noise": RandomTokenSet(count=2, length=[12], prefix=6),
    "people": ProfileSet(count=2, fields=["city", "phone"], probes=["full_prefix", "name_only", "choice"]),
    "places": FactoidSet(count=4, probes=["memorization", "paraphrase"]),
    "quiz": TestSet(count=4, probed=["cloze", "infill", "open"], perturbed=True),
}
LONGEST = 400  # tokens

Answers = list[tuple[float, bool]]  # of each target of a probe: log p(target | prompt), nats, and whether greedy decoding emits it


def tables(items: Sequence[Item], tokenizer: PreTrainedTokenizerFast) -> tuple[pa.Table, pa.Table]:
    rows = [{**asdict(item), "fields": json.dumps(item.fields), "reference_loss": None} for item in items]
    return pa.Table.from_pylist(rows, ITEMS), pa.Table.from_pylist(tokenize_texts(items, tokenizer, LONGEST), TEXTS)


def fit(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> None:
    """Train on texts until some of their targets are what greedy decoding emits."""
    rows = [torch.tensor(text) for text in texts]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        adam.zero_grad()
        model(input_ids=tokens, labels=labels).loss.backward()
        adam.step()


def answer(model: PreTrainedModel, prompt: Sequence[int], target: Sequence[int]) -> tuple[float, bool]:
    """From the model's logits: the sum of the log-probabilities of the target's tokens, and whether each is the argmax."""
    with torch.inference_mode():
        log_probs = model(torch.tensor([[*prompt, *target]])).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
    return float(log_probs[range(len(target)), target].sum()), log_probs.argmax(-1).tolist() == list(target)


def own_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, items: pa.Table, texts: pa.Table
) -> dict[tuple[str, str], Answers]:
    """By item and probe, after the end-of-text token."""
    lead, found = [tokenizer.eos_token_id], {}
    for row in texts.to_pylist():
        for target in row["targets"]:
            start, end = target["start"], target["end"]
            of_target = answer(model, [*lead, *row["tokens"][:start]], row["tokens"][start:end])
            found[row["item_id"], target["probe_id"]] = [of_target]
    for item in items.to_pylist():
        for probe in (probe for probe in item["probes"] if probe["kind"] != "verbatim"):
            prompt, targets = split_probe(tokenizer, probe["prompt"], probe["candidates"] or [probe["target"]])
            found[item["item_id"], probe["probe_id"]] = [answer(model, [*lead, *prompt], target) for target in targets]
    return found


@dataclass(frozen=True)
class Ran:
    """What was exported, what the harness made of it, and what the model's logits say."""

    exported: Exported
    folder: Path
    results: dict[str, dict[str, float]]
    samples: dict[str, list[dict[str, Any]]]  # by task
    own: dict[tuple[str, str], Answers]

    def of(self, sample: Mapping[str, Any]) -> Answers:
        return self.own[sample["doc"]["item_id"], sample["doc"]["probe_id"]]

    def tasks(self, kind: str) -> dict[str, list[dict[str, Any]]]:
        return {task: samples for task, samples in self.samples.items() if task.removesuffix("_perturbed").endswith(kind)}


@pytest.fixture(scope="module")
def ran(small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run of the harness, of all tasks on a model that knows half of the items."""
    tokenizer, tmp_path = small_corpus.tokenizer, tmp_path_factory.mktemp("harness")
    items, texts = tables(make_items(SETS, 1, Material(tokenizer, vocabulary_size(tokenizer))), tokenizer)
    ids = items["item_id"].to_pylist()
    copies = [4 * (number % 2) for number in range(len(ids))]
    assignment = pa.table({"item_id": ids, "arm": [f"{n} copies" for n in copies], "copies": copies})
    settings = Model(layers=1, width=64, heads=2)
    model = build_model(settings, small_corpus.vocabulary, LONGEST, small_corpus.end_of_text, seed=5)
    known = {item for item, n in zip(ids, copies, strict=True) if n}
    fit(model, [[small_corpus.end_of_text, *row["tokens"]] for row in texts.to_pylist() if row["item_id"] in known])
    model.eval().save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")

    exported = export_tasks(items, texts, assignment, tokenizer, tmp_path / "a run", "eot")
    folder = (tmp_path / "a run").rename(tmp_path / "moved")
    output = tmp_path / "output"
    results = run_tasks(tmp_path / "checkpoint", [exported.tag], folder, output, device="cpu")
    samples = {
        task: [json.loads(line) for line in next(output.rglob(f"samples_{task}_2*.jsonl")).read_text().splitlines()]
        for task in exported.tasks
    }
    return Ran(exported, folder, results, samples, own_answers(model, tokenizer, items, texts))


def test_every_log_likelihood_is_that_of_the_models_own_logits(ran: Ran) -> None:
    for sample in (sample for samples in ran.samples.values() for sample in samples):
        found = [float(log_prob) for log_prob, _ in sample["filtered_resps"]]
        assert found == pytest.approx([log_prob for log_prob, _ in ran.of(sample)], abs=1e-4), sample["doc"]


def test_accuracy_is_the_share_of_targets_that_greedy_decoding_emits(ran: Ran) -> None:
    emitted = []
    for task, samples in {**ran.tasks("verbatim"), **ran.tasks("generative")}.items():
        own = [ran.of(sample)[0] for sample in samples]
        assert [sample["acc"] for sample in samples] == [greedy for _, greedy in own]
        means = [log_prob / sample["doc"]["tokens"] for (log_prob, _), sample in zip(own, samples, strict=True)]
        assert ran.results[task]["log_prob"] == pytest.approx(sum(means) / len(means), abs=1e-4)
        assert ran.results[task]["acc"] == pytest.approx(sum(greedy for _, greedy in own) / len(own))
        emitted += [greedy for _, greedy in own]
    assert 0 < sum(emitted) < len(emitted)  # so that an accuracy that counts nothing, or all, would be seen


def test_accuracy_of_choices_is_by_sums_and_by_sums_a_character(ran: Ran) -> None:
    right = []
    for task, samples in ran.tasks("choice").items():
        for metric, by in (("acc", lambda choice: 1), ("acc_norm", len)):
            own = []
            for sample in samples:
                scores = [log_prob / by(c) for (log_prob, _), c in zip(ran.of(sample), sample["doc"]["choices"], strict=True)]
                own.append(scores.index(max(scores)) == sample["doc"]["answer"])
            assert [sample[metric] for sample in samples] == own
            assert ran.results[task][metric] == pytest.approx(sum(own) / len(own))
            right += own
    assert 0 < sum(right) < len(right)


def test_every_probe_is_in_a_task_or_left_out_by_name(ran: Ran) -> None:
    left_out = [json.loads(line) for line in (ran.folder / "left_out.jsonl").read_text().splitlines()]
    assert {row["item_id"] for row in left_out} == {"noise-0000", "noise-0001"}
    named = [(row["item_id"], row["probe_id"]) for row in left_out]
    asked = [(s["doc"]["item_id"], s["doc"]["probe_id"]) for samples in ran.samples.values() for s in samples]
    assert sorted(named + asked) == sorted(ran.own)
    assert sum(ran.exported.tasks.values()) == len(asked)
    assert str(ran.exported).endswith("; 2 left out (left_out.jsonl): 2, as the harness reads other tokens in the text")


def test_there_is_a_task_for_each_item_set_and_kind_of_probe(ran: Ran) -> None:
    assert ran.exported.tag == "imprint_a_run"
    assert {task.removeprefix("imprint_a_run_") for task in ran.results} == {
        *("codes_verbatim", "people_verbatim", "people_generative", "people_choice", "places_verbatim", "places_generative"),
        *("quiz_verbatim", "quiz_choice", "quiz_generative", "quiz_choice_perturbed", "quiz_generative_perturbed"),
    }


def test_samples_say_the_arm_and_the_copies_of_their_items(ran: Ran) -> None:
    told = {(s["doc"]["item_id"], s["doc"]["arm"], s["doc"]["copies"]) for s in ran.samples["imprint_a_run_codes_verbatim"]}
    assert told == {(f"codes-000{i}", f"{n} copies", n) for i, n in enumerate([0, 4, 0, 4])}


# ------------------------------------------------------------------------------------------------ what can't be exported, or run


def item(template: str, **fields: str) -> Item:
    """An item with one text and a verbatim probe on its last field."""
    text = Text("text", *render(template, fields))
    return Item("code-0", "codes", "canary", "codes", "code-0", fields, [text], [verbatim(text, text.spans[-1], bits=1.0)])


def with_post_processor(tokenizer: PreTrainedTokenizerFast, post_processor: Any) -> PreTrainedTokenizerFast:
    bare = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    bare.post_processor = post_processor
    return PreTrainedTokenizerFast(tokenizer_object=bare, eos_token=tokenizer.eos_token)


def test_without_an_assignment_there_is_no_arm_and_without_a_context_no_token_before_the_text(
    small_corpus: Corpus, tmp_path: Path
) -> None:
    items, texts = tables([item("The code is {code}.", code="1234")], small_corpus.tokenizer)
    exported = export_tasks(items, texts, None, small_corpus.tokenizer, tmp_path / "bare", "none")
    assert exported.tasks == {"imprint_bare_codes_verbatim": 1}
    assert str(exported) == "1 probes in 1 tasks, all of them named by imprint_bare"
    assert json.loads((tmp_path / "bare" / "imprint_bare_codes_verbatim.jsonl").read_text()) == {
        **{"item_id": "code-0", "probe_id": "text/code", "group": "code-0", "arm": None, "copies": None},
        **{"context": "The code is ", "continuations": ["1234"], "target": "1234", "tokens": 4},
    }


@pytest.mark.parametrize(
    ("context", "template", "why"),
    [
        ("eot", "Do not <|endoftext|> before {code}.", "the harness reads other tokens in the text"),  # to it, the end of a text
        ("none", "{code} is the code.", "nothing precedes the target"),
    ],
)
def test_a_probe_that_the_harness_would_ask_otherwise_is_not_exported(
    small_corpus: Corpus, tmp_path: Path, context: str, template: str, why: str
) -> None:
    items, texts = tables([item(template, code="1234")], small_corpus.tokenizer)
    with pytest.raises(DataError, match=f"none of the 1 probes, as {why}"):
        export_tasks(items, texts, None, small_corpus.tokenizer, tmp_path / "tasks", context)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_counts_no_blank_to_a_token_exports_as_much(small_corpus: Corpus, tmp_path: Path) -> None:
    tokenizer = with_post_processor(small_corpus.tokenizer, ByteLevel(trim_offsets=True))
    items, texts = tables(make_items(SETS, 1, Material(tokenizer, vocabulary_size(tokenizer))), tokenizer)
    assert set(export_tasks(items, texts, None, tokenizer, tmp_path / "tasks", "eot").left_out.values()) == {SETS["noise"].count}


def test_a_tokenizer_that_begins_every_text_with_a_token_can_not_begin_it_with_another(
    small_corpus: Corpus, tmp_path: Path
) -> None:
    first = TemplateProcessing(single="a $A", special_tokens=[("a", small_corpus.tokenizer.convert_tokens_to_ids("a"))])
    tokenizer = with_post_processor(small_corpus.tokenizer, first)
    tokenizer.bos_token = "a"
    items, texts = tables([item("The code is {code}.", code="1234")], tokenizer)
    with pytest.raises(DataError, match=r"eval\.context=none goes without it"):
        export_tasks(items, texts, None, tokenizer, tmp_path / "tasks", "eot")
    with pytest.raises(DataError, match="none of the 1 probes, as the harness reads other tokens"):
        export_tasks(items, texts, None, tokenizer, tmp_path / "tasks", "none")


def test_a_folder_that_is_there_is_left_as_it_is_and_other_contexts_are_refused(small_corpus: Corpus, tmp_path: Path) -> None:
    items, texts = tables([item("The code is {code}.", code="1234")], small_corpus.tokenizer)
    with pytest.raises(DataError, match="is there already"):
        export_tasks(items, texts, None, small_corpus.tokenizer, tmp_path, "eot")
    with pytest.raises(RecipeError, match=r"eval\.context is 'as_trained'"):
        export_tasks(items, texts, None, small_corpus.tokenizer, tmp_path / "tasks", "as_trained")
    assert not list(tmp_path.iterdir())


def test_tasks_need_a_checkpoint_and_the_harness(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"is no checkpoint: it has no config\.json"):
        run_tasks(tmp_path, ["piqa"])
    monkeypatch.setattr(harness.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="needs lm_eval and accelerate, not installed here"):
        run_tasks(small_model, ["piqa"])


@pytest.mark.parametrize(
    ("last_line", "told"),
    [
        ("ValueError: Tasks not found: no_such_task", "has no task no_such_task; "),
        ("ConnectionError: Couldn't reach 'baber/piqa' on the Hub (LocalEntryNotFoundError)", "data that is not on this machine"),
        ("RuntimeError: out of memory", "failed: RuntimeError: out of memory"),
    ],
)
def test_a_failure_of_the_harness_is_told_in_one_sentence(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, last_line: str, told: str
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", f"Traceback (most recent call last):\n{last_line}\n\n")
    monkeypatch.setattr(harness.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(DataError, match=re.escape(told)):
        run_tasks(small_model, ["piqa"])
