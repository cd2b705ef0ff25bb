import re
from dataclasses import asdict
from pathlib import Path

import pytest

import configs.schema
from configs.errors import RecipeError
from configs.recipe import load_recipe, save_recipe
from configs.schema import Recipe
from configs.sweep import load_points

CONFIGS = Path(configs.schema.__file__).parent
RECIPE = """
name: small
insert:
  codes: {kind: canary, count: 10}
design: {copies: [0, 1, 4], sizes: [4, 3, 3]}
model: {layers: 2, width: 64, heads: 2}
train: {steps: 400, global_batch: 8}
"""


@pytest.fixture
def sweep(tmp_path):
    """Writes a recipe with a sweep; returns its file."""

    def write(text: str) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(RECIPE + (f"sweep: {text}\n" if text else ""))
        return path

    return write


def names(points: list[Recipe]) -> list[str]:
    return [recipe.point for recipe in points]


def refusal(path: Path, *overrides: str) -> str:
    """The words in which a sweep is refused: a single line."""
    with pytest.raises(RecipeError) as refused:
        load_points(path, overrides)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ------------------------------------------------------------------------------------------------ which points


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("experiments/*.yaml")), ids=lambda path: path.name)
def test_every_point_of_the_experiments_that_ship_is_possible(path):
    assert load_points(path)


def test_a_recipe_without_a_sweep_gives_itself(sweep):
    path = sweep("")
    assert load_points(path, ["train.steps=500"]) == [load_recipe(path, ["train.steps=500"])]


def test_every_combination_is_a_point_the_last_setting_fastest(sweep):
    points = load_points(sweep("{seed: [1, 2], train.learning_rate: [1e-3, 4e-3]}"))
    assert [(point.seed, point.train.learning_rate) for point in points] == [(1, 1e-3), (1, 4e-3), (2, 1e-3), (2, 4e-3)]
    assert names(points)[:2] == ["seed-1_learning_rate-0.001", "seed-1_learning_rate-0.004"]


def test_what_is_zipped_goes_hand_in_hand_and_is_crossed_with_the_rest(sweep):
    points = load_points(sweep("{zip: {model.layers: [2, 4], model.width: [64, 128]}, seed: [1, 2]}"))
    assert [(point.model.layers, point.model.width, point.seed) for point in points] == [
        (2, 64, 1),
        (2, 64, 2),
        (4, 128, 1),
        (4, 128, 2),
    ]
    assert points[2].point == "layers-4_width-128_seed-1"


def test_dots_and_nesting_mean_the_same(sweep):
    dotted = load_points(sweep("{train.steps: [300, 400], zip: {model.layers: [2, 4], seed: [1, 2]}}"))
    nested = load_points(sweep("{train: {steps: [300, 400]}, zip: {model: {layers: [2, 4]}, seed: [1, 2]}}"))
    assert dotted == nested


def test_a_sweep_of_the_command_line_replaces_the_same_list_of_the_file_and_adds_to_the_others(sweep):
    points = load_points(sweep("{seed: [1, 2]}"), ["sweep.seed=[7]", "sweep.train.learning_rate=[1e-3,4e-3]"])
    assert names(points) == ["seed-7_learning_rate-0.001", "seed-7_learning_rate-0.004"]


def test_null_takes_a_setting_out_of_the_sweep_and_another_value_may_be_given(sweep):
    path = sweep("{seed: [1, 2], train.steps: [300, 400]}")
    assert names(load_points(path, ["sweep.seed=null", "seed=5"])) == ["steps-300", "steps-400"]
    assert [point.point for point in load_points(path, ["sweep=null"])] == [""]


def test_a_value_may_be_a_list_or_a_mapping(sweep):
    points = load_points(sweep("{design.copies: [[0, 1, 2], [0, 1, 4]], model: [{layers: 1}, {preset: llama-3m}]}"))
    assert [point.insert["codes"].design.copies[2] for point in points] == [2, 2, 4, 4]
    assert [point.model.layers for point in points[:2]] == [1, load_recipe(sweep(""), ["model.preset=llama-3m"]).model.layers]
    assert points[0].model.heads == 2  # of the file
    assert re.fullmatch(r"copies-0\+1\+2_model-[0-9a-f]{6}", points[0].point)


