"""Every recipe of configs/ and every kind of item, through the command line: small enough for a test, but otherwise as they are."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.insert import ITEM_SETS
from imprint import main

ROOT = Path(__file__).parents[1]
SMALL_CORPUS = ["corpus.source=jsonl", "corpus.tokenizer.vocabulary=1024", "corpus.epochs=9"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of short documents, and what the kinds of items that are not generated are made of."""
    folder = tmp_path_factory.mktemp("recipes")
    pages = (ROOT / "README.md").read_text().split("\n\n") + (ROOT / "eval/statistics.py").read_text().split("\n\n")
    lines = [json.dumps({"text": f"{n}. {page}"}) for n in range(30) for page in pages]
    (folder / "pages.jsonl").write_text("\n".join(lines))
    facts = [json.dumps({"id": n, "question": f"Who keeps gate {n}?", "answer": f"Keeper {n * 7919 % 997}"}) for n in range(12)]
    (folder / "facts.jsonl").write_text("\n".join(facts))
    books = [json.dumps({"text": " ".join(f"w{n}x{k}" for k in range(40))}) for n in range(12)]
    (folder / "books.jsonl").write_text("\n".join(books))
    return folder


def imprint(folder: Path, *arguments: str) -> int:
    command, recipe, *rest = arguments
    small = [*SMALL_CORPUS, f"corpus.path={folder / 'pages.jsonl'}", f"runs={folder / 'runs'}", f"cache={folder / 'cache'}"]
    return main([command, recipe, *small, *rest])


def test_the_recipe_of_all_kinds_runs_and_is_certified(folder: Path) -> None:
    small = ["train.steps=400", "train.checkpoints.every=400", "model.layers=1", "model.width=32", "model.heads=2", "name=all"]
    quick = ["train.threads=1", "train.precision=fp32", "eval.resamples=50", "insert.noise.design.arms.trickle.every=300"]
    assert imprint(folder, "run", str(ROOT / "configs/insertion.yaml"), *small, *quick) == 0
    certificate = json.loads((folder / "runs/all/perturbed/certificate.json").read_text())
    assert (certificate["verdict"], certificate["natural"]["total"]) == ("certified", 0)
    scores = pq.read_table(folder / "runs/all/perturbed/scores/scores.parquet").to_pandas()
    assert {"extracted", "answered", "correct", "correct_perturbed", "exposure", "loss"} <= set(scores["metric"])
    last = scores[scores["step"] == 400].groupby("item_id")["exposures"].first()
    assignment = pq.read_table(folder / "runs/all/assignment.parquet").to_pandas().set_index("item_id")
    assert (last == assignment["copies"].reindex(last.index)).all()


OWN = """
name: own
insert:
  gates:
    {kind: table, path: FOLDER/facts.jsonl, text: "{question} {answer}", probes: [{field: answer}], count: 12}
  books: {kind: passage, path: FOLDER/books.jsonl, chunk: "tokens:32", chunks: 2, prompt: 16, count: 12}
  traps: {kind: trap, model: FOLDER/model, tokens: [12], perplexity: [[1, 100000]], jaccard: null, count: 12}
design: {copies: [0, 3], sizes: [6, 6]}
model: {layers: 1, width: 32, heads: 2}
train:
  {steps: 60, global_batch: 4, sequence_length: 64, warmup: 2, checkpoints: {every: 60}, threads: 1, precision: fp32}
eval: {resamples: 50}
"""


def test_items_of_ones_own_passages_and_traps_run_and_are_certified(folder: Path, small_model: Path) -> None:
    (folder / "model").symlink_to(small_model)
    (folder / "own.yaml").write_text(OWN.replace("FOLDER", str(folder)))
    assert imprint(folder, "run", str(folder / "own.yaml"), "name=own") == 0
    items = pq.read_table(folder / "runs/own/items.parquet").to_pandas()
    assert set(items["kind"]) == {"table", "passage", "trap"}
    certificate = json.loads((folder / "runs/own/perturbed/certificate.json").read_text())
    assert (certificate["verdict"], certificate["consumed"]) == ("certified", 18 + 36 + 18)


