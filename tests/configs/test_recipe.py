from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import yaml

import configs.schema
from configs.errors import RecipeError
from configs.insert import ITEM_SETS, Arm, CanarySet, Phase
from configs.recipe import differences, load_recipe, result_settings, save_recipe
from configs.schema import Recipe

CONFIGS = Path(configs.schema.__file__).parent
SCHEMA = [thing for thing in vars(configs.schema).values() if isinstance(thing, type) and is_dataclass(thing)]
RECIPE = """
name: small
insert:
  codes: {kind: canary, count: 10}
  people: {kind: pii, count: 10, contexts: [biography, forum]}
design:
  copies: [0, 1, 4]
  sizes: [4, 3, 1]
  arms:
    early: {copies: 4, size: 2, window: [0.0, 0.25]}
train: {steps: 400, global_batch: 8}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def refusal(path, *overrides) -> str:
    """The words in which a recipe is refused: a single line."""
    with pytest.raises(RecipeError) as refused:
        load_recipe(path, overrides)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ------------------------------------------------------------------------------------------------ the files that ship


@pytest.mark.parametrize("path", sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("experiments/*.yaml")]), ids=lambda path: path.name)
def test_every_shipped_recipe_loads_and_is_called_as_its_file(path):
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize("kind", SCHEMA, ids=lambda kind: kind.__name__)
def test_every_setting_says_what_it_means(kind):
    assert [f.name for f in fields(kind) if not f.metadata["meaning"].strip()] == []


@pytest.mark.parametrize("kind", SCHEMA, ids=lambda kind: kind.__name__)
def test_settings_of_two_instances_share_no_list_or_dictionary(kind):
    one, other = kind(), kind()
    for f in fields(kind):
        if isinstance(getattr(one, f.name), list | dict):
            assert getattr(one, f.name) is not getattr(other, f.name)


# ------------------------------------------------------------------------------------------------ what is resolved


def test_an_override_is_taken_and_the_rest_stays(recipe):
    loaded = load_recipe(recipe, ["train.steps=500"])
    assert (loaded.train.steps, loaded.train.global_batch) == (500, 8)


def test_a_later_override_wins(recipe):
    assert load_recipe(recipe, ["train.steps=500", "train.steps=600"]).train.steps == 600


def test_an_override_reaches_into_one_arm_and_leaves_its_other_settings(recipe):
    early = load_recipe(recipe, ["design.arms.early.window=[0.5, 0.75]"]).design.arms["early"]
    assert (early.copies, early.size, early.window) == (4, 2, [0.5, 0.75])


def test_item_sets_become_the_dataclass_of_their_kind_in_the_order_of_the_recipe(recipe):
    loaded = load_recipe(recipe)
    assert list(loaded.insert) == ["codes", "people"]
    assert loaded.insert["codes"] == CanarySet(count=10, design=loaded.design)
    assert isinstance(loaded.insert["people"], ITEM_SETS["pii"])


def test_the_design_of_an_item_set_is_the_recipes_with_its_own_laid_over_it(recipe):
    own = ["spacing=even", "sizes=[5,2,1]", "arms.early.placement=start"]
    loaded = load_recipe(recipe, [f"insert.codes.design.{setting}" for setting in own])
    early = replace(loaded.design.arms["early"], placement="start")
    assert loaded.insert["codes"].design == replace(loaded.design, spacing="even", sizes=[5, 2, 1], arms={"early": early})
    assert loaded.insert["people"].design == loaded.design
    assert loaded.design.spacing == "uniform"


def test_an_item_set_may_have_further_arms_of_its_own(recipe):
    loaded = load_recipe(recipe, ["insert.codes.design.arms.late={copies: 4, size: 1, window: [0.75, 1.0]}"])
    assert list(loaded.insert["codes"].design.arms) == ["early", "late"]
    assert list(loaded.design.arms) == ["early"]


def test_phases_places_and_crossed_factors_are_read_into_their_dataclasses(recipe):
    recipe.write_text(
        RECIPE.replace(
            "  arms:\n",
            """  cross: {spacing: [even, massed], window: [[0.0, 0.5], [0.5, 1.0]]}
  arms:
    changing: {size: 1, phases: [{copies: 8, window: [0.0, 0.25]}, {every: 100, steps: [300, 400], spacing: massed}]}
    given: {size: 1, places: [[0, 3], [7, 1]]}
