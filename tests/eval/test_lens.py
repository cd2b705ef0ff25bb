"""The logit lens against an explicit computation, and what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from configs.errors import DataError
from configs.schema import Model
from eval.lens import LogitLens, depth, first_layers
from train.model import build_model

ARCHITECTURES = ["gpt_neox", "llama", "gpt2", "olmo2", "qwen3"]
FINAL_NORM = {"gpt_neox": "final_layer_norm", "gpt2": "ln_f"}  # else: norm
PROMPTS = [[0, 5, 7, 9], [0, 3], [0, 5, 8, 1, 2, 40]]
TOKENS = [4, 11, 30]


def build(architecture: str) -> PreTrainedModel:
    model = build_model(Model(architecture=architecture, layers=3, width=32, heads=2), 50, 16, 0, seed=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # logits far apart
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_lens_is_the_softmax_of_the_head_of_the_normed_stream(architecture: str) -> None:
    model = build(architecture)
    norm = getattr(model.base_model, FINAL_NORM.get(architecture, "norm"))
    probabilities, top = LogitLens(model).read(PROMPTS, TOKENS, batch_tokens=100)
    for i, (prompt, token) in enumerate(zip(PROMPTS, TOKENS, strict=True)):
        with torch.inference_mode():
            made = model(torch.tensor([prompt]), output_hidden_states=True)
            streams = made.hidden_states[1:-1]  # the last is normed already
            logits = [model.get_output_embeddings()(norm(stream[0, -1])) for stream in streams] + [made.logits[0, -1]]
        expected = torch.stack(logits).double().softmax(-1)
        np.testing.assert_allclose(probabilities[i], expected[:, token], rtol=1e-4)
        assert top[i].tolist() == (expected.argmax(-1) == token).tolist()


def test_the_batch_changes_nothing() -> None:
    model = build("gpt_neox")
    alone, together = (LogitLens(model).read(PROMPTS, TOKENS, size)[0] for size in (1, 1000))
    np.testing.assert_allclose(alone, together, rtol=1e-4)


def test_a_token_is_at_the_top_where_the_model_emits_it() -> None:
    model = build("llama")
    with torch.inference_mode():
        emitted = [int(model(torch.tensor([prompt])).logits[0, -1].argmax()) for prompt in PROMPTS]
    _, top = LogitLens(model).read(PROMPTS, emitted, 100)
    assert top[:, -1].all()


def test_a_norm_that_lies_deeper_is_found() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
    config = OPTConfig(vocab_size=50, ffn_dim=64, word_embed_proj_dim=16, **sizes)
    model = OPTForCausalLM(config).eval()
    probabilities, _ = LogitLens(model).read(PROMPTS, TOKENS, 100)
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0, -1].double().softmax(-1)[TOKENS[0]]
    assert probabilities[0, -1] == pytest.approx(float(expected), rel=1e-4)


def test_a_model_that_caps_its_logits_is_refused() -> None:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    config = Gemma2Config(vocab_size=50, hidden_size=32, num_hidden_layers=2, intermediate_size=64, **heads)
    with pytest.raises(DataError, match="the logit lens doesn't know gemma2"):
        LogitLens(Gemma2ForCausalLM(config).eval())


def test_a_step_after_the_norm_that_no_module_takes_is_refused() -> None:
    model = build("llama")

    def shift(_: torch.nn.Module, __: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state + 1
        return output

    model.model.register_forward_hook(shift)
    with pytest.raises(DataError, match="the logit lens doesn't know llama"):
        LogitLens(model)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="a prompt has no tokens"):
        LogitLens(build("gpt2")).read([[]], [1], 10)


def test_the_first_layer_is_the_first_at_which_the_answer_leads() -> None:
    top = [[False, True, False, True], [False, False, False, False], [True, True, True, True]]
    assert first_layers(np.array(top)) == [2, None, 1]


def test_the_spread_of_layers_is_told_in_bits() -> None:
    found = depth([1, 3, 3, 4])
    assert (found.mean, found.layers, found.n) == (2.75, 3, 4)
    assert found.entropy == pytest.approx(1.5)  # 1/4 * 2 + 1/2 * 1 + 1/4 * 2
    assert depth([3, 3, 3]).entropy == 0
    assert np.isnan(depth([]).mean)
