"""The passes over a model at one checkpoint: what is asked of it, each as the rows of one table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, count
from math import ceil, factorial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from configs.layout import contents, fingerprint
from configs.schema import Eval, Scheme
from configs.tables import ANSWER_SCORES, CHOICE_SCORES, CONDITIONS, DECODED, DRAWS, EXPOSURE, ORDERS, SAMPLES, TOKEN_SCORES
from eval.contamination import shards, shuffled_orders
from eval.decoding import continue_prompts, drawn
from eval.effects import ALL
from eval.exposures import SECRETS, UNEXPOSED, exposures_of
from eval.extraction import extracted, runs, target_log_prob
from eval.membership import ATTACKS
from eval.scores import PERTURBED, Asked, ScoredItems
from eval.scoring import score_continuations, score_tokens
from inject.design import HELD_OUT
from inject.items.texts import split_probe
from inject.tokenizer import encode

PEAKED = Scheme(temperature=0.8)  # by which CDD draws answers
LONGEST_ANSWER = 100  # tokens that it compares
ORDERED = ["testset", "table", "passage"]  # kinds whose order may be a published one
SHARDS = 50  # of an item set, each shuffled by itself

Row = dict[str, Any]
Contexts = Mapping[tuple[str, str], Sequence[int]]  # the tokens before each (item, variant)


class Passes:
    """The items of a run, ready to be asked about."""

    def __init__(
        self,
        settings: Eval,
        items: pa.Table,
        texts: pa.Table,
        assignment: pa.Table,
        tokenizer: PreTrainedTokenizerFast,
        contexts: Contexts | None = None,
        reference: Callable[[Sequence[str]], Sequence[float]] | None = None,
        longest: int | None = None,
    ):
        """`contexts`: of each text, with `eval.context` as_trained; `reference`: losses of texts under the reference model, nats a
        token; `longest`: tokens that the model can be given.
        """
        self.settings, self.tokenizer, self.reference = settings, tokenizer, reference
        self.items, self.assignment = items.to_pandas(), assignment.to_pandas()
        self.texts: list[Row] = texts.select(["item_id", "variant", "text", "tokens"]).to_pylist()
        self.scored = ScoredItems.from_tables(items, texts)
        self.lead = [] if settings.context == "none" else [tokenizer.eos_token_id]  # before what is no text of a training row
        self.contexts = (
            [list(contexts[text["item_id"], text["variant"]]) for text in self.texts] if contexts is not None else [self.lead]
        )
        self.longest = longest or 2**31
        self.texts_of: dict[str, list[Row]] = defaultdict(list)
        for text in self.texts:
            self.texts_of[text["item_id"]].append(text)

    def identity(self, last: bool) -> str:
        """What the passes depend on besides the model's weights."""
        settings = self.settings
        chosen = [settings.context, settings.precision, settings.testset, settings.extraction, [vars(s) for s in settings.schemes]]
        chosen += [sorted(name for name in settings.membership if ATTACKS[name].needs), settings.recall_shots]
        chosen += [settings.reference, contents({"reference": settings.reference})]
        if last:
            chosen += [settings.exposure, settings.references, settings.approximate, settings.samples, settings.sample_tokens]
            chosen += [settings.peakedness, settings.orders]
        asked = [[(text["item_id"], text["variant"], list(text["tokens"])) for text in self.texts], self.contexts]
        return fingerprint([asked, self.scored.choices, self.scored.generative, chosen, last])

    def tables(
        self, model: PreTrainedModel, last: bool, advance: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[str, list[Row], pa.Schema]]:
        """Each table's name, rows and schema; what is measured at the last checkpoint alone comes in the end. `advance` is called
        once for each text.
        """
        tokens = []
        for row in self.token_rows(model):
            tokens.append(row)
            advance()
        yield "tokens", tokens, TOKEN_SCORES
        yield "choices", list(self.choice_rows(model)), CHOICE_SCORES
        yield "answers", list(self.answer_rows(model)), ANSWER_SCORES
        yield "conditions", list(self.condition_rows(model, last)), CONDITIONS
        if last:
            yield "exposure", list(self.exposure_rows(model)), EXPOSURE
            yield "decoded", list(self.decoded_rows(model)), DECODED
            yield "samples", list(self.sample_rows(model)), SAMPLES
            yield "draws", list(self.draw_rows(model)), DRAWS
            yield "orders", list(self.order_rows(model)), ORDERS

    # -------------------------------------------------------------------------------------------- texts

    def token_rows(self, model: PreTrainedModel) -> Iterator[Row]:
        tokens, settings = [text["tokens"] for text in self.texts], self.settings
        schemes = settings.schemes if settings.extraction else []
        for i, scores in score_tokens(model, tokens, self.contexts, settings.batch_tokens, schemes):
            yield {**self.texts[i], "context": settings.context, **vars(scores)}

    def condition_rows(self, model: PreTrainedModel, last: bool) -> Iterator[Row]:
        """What membership attacks compare a text's own score with: each condition is one further pass, for those that need it."""
        needed = {ATTACKS[name].needs for name in self.settings.membership}
        made: dict[str, Callable[[], Iterator[tuple[Row, float]]]] = {
            "lowercase": lambda: self._lowercase(model),
            "recall": lambda: self._recall(model),
            "reference": self._reference,
            "gradient": lambda: self._gradients(model) if last else iter(()),
        }
        for condition in (name for name in made if name in needed):
            for text, value in made[condition]():
                yield {"item_id": text["item_id"], "variant": text["variant"], "condition": condition, "value": value}

    def _lowercase(self, model: PreTrainedModel) -> Iterator[tuple[Row, float]]:
        lowered = encode(self.tokenizer, [text["text"].lower() for text in self.texts])
        fitting = [i for i, tokens in enumerate(lowered) if 0 < len(tokens) <= self.longest]
        chosen = [lowered[i] for i in fitting]
        if self.lead:  # nothing but log-probabilities is asked for
            [found] = score_continuations(model, [self.lead], [chosen], self.settings.batch_tokens)
        else:
            scored = dict(score_tokens(model, chosen, [[]], self.settings.batch_tokens))
            found = [scored[i].log_prob[1:] for i in range(len(chosen))]
        for i, log_probs in zip(fitting, found, strict=True):
            if len(log_probs):
                yield self.texts[i], float(log_probs.mean(dtype=np.float64))

    def _recall(self, model: PreTrainedModel) -> Iterator[tuple[Row, float]]:
        """Each text after the shots of its stratum; the shots themselves are not judged."""
        for texts, shots in self._shots():
            room = self.longest - max(len(text["tokens"]) for text in texts)
            prefix = list(self.lead)
            for shot in shots:
                if len(prefix) + len(shot["tokens"]) + 1 <= room:
                    prefix += [*shot["tokens"], self.tokenizer.eos_token_id]
            if len(prefix) > len(self.lead):
                [scores] = score_continuations(model, [prefix], [[text["tokens"] for text in texts]], self.settings.batch_tokens)
                for text, log_probs in zip(texts, scores, strict=True):
                    yield text, float(log_probs.mean(dtype=np.float64))

    def _shots(self) -> Iterator[tuple[list[Row], list[Row]]]:
        """Of each stratum that has enough held-out groups, the texts to judge and the shots: fixed before anything is scored, by
        the names of groups alone, so that they are as good as random.
        """
        joined = self.assignment.merge(self.items[["item_id", "stratum"]], on="item_id")
        for _, own in joined.groupby("stratum", sort=True):
            groups = sorted(own[own["arm"] == HELD_OUT]["group"].unique(), key=lambda group: fingerprint(["recall", group]))
            chosen = groups[: self.settings.recall_shots]
            if len(groups) > len(chosen):
                aside = set(own[own["group"].isin(chosen)]["item_id"])
                judged = [text for item in own["item_id"] if item not in aside for text in self.texts_of[item]]
                shots = [self.texts_of[own[own["group"] == group]["item_id"].iloc[0]][0] for group in chosen]
                yield judged, shots

    def _reference(self) -> Iterator[tuple[Row, float]]:
        return zip(self.texts, self._reference_log_probs, strict=True)

    @cached_property
    def _reference_log_probs(self) -> list[float]:
        """Mean log-probability of each text under the reference model, the same at every checkpoint."""
        assert self.reference is not None
        return [-loss for loss in self.reference([text["text"] for text in self.texts])]

    def _gradients(self, model: PreTrainedModel) -> Iterator[tuple[Row, float]]:
        """The norm of the gradient of each text's loss, nats a token, with respect to all parameters."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for text, context in zip(self.texts, self.contexts * (len(self.texts) if len(self.contexts) == 1 else 1), strict=True):
            row = torch.tensor([[*context, *text["tokens"]]], device=model.device)
            if row.shape[1] > 1:
                labels = row[0, max(1, len(context)) :]
                logits = model(input_ids=row[:, :-1], use_cache=False).logits[0, -len(labels) :].float()
                gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), parameters, allow_unused=True)
                squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
                yield text, float(torch.stack(squares).sum().sqrt())

    # -------------------------------------------------------------------------------------------- probes

    def choice_rows(self, model: PreTrainedModel) -> Iterator[Row]:
        """The log-probability of every candidate of every choice, after one pass of its prompt."""
        chosen = self.scored.choices if self.settings.testset else []
        split = [split_probe(self.tokenizer, probe["prompt"], probe["candidates"]) for _, probe in chosen]
        prompts = [[*self.lead, *prompt] or [self.tokenizer.eos_token_id] for prompt, _ in split]
        scores = score_continuations(model, prompts, [candidates for _, candidates in split], self.settings.batch_tokens)
        for (item, probe), found in zip(chosen, scores, strict=True):
            for candidate, log_probs in zip(probe["candidates"], found, strict=True):
                row = {"item_id": item, "probe_id": probe["probe_id"], "candidate": candidate, "characters": len(candidate)}
                yield {**row, "log_prob": float(log_probs.sum(dtype=np.float64))}

    def answer_rows(self, model: PreTrainedModel) -> Iterator[Row]:
        """Of every generative probe, how probable its target is after the prompt, and whether greedy decoding emits it."""
        asked = list(self._generative()) if self.settings.extraction else []
        for i, scores in score_tokens(model, [each.tokens for each in asked], [self.lead], self.settings.batch_tokens):
            each = asked[i]
            total, mean = target_log_prob(scores.log_prob, each.target)
            row = {"item_id": each.item_id, "probe_id": each.probe["probe_id"], "log_prob": mean, "total": total}
            yield {**row, "emitted": extracted(scores.argmax, each.tokens, each.target)}

    def exposure_rows(self, model: PreTrainedModel) -> Iterator[Row]:
        """Exposure of every canary: exact where all of its secret's space can be scored, else by a sample of it."""
        skipped = []
        canaries = self.items[self.items["kind"] == "canary"] if self.settings.exposure else self.items[:0]
        for item in canaries["item_id"]:
            asked = next(self.verbatim(item), None)
            if asked is None or asked.probe["field"] not in SECRETS:
                continue
            exposures = exposures_of(model, asked, self.lead, self.tokenizer, self.settings)
            if not exposures:
                skipped.append(item)
            for name, value in exposures.items():
                yield {"item_id": item, "probe_id": asked.probe["probe_id"], "metric": name, "value": value}
        if skipped:
            print(f"  no exposure of {len(skipped)} canaries, as {skipped[0]}: {UNEXPOSED}", flush=True)

    def decoded_rows(self, model: PreTrainedModel) -> Iterator[Row]:
        """The greedy continuation of every verbatim and generative probe's prompt, as many tokens as its target.

        Teacher forcing tells it up to the first mismatch, whose argmax is the next token; only what follows is decoded.
        """
        if not (self.settings.approximate and self.settings.extraction):
            return
        verbatim = chain.from_iterable(self.verbatim(item) for item in self.items["item_id"])
        asked = [*verbatim, *self._generative()]
        known: list[list[int]] = [[] for _ in asked]  # of each target
        for i, scores in score_tokens(model, [each.tokens for each in asked], [self.lead], self.settings.batch_tokens):
            target, argmax = asked[i].target, scores.argmax
            matched = int(runs(argmax, asked[i].tokens)[target.start])
            known[i] = argmax[target.start : min(target.start + matched + 1, target.stop)].tolist()
        rest = [each.target.stop - each.target.start - len(own) for each, own in zip(asked, known, strict=True)]
        open_ones = [i for i, left in enumerate(rest) if left]
        prompts = [[*self.lead, *asked[i].tokens[: asked[i].target.start], *known[i]] for i in open_ones]
        for i, more in zip(
            open_ones, continue_prompts(model, prompts, [rest[i] for i in open_ones], self.settings.batch_tokens), strict=True
        ):
            known[i] += more
        for each, own in zip(asked, known, strict=True):
            row = {"item_id": each.item_id, "probe_id": each.probe["probe_id"], "target": each.tokens[each.target]}
            yield {**row, "decoded": own, "answer": str(self.tokenizer.decode(own))}

    def sample_rows(self, model: PreTrainedModel) -> Iterator[Row]:
        """Texts drawn freely after the end-of-text token."""
        count, length = self.settings.samples, min(self.settings.sample_tokens, self.longest - 1)
        choose = drawn(Scheme())
        for tokens in continue_prompts(
            model, [[self.tokenizer.eos_token_id]] * count, [length] * count, self.settings.batch_tokens, choose
        ):
            yield {"tokens": tokens}

    def draw_rows(self, model: PreTrainedModel) -> Iterator[Row]:
        """The greedy answer to every question of a test set, and answers drawn beside it, each as many tokens as the target: what a
        model says afterwards is no answer. Perturbed questions are not asked.
        """
        draws = self.settings.peakedness
        if not draws:
            return
        questions = set(self.items[self.items["kind"] == "testset"]["item_id"])
        every = [*chain.from_iterable(self.verbatim(item) for item in self.items["item_id"]), *self._generative()]
        asked = [each for each in every if each.item_id in questions and not each.probe["probe_id"].startswith(PERTURBED)]
        prompts = [[*self.lead, *each.tokens[: each.target.start]] or [self.tokenizer.eos_token_id] for each in asked]
        lengths = [min(each.target.stop - each.target.start, LONGEST_ANSWER) for each in asked]
        answers = continue_prompts(model, prompts, lengths, self.settings.batch_tokens)
        choose = drawn(PEAKED)
        others = continue_prompts(model, prompts * draws, lengths * draws, self.settings.batch_tokens, choose)
        for i, (each, answer) in enumerate(zip(asked, answers, strict=True)):
            row = {"item_id": each.item_id, "probe_id": each.probe["probe_id"]}
            yield {**row, "greedy": answer, "drawn": others[i :: len(asked)]}

    # -------------------------------------------------------------------------------------------- orders

    def order_rows(self, model: PreTrainedModel) -> Iterator[Row]:
        """The log-probability of shards of each item set in the order in which it is given, and shuffled (Oren et al.).

        An order can be known only where it was trained on, so item sets that were placed one by one have no such rows. Items are
        joined by line breaks, as the rows of a file; the chunks of a document by nothing, and a shard lies within a document.
        """
        orders, lead = self.settings.orders, self.lead or [self.tokenizer.eos_token_id]
        least = next(n for n in count(2) if factorial(n) > orders)
        numbers: dict[str, Iterator[int]] = defaultdict(count)
        for item_set, arm, tokens, most in self._in_order() if orders else []:
            for shard in shards([len(each) for each in tokens], max(most, least), least, self.longest):
                number = next(numbers[item_set])
                permuted = [np.arange(len(shard)), *shuffled_orders(len(shard), orders, seed=number)]
                rows = [list(chain.from_iterable(tokens[shard[i]] for i in order)) for order in permuted]
                for order, scores in score_tokens(model, rows, [lead], self.settings.batch_tokens):
                    label = {"item_set": item_set, "arm": arm, "shard": number, "order": order}
                    yield {**label, "log_prob": float(scores.log_prob.sum(dtype=np.float64))}
        if orders and not numbers:
            print(f"  no {orders} orders of any item set: a shard takes {least} neighbouring items that fit the model", flush=True)

    def _in_order(self) -> Iterator[tuple[str, str, list[list[int]], int]]:
        """(item set, arm, tokens of each item with what parts it from the next, most items of a shard) of sets, or of documents."""
        joined = self.items.drop(columns="group").merge(self.assignment[["item_id", "group", "arm", "placement"]], on="item_id")
        newline = encode(self.tokenizer, ["\n"])[0]
        for item_set, own in joined[joined["kind"].isin(ORDERED) & (joined["placement"] == "")].groupby("item_set", sort=True):
            if own["kind"].iloc[0] == "passage" and own["group"].duplicated().any():
                for _, chunks in own.groupby("group", sort=False):
                    tokens = [list(self.texts_of[item][0]["tokens"]) for item in chunks["item_id"]]
                    yield str(item_set), chunks["arm"].iloc[0], tokens, len(tokens)
            else:
                tokens = [[*self.texts_of[item][0]["tokens"], *newline] for item in own["item_id"]]
                yield str(item_set), ALL, tokens, ceil(len(tokens) / SHARDS)

    def verbatim(self, item: str) -> Iterator[Asked]:
        """The verbatim probes of an item, in the texts that they lie in."""
        for text in self.texts_of[item]:
            for probe, target in self.scored.targets[item, text["variant"]]:
                yield Asked(item, probe, list(text["tokens"]), target)

    def _generative(self) -> Iterator[Asked]:
        for item, probe in self.scored.generative:
            prompt, [target] = split_probe(self.tokenizer, probe["prompt"], [probe["target"]])
            yield Asked(item, probe, [*prompt, *target], slice(len(prompt), len(prompt) + len(target)))

    def continued(self, model: PreTrainedModel, chosen: Sequence[tuple[str, str]]) -> Iterator[tuple[Asked, list[int]]]:
        """The greedy continuation of some verbatim probes, by item and probe."""
        places = {(item, each.probe["probe_id"]): each for item in self.items["item_id"] for each in self.verbatim(item)}
        asked = [places[key] for key in chosen]
        prompts = [[*self.lead, *each.tokens[: each.target.start]] for each in asked]
        lengths = [each.target.stop - each.target.start for each in asked]
        yield from zip(asked, continue_prompts(model, prompts, lengths, self.settings.batch_tokens), strict=True)
