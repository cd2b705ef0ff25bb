"""Models from recipes."""

import pytest
import torch

from configs.errors import RecipeError
from configs.schema import Model
from train.model import build_model, parameters

ARCHITECTURES = ["gpt_neox", "llama", "gpt2", "olmo2", "qwen3"]


def build(**settings: object) -> torch.nn.Module:
    return build_model(Model(**{"layers": 1, "width": 32, "heads": 2, **settings}), 100, 16, 0, seed=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_takes_the_same_settings(architecture: str) -> None:
    model = build(architecture=architecture)
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.vocab_size) == (32, 1, 100)
    assert model(input_ids=torch.zeros(1, 16, dtype=torch.long)).logits.shape == (1, 16, 100)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_feed_forward_layer_has_the_size_asked_for(architecture: str) -> None:
    assert parameters(build(architecture=architecture, feed_forward=64)) < parameters(
        build(architecture=architecture, feed_forward=256)
    )


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = build(), build()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_dropout_reaches_the_configuration() -> None:
    assert build(dropout=0.25).config.hidden_dropout == 0.25


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"architecture": "gpt5"}, "model.architecture"), ({"options": {"nonsense": 1}}, "model.options.nonsense")],
)
def test_what_cannot_be_built_is_named(settings: dict, word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        build(**settings)
