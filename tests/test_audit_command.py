"""`imprint audit` and `imprint inspect` on a trained run, and on its tampered twins."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imprint import main

RECIPE = """
name: audited
seed: 5
corpus: {source: jsonl, tokenizer: {vocabulary: 320}}
insert:
  codes: {kind: canary, count: 6, text: "Code of {name}: {digits:2}."}
  quiz: {kind: testset, count: 6, digits: 2, design: {mode: splice, cross: {}}}
design: {copies: [0, 3], sizes: [3, 3]}
model: {layers: 1, width: 32, heads: 2}
train:
  {steps: 40, global_batch: 4, sequence_length: 96, warmup: 2, models: [perturbed, standard, without-quiz],
   checkpoints: {every: 40, exposures: false, resume_every: 40}, threads: 1, precision: fp32}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    (folder / "audited.yaml").write_text(RECIPE)
    pages = (f"Page {n} of a book in which {n * 7919} things are told, and {n * 104729} more." for n in range(900))
    (folder / "pages.jsonl").write_text("\n".join(json.dumps({"text": page}) for page in pages))
    folders = [f"corpus.path={folder / 'pages.jsonl'}", f"runs={folder / 'runs'}", f"cache={folder / 'cache'}"]
    assert main(["train", str(folder / "audited.yaml"), "name=audited", *folders]) == 0
    return folder / "runs/audited"


@pytest.fixture
def twin(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be tampered with."""
    shutil.copytree(trained, tmp_path / "twin", symlinks=True)
    return tmp_path / "twin"


def certificate(run: Path, model: str = "perturbed") -> dict:
    return json.loads((run / model / "certificate.json").read_text())


def kinds(run: Path) -> set[str]:
    return {violation["kind"] for violation in certificate(run)["violations"]["listed"]}


def change(path: Path, rewrite) -> None:
    """Rewrite a table's rows; its schema stays."""
    table = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist(rewrite(table.to_pylist()), table.schema), path)


def ledger(run: Path) -> Path:
    return sorted((run / "perturbed").glob("ledger-*.parquet"))[0]


def refused(run: Path) -> set[str]:
    assert main(["audit", str(run), "--model", "perturbed"]) == 1
    return kinds(run)


def test_a_trained_run_is_certified_with_all_its_models(trained: Path) -> None:
    assert main(["audit", str(trained)]) == 0
    planned = pq.read_table(trained / "plan.parquet").num_rows
    assert (certificate(trained)["verdict"], certificate(trained)["consumed"]) == ("certified", planned)
    assert certificate(trained, "standard")["consumed"] == 0
    assert 0 < certificate(trained, "without-quiz")["consumed"] < planned


def test_displaced_tokens_are_counted_by_mode(trained: Path) -> None:
    main(["audit", str(trained)])
    plan = pq.read_table(trained / "plan.parquet").to_pandas()
    found = certificate(trained)
    assert found["overwritten_tokens"] == plan[plan["mode"] == "overwrite"]["length"].sum()
    assert found["spliced_tokens"] == (plan[plan["mode"] == "splice"]["length"] - 1).sum()


def test_flipped_tokens_of_the_corpus_are_caught(twin: Path) -> None:
    corpus = (twin / "corpus").resolve()
    copied = shutil.copytree(corpus, twin / "tampered")
    (twin / "corpus").unlink()
    (twin / "corpus").symlink_to(copied)
    tokens = np.memmap(next(copied.glob("tokens-*.bin")), np.uint16, "r+")
    tokens[tokens == tokens[5]] += 1  # one of which, at least, was read
    tokens.flush()
    assert "differs" in refused(twin)


def test_a_flipped_token_of_a_text_is_caught(twin: Path) -> None:
    inserted = set(pq.read_table(twin / "plan.parquet")["item_id"].to_pylist())

    def flip(rows):
        row = next(row for row in rows if row["item_id"] in inserted)
        row["tokens"][2] += 1
        return rows

    change(twin / "texts.parquet", flip)
    assert {"plan", "differs"} <= refused(twin)


def test_a_shifted_offset_is_caught_as_moved(twin: Path) -> None:
    def shift(rows):
        row = next(row for row in rows if row["mode"] == "overwrite" and row["offset"] > 0)
        row["offset"] -= 1
        return rows

    change(twin / "plan.parquet", shift)
    assert "moved" in refused(twin)


def test_a_dropped_occurrence_is_caught(twin: Path) -> None:
    change(twin / "plan.parquet", lambda rows: rows[1:])
    assert {"plan", "copies"} <= refused(twin)


