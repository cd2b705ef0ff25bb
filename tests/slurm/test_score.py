"""`imprint score`: released models on texts of one's own and on the items of a run, without a recipe."""

import json
import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from configs.insert import RecordedSet
from configs.layout import contents
from configs.recipe import load_recipe
from configs.schema import Recipe
from imprint import main
from inject.assignment import as_released
from inject.items.make import make_items
from inject.items.texts import tokenize_texts
from inject.models import Reference, released
from inject.tokenizer import decode, encode, load_tokenizer
from slurm.planning import material_of
from slurm.score import Columns, compose
from tests.configs.test_released import RECIPES, RELEASED
from tests.slurm.released_models import ARCHITECTURES, known, made, save, sentence, taught, tokenizer

MEMBERS, ALL = 12, 24
QUICK = ["eval.resamples=50", "eval.approximate=false"]


def rows(**columns: list) -> list[dict]:
    """A table of sentences, of which the first are members."""
    return [{"text": sentence(n), **{name: values[n] for name, values in columns.items()}} for n in range(ALL)]


def jsonl(path: Path, table: Iterable[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in table))
    return path


def table(run: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(run / f"{name}.parquet")


def effect(run: Path, metric: str, contrast: str, arm: str) -> float:
    found = table(run, "effects")
    own = found[(found.metric == metric) & (found.contrast == contrast) & (found.arm == arm) & (found.kind == "all")]
    return own[own.step == own.step.max()].value.item()


@pytest.fixture(scope="module")
def tokens() -> PreTrainedTokenizerFast:
    return tokenizer()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tokens: PreTrainedTokenizerFast) -> Path:
    """A folder of models that know the members by heart, one of each architecture, and a table."""
    folder = tmp_path_factory.mktemp("lab")
    members = known([sentence(n) for n in range(MEMBERS)], tokens)
    for name in ARCHITECTURES:
        save(taught(made(name), members), folder / name, tokens)
    jsonl(folder / "my.jsonl", rows(member=[n < MEMBERS for n in range(ALL)]))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """What is said to a command that is refused: one sentence, and nothing is left behind."""
    before = sorted(Path().iterdir())
    assert main(["score", *map(str, arguments)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("imprint: ")
    assert [path for path in sorted(Path().iterdir()) if path not in before and any(path.iterdir())] == []
    return said


# ------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_members_are_found_and_extracted_and_others_are_not(lab, here, architecture, capsys):
    assert main(["score", str(lab / architecture), str(lab / "my.jsonl"), "-o", "scored", *QUICK]) == 0
    run = here / "scored"
    assert effect(run, "loss", "auc", "member") > 0.95
    assert effect(run, "min_k_plus_plus", "auc", "member") > 0.95
    assert effect(run, "extracted", "rate", "member") > 0.8
    assert effect(run, "extracted", "rate", "held-out") == 0
    assert (run / "report" / "index.html").exists()
    out = capsys.readouterr().out
    assert "24 texts, 12 of them members by 'member'" in out
    assert "The report: scored/report/index.html" in out
    assert sorted(path.name for path in here.iterdir()) == ["scored"]


def test_run_again_it_does_nothing_twice(lab, here, capsys):
    command = ["score", str(lab / "pythia"), str(lab / "my.jsonl"), "-o", "scored", *QUICK]
    assert main(command) == 0
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*.parquet")}
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("done before") == 4
    assert before == {path: path.stat().st_mtime_ns for path in here.rglob("*.parquet")}
    assert main(["status", "scored/config.yaml"]) == 0  # what is left is a run like any other


def test_without_members_there_are_scores_and_no_effects_against_others(lab, here, capsys):
    path = jsonl(here / "plain.jsonl", rows())
    assert main(["score", str(lab / "pythia"), str(path), *QUICK, "--prompt-tokens", "0"]) == 0
    [run] = (here / "runs").iterdir()
    assert run.name == f"score-{lab.name}-pythia-plain"
    assert "extracted" not in set(table(run, "scores").metric)
    assert len(table(run, "scores").query("metric == 'loss'")) == ALL
    assert not {"auc", "gain"} & set(table(run, "effects").contrast)
    assert "24 texts, of which nothing says whether they are members" in capsys.readouterr().out


def test_a_target_is_asked_for_after_its_prompt(lab, here):
    pairs = [dict(zip(("prompt", "target"), row["text"].rsplit(" ", 1), strict=True)) for row in rows()]
    path = jsonl(
        here / "asked.jsonl",
        [{**row, **pair, "copies": 3 * (n < MEMBERS)} for n, (row, pair) in enumerate(zip(rows(), pairs, strict=True))],
    )
    assert main(["score", str(lab / "pythia"), str(path), "-o", "scored", *QUICK]) == 0
    assert effect(here / "scored", "answered", "rate", "3x") > 0.8
    assert effect(here / "scored", "answered", "rate", "held-out") == 0
    assert effect(here / "scored", "extracted", "rate", "3x") > 0.8


def test_a_glob_of_steps_is_one_model_and_its_last_step_is_shown(lab, here, tokens, capsys):
    save(made("pythia"), here / "steps" / "step0", tokens)
    shutil.copytree(lab / "pythia", here / "steps" / "step1000")
    assert main(["score", "steps/step*", str(lab / "my.jsonl"), "-o", "scored", *QUICK]) == 0
    assert set(table(here / "scored", "scores").step) == {0, 1000}
    assert effect(here / "scored", "extracted", "rate", "member") > 0.8
    assert capsys.readouterr().out.count("│ extracted ") == 2  # an arm each


# ------------------------------------------------------------------------------------------------ what is composed


def composed(items: Path, columns: Columns | None = None, *overrides: str, model: str = "gpt2") -> Recipe:
    return compose(model, str(items), columns or Columns(), None, overrides)


def test_a_text_is_split_in_the_middle_or_after_fifty_tokens_as_passages_are(here):
    settings = composed(jsonl(here / "t.jsonl", rows())).insert["items"]
    assert [(probe.field, probe.after, probe.kind) for probe in settings.probes] == [("text", 50, "verbatim")]
    assert (settings.copies, settings.member) == (None, None)
    settings = composed(here / "t.jsonl", Columns(prompt_tokens=8)).insert["items"]
    assert settings.probes[0].after == 8


def test_a_table_may_be_parquet_csv_tsv_or_text_and_name_its_columns(here):
    own = [{"body": sentence(n), "seen": ["no", "Yes"][n % 2], "meta": {"times": n % 3}} for n in range(6)]
    pq.write_table(pa.Table.from_pylist(own), here / "own.parquet")
    pd.DataFrame(own).to_csv(here / "own.csv", index=False)
    pd.DataFrame(own).to_csv(here / "own.tsv", index=False, sep="\t")
    for suffix in ("parquet", "csv", "tsv"):
        settings = composed(here / f"own.{suffix}", Columns(text="body", member="seen")).insert["items"]
        assert (settings.text, settings.member, settings.copies) == ("{body}", "seen", None)
    assert composed(here / "own.parquet", Columns(text="body", copies="meta.times")).insert["items"].copies == "meta.times"
    (here / "book.txt").write_text(sentence(1))
    assert composed(here / "book.txt").insert["items"].path == str(here / "book.txt")


def test_copies_say_more_than_membership_and_none_looks_at_neither(here):
    path = jsonl(here / "t.jsonl", rows(member=[n % 2 == 0 for n in range(ALL)], copies=[n % 4 for n in range(ALL)]))
    settings = [
        composed(path, columns).insert["items"]
        for columns in (Columns(), Columns(member="member"), Columns(copies="none", member="none"))
    ]
    assert [(each.copies, each.member) for each in settings] == [("copies", None), (None, "member"), (None, None)]


def test_a_prompt_and_a_target_alone_are_the_text_as_they_stand(here, tokens):
    path = jsonl(here / "t.jsonl", [{"prompt": f"Gate {n} is", "target": f" keyed {n}."} for n in range(3)])
    [item, *_] = make_items(composed(path).insert, 1, material_of(tokens))
    assert [(probe.kind, probe.prompt, probe.target) for probe in item.probes] == [("verbatim", "Gate 0 is", " keyed 0.")]
    assert item.texts[0].text == "Gate 0 is keyed 0."


def test_settings_are_overridden_as_anywhere(here):
    path = jsonl(here / "t.jsonl", rows())
    recipe = composed(path, None, "eval.precision=bf16", "eval.membership=[loss]", model="EleutherAI/pythia-70m@step*")
    assert (recipe.eval.precision, recipe.eval.membership) == ("bf16", ["loss"])
    assert (recipe.name, recipe.models) == ("score-EleutherAI-pythia-70m-step-t", ["EleutherAI/pythia-70m@step*"])
    assert composed(path, None, "insert.items.limit=3").name.startswith("score-gpt2-t-")  # other items, another run


@pytest.mark.parametrize("said", ["true", "True", "1", "yes", "1.0"])
def test_a_member_is_said_in_many_ways(here, said, tokens):
    path = jsonl(here / "t.jsonl", rows(member=[said if n else "no" for n in range(ALL)]))
    items = make_items(composed(path).insert, 1, material_of(tokens))
    assert [(row["arm"], row["copies"]) for row in as_released(items)][:2] == [("held-out", 0), ("member", 1)]


# ------------------------------------------------------------------------------------------------ the items of a run

PLANNED = """
name: planned
seed: 3
corpus: {source: synthetic, documents: 60, tokenizer: {vocabulary: 320}}
insert:
  codes: {kind: canary, count: 8, text: "Code of {name}: {digits:2}."}
  places: {kind: factoid, count: 8, paraphrases: 2}
  noise: {kind: random_tokens, count: 8, length: [12], prefix: 4}
design: {copies: [0, 2, 6], sizes: [4, 2, 2]}
decontaminate: {policy: none}
model: {layers: 1, width: 32, heads: 2}
train: {steps: 24, global_batch: 4, sequence_length: 64, warmup: 2}
"""


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which no more is done than its plan."""
    folder = tmp_path_factory.mktemp("planned")
    (folder / "planned.yaml").write_text(PLANNED)
    assert main(["plan", str(folder / "planned.yaml"), f"runs={folder}/runs", f"cache={folder}/cache"]) == 0
    return folder / "runs" / "planned"


def test_the_items_of_a_run_are_scored_token_for_token_with_the_copies_of_each_text(planned, here):
    own = load_tokenizer(planned / "corpus")
    save(made("pythia"), here / "checkpoint", own)
    assert main(["score", "checkpoint", str(planned), "-o", "scored", *QUICK]) == 0
    for name, keys in (
        ("items", ["item_id", "item_set", "kind", "stratum", "group"]),
        ("texts", ["item_id", "variant", "tokens", "targets"]),
    ):
        theirs, ours = pq.read_table(planned / f"{name}.parquet"), pq.read_table(here / "scored" / f"{name}.parquet")
        assert ours.select(keys).to_pylist() == theirs.select(keys).to_pylist()
    assert table(here / "scored", "assignment").copies.tolist() == table(planned, "assignment").copies.tolist()
    copies = table(planned, "plan").groupby(["item_id", "variant"]).size()
    losses = table(here / "scored", "scores").query("metric == 'loss'")
    for row in losses.itertuples():
        assert row.text_exposures == copies.get((row.item_id, row.probe_id), 0)
    assert set(table(here / "scored", "effects").kind) == {"all", "canary", "factoid", "random_tokens"}


def test_under_another_tokenizer_texts_are_tokenized_anew_and_probes_find_their_targets(planned, tokens):
    settings = RecordedSet(run=str(planned), sets=["codes", "places"])
    items = make_items({"items": settings}, 1, material_of(tokens))
    texts = tokenize_texts(items, tokens, 1000)
    assert {item.item_set for item in items} == {"codes", "places"}
    assert all(text["tokens"] == encode(tokens, [text["text"]])[0] for text in texts)
    asked = {(item.item_id, probe.probe_id): probe.target for item in items for probe in item.probes}
    for text in texts:
        for target in text["targets"]:
            said = decode(tokens, text["tokens"][target["start"] : target["end"]])
            assert asked[text["item_id"], target["probe_id"]] in said


def test_some_groups_of_a_run_may_be_taken(planned, tokens):
    few, more = (
        make_items({"items": RecordedSet(run=str(planned), sets=["codes"], count=n)}, 1, material_of(tokens)) for n in (2, 5)
    )
    assert len(few) == 2
    assert {item.item_id for item in few} < {item.item_id for item in more}


def test_what_was_released_with_copies_is_scored_by_them_on_models_of_others_alone(here, tokens):
    table = [{"text": sentence(n), "duplicates": 4 * (n % 2)} for n in range(8)]
    jsonl(here / "own.jsonl", table)
    recipe = (
        PLANNED[: PLANNED.index("  codes")]
        + "  own: {kind: table, path: own.jsonl, copies: duplicates}\n"
        + PLANNED[PLANNED.index("design") :]
    )
    (here / "planned.yaml").write_text(recipe)
    assert main(["plan", "planned.yaml"]) == 0
    items = [composed(Path("runs/planned"), columns).insert for columns in (Columns(), Columns(copies="duplicates"))]
    assert items[0]["items"].copies == "released_copies"
    arms = [row["arm"] for row in as_released(make_items(items[0], 1, material_of(tokens)))]
    assert arms == ["held-out", "4x"] * 4
    (here / "mine").mkdir()
    (here / "mine" / "imprint.json").touch()
    assert composed(Path("runs/planned"), model="mine").insert["items"].copies is None
    planned = [
        row["arm"] for row in as_released(make_items(composed(Path("runs/planned"), model="mine").insert, 1, material_of(tokens)))
    ]
    assert planned == pd.read_parquet("runs/planned/assignment.parquet").arm.tolist()


def test_other_copies_in_a_run_are_other_items(planned, here):
    copy = Path(shutil.copytree(planned, here / "run"))
    settings = {"items": {"run": "run"}}
    before = contents(settings)
    pq.write_table(pq.read_table(copy / "plan.parquet").slice(1), copy / "plan.parquet")
    assert contents(settings) != before


# ------------------------------------------------------------------------------------------------ recipes


def test_the_recipe_of_memorized_sequences_extracts_all_of_them(here, tokens):
    halves = [[f"{sentence(n)} {sentence(n + 100)} {sentence(n + 200)}"[k:] for k in (0, 3)] for n in range(6)]
    ids = [[token for half in encode(tokens, texts) for token in half[:32]] for texts in halves]
    assert any(encode(tokens, [decode(tokens, row)])[0] != row for row in ids)  # their text would be tokenized otherwise
    save(taught(made("pythia"), ids), here / "pythia", tokens)
    listed = [{"index": n, "tokens": row, "__index_level_0__": n} for n, row in enumerate([*ids, ids[0]])]  # one is listed twice
    pq.write_table(pa.Table.from_pylist(listed), here / "duped.parquet")
    recipe = [str(RECIPES / "pythia-memorized.yaml"), "models=[pythia]", "insert.sequences.path=duped.parquet"]
    assert main(["run", *recipe, "insert.sequences.count=6", "name=all", *QUICK]) == 0
    run = here / "runs" / "all"
    scores = table(run, "scores")
    assert scores[scores.metric == "extracted"].value.tolist() == [1.0] * 6
    assert [row.tolist() for row in table(run, "texts").tokens] == ids
    assert {(t["start"], t["end"]) for row in table(run, "texts").targets for t in row} == {(32, 64)}


def test_the_recipe_of_hubbles_models_compares_the_copies_they_are_released_with(here, tokens):
    for name in ("standard", "perturbed"):
        save(made("hubble", positions=2048), here / name, tokens)
    paths = []
    for name, (row, _) in RELEASED["hubble"].items():
        jsonl(here / f"{name}.jsonl", [row(n) for n in range(12)])
        paths += [f"insert.{name}.path={name}.jsonl", f"insert.{name}.count=12"]
    recipe = [str(RECIPES / "hubble-models.yaml"), "models=[standard,perturbed]", "eval.membership=[loss]", *paths]
    assert main(["run", *recipe, "name=all", *QUICK]) == 0
    effects = table(here / "runs" / "all", "effects")
    assert set(effects.model) == {f"{here.name}--standard", f"{here.name}--perturbed"}
    assert {f"{n}x" for n in (1, 4, 16, 64, 256)} <= set(effects.arm)
    assert {"passage", "pii", "testset"} <= set(effects.kind)


def test_revisions_of_olmo_are_steps_of_its_stages():
    names = ["stage1-step100000-tokens210B", "stage1-step200000-tokens420B", "stage2-ingredient1-step1000-tokens3B"]
    [glob] = load_recipe(RECIPES / "olmo.yaml", ["insert.passages.path=x.jsonl"]).models
    matching = [name for name in names if fnmatchcase(name, glob.partition("@")[2])]
    assert matching == names[:2]
    found = released(Reference("allenai/OLMo-2-0425-1B", name, str(n) * 40) for n, name in enumerate(names, 1))
    assert [(each.model, each.step) for each in found] == [
        ("allenai--OLMo-2-0425-1B-stage1", 100000),
        ("allenai--OLMo-2-0425-1B-stage1", 200000),
        ("allenai--OLMo-2-0425-1B-stage2-ingredient1", 1000),
    ]


# ------------------------------------------------------------------------------------------------ what is refused

EXTRA = {"label": ["a"] * ALL}


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"member": [False] * ALL}, [], "none of the 24 rows of t.jsonl is a member by its column 'member'; add members, or give"),
        ({"member": [True] * ALL}, [], "all 24 rows of t.jsonl are members by their column 'member', and nothing is there to"),
        ({"copies": [0] * ALL}, [], "none of the 24 rows of t.jsonl is a member by its column 'copies'"),
        ({"copies": [2] * ALL}, [], "or give --copies none to score them without comparing"),
        (
            {"member": [True, "maybe"] * 12},
            [],
            "'member' of line 2 of t.jsonl is 'maybe'; possible: true, 1, yes, false, 0, no; mend",
        ),
        ({"member": [True, None] * 12}, [], "'member' of line 2 of t.jsonl is empty; mend it, or add insert.items.unusable=skip"),
        ({"copies": [0, 1.5] * 12}, [], "'copies' of line 2 of t.jsonl is '1.5'; it must be a whole number, 0 or more"),
        (EXTRA, ["--text", "body"], "t.jsonl has no column 'body' (it has: text, label); name one that it has with --text"),
        (EXTRA, ["--member", "seen"], "t.jsonl has no column 'seen' (it has: text, label); name one that it has with --member"),
        (EXTRA, ["--copies", "text", "--member", "label"], "--copies and --member are both given"),
        (EXTRA, ["--prompt-tokens", "-1"], "--prompt-tokens is -1; it must be 1 or more, or 0 to ask for no continuation"),
        ({"prompt": ["So"] * ALL, "target": ["on", ""] * 12}, [], "'target' of line 2 of t.jsonl is empty"),
        (EXTRA, ["train.steps=3"], "models holds '"),
        (EXTRA, ["sweep.seed=[1,2]"], "sweep is for recipes"),
        (EXTRA, ["eval.membership=[los]"], "eval.membership holds 'los'; possible: loss,"),
        (EXTRA, ["-o", "taken", "name=x"], "name=x and -o taken both say where the scores go"),
        (EXTRA, ["-o", "taken"], "taken holds files, but no scores; name a folder of their own with -o"),
        (EXTRA, ["-o", "t.jsonl"], "t.jsonl is a file; the scores go to a folder"),
    ],
)
def test_a_table_or_option_that_makes_no_sense_gets_a_sentence(lab, here, capsys, changes, options, sentence):
    jsonl(here / "t.jsonl", rows(**changes))
    (here / "taken").mkdir()
    (here / "taken" / "notes").touch()
    assert sentence in refusal(capsys, lab / "pythia", "t.jsonl", *options)


def test_what_is_no_table_gets_a_sentence(lab, here, capsys):
    (here / "empty.jsonl").touch()
    (here / "blank.jsonl").write_text('{"text": "One."}\n{"text": " "}')
    (here / "broken.jsonl").write_text('{"text": "One."}\n{"text"')
    (here / "t.xlsx").touch()
    model = lab / "pythia"
    assert "nowhere.csv is no file or folder that is there; possible: a JSONL" in refusal(capsys, model, "nowhere.csv")
    assert "empty.jsonl holds no rows" in refusal(capsys, model, "empty.jsonl")
    assert "'text' of line 2 of blank.jsonl is empty" in refusal(capsys, model, "blank.jsonl")
    assert "line 2 of broken.jsonl is not JSON" in refusal(capsys, model, "broken.jsonl")
    assert "t.xlsx, which is or holds no file that can be read (.jsonl" in refusal(capsys, model, "t.xlsx")


def test_what_is_no_run_gets_a_sentence(planned, lab, here, capsys):
    model = lab / "pythia"
    assert "is a run, whose items have their texts, probes and copies; leave out --text" in refusal(
        capsys, model, planned, "--text", "x"
    )
    assert "insert.items.sets holds 'people'; the item sets of" in refusal(capsys, model, planned, "insert.items.sets=[people]")
    assert "made of tokens that no text spells" in refusal(capsys, model, planned)
    (here / "bare").mkdir()
    (here / "bare" / "config.yaml").touch()
    assert "holds no items of a run: it has no items.parquet, as imprint plan" in refusal(capsys, model, "bare")


def code_of_its_own(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('it ran')")


def pickled(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").touch()


def without_a_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


def damaged(folder: Path) -> None:
    file = next(folder.glob("model-00002*"))
    weights = {name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})


def incomplete(folder: Path) -> None:
    next(folder.glob("model-00002*")).unlink()


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (code_of_its_own, "without running code that comes with it (eval.trust_remote_code=true allows that)"),
        (pickled, "it has pickles, which could hold any program: eval.pickles=true reads them"),
        (without_a_tokenizer, "comes without a tokenizer; put the files of one, as tokenizer.json, in its folder"),
        (damaged, "the model's log-probabilities are NaN: its weights are damaged"),
        (incomplete, "lacks model-00002-of-00003.safetensors, a part of its weights"),
    ],
)
def test_a_model_that_cannot_be_scored_gets_a_sentence(lab, tmp_path_factory, here, capsys, harm, sentence):
    folder = Path(shutil.copytree(lab / "pythia", tmp_path_factory.mktemp("harmed") / "model"))
    harm(folder)
    assert sentence in refusal(capsys, folder, lab / "my.jsonl", *QUICK)


def test_a_model_that_is_not_there_or_cannot_be_given_a_text_gets_a_sentence(lab, here, tokens, capsys):
    assert "models holds 'no/such/folder', which is no folder that is there" in refusal(capsys, "no/such/folder", lab / "my.jsonl")
    short = save(made("pythia", positions=12), lab / "short", tokens)
    said = refusal(capsys, short, lab / "my.jsonl")
    assert (
        f"but {short} can be given 12; shorten its text, or leave such items out: a table's longest=12 and unusable=skip do" in said
    )


def test_scores_of_other_items_are_not_written_over(lab, here, capsys):
    assert main(["score", str(lab / "pythia"), str(lab / "my.jsonl"), "-o", "scored", *QUICK]) == 0
    before = (here / "scored" / "scores.parquet").read_bytes()
    said = refusal(capsys, lab / "pythia", jsonl(here / "other.jsonl", rows()), "-o", "scored")
    assert "scored holds scores of other models or items (insert.items.member, insert.items.path); name a folder for these" in said
    assert "(models)" in refusal(capsys, lab / "olmo", lab / "my.jsonl", "-o", "scored")
    assert (here / "scored" / "scores.parquet").read_bytes() == before
