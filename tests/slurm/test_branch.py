"""`imprint branch` on a trained run: what is shared is the parent's to the bit, and what differs are the removed spans alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import RecipeError
from configs.layout import ModelLayout, RunLayout
from imprint import main
from inject.stream import row_digests
from slurm.branching import named_items
from slurm.jobs import Experiment
from tests.kill.runs import Runs, kill_at

STEPS, BATCH = 40, 4
RECIPE = f"""
name: branched
seed: 5
corpus: {{source: jsonl, tokenizer: {{vocabulary: 320}}}}
insert:
  codes: {{kind: canary, count: 8, text: "Code of {{name}}: {{digits:2}}."}}
  quiz: {{kind: testset, count: 8, digits: 2, design: {{mode: splice, cross: {{}}, window: [0.6, 1.0]}}}}
design: {{copies: [0, 3], sizes: [4, 4], window: [0.25, 1.0]}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.1}}
train:
  {{steps: {STEPS}, global_batch: {BATCH}, sequence_length: 96, warmup: 2, threads: 1, precision: fp32,
   models: [perturbed, standard], checkpoints: {{every: 10, resume_every: 3}}}}
eval: {{membership: [], resamples: 20}}
"""
CODES, QUIZ, PLACEBO, NOTHING = "codes-left-out", "quiz-left-out", "placebo", "again"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with branches of each kind."""
    folder = tmp_path_factory.mktemp("branched")
    (folder / "r.yaml").write_text(RECIPE)
    pages = (f"Page {n} of a book in which {n * 7919} things are told, and {n * 104729} more." for n in range(900))
    (folder / "pages.jsonl").write_text("\n".join(json.dumps({"text": page}) for page in pages))
    folders = [f"corpus.path={folder / 'pages.jsonl'}", f"runs={folder / 'runs'}", f"cache={folder / 'cache'}"]
    assert main(["train", str(folder / "r.yaml"), "name=branched", *folders]) == 0
    root = folder / "runs" / "branched"
    asked = {CODES: ["codes"], QUIZ: ["quiz"], PLACEBO: ["quiz", "--placebo", "1"], NOTHING: ["nothing"]}
    for name, words in asked.items():
        assert main(["branch", str(root), "--without", *words, "--name", name, "--record"]) == 0
    assert main(["train", str(root / "config.yaml")]) == 0
    return root


