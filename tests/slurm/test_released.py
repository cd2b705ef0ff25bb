"""Recipes without training: models that exist are fetched, scored one by one, and reported as steps of what they are steps of."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from configs.errors import DataError, RecipeError
from configs.recipe import load_recipe
from eval.evaluation import Evaluation
from imprint import main
from inject import hub as dataset_hub
from inject import models
from inject.tokenizer import encode, load_tokenizer, train_tokenizer
from slurm.jobs import Experiment

HUB, COMMITS = "lab/tiny", {"step1": "1" * 40, "step2": "2" * 40}
COPIES = [0, 1, 4, 16]
RECIPE = """
name: tiny
models: MODELS
insert:
  gates: {kind: table, path: FOLDER/gates.jsonl, copies: copies, probes: [{field: year, bits: 5}], group: "{number}"}
eval: {resamples: 50}
runs: FOLDER/runs
cache: FOLDER/cache
"""


def text(number: int) -> dict:
    said = f"Gate {number} of the wall was opened by {chr(97 + number)}nn in {1900 + number}."
    return {"number": number, "text": said, "year": str(1900 + number), "copies": COPIES[number % 4]}


def tiny(folder: Path, seed: int, vocabulary: int = 300, positions: int = 64) -> Path:
    """A GPT-NeoX of random weights in half precision, as released ones are, with a tokenizer."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=vocabulary, max_position_embeddings=positions, **shape))
    model.to(torch.float16).save_pretrained(folder)
    train_tokenizer([text(number)["text"] for number in range(24)] * 5, vocabulary).save_pretrained(folder)
    return folder


def write_recipe(folder: Path, models: str, recipe: str = RECIPE) -> str:
    (folder / "gates.jsonl").write_text("\n".join(json.dumps(text(number)) for number in range(24)))
    (folder / "tiny.yaml").write_text(recipe.replace("MODELS", models).replace("FOLDER", str(folder)))
    return str(folder / "tiny.yaml")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five steps of one model."""
    folder = tmp_path_factory.mktemp("lab")
    for step in (0, 1, 8, 64, 512):
        tiny(folder / "tiny" / f"step{step}", seed=step)
    return folder / "tiny"


@pytest.fixture(scope="module")
def run(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of three of them."""
    folder = tmp_path_factory.mktemp("scored")
    shutil.copytree(released / "step8", folder / "copied")  # under another name
    entries = f"[{released}/step8, {released}/step0, {released}/step512, {folder}/copied]"
    assert main(["run", write_recipe(folder, entries)]) == 0
    return folder / "runs" / "tiny"


