"""The training objective as sums over labels; the engine divides by the global batch's number of labels.

The cross-entropy is taken from the hidden states, a chunk of tokens at a time, so that all logits never exist together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from configs.errors import RecipeError
from train.cross_entropy import CrossEntropySum, LinearCrossEntropy
from train.dropout import RowKeys, check_no_other_dropout, replace_dropout


class Term(Protocol):
    """A term that is added to the loss: see train/penalty.py."""

    def __call__(self, objective: Objective, inputs: torch.Tensor, outputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """A scalar fp32: the term times the number of labels that count in the rows given, or a sum over these labels.

        So the step's loss, the sum over all rows divided by the labels of the global batch, has the term once, however its rows
        are shared out. `inputs` (n, S) int64; `outputs` of the model for them, as `Objective.outputs` gives; `mask` (n x S,) bool.
        """


class Objective(torch.nn.Module):
    """The sum of a causal language model's cross-entropies over the labels that count; what strategies wrap.

    `model` is the Hugging Face model, whole and not yet compiled: a few tokens go through it here, to learn whether its logits are
    one linear layer of its hidden states (else the logits are its own, all at once), whether `mask_documents` keeps its documents
    apart, and whether its dropout is a function of the rows. No generator's state is changed. `chunk`: tokens whose logits exist
    at a time; 0: what fits in a fixed budget. `seed` is that of the dropout. RecipeError for what the model can't do.
    `terms` are in the gradient, but not in the value. `compiled`: let torch.compile make the loss's kernels on a GPU.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        end_of_text: int,
        *,
        mask_documents: bool = False,
        chunk: int = 0,
        seed: int = 0,
        terms: Sequence[Term] = (),
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.end_of_text = end_of_text
        self.mask_documents = mask_documents
        self.chunk = chunk
        self.terms = tuple(terms)  # no submodules: a strategy must not take hold of what they keep, as a frozen model
        self.keys = RowKeys(seed)
        if replace_dropout(model, self.keys) or _has_dropout(model):
            with _plain_attention(model):
                check_no_other_dropout(model, self.keys)
        self.head: LinearCrossEntropy | None = None
        if logits_are_linear(model):
            self.head = LinearCrossEntropy(model.get_output_embeddings(), chunk, compiled)  # type: ignore[operator]
        elif chunk:
            raise RecipeError(
                f"train.loss_chunk is {chunk}, but the logits of {_kind(model)} are not one linear layer of its hidden states; "
                "possible: 0, which computes them all at once"
            )
        if mask_documents and not _keeps_documents_apart(model, end_of_text):
            raise RecipeError(
                f"train.mask_documents is true, but {_kind(model)} does not take positions that restart within a row; "
                "possible: false, or gpt_neox, llama, gpt2, olmo2, qwen3, ..."
            )

    def forward(
        self, tokens: torch.Tensor, label_mask: torch.Tensor | None = None, row_numbers: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The sum in nats, a scalar fp32, of `tokens` (n, S + 1) int64, `label_mask` (n, S) bool, `row_numbers` (n,) int64.

        Inputs are all tokens but the last, labels all but the first. The dropout of `row_numbers` holds until the next forward.
        Of tokens alone, (n, T): their logits (n, T, V) fp32, each row a text by itself. They go through the modules that the loss
        goes through: a strategy that shares out parameters gathers them there.
        """
        if label_mask is None or row_numbers is None:
            return self._logits(tokens)
        self.keys.set(row_numbers)
        inputs, labels, mask = tokens[:, :-1], tokens[:, 1:].flatten(), label_mask.flatten()
        outputs = self.outputs(self.model, inputs)
        loss: torch.Tensor = CrossEntropySum.apply(outputs, labels, mask) if self.head is None else self.head(outputs, labels, mask)
        if not self.terms or not torch.is_grad_enabled():
            return loss
        added = torch.stack([term(self, inputs, outputs, mask) for term in self.terms]).sum()
        # What is told, compared and waited for is the cross-entropy, to the last bit; a term that is not finite shows in it as nan.
        return loss + (added - added.detach())

    def outputs(self, model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """What `model`, this objective's or one of its architecture, makes of `inputs` (n, S): its last hidden states (n x S, d).

        Where the logits are not one linear layer of these, its logits (n x S, V), fp32.
        """
        documents: dict[str, Any] = {}
        if self.mask_documents:
            documents = document_arguments(inputs, self.end_of_text, model.config._attn_implementation)  # type: ignore[union-attr]
            inputs = inputs.reshape(documents["position_ids"].shape)
        if self.head is None:
            return model(input_ids=inputs, use_cache=False, **documents).logits.float().flatten(0, 1)  # type: ignore[no-any-return]
        hidden = model.base_model(input_ids=inputs, use_cache=False, **documents).last_hidden_state  # type: ignore[operator]
        return hidden.flatten(0, 1)  # type: ignore[no-any-return]

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        with _plain_attention(self.model):
            if self.head is None:
                return self.model(input_ids=tokens, use_cache=False).logits.float()  # type: ignore[no-any-return]
            hidden = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state  # type: ignore[operator]
            return self.head(hidden).float()  # type: ignore[no-any-return]

    def logits(self, model: torch.nn.Module, outputs: torch.Tensor) -> torch.Tensor:
        """The logits (t, V), fp32, of `outputs` (t, ...) of `model`."""
        return (outputs if self.head is None else model.get_output_embeddings()(outputs)).float()  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------ documents


def document_positions(inputs: torch.Tensor, end_of_text: int) -> torch.Tensor:
    """Positions (n, S) int64 counted from the start of each document of `inputs` (n, S).

    An end-of-text opens the document that follows it, as it does where a text is scored; what precedes a row's first is a document
    of its own. transformers keeps attention apart where positions do not go on by one.
    """
    places = torch.arange(inputs.shape[1], device=inputs.device)
    opened = torch.where(inputs == end_of_text, places, 0).cummax(1).values
    return places - opened


def document_arguments(inputs: torch.Tensor, end_of_text: int, attention: str) -> dict[str, Any]:
    """What a model needs to attend only within the documents of `inputs` (n, S): arguments of its forward.

    sdpa, eager and flex_attention make their mask from the positions (n, S). FlashAttention takes the batch as one sequence,
    (1, n x S), and where each document starts in it; to count them the processor waits for the device.
    """
    positions = document_positions(inputs, end_of_text)
    if not attention.startswith("flash_attention"):
        return {"position_ids": positions}
    flat = positions.reshape(1, -1)
    starts = (flat[0] == 0).nonzero()[:, 0].to(torch.int32)
    ends = F.pad(starts, (0, 1), value=flat.shape[1])
    lengths = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": inputs.shape[1], "max_length_k": inputs.shape[1]}
    return {"position_ids": flat} | lengths


def next_token_loss(model: torch.nn.Module, tokens: torch.Tensor, label_mask: torch.Tensor) -> torch.Tensor:
    """The same sum from a model's own logits: `tokens` (n, S + 1) int64, `label_mask` (n, S) bool."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return CrossEntropySum.apply(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), label_mask.flatten())  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------ what a model can do


def logits_are_linear(model: torch.nn.Module) -> bool:
    """Whether a model's logits are its head, one linear layer, of its base model's hidden states, and nothing else.

    The head's output is replaced by large numbers: what comes after it (a cap, a scale) would change them, which is not seen at the
    small logits of a new model. What comes before is seen by comparing what the head is given.
    """
    if not hasattr(model, "get_output_embeddings") or not hasattr(model, "base_model") or model.base_model is model:
        return False
    head = model.get_output_embeddings()  # type: ignore[operator]
    if type(head) is not torch.nn.Linear:
        return False
    given: list[torch.Tensor] = []

    def replace(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        given.append(inputs[0])
        return torch.linspace(-1000.0, 1000.0, output.numel(), device=output.device, dtype=output.dtype).view_as(output)

    tokens = torch.arange(4, device=head.weight.device)[None] % head.out_features
    hook = head.register_forward_hook(replace)
    try:
        with evaluation(model), _plain_attention(model):
            logits = model(input_ids=tokens, use_cache=False).logits
            hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state  # type: ignore[operator]
    finally:
        hook.remove()
    if len(given) != 1 or given[0].shape != hidden.shape or logits.shape != (*hidden.shape[:2], head.out_features):
        return False
    expected = replace(head, (hidden,), logits)
    return bool(torch.equal(logits, expected)) and bool(torch.equal(given[0], hidden))


def _keeps_documents_apart(model: torch.nn.Module, end_of_text: int) -> bool:
    """Whether the hidden states of a row's second document are those of the document alone."""
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    others = [token for token in range(min(vocabulary, 8)) if token != end_of_text]
    device = model.get_input_embeddings().weight.device  # type: ignore[operator]
    second = torch.tensor([[end_of_text, *others]], device=device)
    row = torch.cat([second[:, 1:].flip(1), second], 1)  # the same tokens, backwards, before it
    with evaluation(model), _plain_attention(model):
        attention = model.config._attn_implementation  # type: ignore[union-attr]
        try:
            apart = model.base_model(input_ids=row, use_cache=False, **document_arguments(row, end_of_text, attention))  # type: ignore[operator]
            alone = model.base_model(input_ids=second, use_cache=False)  # type: ignore[operator]
        except (TypeError, ValueError):  # no such argument
            return False
    found, expected = apart.last_hidden_state[:, -second.shape[1] :], alone.last_hidden_state
    return bool(torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())))


@contextmanager
def evaluation(model: torch.nn.Module) -> Iterator[None]:
    """No dropout and no gradient within; each module's mode as before after it."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _plain_attention(model: torch.nn.Module) -> Iterator[None]:
    """sdpa in place of kernels that a processor lacks (FlashAttention) or compiles for a minute (flex_attention)."""
    config = getattr(model, "config", None)
    chosen = getattr(config, "_attn_implementation", None)
    if chosen in (None, "eager", "sdpa"):
        yield
        return
    config._attn_implementation = "sdpa"  # type: ignore[union-attr]
    try:
        yield
    finally:
        config._attn_implementation = chosen  # type: ignore[union-attr]


def _has_dropout(model: torch.nn.Module) -> bool:
    """Whether a field of the model's configuration, as attention_dropout, is above 0."""
    config = getattr(model, "config", None)
    fields = config.to_dict() if config is not None else {}
    return any(isinstance(value, float) and value > 0 and "drop" in name for name, value in fields.items())


def _kind(model: torch.nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