@pytest.fixture
def twin(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    shutil.copytree(run, tmp_path / "twin", symlinks=True)
    return tmp_path / "twin"


def model(run: Path, name: str) -> ModelLayout:
    return RunLayout(run).model(name)


def record(run: Path, name: str) -> dict[str, Any]:
    return json.loads(model(run, name).branch.read_text())


def ledger(run: Path, name: str) -> list[dict[str, Any]]:
    return [row for path in model(run, name).ledgers() for row in pq.read_table(path).to_pylist()]


def weights(run: Path, name: str, step: int = STEPS) -> bytes:
    return (model(run, name).checkpoint(step) / "model.safetensors").read_bytes()


def rows(run: Path, name: str) -> np.ndarray:
    """The tokens of all rows of a model, which are those that its ledger says were handed to the forward pass."""
    found = Experiment.of(run).stream(name).rows(np.arange(STEPS * BATCH))
    assert row_digests(found.tokens, found.label_mask) == [d for step in ledger(run, name) for d in step["rows_sha256"]]
    return found.tokens


def occurrences(run: Path, item_set: str) -> list[dict[str, Any]]:
    return [row for row in pq.read_table(run / "plan.parquet").to_pylist() if row["item_id"].startswith(item_set)]


def first_step(run: Path, item_set: str) -> int:
    return occurrences(run, item_set)[0]["row"] // BATCH


def certificate(run: Path, name: str) -> dict[str, Any]:
    main(["audit", str(run), "--model", name])
    return json.loads(model(run, name).certificate.read_text())


# ------------------------------------------------------------------------------------------------ the exact counterfactual


def test_a_branch_that_removes_nothing_is_the_parent_to_the_last_bit(run: Path) -> None:
    assert weights(run, NOTHING) == weights(run, "perturbed")
    consumed, parents = ([(row["step"], row["rows_sha256"]) for row in ledger(run, name)] for name in (NOTHING, "perturbed"))
    assert consumed == parents


def test_a_branch_begins_at_the_checkpoint_before_the_first_removed_copy_and_trains_nothing_before_it_again(run: Path) -> None:
    for name, item_set in ((CODES, "codes"), (QUIZ, "quiz")):
        step = record(run, name)["step"]
        assert step == first_step(run, item_set)
        assert {row["model"] for row in ledger(run, name)[:step]} == {"perturbed"}
        assert {row["model"] for row in ledger(run, name)[step:]} == {name}
        assert min(json.loads(line)["step"] for line in model(run, name).metrics.read_text().splitlines()) >= step
        assert model(run, name).checkpoints() == [kept for kept in model(run, "perturbed").checkpoints() if kept >= step]
        assert weights(run, name, step) == weights(run, "perturbed", step)


def test_without_overwritten_items_rows_differ_in_their_spans_alone_and_hold_base_text_there(run: Path) -> None:
    own, parents, base = (rows(run, name) for name in (CODES, "perturbed", "standard"))
    inside = np.zeros(own.shape, bool)
    for copy in occurrences(run, "codes"):
        inside[copy["row"], copy["offset"] : copy["offset"] + copy["length"]] = True
    assert (own != parents).any()
    assert np.array_equal(own[~inside], parents[~inside])
    assert np.array_equal(own[inside], base[inside])


def test_without_spliced_items_rows_differ_from_the_splice_on(run: Path) -> None:
    own, parents, base = (rows(run, name) for name in (QUIZ, "perturbed", "standard"))
    behind = np.zeros(own.shape, bool)
    for copy in occurrences(run, "quiz"):
        behind[copy["row"], copy["offset"] + 1 :] = True
    assert (own != parents).any()
    assert np.array_equal(own[~behind], parents[~behind])
    assert np.array_equal(own[behind], base[behind])


@pytest.mark.parametrize(("name", "item_set"), [(CODES, "codes"), (QUIZ, "quiz")])
def test_a_branch_is_certified_to_have_consumed_all_copies_but_the_removed_ones(run: Path, name: str, item_set: str) -> None:
    found, planned = certificate(run, name), pq.read_table(run / "plan.parquet").num_rows
    assert (found["verdict"], found["rows"]) == ("certified", STEPS * BATCH)
    assert found["consumed"] == found["planned"] == planned - len(occurrences(run, item_set)) > 0
    assert not [item for item in Experiment.of(run).plan_of(name)["item_id"].to_pylist() if item.startswith(item_set)]


def test_a_placebo_changes_as_many_spans_of_the_same_lengths_and_touches_no_item(run: Path) -> None:
    own, parents = rows(run, PLACEBO), rows(run, "perturbed")
    removed, spans = occurrences(run, "quiz"), pq.read_table(model(run, PLACEBO).placebo).to_pylist()
    changed = set(np.flatnonzero((own != parents).any(axis=1)).tolist())
    assert changed == {span["row"] for span in spans}
    assert not changed & set(pq.read_table(run / "plan.parquet")["row"].to_pylist())
    assert sorted((s["length"], s["mode"]) for s in spans) == sorted((c["length"], c["mode"]) for c in removed)
    same_step = {span["row"] // BATCH for span in spans} & {copy["row"] // BATCH for copy in removed}
    assert len(same_step) > len({copy["row"] // BATCH for copy in removed}) / 2
    found = certificate(run, PLACEBO)
    assert (found["verdict"], found["consumed"]) == ("certified", pq.read_table(run / "plan.parquet").num_rows + len(removed))
    assert weights(run, PLACEBO) != weights(run, "perturbed")


def test_a_branch_of_a_branch_lacks_the_items_of_both(twin: Path) -> None:
    """From the second on, the parent is a branch, and so are the steps that are shared."""
    item = occurrences(twin, "quiz")[-1]["item_id"]
    assert main(["branch", str(twin), "--model", NOTHING, "--without", item, "--name", "second", "--record"]) == 0
    assert main(["job", str(twin), "train-second"]) == 0
    found = certificate(twin, "second")
    assert (found["verdict"], found["planned"]) == ("certified", pq.read_table(twin / "plan.parquet").num_rows - 3)
    assert {row["model"] for row in ledger(twin, "second")} == {"perturbed", "second"}
    assert item not in Experiment.of(twin).plan_of("second")["item_id"].to_pylist()


# ------------------------------------------------------------------------------------------------ that a difference would be seen


def test_a_shared_step_that_is_not_the_parents_is_told_by_the_certificate(twin: Path) -> None:
    first = model(twin, CODES).ledgers()[0]
    table = pq.read_table(first)
    changed = table.to_pylist()
    changed[0]["consumed"] = False
    pq.write_table(pa.Table.from_pylist(changed, table.schema), first)
    found = certificate(twin, CODES)
    assert "branch" in {violation["kind"] for violation in found["violations"]["listed"]}
    assert "whose steps these are" in json.dumps(found)


def test_spans_of_a_placebo_that_were_changed_are_told_by_the_certificate(twin: Path) -> None:
    path = model(twin, PLACEBO).placebo
    table = pq.read_table(path)
    spans = table.to_pylist()
    spans[0]["tokens"][0] = (spans[0]["tokens"][0] + 1) % 300
    pq.write_table(pa.Table.from_pylist(spans, table.schema), path)
    assert {"branch", "differs"} <= {v["kind"] for v in certificate(twin, PLACEBO)["violations"]["listed"]}


# ------------------------------------------------------------------------------------------------ requests that can't be met


def refusal(run: Path, capsys: pytest.CaptureFixture, *words: str) -> str:
    before = sorted(path.name for path in run.iterdir())
    assert main(["branch", str(run), *words]) == 2
    assert sorted(path.name for path in run.iterdir()) == before
    error = capsys.readouterr().err
    assert error.startswith("imprint: ")
    return error


def test_a_step_after_the_first_exposure_is_refused_with_the_steps_that_are_possible(run: Path, capsys) -> None:
    codes, quiz = first_step(run, "codes"), first_step(run, "quiz")
    error = refusal(run, capsys, "--without", "codes", "--from", str(quiz))
    assert f"--from is {quiz}, but perturbed has then seen the first copy to be removed, of codes-" in error
    assert f"in step {codes}; the checkpoints that hold full state and have not seen it: {codes}\n" in error


def test_a_checkpoint_without_full_state_is_refused_with_those_that_have_it(run: Path, capsys) -> None:
    error = refusal(run, capsys, "--without", "quiz", "--from", "0")
    assert "step 0 holds a model without the optimizer's state" in error
    assert f"have not seen it: {first_step(run, 'codes')}, {first_step(run, 'quiz')}\n" in error
    assert "there is no such checkpoint of perturbed" in refusal(run, capsys, "--without", "quiz", "--from", "7")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--without", "people"], ["'people'", "no item set, arm, group or item", "item sets codes, quiz; arms held-out, 3x"]),
        (["--without", "held-out"], ["held-out, of which perturbed has no copy, so there is nothing to remove"]),
        (["--without", "codes", "--model", "standard"], ["of which standard has no copy"]),
        (["--without", "codes", "--model", "other"], ["--model is 'other'; the run has perturbed, standard, again"]),
        (["--without", "codes", "--without", "nothing"], ["`nothing` stands alone"]),
        (["--without", "nothing", "--placebo", "1"], ["it removes nothing"]),
        (["--without", "codes", "--name", "3x"], ["--name is '3x'", "an arm"]),
        (["--without", "codes", "--name", "report"], ["--name is 'report'"]),
        (["--without", "codes", "--name", QUIZ], ["another branch of that name", "goes on without quiz (4 items)"]),
        (["--without", "standard"], ["'standard'"]),
    ],
)
def test_bad_requests_get_a_sentence(run: Path, capsys, arguments: list[str], words: list[str]) -> None:
    error = refusal(run, capsys, *arguments)
    assert all(word in error for word in words), error


def test_a_parent_that_is_not_trained_to_its_end_is_refused(twin: Path, capsys) -> None:
    (twin / "jobs" / "train-perturbed.json").unlink()
    assert "perturbed of" in (error := refusal(twin, capsys, "--without", "codes"))
    assert "not trained to its end" in error


def test_without_any_full_state_the_setting_that_keeps_it_is_named(twin: Path, capsys) -> None:
    for path in (twin / "perturbed" / "checkpoints").glob("*/moments.safetensors"):
        info = json.loads((path.parent / "imprint.json").read_text())
        from configs.layout import CheckpointInfo  # written anew, as if train.checkpoints.resumable had been none

        del info["sha256"], info["files"][path.name]
        CheckpointInfo(**info).write(path.parent)
        path.unlink()
    error = refusal(twin, capsys, "--without", "codes")
    assert "perturbed has no checkpoint to branch off from before the first copy" in error
    assert "none; train.checkpoints.resumable=all keeps full state" in error


def test_a_help_has_examples(capsys) -> None:
    assert main(["branch", "--help"]) == 0
    assert "imprint branch runs/quickstart --without people" in " ".join(capsys.readouterr().out.replace("│", " ").split())


# ------------------------------------------------------------------------------------------------ names of items


ITEMS = pa.table({"item_id": ["a-0", "a-1", "b-0", "b-1"], "item_set": ["a", "a", "b", "b"]})
ASSIGNMENT = pa.table(
    {"item_id": ["a-0", "a-1", "b-0", "b-1"], "arm": ["4x", "held-out", "4x", "b"], "group": ["a-0", "a-0", "b-0", "b-1"]}
)


@pytest.mark.parametrize(
    ("names", "items"),
    [
        (["a"], ["a-0", "a-1"]),
        (["4x"], ["a-0", "b-0"]),
        (["group:a-0"], ["a-0", "a-1"]),
        (["item:a-0"], ["a-0"]),
        (["b-1", "a-1"], ["a-1", "b-1"]),
        (["nothing"], []),
    ],
)
def test_items_are_named_by_set_arm_group_and_id(names: list[str], items: list[str]) -> None:
    assert named_items(names, ITEMS, ASSIGNMENT) == (items, names)


def test_a_file_stands_for_the_names_in_it(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("a-1\n\nb-0\n")
    assert named_items([str(tmp_path / "ids.txt")], ITEMS, ASSIGNMENT)[0] == ["a-1", "b-0"]


@pytest.mark.parametrize("name", ["a-0", "b"])
def test_a_name_of_two_things_is_refused_with_both(name: str) -> None:
    with pytest.raises(RecipeError, match="can mean") as refused:
        named_items([name], ITEMS, ASSIGNMENT)
    assert {"a-0": "group:a-0 (2 items), item:a-0 (1 items)", "b": "set:b (2 items), arm:b (1 items)"}[name] in str(refused.value)


# ------------------------------------------------------------------------------------------------ killed, and run again


def test_a_killed_branch_goes_on_and_ends_with_the_same_bits(run: Path, tmp_path: Path) -> None:
    assert main(["branch", str(run), "--without", "codes", "--name", "killed", "--record"]) == 0
    layout = model(run, "killed")
    training = Runs(tmp_path / "words").fork(["job", str(run), "train-killed"])
    kill_at(training, layout, record(run, "killed")["step"] + 6)
    assert training.wait() != [0]
    assert main(["job", str(run), "train-killed"]) == 0
    assert weights(run, "killed") == weights(run, CODES)
    own, unbroken = ([(row["step"], row["rows_sha256"]) for row in ledger(run, name)] for name in ("killed", CODES))
    assert own == unbroken
    shutil.rmtree(layout.root)
    (run / "jobs" / "train-killed.json").unlink()


def test_a_branch_is_scored_and_reported_and_run_again_does_nothing(run: Path, capsys) -> None:
    for name in (NOTHING, CODES):
        shutil.rmtree(model(run, name).root)
    assert main(["branch", str(run), "--without", "quiz", "--name", QUIZ]) == 0
    effects = pq.read_table(run / "effects.parquet").to_pandas()
    contrasts = set(effects["contrast"])
    assert {f"minus {QUIZ}", f"minus {QUIZ}, other items", f"minus {QUIZ}, beyond placebo", f"minus {PLACEBO}"} <= contrasts
    assert f"minus {PLACEBO}, beyond placebo" not in contrasts
    about = effects[effects["contrast"] == f"minus {QUIZ}"]
    assert set(about["model"]) == {"perturbed"}
    assert about["step"].min() > record(run, QUIZ)["step"]
    scores = pq.read_table(model(run, QUIZ).scores / "scores.parquet").to_pandas()
    assert scores[scores["item_id"].str.startswith("quiz")]["exposures"].max() == 0
    assert f"{QUIZ} is perturbed up to step" in (run / "report" / "index.html").read_text()
    assert f"counterfactual/{QUIZ}" in {finding["key"] for finding in json.loads((run / "report/findings.json").read_text())}
    capsys.readouterr()
    assert main(["branch", str(run), "--without", "quiz", "--name", QUIZ]) == 0
    lines = [
        line for line in capsys.readouterr().out.splitlines() if line.split(":")[0].split("-")[0] in ("train", "audit", "eval")
    ]
    assert lines
    assert all(line.endswith("done before") for line in lines)
