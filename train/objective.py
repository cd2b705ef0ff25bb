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
from train.dropout import RowKeys, check_no_other_dropout, replace_dropout

CHUNK_BYTES_PROCESSOR = 2 * 2**20  # of fp32 logits at a time where `chunk` is 0: what its caches hold
CHUNK_BYTES_ACCELERATOR = 2**30  # a GPU wants products of thousands of tokens
CHUNK_TOKENS_LEAST = 256  # with fewer, adding to the weight's gradient takes longer than computing it
FEW_LABELS = 0.9  # part of the labels that count, below which the others are left out instead of multiplied by 0
FP16_SCALE = 1024.0  # of the logits' gradient, at most 1, in half precision: probabilities of 1e-7 do not become 0


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
    `terms` are in the gradient, but not in the value.
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
            self.head = LinearCrossEntropy(model.get_output_embeddings(), chunk)  # type: ignore[operator]
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


# ------------------------------------------------------------------------------------------------ cross-entropy


class LinearCrossEntropy(torch.nn.Module):
    """The summed cross-entropy of a linear head, whose parameters it shares; only a chunk of its logits exists at a time."""

    def __init__(self, head: torch.nn.Linear, chunk: int) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias
        self.chunk = chunk

    def forward(self, hidden: torch.Tensor, labels: torch.Tensor | None = None, mask: torch.Tensor | None = None) -> torch.Tensor:
        """The sum in nats over `labels` (t,) where `mask` (t,) is true, from `hidden` (t, d); of `hidden` alone, the logits."""
        if labels is None or mask is None:
            return F.linear(hidden, self.weight, self.bias)
        if mask.device.type == "cpu":  # elsewhere, to count them the processor would wait for the device
            kept = int(mask.sum())
            if kept < FEW_LABELS * len(mask):
                places = mask.nonzero()[:, 0]
                hidden, labels, kept = hidden[places], labels[places], len(mask)
            all_count = kept == len(mask)
        else:
            all_count = False
        rows = chunk_tokens(len(labels), self.weight.shape[0], self.chunk, hidden.device.type)
        return LinearCrossEntropySum.apply(  # type: ignore[no-any-return]
            hidden, self.weight, self.bias, labels, None if all_count else mask, rows, torch.is_grad_enabled()
        )


def chunk_tokens(tokens: int, vocabulary: int, chunk: int, device: str) -> int:
    """Tokens whose logits exist at a time: `chunk`, or where it is 0 as many as the device's budget holds, in even parts."""
    if chunk:
        return chunk
    budget = CHUNK_BYTES_PROCESSOR if device == "cpu" else CHUNK_BYTES_ACCELERATOR
    most = max(budget // (4 * vocabulary), CHUNK_TOKENS_LEAST)
    parts = max(-(-tokens // most), 1)
    return max(-(-tokens // parts), 1)


class LinearCrossEntropySum(torch.autograd.Function):
    """Cross-entropy summed over labels (t,), from hidden states (t, d) and a head's weight (V, d) and bias (V,) or None.

    The gradients are computed with the loss, chunk by chunk, and backward multiplies them by its scalar: no logits are kept and
    none computed twice. Products are taken in autocast's precision where it is on, softmax, sums and the weight's gradient in fp32.
    The idea is that of Liger Kernel's fused linear cross-entropy (Hsu et al., 2024, arXiv:2410.10989).
    """

    @staticmethod
    def forward(
        context: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        mask: torch.Tensor | None,
        chunk: int,
        differentiate: bool,
    ) -> torch.Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        wants = [wanted and differentiate for wanted in context.needs_input_grad[:3]]
        up = FP16_SCALE if dtype == torch.float16 else 1.0
        down = 1.0 / chunk if dtype == torch.float16 else 1.0  # a sum over a chunk's tokens must not overflow
        pieces: list[torch.Tensor] = []
        to_weight = to_bias = None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(device, enabled=False):
            low_weight, low_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
            for start in range(0, len(labels), chunk):
                part = slice(start, start + chunk)
                inputs, targets = hidden[part].to(dtype), labels[part, None]
                logits = F.linear(inputs, low_weight, low_bias)
                slope = logits.softmax(-1, dtype=torch.float32)
                # log p = x - max x + log(max p): the largest p is at least 1/V, a label's own may be too small for a logarithm
                losses = logits.amax(-1).float() - logits.gather(1, targets)[:, 0].float() - slope.amax(-1).log()
                loss += (losses if mask is None else losses * mask[part]).sum()
                if not any(wants):
                    continue
                slope.scatter_add_(1, targets, slope.new_full(targets.shape, -1.0))  # softmax minus one-hot
                if mask is not None:
                    slope.mul_((mask[part] * up)[:, None])
                elif up != 1.0:
                    slope.mul_(up)
                low_slope = slope.to(dtype)
                if wants[0]:
                    pieces.append(low_slope @ low_weight)
                if wants[1]:
                    to_weight = _add_product(to_weight, low_slope, inputs if down == 1.0 else inputs * down)
                if wants[2]:
                    summed = slope.sum(0)
                    to_bias = summed if to_bias is None else to_bias.add_(summed)
                del logits, slope, low_slope  # before the next chunk's
            to_hidden = torch.cat(pieces) if len(pieces) > 1 else pieces[0] if pieces else None
        context.gradients = (to_hidden, to_weight, to_bias)
        context.scales = (1 / up, 1 / (up * down), 1 / up)
        context.likes = [(t.dtype, t.shape) if t is not None else None for t in (hidden, weight, bias)]
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        if context.gradients is None:
            raise RuntimeError("the gradient of a cross-entropy can be taken once; compute the loss again")
        gradients, context.gradients = context.gradients, None
        out: list[torch.Tensor | None] = []
        for wanted, stored, scale, like in zip(context.needs_input_grad, gradients, context.scales, context.likes, strict=False):
            if not wanted:
                out.append(None)
            elif stored is None:  # no label at all
                out.append(torch.zeros(like[1], dtype=like[0], device=gradient.device))
            else:
                out.append(stored.float().mul_(gradient * scale).to(like[0]))
        return *out, None, None, None, None


def _add_product(total: torch.Tensor | None, slope: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """`total` (V, d) plus slope (c, V) transposed times inputs (c, d); fp32 but for the first product."""
    if total is None:
        return slope.T @ inputs
    total = total.float()
    return total.addmm_(slope.T, inputs) if slope.dtype == torch.float32 else total.add_(slope.T @ inputs)


class CrossEntropySum(torch.autograd.Function):
    """Cross-entropy summed over the labels where a mask is true, from fp32 logits (n, V), labels (n,) and mask (n,).

    Keeps one (n, V) array and turns it into the gradient, softmax minus one-hot, in place; torch's own makes two more, and a small
    model's step takes 6 to 10% longer with it (benchmarks/README.md).
    """

    @staticmethod
    def forward(context: Any, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        log_probs = logits.log_softmax(-1)
        context.save_for_backward(log_probs, labels, mask)
        return -(log_probs.gather(1, labels[:, None])[:, 0] * mask).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        log_probs, labels, mask = context.saved_tensors
        out = log_probs.exp_()
        out.scatter_add_(1, labels[:, None], torch.full_like(labels, -1, dtype=out.dtype)[:, None])
        return out.mul_(gradient * mask[:, None]), None, None


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