def test_a_preset_of_a_point_replaces_the_model_of_the_file_as_an_override_does(sweep):
    point = load_points(sweep("{model.preset: [llama-3m, pythia-160m]}"))[1]
    assert point.model == load_recipe(sweep(""), ["model.preset=pythia-160m"]).model


def test_settings_of_an_item_set_can_be_swept(sweep):
    points = load_points(sweep("{insert.codes.count: [10, 20], insert.codes.text: ['a {digits:4}', 'b {digits:4}']}"))
    assert [point.insert["codes"].count for point in points] == [10, 10, 20, 20]
    assert len({point.point for point in points}) == 4


def test_a_value_may_refer_to_another_setting(sweep):
    points = load_points(sweep("{train.warmup: [5, '${seed}']}"), ["seed=9"])
    assert [point.train.warmup for point in points] == [5, 9]
    assert points[1].swept == {"train.warmup": 9}


# ------------------------------------------------------------------------------------------------ what they are called


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("{train.learning_rate: [1e-5]}", "learning_rate-1e-05"),
        ("{train.learning_rate: [1.0]}", "learning_rate-1"),
        ("{train.compile: [true]}", "compile-true"),
        ("{train.warmup_tokens: [null, 512], train.warmup: [100]}", "warmup_tokens-null_warmup-100"),
        ("{train.strategy: [ddp]}", "strategy-ddp"),
        ("{train.models: [[perturbed, standard]]}", "models-perturbed+standard"),
        ("{train.steps: [300], train.checkpoints.steps: [[5]]}", "train.steps-300_checkpoints.steps-5"),
    ],
)
def test_a_name_says_the_values(sweep, values, told):
    assert load_points(sweep(values))[0].point == told


@pytest.mark.parametrize("value", ["'a b'", "'../up'", "'$(rm)'", "''", "'12'", "'true'", "{a: 1}", "[[1]]", f"'{'x' * 41}'"])
def test_a_value_that_is_no_plain_word_is_told_by_its_fingerprint(sweep, value):
    assert re.fullmatch("x-[0-9a-f]{6}", load_points(sweep(f"{{model.options.x: [{value}]}}"))[0].point)


def test_a_name_too_long_for_a_folder_is_a_fingerprint_of_all_values(sweep):
    settings = ", ".join(f"model.options.{'x' * 30}{number}: [1]" for number in range(7))
    points = load_points(sweep(f"{{seed: [1, 2], {settings}}}"))
    assert len(set(names(points))) == 2
    assert all(re.fullmatch("[0-9a-f]{12}", name) for name in names(points))


def test_a_sweep_that_grows_leaves_the_folders_of_its_points_where_they_are(sweep):
    few = load_points(sweep("{seed: [1, 2]}"))
    many = load_points(sweep("{seed: [1, 2, 3]}"))
    assert [str(recipe.folder) for recipe in few] == ["runs/small/seed-1", "runs/small/seed-2"]
    assert many[:2] == few


def test_an_override_of_a_result_setting_names_the_run_anew_and_the_points_own_values_do_not(sweep):
    path = sweep("{seed: [1, 2]}")
    plain, longer = load_points(path), load_points(path, ["train.steps=500"])
    assert {recipe.name for recipe in plain} == {"small"}
    assert len({recipe.name for recipe in longer}) == 1
    assert re.fullmatch("small-[0-9a-f]{6}", longer[0].name)
    assert longer[0].name == load_recipe(path, ["train.steps=500"]).name


@pytest.mark.parametrize("overrides", [[], ["train.steps=500"]])
def test_the_saved_configuration_of_a_point_is_read_as_the_same_recipe(sweep, tmp_path, overrides):
    path = sweep("{train.learning_rate: [1e-5], model.options: [{a: 1}], train.warmup: ['${seed}']}")
    (point,) = load_points(path, overrides)
    save_recipe(point, tmp_path / "config.yaml")
    assert load_recipe(tmp_path / "config.yaml") == point
    assert load_points(tmp_path / "config.yaml") == [point]
    assert point.sweep == {}


