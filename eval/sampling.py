"""What a causal language model that exists makes of texts: sample them at a target perplexity, and say how surprising they are.

Copyright traps are such texts: how well one is memorized depends on its length and on how surprising it is (Meeus et al.,
Copyright Traps for Large Language Models, ICML 2024, https://arxiv.org/abs/2402.09363, section 4). As there, the temperature
makes texts more or less surprising, and those outside the target are rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, sqrt
from pathlib import Path
from statistics import median

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from configs.errors import DataError
from eval.scoring import score_tokens
from inject.items.item import Sampled
from inject.tokenizer import decode, encode, ordinary_tokens

DRAWN_AT_ONCE = 32
LEAST_DRAWS, DRAWS_PER_TEXT = 1000, 100  # draws after which the target is given up
SCORED_TOKENS = 2**13  # in one forward pass

COLDEST, HOTTEST = 0.05, 20.0
TEMPERATURE_FACTOR = 1.5  # between temperatures, until one gives texts that are too plain and one texts that are too surprising
WIDTH_FACTOR = 1.25  # by which drawn sequences grow while most of them are too short


def _anything(sampled: Sampled) -> bool:
    return True


def sample_sequences(
    model: str,
    count: int,
    tokens: int,
    perplexity: tuple[float, float],
    seed: int,
    tokenizer: PreTrainedTokenizerFast,
    accept: Callable[[Sampled], bool] = _anything,
) -> list[Sampled]:
    """`count` different texts of exactly `tokens` tokens of the run's `tokenizer`, drawn from a model at a target perplexity.

    `model` is a folder, or a hub name with or without @revision. `perplexity` is a bucket [from, below): of the text itself,
    tokenized by the model's tokenizer, after its beginning-of-text (or end-of-text) token. Of the texts in the bucket those are
    kept that `accept`, asked one by one, agrees to. The same seed draws the same texts, but for rounding on other hardware.

    Raises DataError where the model can't be had, and where it does not give enough such texts.
    """
    low, high = perplexity
    source = load_source(model)
    if tokens > source.longest:
        raise DataError(f"{model} can be given up to {source.longest} tokens; no text of {tokens} tokens can be drawn from it")
    generator = torch.Generator().manual_seed(seed)
    width, draws, refused = tokens, 0, 0
    kept: dict[str, Sampled] = {}
    seen: list[float] = []
    tried: list[tuple[float, float]] = []
    while len(kept) < count:
        if draws >= max(LEAST_DRAWS, DRAWS_PER_TEXT * count):
            span = f"perplexities from {min(seen):.4g} to {max(seen):.4g}" if seen else f"no text of {tokens} tokens"
            alike = f", and {refused} texts that were in the bucket but too like others" if refused else ""
            raise DataError(
                f"{model} gave {len(kept)} of {count} texts of {tokens} tokens with a perplexity from {low:g} to below {high:g}: "
                f"{draws} draws at temperatures from {COLDEST:g} to {HOTTEST:g} gave {span}{alike}"
            )
        temperature = next_temperature(tried, sqrt(low * high))
        drawn = draw(source, DRAWN_AT_ONCE, width, temperature, generator)
        draws += len(drawn)
        spelled = encode(tokenizer, [text.lstrip() for text in drawn])
        if sum(len(ids) < tokens for ids in spelled) > len(spelled) / 2:
            width = min(ceil(WIDTH_FACTOR * width), source.longest)
        texts = [text for ids in spelled if (text := cut(tokenizer, ids, tokens)) is not None]
        measured = perplexities(source, texts)
        if measured:
            tried.append((temperature, median(measured)))
            seen.extend(measured)
        for text, value in zip(texts, measured, strict=True):
            if low <= value < high and text not in kept and len(kept) < count:
                sampled = Sampled(text, encode(tokenizer, [text])[0], value)
                if accept(sampled):
                    kept[text] = sampled
                else:
                    refused += 1
    return list(kept.values())


def next_temperature(tried: Sequence[tuple[float, float]], target: float) -> float:
    """The temperature to try after some (temperature, perplexity) pairs: between the hottest that was too plain and the coldest
    that was too surprising, or beyond all where there is but one kind.

    >>> next_temperature([(1.0, 20.0), (4.0, 500.0)], target=100.0)
    2.0
    """
    plain = [temperature for temperature, perplexity in tried if perplexity < target]
    surprising = [temperature for temperature, perplexity in tried if perplexity >= target]
    if plain and surprising:
        return sqrt(max(plain) * min(surprising))
    if plain:
        return min(max(plain) * TEMPERATURE_FACTOR, HOTTEST)
    if surprising:
        return max(min(surprising) / TEMPERATURE_FACTOR, COLDEST)
    return 1.0


def cut(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], tokens: int) -> str | None:
    """What the first `tokens` ids spell, or None where that is not a text of exactly these tokens, without blanks around it."""
    text = decode(tokenizer, ids[:tokens])
    whole = len(ids) >= tokens and text == text.strip() and encode(tokenizer, [text])[0] == list(ids[:tokens])
    return text if whole else None


# ------------------------------------------------------------------------------------------------ the model


@dataclass(frozen=True)
class Source:
    """A model to draw from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    start: int  # the token before every text
    drawable: torch.Tensor  # (vocabulary,) bool: ordinary tokens that spell whole characters
    longest: int  # tokens of a sequence, the start token not counted


