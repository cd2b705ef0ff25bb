"""Models with a name: their sizes, and what may be given beside a name."""

from pathlib import Path

import pytest
import torch

from configs.errors import RecipeError
from configs.presets import PRESETS, preset, shape_settings
from configs.recipe import load_recipe, result_settings, save_recipe
from configs.schema import Model
from train.model import build_model, parameters

PUBLISHED = {  # (vocabulary, parameters) of the released weights
    "pythia-14m": (50_304, 14_067_712),
    "pythia-31m": (50_304, 30_494_720),
    "pythia-70m": (50_304, 70_426_624),
    "pythia-160m": (50_304, 162_322_944),
    "pythia-410m": (50_304, 405_334_016),
    "pythia-1b": (50_304, 1_011_781_632),
    "gpt2": (50_257, 124_439_808),
    "gpt2-medium": (50_257, 354_823_168),
    "olmo2-1b": (100_352, 1_484_916_736),
    "qwen3-0.6b": (151_936, 596_049_920),
}
NAMED = {f"{family}-{size}m": size for family in ("neox", "llama") for size in (0.5, 3, 10, 30)}  # millions
RECIPE = "insert: {codes: {kind: canary, count: 8}}\ndesign: {copies: [0, 1], sizes: [4, 4]}\n"


def count(name: str, vocabulary: int) -> int:
    with torch.device("meta"):
        return parameters(build_model(Model(**preset(name)), vocabulary, 1024, end_of_text=0, seed=0))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


# ------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_shape_has_the_published_number_of_parameters(name: str) -> None:
    vocabulary, published = PUBLISHED[name]
    assert count(name, vocabulary) == published


def test_hubble_1b_has_its_weights_and_no_others() -> None:
    attention = 2 * 2048 * 2048 + 2 * 2048 * 512  # 32 query heads share 8 heads of keys and values, each of 64
    block = attention + 3 * 2048 * 8192 + 2 * 2048  # a gated feed-forward layer and two norms, no biases
    assert count("hubble-1b", 50_304) == 2 * 50_304 * 2048 + 16 * block + 2048  # embeddings are not shared


@pytest.mark.parametrize("name", NAMED)
def test_a_small_shape_is_as_large_as_its_name_says(name: str) -> None:
    vocabulary = 1024 if name.endswith("-0.5m") else 4096
    assert count(name, vocabulary) == pytest.approx(NAMED[name] * 1e6, rel=0.07)


def test_every_preset_is_counted_above() -> None:
    assert set(PRESETS) == {*PUBLISHED, *NAMED, "hubble-1b"}


def test_a_preset_keeps_what_parameters_do_not_tell() -> None:
    with torch.device("meta"):
        pythia = build_model(Model(**preset("pythia-70m")), 50_304, 2048, 0, 0).config
        olmo = build_model(Model(**preset("olmo2-1b")), 100_352, 4096, 0, 0).config
        qwen = build_model(Model(**preset("qwen3-0.6b")), 151_936, 4096, 0, 0).config
    assert (pythia.rope_parameters["partial_rotary_factor"], pythia.use_parallel_residual) == (0.25, True)
    assert (olmo.rope_parameters["rope_theta"], olmo.rms_norm_eps) == (500_000, 1e-6)
    assert (qwen.rope_parameters["rope_theta"], qwen.head_dim, qwen.tie_word_embeddings) == (1_000_000, 128, True)


def test_building_a_model_leaves_its_preset_as_it_is() -> None:
    before = repr(PRESETS)
    settings = Model(**preset("neox-0.5m"))
    given = repr(settings)
    build_model(settings, 100, 16, 0, 0)
    assert (repr(PRESETS), repr(settings)) == (before, given)


# ------------------------------------------------------------------------------------------------ in a recipe


def test_a_preset_gives_a_recipe_its_shape(recipe: Path) -> None:
    model = load_recipe(recipe, ["model.preset=pythia-160m"]).model
    assert (model.architecture, model.layers, model.width, model.heads, model.feed_forward) == ("gpt_neox", 12, 768, 12, 3072)


def test_what_is_given_beside_a_preset_counts(recipe: Path) -> None:
    recipe.write_text(RECIPE + "model: {preset: hubble-1b, layers: 8, options: {num_key_value_heads: 4}}\n")
    model = load_recipe(recipe).model
    assert (model.layers, model.width, model.options["num_key_value_heads"], model.options["rms_norm_eps"]) == (8, 2048, 4, 1e-5)


def test_a_preset_on_the_command_line_replaces_the_shape_of_the_file_but_not_of_other_overrides(recipe: Path) -> None:
    recipe.write_text(
        RECIPE + "model: {architecture: llama, layers: 5, width: 64, dropout: 0.0, options: {num_key_value_heads: 1}}\n"
    )
    model = load_recipe(recipe, ["model.heads=16", "model.preset=pythia-160m", "model.feed_forward=96"]).model
    assert (model.architecture, model.layers, model.width, model.heads, model.feed_forward) == ("gpt_neox", 12, 768, 16, 96)
    assert "num_key_value_heads" not in model.options


def test_a_model_to_start_from_on_the_command_line_replaces_the_shape_of_the_file(recipe: Path) -> None:
    recipe.write_text(RECIPE + "model: {preset: pythia-160m, heads: 6, dropout: 0.1}\n")
    model = load_recipe(recipe, ["model.start=org/model"]).model
    assert (model.start, model.dropout, shape_settings(model)) == ("org/model", 0.1, [])


def test_the_saved_configuration_of_a_preset_is_read_back_as_it_was(recipe: Path, tmp_path: Path) -> None:
    resolved = load_recipe(recipe, ["model.preset=qwen3-0.6b", "model.layers=3", "model.feed_forward=null"])
    save_recipe(resolved, tmp_path / "config.yaml")
    assert load_recipe(tmp_path / "config.yaml").model == resolved.model
    assert resolved.model.feed_forward is None


def test_a_preset_makes_another_run_and_its_name_alone_does_not(recipe: Path) -> None:
    plain, named = load_recipe(recipe), load_recipe(recipe, ["model.preset=pythia-14m"])
    assert named.name != plain.name
    model = named.model
    shape = [f"model.{key}={getattr(model, key)}" for key in ("architecture", "layers", "width", "heads", "feed_forward")]
    spelled = load_recipe(
        recipe, [*shape, *(f"model.options.{key}={value}".replace("'", "") for key, value in model.options.items())]
    )
    assert result_settings(spelled.model) == result_settings(model)
    assert spelled.name == named.name


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.preset=pythia-99m", ["model.preset is 'pythia-99m'", "hubble-1b", "neox-0.5m"]),
        ("model.preset=pythia_160m", ["did you mean pythia-160m?"]),
        ("model.preset=[gpt2]", ["model.preset", "must be text"]),
    ],
)
def test_a_name_that_is_none_is_refused(recipe: Path, override: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe(recipe, [override])
    assert [word for word in words if word not in str(refused.value)] == []
    assert "\n" not in str(refused.value)


def test_the_settings_that_a_model_to_start_from_would_ignore_are_named() -> None:
    model = Model(start="org/model", preset="gpt2", layers=3, dropout=0.1, options={"rms_norm_eps": 1e-6})
    assert shape_settings(model) == ["model.preset", "model.layers", "model.options"]
