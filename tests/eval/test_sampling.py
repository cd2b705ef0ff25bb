"""Texts drawn from a small model of random weights: their lengths, perplexities and what is refused."""

import shutil
from math import exp, log

import pytest
import torch
from transformers import AutoModelForCausalLM

from configs.errors import DataError
from eval import sampling
from eval.sampling import COLDEST, HOTTEST, cut, draw, load_source, next_temperature, perplexities, sample_sequences, text_losses
from inject.items.item import Sampled
from inject.tokenizer import decode, encode, train_tokenizer

LONGEST = 47  # tokens that the model can be given after the first


@pytest.fixture(scope="module")
def model(small_model) -> str:
    return str(small_model)


@pytest.fixture(scope="module")
def sample(model, small_corpus):
    def sample(count=5, tokens=12, perplexity=(20.0, 60.0), seed=1, tokenizer=small_corpus.tokenizer, **further):
        return sample_sequences(model, count, tokens, perplexity, seed, tokenizer, **further)

    return sample


@pytest.fixture
def few_draws(monkeypatch):
    """Targets that are not reached are given up soon."""
    monkeypatch.setattr(sampling, "LEAST_DRAWS", 100)
    monkeypatch.setattr(sampling, "DRAWS_PER_TEXT", 10)


# ------------------------------------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize("bucket", [(5.0, 15.0), (20.0, 60.0), (400.0, 700.0)])
def test_all_perplexities_are_in_the_bucket_whether_plainer_or_more_surprising_than_the_models_own(sample, bucket):
    texts = sample(perplexity=bucket)
    assert len({sampled.text for sampled in texts}) == 5
    assert all(bucket[0] <= sampled.perplexity < bucket[1] for sampled in texts)


def test_a_perplexity_is_that_of_the_text_under_the_model_after_the_beginning_of_text(sample, model, small_corpus):
    """Recomputed from the loss that transformers reports."""
    tokenizer, reference = small_corpus.tokenizer, AutoModelForCausalLM.from_pretrained(model)
    for sampled in sample(count=3):
        ids = torch.tensor([[tokenizer.bos_token_id, *encode(tokenizer, [sampled.text])[0]]])
        with torch.no_grad():
            loss = reference(input_ids=ids, labels=ids).loss
        assert sampled.perplexity == pytest.approx(exp(loss), rel=1e-3)


@pytest.mark.parametrize("tokens", [8, 30])
def test_texts_have_exactly_so_many_tokens_and_spell_them(sample, small_corpus, tokens):
    for sampled in sample(tokens=tokens, perplexity=(5.0, 100.0)):
        assert len(sampled.tokens) == tokens
        assert encode(small_corpus.tokenizer, [sampled.text]) == [sampled.tokens]
        assert decode(small_corpus.tokenizer, sampled.tokens) == sampled.text


def test_lengths_are_counted_by_the_runs_tokenizer_not_the_models(sample):
    coarse = train_tokenizer(["a corpus of other words"], vocabulary=257)  # every byte a token
    for sampled in sample(tokens=30, perplexity=(5.0, 200.0), tokenizer=coarse):
        assert sampled.tokens == encode(coarse, [sampled.text])[0]
        assert len(sampled.tokens) == len(sampled.text.encode()) == 30


def test_texts_have_no_blanks_around_them_no_end_of_text_and_no_parts_of_characters(sample, small_corpus):
    for sampled in sample(count=30, perplexity=(20.0, 400.0)):
        assert sampled.text == sampled.text.strip()
        assert small_corpus.tokenizer.eos_token not in sampled.text
        assert "\N{REPLACEMENT CHARACTER}" not in sampled.text


def test_the_same_seed_draws_the_same_texts_and_another_seed_others(sample):
    torch.manual_seed(0)
    first = sample(seed=1)
    torch.manual_seed(1)  # nothing depends on the global generator
    assert sample(seed=1) == first
    assert {sampled.text for sampled in sample(seed=2)}.isdisjoint(sampled.text for sampled in first)


def test_more_texts_begin_with_the_fewer_ones(sample):
    assert sample(count=8)[:3] == sample(count=3)


def test_no_texts_are_none(sample):
    assert sample(count=0) == []


def test_only_texts_that_are_accepted_are_kept(sample):
    def vowel(sampled: Sampled) -> bool:
        return "e" in sampled.text

    assert all("e" in sampled.text for sampled in sample(accept=vowel))