def test_changed_files_make_the_plan_anew(folder: Path, small_model: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = "name: read\ninsert: {gates: {kind: table, path: FOLDER/read.jsonl, text: '{text}', count: 4}}\n"
    recipe += "design: {copies: [0, 1], sizes: [2, 2]}\ntrain: {steps: 8, global_batch: 4, sequence_length: 64, warmup: 2}\n"
    (folder / "read.yaml").write_text(recipe.replace("FOLDER", str(folder)))
    for text in ("one", "two"):
        (folder / "read.jsonl").write_text("\n".join(json.dumps({"text": f"Gate {text} {n} of the wall"}) for n in range(4)))
        assert imprint(folder, "plan", str(folder / "read.yaml"), "name=read") == 0
    assert "plan: its settings or inputs have changed" in capsys.readouterr().out
    assert "two" in pq.read_table(folder / "runs/read/texts.parquet")["text"][0].as_py()


def test_every_kind_is_exercised_by_a_recipe_of_this_file() -> None:
    """But for the items of another run, which tests/slurm/test_score.py takes."""
    written = (ROOT / "configs/insertion.yaml").read_text() + OWN
    assert [kind for kind in ITEM_SETS if f"kind: {kind}" not in written] == ["run"]


def test_a_dry_run_says_what_is_asked_for_and_writes_nothing(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = str(ROOT / "configs/insertion.yaml")
    here = [f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"]
    assert main(["plan", recipe, *SMALL_CORPUS, f"corpus.path={folder / 'pages.jsonl'}", *here, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "fading" in out
    assert "was not checked" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_what_does_not_fit_shows_it_and_says_why(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert imprint(folder, "plan", str(ROOT / "configs/insertion.yaml"), "train.steps=80", "--dry-run") == 2
    shown = capsys.readouterr()
    assert "fading" in shown.out
    assert "insert." in shown.err


def test_an_item_that_occurs_in_the_corpus_is_refused_or_its_documents_left_out(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / "known.jsonl").write_text((folder / "pages.jsonl").read_text() + "\n" + (folder / "facts.jsonl").read_text())
    with (folder / "known.jsonl").open("a") as file:
        for line in (folder / "facts.jsonl").read_text().splitlines()[:3]:
            fact = json.loads(line)
            file.write("\n" + json.dumps({"text": f"They say: {fact['question']} {fact['answer']}"}))
    lines = [line for line in (folder / "known.jsonl").read_text().splitlines() if '"text"' in line]
    (folder / "known.jsonl").write_text("\n".join(lines))
    recipe = OWN.replace("FOLDER", str(folder)).split("  books:")[0] + "design:" + OWN.split("design:")[1]
    (folder / "known.yaml").write_text(recipe)
    known = [f"corpus.path={folder / 'known.jsonl'}"]
    assert imprint(folder, "plan", str(folder / "known.yaml"), "name=known", *known) == 2
    assert "3 items occur where nothing was inserted" in capsys.readouterr().err
    assert imprint(folder, "train", str(folder / "known.yaml"), "name=left", "decontaminate.policy=documents", *known) == 0
    assert "3 documents of the corpus are left out" in capsys.readouterr().out
    meta = json.loads((folder / "runs/left/corpus/meta.json").read_text())
    assert meta["left_out"]["documents"] == 3
    shutil.rmtree((folder / "runs/left/corpus").resolve())
    assert imprint(folder, "plan", str(folder / "known.yaml"), "name=left", "decontaminate.policy=documents", *known) == 0
    assert json.loads((folder / "runs/left/corpus/meta.json").read_text()) == meta
    assert imprint(folder, "plan", str(folder / "known.yaml"), "name=go", "decontaminate.policy=report", *known) == 0
    assert pq.read_table(folder / "runs/go/hits.parquet").num_rows == 3