""",
        )
    )
    design = load_recipe(recipe).design
    assert design.cross == {"spacing": ["even", "massed"], "window": [[0.0, 0.5], [0.5, 1.0]]}
    assert design.arms["changing"] == Arm(
        size=1, phases=[Phase(copies=8, window=[0.0, 0.25]), Phase(every=100, steps=[300, 400], spacing="massed")]
    )
    assert design.arms["given"].places == [[0, 3], [7, 1]]


def test_an_override_of_the_design_of_an_item_set_adds_a_short_fingerprint(recipe):
    assert load_recipe(recipe, ["insert.codes.design.spacing=even"]).name != "small"


@pytest.mark.parametrize("overrides", [["corpus.tokenizer=gpt2"], ["corpus.tokenizer={path: gpt2}"]])
def test_a_tokenizer_may_be_given_by_its_name_alone(recipe, overrides):
    assert load_recipe(recipe, overrides).corpus.tokenizer.path == "gpt2"


def test_a_tokenizer_may_be_given_by_its_name_alone_in_the_file(recipe):
    recipe.write_text(RECIPE + "corpus: {tokenizer: gpt2}\n")
    assert load_recipe(recipe).corpus.tokenizer.path == "gpt2"


def test_a_recipe_that_inserts_nothing_is_refused(tmp_path):
    path = tmp_path / "plain.yaml"
    path.write_text("")
    with pytest.raises(RecipeError, match="insert is empty"):
        load_recipe(path)


@pytest.mark.parametrize("override", ["eval.membership=[loss]", "train.models=[perturbed,standard]"])
def test_what_is_measured_and_which_models_are_trained_may_change_within_a_run(recipe, override):
    assert load_recipe(recipe, [override]).name == load_recipe(recipe).name


def test_a_saved_recipe_loads_as_the_same_one(recipe, tmp_path):
    loaded = load_recipe(recipe, ["train.steps=500", "name=again"])
    save_recipe(loaded, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == loaded


# ------------------------------------------------------------------------------------------------ what a run is called


def test_without_overrides_a_run_is_called_as_its_recipe(recipe):
    assert load_recipe(recipe).name == "small"


def test_a_recipe_without_a_name_is_called_as_its_file(recipe):
    recipe.write_text(RECIPE.replace("name: small", ""))
    assert load_recipe(recipe.rename(recipe.with_name("other.yaml"))).name == "other"


def test_an_override_of_a_result_setting_adds_a_short_fingerprint(recipe):
    name, _, added = load_recipe(recipe, ["train.steps=500"]).name.partition("-")
    assert name == "small"
    assert len(added) == 6
    assert int(added, 16) >= 0


def test_other_values_add_another_fingerprint_and_the_same_values_the_same(recipe):
    name = load_recipe(recipe, ["train.steps=500"]).name
    assert load_recipe(recipe, ["train.steps=501"]).name != name
    assert load_recipe(recipe, ["train.log_every=5", "train.steps=500"]).name == name


@pytest.mark.parametrize(
    "override", ["train.threads=2", "train.micro_batch=4", "runs=elsewhere", "train.checkpoints.resume_every=7"]
)
def test_an_override_of_an_execution_setting_keeps_the_name(recipe, override):
    assert load_recipe(recipe, [override]).name == "small"


def test_an_override_with_the_value_of_the_recipe_keeps_the_name(recipe):
    assert load_recipe(recipe, ["train.steps=400"]).name == "small"


@pytest.mark.parametrize("name", ["mine", "small"])
def test_a_name_that_is_given_is_kept(recipe, name):
    assert load_recipe(recipe, ["train.steps=500", f"name={name}"]).name == name


@pytest.mark.parametrize("name", ["a/b", ".hidden", "..", "''"])
def test_a_name_that_is_no_folder_name_is_refused(recipe, name):
    assert "name is" in refusal(recipe, f"name={name}")


# ------------------------------------------------------------------------------------------------ result settings


def test_result_settings_leave_out_every_execution_setting():
    settings = result_settings(Recipe())
    assert not {"name", "runs", "cache"} & set(settings)
    assert not {"threads", "micro_batch", "log_every", "probes"} & set(settings["train"])
    assert "resume_every" not in settings["train"]["checkpoints"]
    assert "batch_tokens" not in settings["eval"]


def test_probes_follow_copies_so_a_stage_neither_has_nor_inherits_them(recipe):
    stage = "stages={later: {data: [corpus], train: {steps: 5}}}"
    assert load_recipe(recipe, [stage, "train.probes.items=3"]).stages["later"].train.probes.items == 0
    told = refusal(recipe, "stages={later: {data: [corpus], train: {steps: 5, probes: {items: 3}}}}")
    assert "stages.later.train.probes.items is 3" in told


def test_result_settings_hold_every_other_setting(recipe):
    settings = result_settings(load_recipe(recipe))
    assert settings["train"]["steps"] == 400
    assert settings["insert"]["codes"]["count"] == 10
    assert settings["design"]["arms"]["early"]["window"] == [0.0, 0.25]


def test_differences_are_dotted_keys_and_name_what_is_only_on_one_side():
    old = {"train": {"steps": 1, "clip": 2}, "seed": 0}
    new = {"train": {"steps": 3, "clip": 2}, "seed": 0, "eval": {"k": 1}}
    assert list(differences(old, new)) == ["eval", "train.steps"]


@pytest.mark.parametrize("purpose", ["items", "assignment", "placement", "order", "init"])
def test_a_seed_that_is_given_is_used_and_leaves_the_others(recipe, purpose):
    derived, given = load_recipe(recipe), load_recipe(recipe, [f"seeds.{purpose}=5"])
    others = {"items", "assignment", "placement", "order", "init"} - {purpose}
    assert given.seed_for(purpose) == 5
    assert all(given.seed_for(other) == derived.seed_for(other) for other in others)


def test_seeds_that_are_not_given_differ_by_purpose_and_by_seed(recipe):
    seeds = [
        load_recipe(recipe, [f"seed={seed}"]).seed_for(purpose)
        for seed in (1, 2)
        for purpose in ("items", "assignment", "placement", "order", "init")
    ]
    assert len(set(seeds)) == 10


# ------------------------------------------------------------------------------------------------ overrides refused


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.stepz=3", ["train.stepz is not a setting", "did you mean steps?"]),
        ("trian.steps=3", ["trian is not a setting", "did you mean train?"]),
        ("xyz=3", ["xyz is not a setting", "possible here: name, seed, seeds, corpus"]),
        ("insert.codes.cuont=3", ["insert.codes.cuont is not a setting", "did you mean count?"]),
        ("insert.codes.design.spacings=3", ["insert.codes.design.spacings is not a setting", "did you mean spacing?"]),
        ("insert.codes.design.arms.early.copy=3", ["insert.codes.design.arms.early.copy is not a setting"]),
        ("design.arms.early.copy=3", ["design.arms.early.copy is not a setting", "did you mean copies?"]),
        ("train.steps", ["'train.steps' is not an override", "key=value"]),
        ("=3", ["'=3' is not an override", "key=value"]),
        ("train.betas=[0.9", ["'train.betas=[0.9' is not YAML"]),
    ],
)
def test_what_is_no_setting_is_refused_with_what_is(recipe, override, words):
    message = refusal(recipe, override)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=abc", "train.steps is 'abc'; it must be a whole number"),
        ("train.steps=1.5", "train.steps is 1.5; it must be a whole number"),
        ("train.steps=", "train.steps is None; it must be a whole number"),
        ("train.steps=[1]", "train.steps is [1]; it must be a whole number"),
        ("train.steps={a: 1}", "train.steps is {'a': 1}; it must be a whole number"),
        ("train.steps.more=1", "train.steps is {'more': 1}; it must be a whole number"),
        ("train.learning_rate=fast", "train.learning_rate is 'fast'; it must be a number"),
        ("eval.extraction=maybe", "eval.extraction is 'maybe'; it must be true or false"),
        ("model.feed_forward=wide", "model.feed_forward is 'wide'; it must be a whole number"),
        ("name=", "name is None; it must be text"),
        ("train.models=perturbed", "train.models is 'perturbed'; it must be a list, each of it text"),
        ("design.window=[a, 1]", "design.window[0] is 'a'; it must be a number"),
        ("design.arms.early.size=x", "design.arms.early.size is 'x'; it must be a whole number"),
        ("insert.codes.design.spacing=[even]", "insert.codes.design.spacing is ['even']; it must be text"),
        ("insert.codes.count=x", "insert.codes.count is 'x'; it must be a whole number"),
        ("insert.people.contexts=3", "insert.people.contexts is 3; it must be a list, each of it text"),
        ("insert.codes.text=null", "insert.codes.text is None; it must be text"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_the_right_one(recipe, override, message):
    assert refusal(recipe, override) == message


@pytest.mark.parametrize(
    "override",
    ["train=3", "train=null", "train=[]", "train.checkpoints=3", "corpus.tokenizer=3", "corpus=here", "insert.codes.design=3"],
)
def test_a_value_where_settings_belong_is_refused(recipe, override):
    assert "settings" in (message := refusal(recipe, override))
    assert override.partition("=")[0] in message


@pytest.mark.parametrize("override", ["insert=3", "insert=null", "insert=[]", "design.arms=3", "insert.codes.design.arms=3"])
def test_a_value_where_named_entries_belong_is_refused(recipe, override):
    assert override.partition("=")[0] in refusal(recipe, override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("design.cross=[window]", "design.cross is ['window']; it holds entries"),
        ("model.options=[rope]", "model.options is ['rope']; it holds entries"),
        ("design.arms.early.phases={copies: 1}", "design.arms.early.phases is {'copies': 1}; it must be a list"),
        ("train.betas={a: 1}", "train.betas is {'a': 1}; it must be a list, each of it a number"),
        ("insert.codes.design.arms.early.phases={copies: 1}", "insert.codes.design.arms.early.phases is {'copies': 1}; it must be"),
        ("insert.own={kind: table, columns: [text]}", "insert.own.columns is ['text']; it holds entries"),
        ("insert.own={kind: table, probes: {field: a}}", "insert.own.probes is {'field': 'a'}; it must be a list"),
        ("insert.own={kind: table, question: [q]}", "insert.own.question is ['q']; it holds settings"),
    ],
)
def test_a_list_where_names_belong_is_refused_and_names_where_a_list_does(recipe, override, message):
    assert refusal(recipe, override).startswith(message)


def test_a_setting_within_a_list_is_named_with_its_place(recipe):
    message = refusal(recipe, "design.arms.early.phases=[{copies: 1}, {copy: 1}]")
    assert message == "design.arms.early.phases[1].copy is not a setting; did you mean copies?"


@pytest.mark.parametrize("value", ["3", "null", "{count: 10}"])
def test_an_item_set_without_a_kind_is_refused_with_the_kinds(recipe, value):
    assert refusal(recipe, f"insert.more={value}") == f"insert.more needs a kind; possible: {', '.join(ITEM_SETS)}"


@pytest.mark.parametrize("kind", ["riddle", "[1]"])
def test_an_item_set_of_an_unknown_kind_is_refused_with_the_kinds(recipe, kind):
    assert f"possible: {', '.join(ITEM_SETS)}" in refusal(recipe, f"insert.codes.kind={kind}")


def test_a_reference_to_nothing_is_refused(recipe):
    assert refusal(recipe, "train.steps=${nowhere}").startswith("train.steps: ")


# ------------------------------------------------------------------------------------------------ files refused


def test_a_missing_recipe_is_refused_with_one_to_start_from(tmp_path):
    assert "there is no recipe at" in (message := refusal(tmp_path / "none.yaml"))
    assert "configs/quickstart.yaml" in message


def test_a_folder_is_refused(tmp_path):
    assert f"{tmp_path} is a folder" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"a: [",
        b"a: 1\n  b: 2",
        b"train: {steps: 1}\ntrain: {steps: 2}",
        b"\x00",
        b"\xff\xfe\x00n",
        b"name: caf\xe9",
        b"3",
        b"? \n",
        b"? [a]: 1",
    ],
)
def test_what_is_no_yaml_is_refused_by_the_name_of_its_file(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    assert f"{path} is not a readable YAML file" in refusal(path)


def test_a_list_is_refused(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- train\n- eval\n")
    assert "must hold settings as `key: value`" in refusal(path)


def test_text_that_is_no_setting_is_refused(tmp_path):
    path = tmp_path / "text.yaml"
    path.write_text("hello")
    assert "hello is not a setting" in refusal(path)


def test_a_number_as_the_name_of_an_item_set_is_refused(recipe):
    recipe.write_text(RECIPE.replace("codes:", "1:"))
    assert "insert.1" in refusal(recipe)


# ------------------------------------------------------------------------------------------------ checks and what is written


def test_loading_a_recipe_checks_its_values(recipe):
    assert refusal(recipe, "train.steps=0") == "train.steps is 0; it must be more than 0"


def test_refusing_a_recipe_writes_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refusal(recipe, "train.steps=0")
    assert list(tmp_path.iterdir()) == [recipe]


def test_a_saved_recipe_is_plain_yaml(recipe, tmp_path):
    save_recipe(load_recipe(recipe), tmp_path / "saved.yaml")
    assert yaml.safe_load((tmp_path / "saved.yaml").read_text())["insert"]["codes"]["count"] == 10
