"""What a token costs, and what a device could do."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, PreTrainedModel

from train.flops import assumed_peak, flops_per_token, peak_flops


def build(architecture: str, **shape: object) -> PreTrainedModel:
    """A model without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **shape))


SMALL = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def test_a_token_of_gpt2_124m_takes_855_megaflop() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(GPT2Config())  # 12 layers of width 768, vocabulary 50,257, tied
    blocks, head = 12 * 12 * 768 * 768, 50_257 * 768
    attention = 12 * 12 * 768 * 1024
    assert flops_per_token(model, 1024) == 6 * (blocks + head) + attention == 854_438_400
    assert flops_per_token(model, 1024) / 1e6 == pytest.approx(855, rel=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_counts_and_the_embedding_does_not_tied_or_not(tied: bool) -> None:
    model = build("llama", **SMALL, num_key_value_heads=4, tie_word_embeddings=tied)
    blocks = 2 * (4 * 32 * 32 + 3 * 32 * 64)
    assert flops_per_token(model, 10) == 6 * (blocks + 100 * 32) + 12 * 2 * 32 * 10


def test_weights_that_are_not_trained_take_no_gradient_of_their_own() -> None:
    model = build("llama", **SMALL, num_key_value_heads=4, tie_word_embeddings=False).requires_grad_(False)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    blocks = 2 * (4 * 32 * 32 + 3 * 32 * 64)
    assert flops_per_token(model, 10) == 4 * (blocks + 100 * 32) + 2 * 32 * 64 + 12 * 2 * 32 * 10


def test_attention_is_as_wide_as_its_heads_are() -> None:
    model = build("qwen3", **SMALL, num_key_value_heads=2, head_dim=16, tie_word_embeddings=False)
    blocks = 2 * (2 * 32 * 64 + 2 * 32 * 32 + 3 * 32 * 64)  # queries and output, keys and values, feed-forward
    assert flops_per_token(model, 10) == 6 * (blocks + 100 * 32) + 12 * 2 * (4 * 16) * 10


def test_of_a_mixture_only_the_experts_that_a_token_passes_count() -> None:
    model = build("mixtral", **SMALL, num_key_value_heads=4, num_local_experts=8, num_experts_per_tok=2)
    blocks = 2 * (4 * 32 * 32 + 8 * 32 + 2 * 3 * 32 * 64)  # attention, router, experts
    assert flops_per_token(model, 10) == 6 * (blocks + 100 * 32) + 12 * 2 * 32 * 10


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("A100-SXM4-40GB", "fp16", 312),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5),
        ("NVIDIA A100-PCIE-40GB", "tf32", 156),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA H200 NVL", "bf16", 835.5),
        ("NVIDIA GH200 480GB", "bf16", 989.4),
        ("NVIDIA B200", "bf16", 2250),
        ("NVIDIA GB200", "bf16", 2500),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40", "bf16", 181.05),
        ("NVIDIA L40S", "bf16", 362.05),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA RTX A6000", "bf16", 154.8),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("Tesla V100-SXM2-32GB", "fp16", 125),
        ("Tesla T4", "fp16", 65),
    ],
)
def test_a_gpu_is_known_by_the_name_that_torch_gives(name: str, precision: str, tflops: float) -> None:
    assert peak_flops(name, precision) == tflops * 1e12


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("NVIDIA H100", "bf16"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16"),
        ("NVIDIA A10G", "bf16"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"),
        ("NVIDIA GeForce RTX 4090 D", "bf16"),
        ("Tesla V100-SXM2-16GB", "bf16"),
        ("AMD Instinct MI300X", "bf16"),
    ],
)
def test_what_is_not_known_is_not_guessed(name: str, precision: str) -> None:
    assert peak_flops(name, precision) is None


def test_a_processor_has_no_peak_until_one_is_set() -> None:
    processor = torch.device("cpu")
    unknown = assumed_peak(processor, "fp32")
    assert unknown.flops is None
    assert unknown.told == "MFU is not shown: the peak of this processor in fp32 is not known; train.peak_tflops sets it"
    given = assumed_peak(processor, "fp32", devices=4, peak_tflops=0.5)
    assert given.flops == 2e12
    assert given.told == "MFU is the part of 4 x 0.5 TFLOP/s (train.peak_tflops)"


def test_the_peak_of_several_gpus_is_told_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    peak = assumed_peak(torch.device("cuda", 0), "bf16", devices=8)
    assert peak.flops == 8 * 989.4e12
    assert peak.told == "MFU is the part of 8 x 989.4 TFLOP/s (the data sheet of NVIDIA H200, bf16, dense)"


def test_fp32_that_is_multiplied_as_tf32_has_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    assert assumed_peak(torch.device("cuda"), "fp32").flops == 19.5e12
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert assumed_peak(torch.device("cuda"), "fp32").flops == 156e12
