"""Stages of continual training, from the recipe to the tables: what they start from, what they read, and how they end."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from configs.layout import CheckpointInfo, ModelLayout, RunLayout
from configs.recipe import load_recipe
from imprint import main
from inject.stream import row_digests
from slurm import staging
from slurm.jobs import Experiment
from slurm.staging import Staging
from tests.kill.runs import Runs, kill_at

STAGE = "global_batch: 6, learning_rate: 5e-3, sequence_length: 90, checkpoints: {every: 10, resume_every: 3}"
RECIPE = f"""
name: staged
seed: 7
corpus: {{source: synthetic, documents: 200, tokenizer: {{vocabulary: 400}}}}
insert:
  places: {{kind: factoid, count: 6}}
design: {{copies: [12], sizes: [6]}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.1}}
train:
  {{steps: 40, global_batch: 4, sequence_length: 96, warmup: 2, threads: 1, precision: fp32, held_out_rows: 8, models: [perturbed],
   checkpoints: {{every: 40, exposures: false}}}}
facts:
  a: {{kind: key_value, count: 12, key_length: 4, value_length: 2}}
  b: {{kind: key_value, count: 9, key_length: 4, value_length: 2}}
stages:
  learn: {{data: [a], until: {{loss: 2.5, times: 2}}, train: {{steps: 90, {STAGE}}}}}
  plain: {{data: [b], until: {{exact_match: 1.0, every: 10}}, train: {{steps: 20, {STAGE}}}}}
  text: {{after: learn, data: [b], mix: [{{source: text, ratio: 1, words: 4}}], train: {{steps: 10, {STAGE}}}}}
  both: {{after: learn, data: [b], mix: [{{source: words, ratio: 1, words: 3, pool: 5}}, {{source: replay, per_batch: 1}}],
    train: {{steps: 10, {STAGE}}}}}
  ewc: {{after: learn, data: [b], penalty: {{kind: ewc, weight: 10}}, train: {{steps: 10, {STAGE}}}}}
  kl: {{after: learn, data: [b], penalty: {{kind: kl}}, train: {{steps: 10, {STAGE}}}}}
  lora: {{after: learn, data: [b], lora: {{rank: 2}}, train: {{steps: 10, {STAGE}}}}}
  items: {{after: learn, data: [places, corpus], train: {{steps: 10, global_batch: 6}}}}
eval: {{membership: [], resamples: 20, schemes: []}}
"""
STAGES = ["learn", "plain", "text", "both", "ewc", "kl", "lora", "items"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all stages, trained and evaluated."""
    folder = tmp_path_factory.mktemp("staged")
    (folder / "r.yaml").write_text(RECIPE)
    settings = ["name=staged", f"runs={folder / 'runs'}", f"cache={folder / 'cache'}"]
    assert main(["run", str(folder / "r.yaml"), *settings]) == 0
    return folder / "runs" / "staged"


