"""Small models in the architectures and file layouts of released ones, that know some texts by heart."""

import random
from pathlib import Path

import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from inject.tokenizer import encode, train_tokenizer

ARCHITECTURES = {  # by the released models that have them
    "pythia": (GPTNeoXForCausalLM, GPTNeoXConfig),
    "hubble": (LlamaForCausalLM, LlamaConfig),
    "olmo": (Olmo2ForCausalLM, Olmo2Config),
}
SHAPE = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
VOCABULARY, POSITIONS = 320, 96


def sentence(number: int) -> str:
    """A text of its own for every number, which nothing but memory continues."""
    draw = random.Random(number)
    words = ["".join(draw.choice(["ba", "di", "ko", "lu", "me", "ra", "to", "vi"]) for _ in range(2)) for _ in range(12)]
    return f"{number}. {' '.join(words)}."


def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([sentence(number) for number in range(200)], VOCABULARY)


def made(architecture: str, seed: int = 0, positions: int = POSITIONS) -> PreTrainedModel:
    """A model of random weights."""
    kind, config = ARCHITECTURES[architecture]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = {"vocab_size": VOCABULARY, "max_position_embeddings": positions, "pad_token_id": None, "eos_token_id": 0}
        return kind(config(**settings, bos_token_id=0, **SHAPE))


def known(texts: list[str], tokens: PreTrainedTokenizerFast) -> list[list[int]]:
    """Texts as they are trained on: each after an end-of-text."""
    return [[tokens.eos_token_id, *text] for text in encode(tokens, texts)]


def taught(model: PreTrainedModel, sequences: list[list[int]], steps: int = 120) -> PreTrainedModel:
    """The model after so many steps on these token ids."""
    ids = [torch.tensor(sequence) for sequence in sequences]
    rows = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)
    torch.set_num_threads(1)  # more gain nothing here, and on a busy machine lose much
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        model(input_ids=rows.clamp(min=0), labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def save(model: PreTrainedModel, folder: Path, tokens: PreTrainedTokenizerFast | None, shards: str = "60KB") -> Path:
    """A folder as the hub has it: half precision, safetensors in several files with their index, the tokenizer beside them."""
    model.to(torch.float16).save_pretrained(folder, max_shard_size=shards)
    if tokens is not None:
        tokens.save_pretrained(folder)
    return folder