def test_tokens_are_drawn_in_proportion_to_their_probability(model):
    """The first token of 4,000 texts: chi-square over the tokens expected 20 times or more."""
    source = load_source(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        logits = source.model(torch.tensor([[source.start]])).logits[0, -1].double() / 2.0
    expected = 4000 * logits.masked_fill(~source.drawable, -torch.inf).softmax(-1)
    first = [encode(source.tokenizer, [text])[0] for text in draw(source, 4000, 1, temperature=2.0, generator=generator)]
    counts = torch.bincount(torch.tensor([ids[0] for ids in first]), minlength=len(expected))
    often = expected >= 20
    assert counts[~source.drawable].sum() == 0
    chi_square, freedom = float(((counts - expected)[often] ** 2 / expected[often]).sum()), int(often.sum()) - 1
    assert freedom > 20
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5  # 4 standard deviations above its mean


# ------------------------------------------------------------------------------------------------ parts


def test_the_first_temperature_is_that_of_the_model_itself():
    assert next_temperature([], target=30.0) == 1.0


def test_temperatures_go_on_in_one_direction_until_the_target_lies_between_two():
    assert next_temperature([(1.0, 10.0)], target=30.0) == 1.5
    assert next_temperature([(1.0, 90.0)], target=30.0) == pytest.approx(1 / 1.5)
    assert next_temperature([(1.0, 10.0), (1.5, 20.0), (2.25, 40.0)], target=30.0) == pytest.approx((1.5 * 2.25) ** 0.5)


def test_temperatures_stay_within_their_limits():
    assert next_temperature([(HOTTEST, 10.0)], target=30.0) == HOTTEST
    assert next_temperature([(COLDEST, 90.0)], target=30.0) == COLDEST


def test_a_cut_that_is_not_spelt_by_its_own_tokens_is_none():
    tokenizer = train_tokenizer(["ab ab ab ab"] * 20, vocabulary=260)
    (ids,) = encode(tokenizer, ["ab ab é"])
    (a,), (b,) = encode(tokenizer, ["a", "b"])
    assert cut(tokenizer, ids, 2) == "ab ab"
    assert cut(tokenizer, ids, 3) is None  # ends with a blank
    assert cut(tokenizer, ids, len(ids) - 1) is None  # ends within a character
    assert cut(tokenizer, ids, len(ids) + 1) is None  # is longer than it can be
    assert cut(tokenizer, [a, b], 2) is None  # would be the one token ab


def test_a_text_that_is_longer_than_the_model_can_read_has_no_perplexity(model):
    short, long = perplexities(load_source(model), ["the", "7" * (LONGEST + 1)])
    assert 1 < short < float("inf")
    assert long == float("inf")


def test_the_loss_of_a_text_is_the_logarithm_of_its_perplexity(sample, model):
    texts = sample()
    assert text_losses(model, [sampled.text for sampled in texts]) == pytest.approx([log(sampled.perplexity) for sampled in texts])


def test_no_texts_have_no_losses(model):
    assert text_losses(model, []) == []


# ------------------------------------------------------------------------------------------------ refusals


def test_a_bucket_that_the_model_does_not_reach_is_refused_with_what_was_seen(sample, few_draws):
    message = r"gave 0 of 2 texts of 12 tokens with a perplexity from 1 to below 1.001: 128 draws .* gave perplexities from \d"
    with pytest.raises(DataError, match=message):
        sample(count=2, perplexity=(1.0, 1.001))


def test_texts_that_were_not_accepted_are_counted(sample, few_draws):
    with pytest.raises(DataError, match=r"gave 0 of 1 .* and \d+ texts that were in the bucket but too like others"):
        sample(count=1, accept=lambda sampled: False)


def test_more_tokens_than_the_model_can_be_given_are_refused(sample, model):
    with pytest.raises(DataError, match=rf"up to {LONGEST} tokens; no text of {LONGEST + 1} tokens"):
        sample(tokens=LONGEST + 1)


def test_the_loss_of_a_text_that_is_longer_than_the_model_can_read_is_refused(model):
    with pytest.raises(DataError, match=rf"up to {LONGEST} tokens, but a text has {LONGEST + 1} of its tokens"):
        text_losses(model, ["7", "7" * (LONGEST + 1)])


def test_a_folder_without_a_model_is_refused(sample, small_corpus, tmp_path):
    with pytest.raises(DataError, match="is no causal language model with safetensors and a tokenizer"):
        sample_sequences(str(tmp_path), 1, 8, (1.0, 9.0), 0, small_corpus.tokenizer)


def test_a_model_with_nothing_to_begin_a_text_with_is_refused(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(DataError, match="neither a beginning-of-text nor an end-of-text token"):
        load_source(str(folder))