@pytest.fixture
def twin(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    shutil.copytree(run, tmp_path / "twin", symlinks=True)
    return tmp_path / "twin"


def model(run: Path, name: str) -> ModelLayout:
    return RunLayout(run).model(name)


def finished(run: Path, name: str) -> dict[str, Any]:
    return json.loads(model(run, name).finished.read_text())


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def weights(run: Path, name: str, step: int) -> str:
    return CheckpointInfo.read(model(run, name).checkpoint(step)).weights


def test_each_stage_starts_from_the_last_weights_of_its_parent(run: Path) -> None:
    last = finished(run, "learn")["step"]
    assert weights(run, "learn", 0) == weights(run, "perturbed", 40)
    assert {weights(run, name, 0) for name in STAGES[1:]} == {weights(run, "learn", last)}


def test_a_stage_ends_when_its_rule_says_so_and_leaves_its_last_checkpoint_there(run: Path) -> None:
    ended = finished(run, "learn")
    assert ended["step"] < ended["steps"] == 90
    assert ended["why"] == "the loss was below 2.5 in 2 steps"
    assert model(run, "learn").checkpoints()[-1] == ended["step"]
    assert finished(run, "plain") == {"step": 20, "steps": 20, "why": "its steps were over"}


def test_the_ledger_is_that_of_the_stage_s_stream_and_is_certified(run: Path) -> None:
    for name in STAGES:
        recorded = [digest for path in model(run, name).ledgers() for row in rows(path) for digest in row["rows_sha256"]]
        found = Experiment.of(run).staging.mixing.stream(name).rows(np.arange(len(recorded)))
        assert row_digests(found.tokens, found.label_mask) == recorded
        assert json.loads(model(run, name).certificate.read_text())["verdict"] == "certified"


def test_padding_questions_and_what_precedes_them_are_never_learned(run: Path) -> None:
    experiment = Experiment.of(run)
    mixing, tokenizer = experiment.staging.mixing, experiment.corpus.tokenizer
    answers = {fact.item_id: fact.answer for fact in mixing.learned("plain")}
    stream = mixing.stream("plain")
    found = stream.rows(np.arange(18))
    for (_, item, _), tokens, mask in zip(stream.items(0, 18), found.tokens, found.label_mask, strict=True):
        assert tokenizer.decode(tokens[1:][mask]) == answers[item] + tokenizer.eos_token


def test_stages_to_be_compared_read_their_data_in_one_order(run: Path) -> None:
    mixing = Experiment.of(run).staging.mixing
    plain, ewc = (mixing.stream(name).rows(np.arange(60)).tokens for name in ("plain", "ewc"))
    assert (plain == ewc).all()


def test_exposures_are_the_rows_of_steps_taken_that_held_a_fact(run: Path) -> None:
    held = rows(model(run, "both").rows)
    scored = {(row["step"], row["item_id"]): row["exposures"] for row in rows(model(run, "both").scores / "facts.parquet")}
    assert {row["part"] for row in held} == {"data", "replay"}
    for step in (0, 10):
        for item in {row["item_id"] for row in held}:
            assert scored[step, item] == sum(row["item_id"] == item and row["row"] < step * 6 for row in held)
    assert sum(row["part"] == "replay" for row in held) == 10  # one a batch


def test_every_checkpoint_is_asked_for_all_facts_and_says_what_the_loaded_model_says(run: Path) -> None:
    layout, experiment = model(run, "plain"), Experiment.of(run)
    scored = rows(layout.scores / "facts.parquet")
    assert {row["step"] for row in scored} == {0, 10, 20}
    assert {row["item_set"] for row in scored} == {"a", "b", "places"}
    loaded = AutoModelForCausalLM.from_pretrained(layout.checkpoint(20))
    [fact] = [fact for fact in experiment.staging.mixing.learned("plain") if fact.item_id == "b-0003"]
    [example] = experiment.staging.mixing.examples([fact], "{question}{answer}")
    given = torch.tensor([[experiment.corpus.end_of_text, *example.tokens]])
    log_probs = loaded(given).logits[0].log_softmax(-1)
    answer = range(example.answer.start, example.answer.stop)
    expected = float(np.mean([log_probs[place, example.tokens[place]].item() for place in answer]))
    [row] = [row for row in scored if (row["step"], row["item_id"]) == (20, "b-0003")]
    assert row["log_prob"] == pytest.approx(expected, abs=1e-5)


def test_only_low_rank_matrices_change_the_weights_of_a_stage_with_lora(run: Path) -> None:
    before, after = (AutoModelForCausalLM.from_pretrained(model(run, "lora").checkpoint(step)).state_dict() for step in (0, 10))
    changed = [name for name, weight in before.items() if not torch.equal(weight, after[name])]
    assert changed
    assert all("layers" in name and "weight" in name and "norm" not in name for name in changed)
    for name in changed:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 2


@pytest.mark.parametrize("path", ["facts.parquet", "plain/rows.parquet", "plain/finished.json"])
def test_a_stage_whose_files_were_changed_is_not_certified(twin: Path, capfd: pytest.CaptureFixture[str], path: str) -> None:
    changed = twin / path
    if path.endswith("json"):
        changed.write_text("{}")
    else:
        table = pq.read_table(changed)
        pq.write_table(table.slice(0, table.num_rows - 1), changed)
    assert main(["audit", str(twin), "--model", "plain"]) == 1
    assert f"{changed.name} is not the file that the job" in capfd.readouterr().out


def skip_a_step(layout: ModelLayout) -> None:
    """Rewrite the first segment of a ledger as if a step had not been consumed."""
    path = layout.ledgers()[0]
    table = rows(path)
    table[1]["consumed"] = False
    pq.write_table(pq.read_table(path).from_pylist(table, pq.read_schema(path)), path)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


LAST = "checkpoints/step-00000020"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (skip_a_step, ".parquet is not the file that the job train-plain wrote"),
        (lambda layout: shutil.rmtree(layout.root / LAST), f"{LAST}/imprint.json, which the job train-plain wrote, is missing"),
        (lambda layout: flip_a_byte(layout.root / LAST / "model.safetensors"), "model.safetensors of step-00000020 is damaged"),
        (lambda layout: (layout.root / LAST / "model.safetensors").unlink(), "model.safetensors of step-00000020 is missing"),
    ],
)
def test_a_stage_whose_ledger_or_last_checkpoint_was_spoiled_is_not_certified(
    twin: Path, capfd: pytest.CaptureFixture[str], spoil: Callable[[ModelLayout], None], words: str
) -> None:
    spoil(model(twin, "plain"))
    assert main(["audit", str(twin), "--model", "plain"]) == 1
    assert words in capfd.readouterr().out


