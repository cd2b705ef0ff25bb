"""The exposure of canaries under a model: exact where all that a secret could be can be scored, else by a sample of it."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from configs.layout import fingerprint
from configs.schema import Eval
from eval.extraction import LEAST_REFERENCES, exposure, extrapolated_exposure, sampled_exposure
from eval.scores import Asked
from eval.scoring import score_continuations, score_trie
from inject.items.canary import ALPHABETS, secret_like
from inject.items.texts import split_probe
from inject.tokenizer import encode

SECRETS = [*ALPHABETS, "passphrase", "uuid"]  # fields of canaries that are secret
LARGEST_SPACE = 10**5  # candidates that are all scored
UNEXPOSED = (
    "its space is too large, or spelled in too many ways, for all of it to be scored, and eval.references is 0, or its tokens are "
    "not those of its text"
)


def exposures_of(
    model: PreTrainedModel, asked: Asked, lead: Sequence[int], tokenizer: PreTrainedTokenizerFast, settings: Eval
) -> dict[str, float]:
    """`exposure` of a canary, or else `exposure_sampled`, `exposure_extrapolated` (bits) and `exposure_fit` (the p-value of the
    fit's test); nothing where it can't be had. `lead` are the tokens before its text.
    """
    return _exact(model, asked, lead, tokenizer) or _sampled(model, asked, lead, tokenizer, settings)


def _exact(model: PreTrainedModel, asked: Asked, lead: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Of a secret whose symbols are a token each, in a space that is small enough."""
    secret, alphabet = asked.probe["target"], ALPHABETS.get(asked.probe["field"], "")
    if not alphabet or len(alphabet) ** len(secret) > LARGEST_SPACE:
        return {}
    spelled = encode(tokenizer, list(alphabet))
    places = [alphabet.index(symbol) for symbol in secret]
    if any(len(ids) != 1 for ids in spelled) or asked.tokens[asked.target] != [spelled[place][0] for place in places]:
        return {}
    shape = [len(alphabet)] * len(secret)
    space = np.asarray(spelled)[:, 0][np.indices(shape).reshape(len(secret), -1).T]
    scores = score_trie(model, [*lead, *asked.tokens[: asked.target.start]], space)
    return {"exposure": exposure(scores, int(np.ravel_multi_index(places, shape)))}


def _sampled(
    model: PreTrainedModel, asked: Asked, lead: Sequence[int], tokenizer: PreTrainedTokenizerFast, settings: Eval
) -> dict[str, float]:
    """By secrets drawn from the same space, each tokenized where it would stand; the extrapolated bits are those of the space at
    most.
    """
    if settings.references < LEAST_REFERENCES:
        return {}
    secret = secret_like(asked.probe["field"], asked.probe["target"])
    random = np.random.default_rng(int(fingerprint(["exposure", asked.item_id])[:12], 16))
    others = [secret.draw(random) for _ in range(settings.references)]
    prompt, candidates = split_probe(tokenizer, asked.probe["prompt"], [asked.probe["target"], *others])
    if [*prompt, *candidates[0]] != asked.tokens[: len(prompt) + len(candidates[0])]:
        return {}
    [scores] = score_continuations(model, [[*lead, *prompt]], [candidates], settings.batch_tokens)
    own, *references = (float(log_probs.sum(dtype=np.float64)) for log_probs in scores)
    beyond = extrapolated_exposure(own, references)
    return {
        "exposure_sampled": sampled_exposure(own, references),
        "exposure_extrapolated": min(beyond.bits, log2(secret.space)),
        "exposure_fit": beyond.ks_p,
    }
