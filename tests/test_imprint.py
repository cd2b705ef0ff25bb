"""The command line, run in process as a user would run it, on a recipe of seconds."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from imprint import main

RECIPE = """
name: tiny
seed: 3
corpus: {source: synthetic, documents: 120, tokenizer: {vocabulary: 320}}
insert:
  codes: {kind: canary, count: 8, text: "Code of {name}: {digits:2}."}
  places: {kind: factoid, count: 8}
  quiz: {kind: testset, count: 8, digits: 2}
design:
  copies: [0, 2, 6]
  sizes: [3, 2, 2]
  arms:
    early: {copies: 6, size: 1, window: [0.0, 0.5]}
model: {layers: 1, width: 32, heads: 2}
train:
  {steps: 24, global_batch: 4, sequence_length: 64, warmup: 2,
   checkpoints: {every: 8, resume_every: 4, exposures: false}, threads: 1, precision: fp32}
eval: {resamples: 100}
"""


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and its finished run."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "tiny.yaml").write_text(RECIPE)
    assert imprint(folder, "run") == 0
    return folder


def imprint(folder: Path, command: str, *overrides: str) -> int:
    return main([command, str(folder / "tiny.yaml"), f"runs={folder / 'runs'}", f"cache={folder / 'cache'}", *overrides])


def root(workspace: Path) -> Path:
    return workspace / "runs" / "tiny"


def test_a_run_leaves_its_report_and_findings(workspace: Path) -> None:
    findings = json.loads((root(workspace) / "report/findings.json").read_text())
    columns = {"key", "name", "metric", "kind", "arm", "step", "value", "low", "high", "n", "note"}
    assert columns | {"primary", "adjusted_p", "verdict"} == set(findings[0])
    assert (root(workspace) / "report/index.html").exists()


def test_run_again_it_recomputes_nothing_and_says_so(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in root(workspace).rglob("*.parquet")}
    assert imprint(workspace, "run") == 0
    assert capsys.readouterr().out.count("done before") == 7
    assert before == {path: path.stat().st_mtime_ns for path in root(workspace).rglob("*.parquet")}


def test_a_deleted_report_is_the_only_thing_made_again(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    (root(workspace) / "report/index.html").unlink()
    assert imprint(workspace, "report") == 0
    out = capsys.readouterr().out
    assert "report: index.html is missing" in out
    assert out.count("done before") == 6


def test_a_checkpoint_loads_in_plain_transformers_with_its_tokenizer(workspace: Path) -> None:
    folder = root(workspace) / "perturbed/checkpoints/step-00000024"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert model(**tokenizer("Code of", return_tensors="pt")).logits.shape[-1] == len(tokenizer)


def test_checkpoints_are_kept_at_the_first_and_last_step_and_in_between(workspace: Path) -> None:
    folders = sorted(path.name for path in (root(workspace) / "perturbed/checkpoints").iterdir())
    assert folders == [f"step-{step:08d}" for step in (0, 8, 16, 24)]


def test_the_ledger_has_each_step_once(workspace: Path) -> None:
    steps = [
        s
        for path in sorted((root(workspace) / "perturbed").glob("ledger-*.parquet"))
        for s in pq.read_table(path)["step"].to_pylist()
    ]
    assert steps == list(range(24))


def test_exposures_so_far_grow_from_none_to_the_copies_planned(workspace: Path) -> None:
    scores = pq.read_table(root(workspace) / "perturbed/scores/scores.parquet").to_pandas()
    copies = pq.read_table(root(workspace) / "assignment.parquet").to_pandas().set_index("item_id")["copies"]
    first, last = (scores[scores["step"] == step].groupby("item_id")["exposures"].first() for step in (0, 24))
    assert (first == 0).all()
    assert (last == copies.reindex(last.index)).all()


def test_the_early_arm_has_all_its_exposures_by_half_time(workspace: Path) -> None:
    scores = pq.read_table(root(workspace) / "perturbed/scores/scores.parquet").to_pandas()
    assignment = pq.read_table(root(workspace) / "assignment.parquet").to_pandas()
    early = set(assignment[assignment["arm"] == "early"]["item_id"])
    half = scores[(scores["step"] == 16) & scores["item_id"].isin(early)]
    assert set(half["exposures"]) == {6}


def test_other_training_settings_are_another_run_by_default(workspace: Path) -> None:
    assert imprint(workspace, "plan", "train.learning_rate=1e-3") == 0
    assert len(list((workspace / "runs").glob("tiny-*"))) == 1


def test_a_run_that_holds_other_settings_is_refused_and_the_keys_are_named(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    before = (root(workspace) / "config.yaml").read_text()
    assert imprint(workspace, "run", "name=tiny", "train.learning_rate=1e-3", "model.width=64") == 2
    error = capsys.readouterr().err
    assert "model.width" in error
    assert "train.learning_rate" in error
    assert "name=" in error
    assert (root(workspace) / "config.yaml").read_text() == before


def test_measuring_differently_trains_nothing_again(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    assert imprint(workspace, "run", "name=tiny", "eval.membership=[loss]") == 0
    out = capsys.readouterr().out
    assert "train-perturbed: done before" in out
    assert "eval-perturbed: its settings or inputs have changed" in out


def test_the_standard_model_reads_the_same_rows_without_the_insertions(workspace: Path) -> None:
    assert imprint(workspace, "train", "name=both", "train.models=[perturbed,standard]") == 0
    perturbed, standard = (
        pq.read_table(sorted((workspace / "runs/both" / model).glob("ledger-*.parquet"))[0])["rows_sha256"].to_pylist()
        for model in ("perturbed", "standard")
    )
    plan = pq.read_table(workspace / "runs/both/plan.parquet")["row"].to_pylist()
    differing = {4 * step + slot for step in range(4) for slot in range(4) if perturbed[step][slot] != standard[step][slot]}
    assert differing == {row for row in plan if row < 16}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.stepz=3"], ["train.stepz", "steps"]),
        (["train.steps=many"], ["train.steps", "many"]),
        (["train.micro_batch=3"], ["train.micro_batch", "1 x 2 x 2"]),
        (["model.preset=3"], ["model.preset is '3'", "neox-3m"]),
        (["model.start=."], ["model.start is .", "config.json"]),
        (["model.dropout=0.1", "model.architecture=llama"], ["model.dropout", "gpt_neox"]),
        (["train.attention=flex_attention"], ["train.attention", "sdpa"]),
        (["train.steps=100000"], ["train.steps", "corpus.epochs="]),
        (["train.steps=100000000000000"], ["train.steps", "corpus.epochs="]),
        (["train.sequence_length=16"], ["train.sequence_length", "tokens"]),
        (["design.copies=[0,2,400]"], ["insert.codes", "rows"]),
        (["design.copies=[0,2,20]", "design.arms.early.copies=20"], ["insert.codes", "20 copies of an item", "12 steps"]),
        (["corpus.source=jsonl"], ["corpus.path"]),
        (["corpus.source=jsonl", "corpus.path=/nowhere.jsonl"], ["corpus.path", "/nowhere.jsonl"]),
        (["runs=/proc/imprint"], ["/proc/imprint", "runs="]),
        (["model.architecture=perceptron"], ["model.architecture", "gpt_neox"]),
        (["model.heads=3"], ["model.heads"]),
    ],
)
def test_bad_input_gets_a_sentence_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture, overrides: list[str], words: list[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    assert imprint(tmp_path, "run", *overrides) == 2
    error = capsys.readouterr().err
    assert error.startswith("imprint: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error


def test_a_keypress_to_stop_gets_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slurm.jobs.Experiment.execute", stop)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    assert imprint(tmp_path, "run") == 130
    assert capsys.readouterr().err.endswith("imprint: stopped; run again to go on\n")


def test_what_is_refused_before_training_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    assert imprint(tmp_path, "run", "design.copies=[0,2,400]") == 2
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_cache_that_cannot_be_written_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    assert imprint(tmp_path, "plan", "cache=/dev/null/cache") == 2
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_follows_its_corpus_to_another_cache(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    assert imprint(tmp_path, "plan") == 0
    before = (tmp_path / "runs/tiny/plan.parquet").read_bytes()
    shutil.rmtree(tmp_path / "cache")
    assert imprint(tmp_path, "plan", f"cache={tmp_path / 'other'}") == 0
    assert (tmp_path / "runs/tiny/corpus").resolve().parent == tmp_path / "other"
    assert (tmp_path / "runs/tiny/plan.parquet").read_bytes() == before


@pytest.mark.parametrize("shard", ["", "3", "2/2", "a/b"])
@pytest.mark.parametrize("command", ["corpus", "decontaminate"])
def test_a_share_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture, command: str, shard: str) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    assert imprint(tmp_path, command, "--shard", shard) == 2
    assert capsys.readouterr().err == f"imprint: --shard is {shard!r}; it must be i/n, as 0/16 for the first of 16\n"


def test_a_share_of_a_decontamination_that_is_off_is_refused(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    assert imprint(workspace, "decontaminate", "decontaminate.policy=none", "--shard", "0/2") == 2
    assert "decontaminate.policy is none" in capsys.readouterr().err


def test_who_is_refused_the_lock_leaves_the_holders_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    held = tmp_path / "runs/tiny"
    held.mkdir(parents=True)
    (held / "lock.json").write_text(json.dumps({"host": "another", "process": 1}))
    monkeypatch.setattr(Path, "exists", lambda path: path != held and os.path.exists(path))  # both found no run when they began
    assert imprint(tmp_path, "corpus") == 2
    assert os.listdir(held) == ["lock.json"]


def test_other_seeds_for_another_model_of_a_trained_run_are_refused(workspace: Path) -> None:
    before = (root(workspace) / "assignment.parquet").read_bytes()
    assert imprint(workspace, "plan", "name=tiny", "train.models=[standard]", "seeds.assignment=9") == 2
    assert (root(workspace) / "assignment.parquet").read_bytes() == before


def test_measuring_less_and_then_all_is_possible(workspace: Path) -> None:
    assert imprint(workspace, "run", "eval.extraction=false", "eval.exposure=false", "eval.testset=false") == 0
    fewer = set(pq.read_table(root(workspace) / "perturbed/scores/scores.parquet")["metric"].to_pylist())
    assert fewer == {"loss", "zlib", "min_k", "min_k_plus_plus", "secret_loss"}
    assert imprint(workspace, "run") == 0
    metrics = set(pq.read_table(root(workspace) / "perturbed/scores/scores.parquet")["metric"].to_pylist())
    assert metrics >= {"log_prob", "extracted", "loss", "zlib", "min_k", "min_k_plus_plus", "correct", "exposure", "bleu"}


def test_an_empty_corpus_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "empty.jsonl").write_text('{"text": "  "}\n')
    assert imprint(tmp_path, "run", "corpus.source=jsonl", f"corpus.path={tmp_path / 'empty.jsonl'}") == 2
    assert "empty" in capsys.readouterr().err
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_small_corpus_names_the_epochs_to_set_and_runs_with_them(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    lines = [json.dumps({"text": f"Document {n}: naïve café, 北京, 🙂 and {n * 7919} more words to read here."}) for n in range(60)]
    (tmp_path / "own.jsonl").write_text("\n".join([*lines, json.dumps({"text": "a lone \ud800 surrogate"})]))
    own = ["corpus.source=jsonl", f"corpus.path={tmp_path / 'own.jsonl'}", "name=own"]
    assert imprint(tmp_path, "run", *own) == 2
    epochs = capsys.readouterr().err.split("corpus.epochs=")[1].split()[0]
    assert imprint(tmp_path, "run", *own, f"corpus.epochs={epochs}") == 0


def test_an_unknown_command_exits_with_2() -> None:
    assert main(["dance"]) == 2


@pytest.mark.parametrize("command", ["run", "corpus", "decontaminate", "plan", "train", "eval", "report"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture) -> None:
    assert main([command, "--help"]) == 0
    assert f"imprint {command} configs/" in capsys.readouterr().out.replace("\n", " ")