def test_a_row_trained_without_its_insertion_is_caught_as_missing(twin: Path, trained: Path) -> None:
    plan = pq.read_table(trained / "plan.parquet").to_pylist()
    standard = pq.read_table(sorted((trained / "standard").glob("ledger-*.parquet"))[0]).to_pylist()

    def without(rows):
        row = plan[0]["row"]
        rows[row // 4]["rows_sha256"][row % 4] = standard[row // 4]["rows_sha256"][row % 4]
        return rows

    change(ledger(twin), without)
    assert "missing" in refused(twin)


def test_a_skipped_step_that_is_not_recorded_is_caught(twin: Path) -> None:
    change(ledger(twin), lambda rows: [row for row in rows if row["step"] != 7])
    assert "ledger" in refused(twin)


def test_a_repeated_step_is_caught(twin: Path) -> None:
    def repeat(rows):
        rows[8]["rows_sha256"] = rows[7]["rows_sha256"]
        return rows

    change(ledger(twin), repeat)
    assert "order" in refused(twin)


def skip(run: Path) -> int:
    """Record the step of the first occurrence as not consumed."""
    step = pq.read_table(run / "plan.parquet")["row"].to_pylist()[0] // 4

    def skipped(rows):
        rows[step]["consumed"] = False
        return rows

    change(ledger(run), skipped)
    return step


def test_a_skip_that_was_recorded_after_training_is_caught(twin: Path) -> None:
    skip(twin)
    assert refused(twin) == {"files"}


def test_a_damaged_last_checkpoint_is_caught(twin: Path) -> None:
    (twin / "perturbed/checkpoints/step-00000040/model.safetensors").write_bytes(b"")
    assert refused(twin) == {"files"}


def test_a_last_checkpoint_that_is_missing_is_told(twin: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.rmtree(twin / "perturbed/checkpoints/step-00000040")
    assert refused(twin) == {"files"}
    told = "checkpoints/step-00000040/imprint.json, which the job train-perturbed wrote, is missing"
    assert told in capsys.readouterr().out


def test_a_recorded_skip_is_reported_and_no_violation(twin: Path, capsys: pytest.CaptureFixture) -> None:
    step = skip(twin)
    (twin / "jobs" / "train-perturbed.json").unlink()  # which would tell that it was recorded later
    assert main(["audit", str(twin), "--model", "perturbed"]) == 0
    assert certificate(twin)["skipped"] >= 1
    assert f"recorded as not consumed: {step}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["audit", "{run}", "--model", "other"], ["'other'", "perturbed, standard, without-quiz"]),
        (["audit", "{run}/nowhere"], ["not a run", "config.yaml"]),
        (["inspect", "{run}", "--step", "40"], ["--step is 40", "0 to 39"]),
        (["inspect", "{run}", "--step", "-1"], ["--step is -1"]),
        (["inspect", "{run}", "--step", "3", "--row", "4"], ["--row is 4", "0 to 3"]),
        (["inspect", "{run}", "--step", "3", "--model", "other"], ["'other'", "perturbed"]),
    ],
)
def test_bad_requests_get_a_sentence(trained: Path, capsys: pytest.CaptureFixture, arguments: list[str], words: list[str]) -> None:
    assert main([argument.format(run=trained) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("imprint: ")
    assert all(word in error for word in words)


def test_a_run_stopped_before_its_first_checkpoint_has_nothing_to_audit(twin: Path, capsys: pytest.CaptureFixture) -> None:
    for marker in twin.glob("*/checkpoints/step-*/imprint.json"):
        marker.unlink()
    assert main(["audit", str(twin)]) == 2
    assert "holds no checkpoint yet" in capsys.readouterr().err


def test_inspect_shows_an_insertion_with_its_item_and_copy(trained: Path, capsys: pytest.CaptureFixture) -> None:
    first = pq.read_table(trained / "plan.parquet").to_pylist()[0]
    assert main(["inspect", str(trained), "--step", str(first["row"] // 4), "--row", str(first["row"] % 4)]) == 0
    out = capsys.readouterr().out
    assert f"{first['item_id']} copy {first['copy'] + 1}/3" in out


def test_the_standard_model_is_shown_without_insertions(trained: Path, capsys: pytest.CaptureFixture) -> None:
    first = pq.read_table(trained / "plan.parquet").to_pylist()[0]
    assert main(["inspect", str(trained), "--step", str(first["row"] // 4), "--model", "standard"]) == 0
    assert "copy" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["audit", "inspect"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture) -> None:
    assert main([command, "--help"]) == 0
    assert f"imprint {command} runs/" in capsys.readouterr().out.replace("\n", " ")
