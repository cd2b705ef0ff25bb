"""How probes in training score a text: as a checkpoint of that step is scored, but for what needs all of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import torch

from configs.errors import DataError
from eval.scores import ScoredItems, Target
from train.probe_schedule import ProbeScore, Text


class TextScorer:
    """The verbatim probes of texts, as a `train.probe_schedule.Scorer`.

    `contexts`: what precedes each text, or what precedes all of them. DataError where a target holds a text's first token, of which
    nothing can be said without a context.
    """

    def __init__(
        self, items: pa.Table, texts: pa.Table, context: Sequence[int], contexts: Mapping[Text, Sequence[int]] | None = None
    ):
        self.targets: dict[Text, list[Target]] = {
            text: targets for text, targets in ScoredItems.from_tables(items, texts).targets.items() if targets
        }
        rows = texts.select(["item_id", "variant", "tokens"]).to_pylist()
        self._tokens = {(row["item_id"], row["variant"]): row["tokens"] for row in rows}
        self._contexts = {text: list(context if contexts is None else contexts[text]) for text in self.targets}
        for text, targets in self.targets.items():
            if not self._contexts[text] and any(target.start == 0 for _, target in targets):
                raise DataError(f"{text[0]} ({text[1]}) has no token before its target, and eval.context is none; set eot")

    @property
    def texts(self) -> list[Text]:
        """The texts that hold a probe."""
        return list(self.targets)

    def tokens(self, text: Text) -> list[int]:
        return [*self._contexts[text], *self._tokens[text]]

    def scores(self, texts: Sequence[Text], logits: torch.Tensor) -> list[list[ProbeScore]]:
        rows, places, labels = [], [], []
        for row, text in enumerate(texts):
            tokens, ahead = self.tokens(text), len(self._contexts[text])
            for _, target in self.targets[text]:
                own = range(ahead + target.start, ahead + target.stop)
                rows += [row] * len(own)
                places += [place - 1 for place in own]  # of what predicts each token
                labels += [tokens[place] for place in own]
        device = logits.device
        chosen = logits[torch.tensor(rows, device=device), torch.tensor(places, device=device)]  # (t, V)
        label = torch.tensor(labels, device=device)
        log_probs = chosen.log_softmax(-1).gather(-1, label[:, None])[:, 0]
        columns = torch.stack([log_probs.double(), (chosen.argmax(-1) == label).double()]).cpu().numpy()
        found: list[list[ProbeScore]] = []
        start = 0
        for text in texts:
            found.append([])
            for probe, target in self.targets[text]:
                end = start + target.stop - target.start
                log_prob, matched = columns[0, start:end].mean(), columns[1, start:end].all()
                found[-1].append(ProbeScore(probe["probe_id"], float(log_prob), bool(matched)))
                start = end
        return found