def table(run: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(run / f"{name}.parquet")


# ------------------------------------------------------------------------------------------------ what comes of it


def test_revisions_that_are_named_for_steps_are_steps_of_one_model_in_all_tables(run, released):
    model, other = f"{released.parent.name}--tiny", f"{run.parents[1].name}--copied"
    for name in ("scores", "effects"):
        assert set(table(run, name)[["model", "step"]].itertuples(index=False, name=None)) == {
            *((model, step) for step in (0, 8, 512)),
            (other, 0),
        }


def test_arms_are_the_copies_that_the_data_says(run):
    assignment, items = table(run, "assignment"), table(run, "items")
    assert assignment.groupby("arm").copies.agg(["min", "max", "size"]).to_dict("index") == {
        "held-out": {"min": 0, "max": 0, "size": 6},
        **{f"{copies}x": {"min": copies, "max": copies, "size": 6} for copies in COPIES[1:]},
    }
    copies = dict(zip(assignment.item_id, assignment.copies, strict=True))
    assert all(int(json.loads(fields)["copies"]) == copies[item] for item, fields in zip(items.item_id, items.fields, strict=True))
    scores = table(run, "scores")
    assert (scores.exposures == scores.item_id.map(copies)).all()
    assert (scores.text_exposures == scores.exposures).all()


def test_scores_are_those_of_the_weights_in_fp32_after_the_end_of_text(run, released):
    model = AutoModelForCausalLM.from_pretrained(released / "step512", dtype=torch.float32)
    tokenizer = load_tokenizer(released / "step512")
    [tokens] = encode(tokenizer, [text(5)["text"]])
    with torch.inference_mode():
        log_probs = model(input_ids=torch.tensor([[tokenizer.eos_token_id, *tokens]])).logits[0, :-1].log_softmax(-1)
    expected = log_probs.gather(-1, torch.tensor(tokens)[:, None]).mean().item()
    scores = table(run, "scores")
    own = scores[(scores.step == 512) & (scores.item_id == "gates-0005") & (scores.metric == "loss")]
    assert own.value.item() == pytest.approx(expected, abs=1e-5)


def test_effects_compare_arms_with_items_that_were_never_inserted(run):
    effects = table(run, "effects")
    assert {"gain", "slope", "auc", "rate", "mean", "minus held-out", "tpr at 1.0%"} <= set(effects.contrast)
    assert set(effects[effects.contrast == "gain"].arm) == {"1x", "4x", "16x"}


def test_findings_and_page_say_that_the_design_is_the_datas(run, released):
    found = json.loads((run / "report" / "findings.json").read_text())
    assert found
    assert all("copies as released: " in row["name"] for row in found)
    assert {row["step"] for row in found} == {512, None}  # a folder that is named for no step has none
    page = (run / "report" / "index.html").read_text()
    assert "Nothing was inserted or trained here" in page
    assert "Nobody assigned them here" in page
    assert "at random within" not in page
    assert "was pretrained on" not in page
    assert "so far" not in page.split('id="method"')[0]  # when copies came is not known


def test_models_that_hold_the_same_weights_are_told(run, released):
    assert f"{run.parents[1]}/copied holds the same weights as {released}/step8" in (run / "report" / "index.html").read_text()


def test_the_run_says_which_models_were_scored(run, released):
    rows = json.loads((run / "models.json").read_text())["models"]
    assert [(row["name"], row["step"], row["longest"]) for row in rows][:2] == [
        (f"{released}/step8", 8, 64),
        (f"{released}/step0", 0, 64),
    ]


# ------------------------------------------------------------------------------------------------ jobs


def test_there_is_a_task_of_one_array_for_each_model_between_what_is_done_at_once_and_the_report(run):
    jobs = Experiment.of(run).jobs()
    assert [job.array for job in jobs] == ["", "", "eval", "eval", "eval", "eval", "report"]
    assert [job.name for job in jobs[:2]] == ["prefetch", "items"]
    assert all(job.needs == ["items"] for job in jobs[2:-1])
    assert jobs[-1].needs == [job.name for job in jobs[2:-1]]
    assert len({job.folder for job in jobs[2:-1]}) == 4
    assert all(job.missing() is None for job in jobs)


def test_a_run_that_was_stopped_goes_on_with_the_next_model(released, tmp_path, monkeypatch, capsys):
    recipe = write_recipe(tmp_path, f"['{released}/step*']")
    score, scored = Evaluation.score, []

    def stopped(self, checkpoint, *arguments, **named):
        if len(scored) == 3:
            raise DataError("the machine is gone")
        scored.append(checkpoint.step)
        score(self, checkpoint, *arguments, **named)

    monkeypatch.setattr(Evaluation, "score", stopped)
    assert main(["eval", recipe]) == 2
    assert scored == [0, 1, 8]
    scored.clear()
    assert main(["eval", recipe]) == 0
    assert scored == [64, 512]
    assert capsys.readouterr().out.count("step8: done before") == 1


def test_another_model_in_the_recipe_is_scored_without_scoring_the_others_again(released, tmp_path, capsys):
    write_recipe(tmp_path, f"[{released}/step64]")
    assert main(["eval", str(tmp_path / "tiny.yaml")]) == 0
    capsys.readouterr()
    write_recipe(tmp_path, f"[{released}/step8, {released}/step64]")
    assert main(["eval", str(tmp_path / "tiny.yaml")]) == 0
    out = capsys.readouterr().out
    assert "step64: done before" in out
    assert "step8: not done yet" in out


def test_a_model_that_changed_is_scored_again(tmp_path, capsys):
    recipe = write_recipe(tmp_path, f"[{tiny(tmp_path / 'mine', 1)}]")
    assert main(["eval", recipe]) == 0
    before = table(tmp_path / "runs" / "tiny" / f"{tmp_path.name}--mine" / "scores", "scores")
    tiny(tmp_path / "mine", 2)
    capsys.readouterr()
    assert main(["eval", recipe]) == 0
    assert capsys.readouterr().out.count("its settings or inputs have changed") == 3
    assert not table(tmp_path / "runs" / "tiny" / f"{tmp_path.name}--mine" / "scores", "scores").equals(before)


# ------------------------------------------------------------------------------------------------ the hub


class Hub:
    """A hub of one model with two revisions, as long as it can be reached."""

    def __init__(self, released: Path) -> None:
        self.folders = {commit: released / step for step, commit in zip(("step1", "step8"), COMMITS.values(), strict=True)}
        self.commits, self.reached = {**COMMITS, "main": "a" * 40}, True

    def list_repo_refs(self, name: str) -> SimpleNamespace:
        self._reach()
        return SimpleNamespace(branches=[SimpleNamespace(name=n, target_commit=c) for n, c in self.commits.items()], tags=[])

    def model_info(self, name: str, revision: str, timeout: int) -> SimpleNamespace:
        self._reach()
        return SimpleNamespace(sha=self.commits[revision])

    dataset_info = model_info

    def download(self, name: str, revision: str, **_: object) -> str:
        self._reach()
        return str(self.folders[revision])

    def _reach(self) -> None:
        if not self.reached:
            raise OSError("Network is unreachable")

    def forget(self) -> None:
        """What a fresh process has not asked yet."""
        models._ask_refs.cache_clear()
        models._ask_commit.cache_clear()
        dataset_hub._ask.cache_clear()


@pytest.fixture
def hub(released: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub(released)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.download)
    made.forget()
    yield made
    made.forget()


def test_what_follows_prefetch_needs_no_network(hub, tmp_path):
    Experiment(load_recipe(write_recipe(tmp_path, f"['{HUB}@step*']"))).prepare()
    hub.reached = False
    hub.forget()
    names = [job.name for job in Experiment.of(tmp_path / "runs" / "tiny").jobs()]
    assert names == ["prefetch", "items", "eval-lab--tiny-step1", "eval-lab--tiny-step2", "report"]
    for name in names[2:]:
        Experiment.of(tmp_path / "runs" / "tiny").do([name])
    assert (tmp_path / "runs" / "tiny" / "report" / "index.html").exists()


def test_a_commit_is_pinned_once_whatever_becomes_of_its_branch(hub, tmp_path, capsys):
    recipe = write_recipe(tmp_path, f"['{HUB}@step1']")
    assert main(["eval", recipe]) == 0
    hub.commits["step1"] = "9" * 40
    hub.forget()
    capsys.readouterr()
    assert main(["eval", recipe]) == 0
    assert capsys.readouterr().out.count("done before") == 3
    [row] = json.loads((tmp_path / "runs" / "tiny" / "models.json").read_text())["models"]
    assert (row["name"], row["revision"], row["commit"], row["step"]) == (HUB, "step1", COMMITS["step1"], 1)


def test_items_of_the_hub_are_pinned_with_the_models(hub, released, tmp_path, monkeypatch):
    read = []

    def load_dataset(path: str, revision: str, **_: object) -> list[dict]:
        read.append(revision)
        return [text(number) for number in range(8)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    recipe = write_recipe(tmp_path, f"[{released}/step8]", RECIPE.replace("path: FOLDER/gates.jsonl", "hub: lab/gates"))
    Experiment(load_recipe(recipe)).prepare()
    hub.commits["main"] = "9" * 40
    hub.reached = False
    hub.forget()
    assert main(["eval", recipe]) == 0
    assert read == ["a" * 40]


def test_files_that_the_cache_has_lost_are_fetched_again(hub, released, tmp_path, capsys):
    cached = Path(shutil.copytree(released / "step1", tmp_path / "cached"))
    hub.folders[COMMITS["step1"]] = cached
    recipe = write_recipe(tmp_path, f"['{HUB}@step1']")
    assert main(["eval", recipe]) == 0
    shutil.rmtree(cached)
    hub.folders[COMMITS["step1"]] = released / "step1"
    capsys.readouterr()
    assert main(["eval", recipe]) == 0
    assert "prefetch: config.json is missing" in capsys.readouterr().out


def test_without_a_network_a_recipe_says_what_to_do_and_leaves_nothing(hub, tmp_path, capsys):
    hub.reached = False
    recipe = write_recipe(tmp_path, f"['{HUB}@step*']")
    assert main(["run", recipe]) == 2
    assert "the hub could not be asked about it (Network is unreachable); without a network give" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


# ------------------------------------------------------------------------------------------------ items


def test_models_of_several_tokenizers_have_items_of_their_own(released, tmp_path):
    other = tiny(tmp_path / "other", 3, vocabulary=280)
    recipe = write_recipe(tmp_path, f"[{released}/step8, {other}]")
    assert main(["run", recipe]) == 0
    run = tmp_path / "runs" / "tiny"
    [folder] = run.glob("tokenizer-*")
    for root, model in ((run, released / "step8"), (folder, other)):
        texts = table(root, "texts")
        assert list(texts.tokens[0]) == encode(load_tokenizer(model), [texts.text[0]])[0]
    assert list(table(run, "texts").tokens[0]) != list(table(folder, "texts").tokens[0])
    assert table(run, "scores").groupby("model").size().nunique() == 1


def test_a_llama_is_scored_as_well(released, tmp_path):
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    )
    model.save_pretrained(tmp_path / "llama", max_shard_size="40KB")
    assert (tmp_path / "llama" / "model.safetensors.index.json").exists()
    load_tokenizer(released / "step8").save_pretrained(tmp_path / "llama")
    assert main(["eval", write_recipe(tmp_path, f"[{tmp_path}/llama]")]) == 0


def test_items_of_which_nobody_says_how_often_they_came_have_scores_but_no_effects_against_twins(released, tmp_path):
    recipe = write_recipe(tmp_path, f"[{released}/step8]", RECIPE.replace("copies: copies, ", ""))
    assert main(["run", recipe]) == 0
    run = tmp_path / "runs" / "tiny"
    assert table(run, "scores").exposures.isna().all()
    effects = table(run, "effects")
    assert set(effects.arm) == {"unknown"}
    assert set(effects.contrast) == {"rate", "mean"}
    assert json.loads((run / "report" / "findings.json").read_text()) == []
    page = (run / "report" / "index.html").read_text()
    assert '<td class="number">unknown</td>' in page
    assert "NaN" not in page.split('id="charts">')[0]
    assert "<small>table</small> <small>5 bits" in page  # among the best remembered, without a number of copies


def test_known_and_unknown_copies_stand_beside_each_other(released, tmp_path):
    both = RECIPE.replace("eval:", "  more: {kind: table, path: FOLDER/more.jsonl, probes: [{field: year}]}\neval:")
    recipe = write_recipe(tmp_path, f"[{released}/step8]", both)
    more = [text(number) | {"text": text(number)["text"].replace("wall", "moat")} for number in range(6)]
    (tmp_path / "more.jsonl").write_text("\n".join(json.dumps(row) for row in more))
    assert main(["run", recipe]) == 0
    effects = table(tmp_path / "runs" / "tiny", "effects")
    assert set(effects[effects.contrast == "rate"].arm) == {"unknown", "held-out", "1x", "4x", "16x"}
    assert "unknown" not in set(effects[effects.contrast.isin(["gain", "auc"])].arm)


def test_an_item_longer_than_a_model_can_be_given_is_refused(tmp_path, capsys):
    recipe = write_recipe(tmp_path, f"[{tiny(tmp_path / 'short', 1, positions=8)}]")
    assert main(["run", recipe]) == 2
    said = capsys.readouterr().err
    assert f"but {tmp_path}/short can be given 8; shorten its text, or leave such items out" in said
    assert not (tmp_path / "runs" / "tiny").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("copies: copies", "copies: text"), "insert.gates.copies must be whole numbers, 0 or more, but gates-0000 has 'Gate 0"),
        (("copies: copies", "copies: copies, texts: {a: '{text}', b: 'So {text}'}"), "insert.gates has several texts of an item"),
    ],
)
def test_copies_that_say_nothing_certain_are_refused(released, tmp_path, capsys, change, sentence):
    assert main(["run", write_recipe(tmp_path, f"[{released}/step8]", RECIPE.replace(*change))]) == 2
    assert sentence in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ settings and commands


