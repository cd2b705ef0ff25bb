"""Terms of the loss that hold a model near the one it starts from: baselines against forgetting in continual training.

A term enters the gradient; the loss that is told stays the cross-entropy (`Objective`). Terms are made of the model as the stage
starts from it, on the device where it trains and before a resume state is read into it. They need whole parameters in every
process, so ZeRO-3 is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from configs.errors import RecipeError
from train.cross_entropy import chunk_tokens
from train.objective import Objective, evaluation, next_token_loss


class ElasticWeightConsolidation:
    """weight / 2 x sum_i F_i (theta_i - theta*_i)^2: equation 3 of Kirkpatrick et al., 2017, arXiv:1612.00796.

    theta* are the parameters that `model` has now, by whose names `fisher` has F, fp32, as `fisher_diagonal` gives it. F is that of
    one example, and the loss beside it the mean over labels: the posterior that the paper approximates, to which every example of
    either set counts once, has the weight (examples learned before) / (labels of the set that is learned now).
    """

    def __init__(self, model: torch.nn.Module, fisher: Mapping[str, Tensor], weight: float) -> None:
        parameters = dict(model.named_parameters())
        if unknown := [name for name in fisher if name not in parameters]:
            raise ValueError(f"the Fisher information is of {unknown[0]}, which is no parameter of the model")
        self.fisher = dict(fisher)
        self.anchors = {name: parameters[name].detach().clone() for name in fisher}
        self.weight = weight

    def __call__(self, objective: Objective, inputs: Tensor, outputs: Tensor, mask: Tensor) -> Tensor:
        """The penalty times the number of labels that count in these rows: see Term."""
        return self.penalty(objective.model) * mask.sum()

    def penalty(self, model: torch.nn.Module) -> Tensor:
        """The penalty on the parameters of `model`, a scalar fp32."""
        parameters = dict(model.named_parameters())
        parts = [(fisher * (parameters[name] - self.anchors[name]).square()).sum() for name, fisher in self.fisher.items()]
        return self.weight / 2 * torch.stack(parts).sum()


def fisher_diagonal(model: torch.nn.Module, examples: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The diagonal of the empirical Fisher information at a model's weights, by the names of its trained parameters, fp32.

    That is the mean over `examples` of the squared gradient of the summed log-likelihood of an example's labels, without dropout.
    Empirical: the labels are the data's, not drawn from the model, as the Fisher information itself would have it (Kunstner et
    al., 2019, arXiv:1905.12558, on the difference). An example is one row: tokens (1, T) int64 and label mask (1, T - 1) bool; each
    takes a backward pass, on the model's device. RecipeError where there are none.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    device = next(model.parameters()).device
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    count = 0
    with evaluation(model), torch.enable_grad():
        for tokens, label_mask in examples:
            count += 1
            loss = next_token_loss(model, tokens.to(device), label_mask.to(device))
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total.addcmul_(gradient, gradient)
    if not count:
        raise RecipeError("elastic weight consolidation was given no example of which to take the Fisher information")
    return {name: total / count for name, total in sums.items()}


class DivergenceFromFrozen:
    """weight x mean over labels of KL(p_frozen || p_theta), over the whole vocabulary, where the labels that count are predicted.

    That is distillation from the model before the stage, at temperature 1 (Hinton et al., 2015, arXiv:1503.02531), on the rows that
    the stage learns, as in learning without forgetting (Li and Hoiem, 2016, arXiv:1606.09282). The frozen model is a plain copy of
    `model` as it is now, on its device: every process has a whole one. It predicts without dropout, and under the autocast of the
    model that is trained.
    """

    def __init__(self, model: torch.nn.Module, weight: float) -> None:
        self.frozen = deepcopy(model).eval().requires_grad_(False)
        self.weight = weight

    def __call__(self, objective: Objective, inputs: Tensor, outputs: Tensor, mask: Tensor) -> Tensor:
        """The sum over the labels that count in these rows, times the weight: see Term.

        Softmax and sums are fp32. Of logits, a chunk's exists at a time, twice: the backward pass computes them again.
        """
        with torch.no_grad():
            kept = objective.outputs(self.frozen, inputs)
        places = mask.nonzero()[:, 0]  # on a GPU this waits for it; but of question and answer, few places are labels
        outputs, kept = outputs[places], kept[places]
        chunk = chunk_tokens(len(places), self.frozen.get_input_embeddings().num_embeddings, objective.chunk, inputs.device.type)
        total = torch.zeros((), dtype=torch.float32, device=inputs.device)
        for start in range(0, len(places), chunk):
            part = slice(start, start + chunk)
            divergence = checkpoint(
                self._divergence, objective, outputs[part], kept[part], use_reentrant=False, preserve_rng_state=False
            )
            total = total + divergence
        return self.weight * total

    def _divergence(self, objective: Objective, outputs: Tensor, kept: Tensor) -> Tensor:
        """KL(p_frozen || p_theta), nats, summed over places, from `outputs` of the model and `kept` of the frozen one, (t, ...)."""
        log_probs = objective.logits(objective.model, outputs).log_softmax(-1)
        expected = objective.logits(self.frozen, kept).log_softmax(-1)
        return F.kl_div(log_probs, expected, reduction="sum", log_target=True)