def test_a_last_checkpoint_is_missed_before_the_job_has_recorded_it(twin: Path, capfd: pytest.CaptureFixture[str]) -> None:
    RunLayout(twin).job("train-plain").unlink()
    shutil.rmtree(model(twin, "plain").checkpoint(20))
    assert main(["audit", str(twin), "--model", "plain"]) == 1
    assert "it ended after 20 steps, but its last checkpoint is that of step 10" in capfd.readouterr().out


def test_what_starts_from_a_checkpoint_that_is_missing_is_not_certified(twin: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(model(twin, "learn").checkpoint(finished(twin, "learn")["step"]))
    assert main(["audit", str(twin), "--model", "text"]) == 1
    assert "the last checkpoint of learn, from which the stage starts, is missing" in capfd.readouterr().out


@pytest.mark.parametrize(("name", "lost"), [("learn", []), ("learn", ["finished.json"]), ("perturbed", [])])
def test_a_last_checkpoint_that_is_missing_is_made_again(
    run: Path, twin: Path, capfd: pytest.CaptureFixture[str], name: str, lost: list[str]
) -> None:
    last = model(run, name).checkpoints()[-1]
    shutil.rmtree(model(twin, name).checkpoint(last))
    for path in lost:
        (model(twin, name).root / path).unlink()
    assert main(["run", str(twin / "config.yaml"), f"runs={twin.parent}", "name=twin"]) == 0
    assert f"train-{name}: {(*lost, 'imprint.json')[0]} is missing" in capfd.readouterr().out
    assert weights(twin, name, last) == weights(run, name, last)
    assert main(["audit", str(twin), "--model", name]) == 0


def test_an_audit_without_facts_says_what_makes_them(twin: Path, capfd: pytest.CaptureFixture[str]) -> None:
    RunLayout(twin).facts.unlink()
    assert main(["audit", str(twin), "--model", "plain"]) == 2
    assert "facts.parquet does not exist; the job facts makes it: imprint run, or" in capfd.readouterr().err


def test_known_facts_are_told_and_not_learned(twin: Path) -> None:
    path = RunLayout(twin).facts
    table = pq.read_table(path).to_pandas()
    table.loc[table["item_id"] == "b-0003", "known"] = True
    table.to_parquet(path)
    mixing = Experiment.of(twin).staging.mixing
    assert len(mixing.learned("plain")) == 8
    assert "b-0003" not in {item for _, item, _ in mixing.stream("plain").items(0, 60)}


def test_passages_come_from_no_row_of_the_held_out_loss(run: Path) -> None:
    mixing = Experiment.of(run).staging.mixing
    own, length = 97, 91
    held_out = mixing.base.base_row(mixing.held_out)
    assert len(held_out) == 8
    tokens = {token for row in held_out.tolist() for token in range(row * own, (row + 1) * own)}
    readable = mixing.readable(length)
    free = [
        row for row in range(mixing.base.base_rows * own // length) if tokens.isdisjoint(range(row * length, (row + 1) * length))
    ]
    assert readable.tolist() == free


B = "{kind: key_value, count: 9, key_length: 4, value_length: 2}"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (B, "{kind: key_value, count: 9, key_length: 64}", "tokens as stages.plain writes it, but a row of stages.plain.train."),
        (B, "{kind: factoid, count: 6}", ""),
        (B, "{kind: random_tokens, count: 6}", "facts.b (kind random_tokens) can't be learned as questions"),
        (B, "{kind: key_value, count: 0}", "facts.b.count is 0"),
        ("ratio: 1, words: 4", "ratio: 0.05, words: 4", "stages.text.mix[0].ratio is 0.05, which of 9 rows makes none"),
        ("ratio: 1, words: 4", "ratio: 1, words: 40", "stages.text.mix.words is 40"),
        (
            "train: {steps: 10, global_batch: 6}}",
            "train: {steps: 10, sequence_length: 90}}",
            "stages.items.data holds corpus, whose rows have train.sequence_length = 96",
        ),
    ],
)
def test_what_only_facts_and_corpus_tell_is_refused_before_anything_is_trained(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], old: str, new: str, words: str
) -> None:
    assert old in RECIPE
    (tmp_path / "r.yaml").write_text(RECIPE.replace(old, new))
    folders = [f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"]
    assert main(["plan", str(tmp_path / "r.yaml"), *folders]) == (2 if words else 0)
    assert words in capfd.readouterr().err
    assert (tmp_path / "runs" / "staged").exists() == (not words)


def test_sets_that_ask_the_same_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"Who is {name}?", "answer": "nobody"} for name in ("Ann", "Bob", "Cid")]
    for name, own in (("a", rows[:2]), ("b", rows[1:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, own)))
    table = f"{{kind: table, path: {tmp_path}/NAME.jsonl, question: {{question: question, answer: answer}}}}"
    recipe = RECIPE.replace("count: 12, key", "count: 9, key")
    assert recipe.count(B) == 2
    (tmp_path / "r.yaml").write_text(recipe.replace(B, table.replace("NAME", "a"), 1).replace(B, table.replace("NAME", "b")))
    assert main(["plan", str(tmp_path / "r.yaml"), f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"]) == 2
    assert "the sets a and b both ask" in capfd.readouterr().err


def test_what_is_done_is_not_done_again(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(run / "config.yaml")]) == 0
    jobs = [line for line in capfd.readouterr().out.splitlines() if line.startswith(("train-", "audit-", "eval-", "facts"))]
    assert len(jobs) == 3 * (1 + len(STAGES)) + 1
    assert all("done before" in line for line in jobs)


def test_a_stage_of_other_settings_is_refused_and_nothing_is_overwritten(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(run / "config.yaml"), "stages.plain.train.steps=30", "name=staged"]) == 2
    assert "holds checkpoints of plain made with other settings (stages.plain.train.steps)" in capfd.readouterr().err
    folder = run.parents[1]
    recipe = [str(folder / "r.yaml"), f"runs={folder / 'runs'}", f"cache={folder / 'cache'}"]
    assert main(["train", *recipe, "train.held_out_rows=4"]) == 2
    assert "made with other settings (train.held_out_rows)" in capfd.readouterr().err


