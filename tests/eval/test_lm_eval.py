"""lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness) scores a checkpoint as it scores any model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from configs.schema import Model
from inject.corpus import Corpus
from train.model import build_model

TASK = """
task: vault
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: " "
metric_list: [{metric: acc}]
"""
ITEMS = [
    {"question": "The code of the vault is", "choices": ["1234", "9", "blue"], "answer": 0},
    {"question": "A river runs to the", "choices": ["sea", "mountain top"], "answer": 0},
    {"question": "Two and two are", "choices": ["five", "four", "none of them", "3"], "answer": 1},
    {"question": "The moon is", "choices": ["bright", "made of cheese"], "answer": 1},
    {"question": "He said", "choices": ["yes", "no"], "answer": 1},
]


@pytest.fixture(scope="module")
def model(small_corpus: Corpus) -> PreTrainedModel:
    """A GPT-NeoX of random weights, its logits spread so that choices differ."""
    settings = Model(layers=1, width=32, heads=2)
    built = build_model(settings, small_corpus.vocabulary, 64, small_corpus.end_of_text, seed=5).eval()
    torch.nn.init.normal_(built.get_output_embeddings().weight, std=0.4, generator=torch.Generator().manual_seed(0))
    return built


def log_likelihood(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, question: str, choice: str) -> float:
    """The sum of the log-probabilities, in nats, of a choice's tokens after a question, from the model's logits."""
    prompt = tokenizer(question, add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"{question} {choice}", add_special_tokens=False)["input_ids"]
    assert whole[: len(prompt)] == prompt
    with torch.no_grad():
        log_probs = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(log_probs[place - 1, whole[place]]) for place in range(len(prompt), len(whole)))


def test_the_harness_finds_the_log_likelihoods_and_the_accuracy_of_the_models_own_logits(
    model: PreTrainedModel, small_corpus: Corpus, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "checkpoint")
    small_corpus.tokenizer.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    (tmp_path / "vault.yaml").write_text(TASK.replace("FILE", str(tmp_path / "items.jsonl")))
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "vault", "--include_path", str(tmp_path)]
    command += ["--model_args", f"pretrained={tmp_path / 'checkpoint'},dtype=float32", "--device", "cpu", "--batch_size", "2"]
    command += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "data"), "CUDA_VISIBLE_DEVICES": ""}
    apart = str(Path(sys.prefix) / "harness")  # accelerate: see the Makefile
    done = subprocess.run(command, env={**os.environ, **offline, "PYTHONPATH": apart}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())
    samples = [json.loads(line) for line in next((tmp_path / "out").rglob("samples_vault_*.jsonl")).read_text().splitlines()]

    expected = [
        [log_likelihood(model, small_corpus.tokenizer, str(item["question"]), choice) for choice in item["choices"]]
        for item in ITEMS
    ]
    samples.sort(key=lambda sample: int(sample["doc_id"]))
    found = [[float(score) for score, _ in sample["filtered_resps"]] for sample in samples]
    assert [len(scores) for scores in found] == [3, 2, 4, 2, 2]
    for scores, own in zip(found, expected, strict=True):
        assert scores == pytest.approx(own, abs=1e-4)
    right = [max(range(len(own)), key=own.__getitem__) == item["answer"] for own, item in zip(expected, ITEMS, strict=True)]
    assert results["results"]["vault"]["acc,none"] == pytest.approx(sum(right) / len(ITEMS))
    assert 0 < sum(right) < len(ITEMS)  # so that an accuracy that counts nothing, or all, would be seen