@lru_cache(maxsize=1)  # the buckets of an item set share a model
def load_source(where: str) -> Source:
    """A model with its tokenizer, ready to be drawn from, on the GPU if there is one.

    Tokens that are parts of a character (bytes) are not drawn, as most sequences of them spell nothing.

    Raises DataError where there is no such model, or its tokenizer has no token that a text could begin after.
    """
    name, _, revision = (where, "", "") if Path(where).exists() else where.partition("@")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision or "main")
        model = AutoModelForCausalLM.from_pretrained(name, revision=revision or "main", use_safetensors=True)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{where} is no causal language model with safetensors and a tokenizer, neither a folder nor to be had from the hub"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise DataError(f"{where} has a tokenizer without a tokenizer.json; convert it to a fast tokenizer first")
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise DataError(f"{where} has a tokenizer with neither a beginning-of-text nor an end-of-text token to draw texts after")
    drawable = torch.zeros(model.get_output_embeddings().weight.shape[0], dtype=torch.bool)
    drawable[[token for token in ordinary_tokens(tokenizer) if "\N{REPLACEMENT CHARACTER}" not in decode(tokenizer, [token])]] = (
        True
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    longest = getattr(model.config, "max_position_embeddings", 2**31) - 1
    return Source(model.to(device).eval(), tokenizer, start, drawable.to(device), longest)


@torch.inference_mode()
def draw(source: Source, count: int, width: int, temperature: float, generator: torch.Generator) -> list[str]:
    """Texts of `width` tokens each, drawn from the model at a temperature.

    A token is where the cumulative distribution passes a uniform number of the generator, which is on the CPU wherever the
    model is.
    """
    ids = torch.full((count, 1), source.start, device=source.drawable.device)
    cache, drawn = None, []
    for _ in range(width):
        step = source.model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        logits = step.logits[:, -1].double().masked_fill(~source.drawable, -torch.inf)
        cumulative = (logits / temperature).softmax(-1).cumsum(-1)
        uniform = torch.rand((count, 1), generator=generator, dtype=torch.float64).to(cumulative.device)
        ids = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        drawn.append(ids)
    return [decode(source.tokenizer, sequence) for sequence in torch.cat(drawn, dim=1).tolist()]


def perplexities(source: Source, texts: Sequence[str]) -> list[float]:
    """exp of each text's loss; infinite for a text longer than the model can be given."""
    ids = encode(source.tokenizer, list(texts))
    measured = [float("inf")] * len(ids)
    fitting = [i for i, sequence in enumerate(ids) if len(sequence) <= source.longest]
    for i, loss in zip(fitting, _losses(source, [ids[i] for i in fitting]), strict=True):
        measured[i] = exp(loss)
    return measured


def text_losses(model: str, texts: Sequence[str]) -> list[float]:
    """The loss of each text under a reference model with its own tokenizer, nats a token, the first token's included.

    Raises DataError where the model can't be had, or can't be given a text as long as one of these.
    """
    source = load_source(model)
    ids = encode(source.tokenizer, list(texts))
    if (longest := max(map(len, ids), default=0)) > source.longest:
        raise DataError(f"{model} can be given up to {source.longest} tokens, but a text has {longest} of its tokens")
    return _losses(source, ids)


def _losses(source: Source, ids: Sequence[Sequence[int]]) -> list[float]:
    losses = [0.0] * len(ids)
    for i, scores in score_tokens(source.model, ids, [[source.start]], SCORED_TOKENS):
        losses[i] = -float(scores.log_prob.mean(dtype="float64"))
    return losses