@pytest.mark.parametrize(
    "command", [["plan"], ["train"], ["corpus"], ["decontaminate"], ["plan", "--dry-run"], ["corpus", "--shard", "0/2"]]
)
def test_what_is_for_trainings_is_refused_in_a_sentence(released, tmp_path, capsys, command):
    recipe = write_recipe(tmp_path, f"[{released}/step8]")
    assert main([command[0], recipe, *command[1:]]) == 2
    said = f"imprint: {command[0]} is no job of tiny, which scores models that exist; its jobs are: prefetch, items, eval, report\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "override", ["train.models=[standard]", "corpus.source=synthetic", "design.copies=[0,1]", "model.layers=1"]
)
def test_settings_that_would_be_ignored_are_refused_by_name(tmp_path, override):
    with pytest.raises(RecipeError, match=f"nothing is trained or inserted, so leave out {override.split('=')[0]}"):
        load_recipe(write_recipe(tmp_path, "[gpt2]"), [override])


def test_a_design_of_an_item_set_is_refused_too(tmp_path):
    recipe = write_recipe(tmp_path, "[gpt2]", RECIPE.replace("copies: copies", "copies: copies, design: {placement: start}"))
    with pytest.raises(RecipeError, match=r"leave out insert\.gates\.design"):
        load_recipe(recipe)


@pytest.mark.parametrize(("models", "sentence"), [("[a, a]", "'a' more than once"), ("['']", "an empty name")])
def test_models_that_are_named_twice_or_not_at_all_are_refused(tmp_path, models, sentence):
    with pytest.raises(RecipeError, match=sentence):
        load_recipe(write_recipe(tmp_path, models))


def test_other_models_are_scored_in_the_same_run(tmp_path):
    assert load_recipe(write_recipe(tmp_path, "[gpt2]"), ["models=[gpt2-medium]"]).name == "tiny"


def test_the_shipped_recipe_scores_models_on_a_file_of_ones_own(released, tmp_path):
    rows = [text(number) | {"text": text(number)["text"] * 2} for number in range(8)]
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    recipe = Path(__file__).parents[2] / "configs" / "released" / "pythia.yaml"
    wide = tiny(tmp_path / "wide", 1, positions=2048)
    here = [f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"]
    assert main(["run", str(recipe), f"insert.passages.path={tmp_path}/mine.jsonl", f"models=[{wide}]", "name=own", *here]) == 0
    assert set(table(tmp_path / "runs" / "own", "effects").kind) == {"all", "passage"}