def test_a_point_is_the_recipe_with_its_values_as_overrides(sweep):
    path = sweep("{seed: [3], train.steps: [500]}")
    (point,) = load_points(path)
    plain = load_recipe(sweep(""), ["seed=3", "train.steps=500", "name=small"])
    assert asdict(point) == asdict(plain) | {"point": "seed-3_steps-500", "swept": {"seed": 3, "train.steps": 500}}


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("[1, 2]", "sweep is [1, 2]; it holds lists of values by setting, as seed: [1, 2]"),
        ("{seed: 1}", "sweep.seed is 1; it must be a list of values, as [1, 2]"),
        ("{train: {}}", "sweep.train is {}; it must be a list of values, as [1, 2]"),
        ("{seed: []}", "sweep.seed is an empty list"),
        ("{seed: [1, 2, 1]}", "sweep.seed holds 1 more than once"),
        ("{train.learning_rate: [1, 1.0]}", "sweep.train.learning_rate holds 1 more than once"),
        ("{zip: [1, 2]}", "sweep.zip is [1, 2]; it holds lists of values by setting"),
        ("{zip: {seed: [1, 2], train.steps: [300]}}", "sweep.zip holds 2 of seed, 1 of train.steps; settings that go hand in hand"),
        ("{zip: {seed: [1, 1], train.steps: [300, 300]}}", "two points of the sweep are seed-1_steps-300"),
        ("{model: [{layers: 1}, {layers: 1.0, width: 64}]}", "of the sweep: model.layers is 1.0; it must be a whole number"),
        ("{model: [{layers: 1}, {layers: 1, width: 64}]}", "are the same run"),
        ("{seed: [1], zip: {seed: [1, 2]}}", "sweep.seed and sweep.zip.seed both set seed"),
        ("{model: [{layers: 2}], model.layers: [4]}", "sweep.model and sweep.model.layers both set model.layers"),
        ("{train.steps: [300], train: {steps: [400]}}", "sweep.train.steps is there twice"),
        ("{name: [a, b]}", "sweep.name: the points of a sweep share name, runs, cache and slurm; any other setting can be swept"),
        ("{slurm.nodes: [1, 2]}", "sweep.slurm.nodes: the points of a sweep share"),
        ("{zip: {cache: [a, b]}}", "sweep.zip.cache: the points of a sweep share"),
        ("{train.lerning_rate: [1]}", "train.lerning_rate is not a setting; did you mean learning_rate?"),
        ("{train.steps: [300, many]}", "point steps-many of the sweep: train.steps is 'many'; it must be a whole number"),
        ("{model.heads: [2, 3]}", "point heads-3 of the sweep: model.width is 64, which model.heads = 3 does not divide"),
        ("{model: [[1]]}", "gives a list where settings belong"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_in_a_sentence(sweep, written, words):
    assert words in refusal(sweep(written))


@pytest.mark.parametrize("override", ["seed=5", "seed=null", "model.layers=3", "model={layers: 3}"])
def test_an_override_of_what_the_sweep_sets_is_refused(sweep, override):
    said = refusal(sweep("{seed: [1, 2], model: [{layers: 2}, {layers: 4}]}"), override)
    assert f"{override!r} gives {'model.layers' if 'layers' in override else 'seed'}, which the sweep sets" in said


def test_an_override_beside_what_the_sweep_sets_is_taken(sweep):
    assert load_points(sweep("{model: [{layers: 2}, {layers: 4}]}"), ["model.heads=4"])[1].model.heads == 4


def test_a_point_cannot_be_named_or_swept_again(sweep, tmp_path):
    assert "point and swept are set by the program" in refusal(sweep("{seed: [1, 2]}"), "point=seed-1")
    save_recipe(load_points(sweep("{seed: [1, 2]}"))[0], tmp_path / "config.yaml")
    assert "one point of a sweep" in refusal(tmp_path / "config.yaml", "sweep.train.steps=[300, 400]")