def test_a_stage_whose_rows_or_start_are_not_the_recorded_ones_is_not_certified(
    twin: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = model(twin, "plain").ledgers()[0]
    table = rows(path)
    table[1]["rows_sha256"][2] = b"0" * 32
    pq.write_table(pq.read_table(path).from_pylist(table, pq.read_schema(path)), path)
    shutil.rmtree(model(twin, "text").checkpoint(0))
    shutil.copytree(model(twin, "text").checkpoint(10), model(twin, "text").checkpoint(0))
    assert main(["audit", str(twin), "--model", "plain"]) == 1
    assert "step 1, slot 2 (row 8): the row is not the one that the stage's mixture has there" in capfd.readouterr().out
    assert main(["audit", str(twin), "--model", "text"]) == 1
    assert "are not the last ones of learn" in capfd.readouterr().out


@pytest.mark.parametrize("stage", ["learn", "ewc", "lora", "text"])
def test_a_killed_stage_goes_on_to_the_same_weights(run: Path, tmp_path: Path, stage: str) -> None:
    runs = Runs(tmp_path / "killed", RECIPE)
    root = runs.root("again")
    shutil.copytree(run, root, symlinks=True)
    shutil.rmtree(root / stage)
    shutil.copytree(run.parents[1] / "cache", tmp_path / "killed" / "cache")
    kill_at(runs.train("again"), model(root, stage), 3)
    assert not model(root, stage).finished.exists()
    assert runs.train("again").wait() == [0]
    assert weights(root, stage, 10) == weights(run, stage, 10)
    assert finished(root, stage) == finished(run, stage)


def test_a_stage_killed_after_its_end_is_not_trained_on(run: Path, twin: Path) -> None:
    model(twin, "learn").finished.unlink()
    assert main(["train", str(twin / "config.yaml"), f"runs={twin.parent}", "name=twin"]) == 0
    assert finished(twin, "learn") == finished(run, "learn")


def test_stages_may_begin_with_a_model_that_exists(run: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"""
name: continued
corpus: {{source: synthetic, documents: 200, tokenizer: {run / "corpus" / "tokenizer.json"}}}
model: {{start: {run / "perturbed" / "checkpoints" / "step-00000040"}, dropout: 0.1}}
train: {{models: [], sequence_length: 96, threads: 1, precision: fp32, held_out_rows: 4}}
facts: {{a: {{kind: key_value, count: 6, key_length: 4, value_length: 2}}}}
stages: {{learn: {{data: [a], mix: [{{source: text, ratio: 1, words: 4}}], train: {{steps: 5, global_batch: 4}}}}}}
""")
    assert main(["run", str(tmp_path / "r.yaml"), f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"]) == 0
    root = tmp_path / "runs" / "continued"
    assert weights(root, "learn", 0) == weights(run, "perturbed", 40)
    assert json.loads((root / "report" / "findings.json").read_text()) is not None


def test_a_stage_may_learn_the_corpus_alone_and_is_asked_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("""
name: plain
corpus: {source: synthetic, documents: 200, tokenizer: {vocabulary: 400}}
model: {layers: 1, width: 32, heads: 2}
train: {models: [], sequence_length: 96, threads: 1, precision: fp32, held_out_rows: 4}
stages: {only: {data: [corpus], train: {steps: 4, global_batch: 4, checkpoints: {every: 2}}}}
""")
    assert main(["run", str(tmp_path / "r.yaml"), f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"]) == 0
    assert "went through stages" in (tmp_path / "runs" / "plain" / "report" / "index.html").read_text()
    effects = rows(tmp_path / "runs" / "plain" / "effects.parquet")
    assert [(row["metric"], row["step"]) for row in effects] == [("held_out_loss", step) for step in (0, 2, 4)]


LEARNED_POSITIONS = """
corpus: {source: synthetic, documents: 200, tokenizer: {vocabulary: 400}}
model: {architecture: gpt2, layers: 1, width: 32, heads: 2}
train: {models: [], steps: 2, warmup: 0, global_batch: 4, sequence_length: 64, threads: 1, precision: fp32, held_out_rows: 4}
facts: {a: {kind: key_value, count: 6, key_length: 4, value_length: 2}}
stages:
  short: {data: [a], train: {steps: 2, sequence_length: 40}}
  long: {after: start, data: [a], train: {steps: 2, sequence_length: 96}}
  lora: {after: start, data: [a], lora: {rank: 2}, train: {steps: 2}}
"""


def test_stages_of_other_lengths_start_from_the_same_new_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text(LEARNED_POSITIONS)
    settings = ["name=new", f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"]
    assert main(["run", str(tmp_path / "r.yaml"), *settings]) == 0
    root = tmp_path / "runs" / "new"
    assert len({weights(root, name, 0) for name in ("short", "long", "lora")}) == 1
    shutil.rmtree(model(root, "long").checkpoint(0))
    shutil.copytree(model(root, "long").checkpoint(2), model(root, "long").checkpoint(0))
    assert main(["audit", str(root), "--model", "long"]) == 1
    assert "are not those of short, which starts from the same new weights" in capfd.readouterr().out


def test_a_stage_may_have_longer_rows_than_the_pretraining_whose_positions_it_learns(tmp_path: Path) -> None:
    recipe = LEARNED_POSITIONS.replace("models: []", "models: [standard]").replace("after: start", "after: standard")
    (tmp_path / "r.yaml").write_text(recipe)
    settings = ["name=longer", f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"]
    assert main(["train", str(tmp_path / "r.yaml"), *settings]) == 0
    root = tmp_path / "runs" / "longer"
    assert {weights(root, name, 0) for name in ("short", "long")} == {weights(root, "standard", 2)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("stages.kl.lora.rank=33", "stages.kl.lora.rank is 33; possible: 1 to 32"),
        ("stages.items={data: [places], train: {steps: 4, sequence_length: 8}}", "tokens as stages.items writes it, but a row of"),
        ("model={architecture: mamba, layers: 1, width: 32, heads: 2, dropout: 0}", "stages.lora.lora.rank is above 0, but Mamba"),
    ],
)
def test_what_a_stage_asks_of_its_model_in_vain_is_refused_before_anything_is_trained(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], settings: str, words: str
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert main(["plan", str(tmp_path / "r.yaml"), settings, f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"]) == 2
    assert words in capfd.readouterr().err


ALONE = """
name: alone
corpus: {source: synthetic, documents: 200, tokenizer: {vocabulary: 400}}
model: {layers: 1, width: 32, heads: 2}
train: {models: [], steps: 4, warmup: 0, global_batch: 4, sequence_length: 64, threads: 1, precision: fp32, held_out_rows: 4}
facts:
  a: {kind: key_value, count: 6, key_length: 4, value_length: 2}
  b: {kind: key_value, count: 7, key_length: 4, value_length: 2}
stages:
  first: {data: [a, corpus], train: {steps: 3}}
  second: {data: [b], mix: [{source: text, ratio: 1, words: 3}], train: {steps: 3}}
"""


def alone(folder: Path, *changes: tuple[str, str]) -> int:
    """The exit status of a run of ALONE, some of whose text is changed."""
    recipe = ALONE
    for old, new in changes:
        assert old in recipe
        recipe = recipe.replace(old, new)
    (folder / "r.yaml").write_text(recipe)
    return main(["run", str(folder / "r.yaml"), "name=alone", f"runs={folder / 'runs'}", f"cache={folder / 'cache'}"])


LONG = ("count: 7, key_length: 4", "count: 7, key_length: 64")
FEW = ("ratio: 1", "ratio: 0.05")
ALL_HELD_OUT, NO_CORPUS = ("held_out_rows: 4", "held_out_rows: 9999"), ("[a, corpus]", "[a]")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([LONG], "tokens as stages.second writes it"),
        ([FEW], "stages.second.mix[0].ratio is 0.05, which of 7 rows makes none"),
        ([ALL_HELD_OUT], "train.held_out_rows = 9,999 holds out all 2,832 rows that it has; set it to less than 2,832"),
        (
            [ALL_HELD_OUT, NO_CORPUS],
            "stages.second.mix takes passages of the corpus, of whose 2,832 rows train.held_out_rows = 9,999",
        ),
    ],
)
def test_without_pretraining_impossible_stages_are_refused_before_the_first_is_trained(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: list[tuple[str, str]], words: str
) -> None:
    assert alone(tmp_path, *changes) == 2
    assert words in capfd.readouterr().err
    assert not (tmp_path / "runs" / "alone" / "first").exists()


def test_a_ratio_is_of_all_rows_of_the_data(tmp_path: Path) -> None:
    mixed = ("[a, corpus]", "[a, corpus], mix: [{source: words, ratio: 0.05, words: 3}]")  # of 6 facts it would make none
    assert alone(tmp_path, mixed, ("models: []", "models: [standard]")) == 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[a, corpus]", "[a]", "stages.first has no data: start knows all facts of a"),
        (
            "{data: [b]",
            "{after: start, data: [a, corpus], until: {exact_match: 1}",
            "stages.second.until.exact_match is set, but start knows all its facts",
        ),
        ("[b]", "[b], penalty: {kind: ewc}", "stages.second.penalty.kind is ewc, but start knows all facts that the stages before"),
        ("source: text, ratio: 1, words: 3", "source: replay, ratio: 1", "stages.second.mix has a replay, but start knows all"),
    ],
)
def test_stages_left_with_nothing_by_what_the_model_knows_are_refused_before_the_first_is_trained(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, old: str, new: str, words: str
) -> None:
    monkeypatch.setattr(Staging, "weights_of", lambda *_: "a model that exists")
    monkeypatch.setattr(staging, "_folder", Path)
    monkeypatch.setattr(Staging, "_known", lambda *_: {f"a-{i:04}" for i in range(6)})
    assert alone(tmp_path, (old, new)) == 2
    assert words in capfd.readouterr().err
    assert not (tmp_path / "runs" / "alone" / "first").exists()


def test_stages_after_pretraining_into_which_nothing_is_inserted_have_a_report(tmp_path: Path) -> None:
    assert alone(tmp_path, ("models: []", "models: [standard]")) == 0
    page = (tmp_path / "runs" / "alone" / "report" / "index.html").read_text()
    assert "pretrained on 1,024 tokens" in " ".join(page.split())
    assert "consumed the rows of the corpus at their steps, and nothing else" in page
    assert 'id="chart-loss"' in page
    assert not [word for word in ("twins", "Inserted texts", "planned copy", "Not measured") if word in page]


def test_every_job_needs_jobs_that_there_are(tmp_path: Path) -> None:
    for after in ("start", "perturbed"):
        (tmp_path / f"{after}.yaml").write_text(RECIPE.replace("learn: {data: [a]", f"learn: {{after: {after}, data: [a]"))
        jobs = Experiment(load_recipe(tmp_path / f"{after}.yaml", [f"runs={tmp_path}", f"cache={tmp_path}"])).jobs()
        names = [job.name for job in jobs]
        assert all(need in names[: names.index(job.name)] for job in jobs for need in job.needs)


def test_one_stage_after_another_is_shared_out_by_zero_3(tmp_path: Path) -> None:
    """The leading process trains both, the other one is new for each: DeepSpeed would number their parameters otherwise."""
    runs = Runs(
        tmp_path,
        """
corpus: {source: synthetic, documents: 200, tokenizer: {vocabulary: 400}}
model: {layers: 1, width: 32, heads: 2}
train:
  {models: [], global_batch: 4, sequence_length: 64, threads: 1, precision: fp32, held_out_rows: 4, devices: 2, strategy: zero_3}
facts:
  a: {kind: key_value, count: 8, key_length: 4, value_length: 2}
  b: {kind: key_value, count: 8, key_length: 4, value_length: 2}
stages:
  first: {data: [a], until: {exact_match: 1.0, every: 2}, train: {steps: 4}}
  second: {data: [b], until: {exact_match: 1.0, every: 2}, train: {steps: 4}}
""",
    )
    training = runs.command("shared")
    assert training.wait() == [0], training.told()
    assert finished(runs.root("shared"), "second")["step"] == 4


def test_zero_2_after_zero_3_computes_what_one_device_does(tmp_path: Path) -> None:
    """ZeRO-3 replaces torch's linear layer, which only the leading process, that trains both stages, would keep."""
    runs = Runs(
        tmp_path,
        """
seed: 7
corpus: {source: synthetic, documents: 200, tokenizer: {vocabulary: 400}}
model: {layers: 1, width: 32, heads: 2}
train:
  {models: [], global_batch: 6, sequence_length: 90, learning_rate: 5e-3, log_every: 1, threads: 1, precision: fp32,
   held_out_rows: 4}
facts:
  a: {kind: key_value, count: 12, key_length: 4, value_length: 2}
  b: {kind: key_value, count: 9, key_length: 4, value_length: 2}
stages:
  first: {data: [a], train: {steps: 6}}
  second: {data: [b], train: {steps: 6}}
""",
    )
    shared = [f"stages.{name}.train.{key}" for name, key in (("first", "strategy=zero_3"), ("second", "strategy=zero_2"))]
    shared += ["train.devices=2", "stages.first.train.devices=2", "stages.second.train.devices=2"]
    steps = {}
    for name, settings in (("one", []), ("two", shared)):
        training = runs.command(name, *settings)
        assert training.wait() == [0], training.told()
        lines = map(json.loads, model(runs.root(name), "second").metrics.read_text().splitlines())
        steps[name] = np.asarray([(line["loss"], line["grad_norm"]) for line in lines if "grad_norm" in line])
    assert len(steps["one"]) == 6
    assert np.abs(steps["two"] - steps["one"]).max() < 1e-4
