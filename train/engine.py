"""Where a step is computed: devices, precision and the optimizer, behind `backward(loss, last)` and `step()`.

The loop knows no device. `Replicated` is one device, or DDP on several: every process holds the whole model. `Sharded`
(train/zero.py) is DeepSpeed's ZeRO. Both go through Lightning Fabric.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.fabric.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor

from configs.errors import ImprintError, RecipeError
from configs.schema import Train
from train.execution import Execution
from train.objective import Objective
from train.world import World, disconnect

LOW_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Step(NamedTuple):
    """What came of an optimizer step."""

    applied: bool
    grad_norm: float  # before clipping
    loss: float  # mean over the labels of all rows of the step, nats
    asked: bool  # whether any process was asked to end


class Autocast(torch.nn.Module):
    """The objective in mixed precision: weights stay fp32, matrices are multiplied in `dtype`; as it is without one."""

    def __init__(self, objective: Objective, device: str, dtype: torch.dtype | None):
        super().__init__()
        self.objective, self.device, self.dtype = objective, device, dtype

    def forward(self, tokens: Tensor, label_mask: Tensor | None = None, row_numbers: Tensor | None = None) -> Tensor:
        """The loss of rows; of tokens alone their logits, in fp32 as a checkpoint is scored."""
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None and label_mask is not None):
            return self.objective(tokens, label_mask, row_numbers)  # type: ignore[no-any-return]


class LossScale:
    """The factor that keeps fp16 gradients from vanishing (Micikevicius et al., 2018): halved when they overflow, doubled when they
    have not for 2,000 steps; 1 for other precisions.
    """

    GROWTH_STEPS = 2000

    def __init__(self, precision: str):
        self.dynamic = precision == "fp16"
        self.value, self.good = 2.0**16 if self.dynamic else 1.0, 0

    def update(self, finite: bool) -> None:
        if not self.dynamic:
            return
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / 2)
        elif self.good == self.GROWTH_STEPS:
            self.value, self.good = self.value * 2, 0

    def state(self) -> dict[str, float]:
        return {"value": self.value, "good": self.good}

    def load(self, state: dict[str, float] | None) -> None:
        """Go on from what `state()` gave; from none, or where the precision was another, as at the start."""
        if state is not None and self.dynamic and state["value"] > 1:
            self.value, self.good = state["value"], int(state["good"])


class Engine(ABC):
    """A model and its AdamW (Loshchilov and Hutter, 2019).

    `admits(loss, grad_norm)` decides before every optimizer step, on every process alike, whether it is taken. `objective.model`
    must hold its weights already; AdamW's averages of another training come in by `load_moments`.
    """

    wrapped: Any  # what a forward pass calls
    optimizer: Any
    _adamw: type[torch.optim.AdamW] = torch.optim.AdamW

    def __init__(
        self,
        fabric: Fabric,
        objective: Objective,
        settings: Train,
        execution: Execution,
        world: World,
        admits: Callable[[float, float], bool],
    ):
        torch.set_num_threads(execution.threads)
        self.fabric, self.settings, self.world, self.admits = fabric, settings, world, admits
        self.model = objective.model
        self.names = {name: p for name, p in objective.model.named_parameters() if p.requires_grad}
        self.scale = LossScale(execution.precision)
        optimizer = self._adamw(
            parameter_groups(self.model, settings.weight_decay), lr=0.0, betas=(settings.betas[0], settings.betas[1]), fused=True
        )
        forward = Autocast(objective, self.device.type, LOW_PRECISION.get(execution.precision))
        self.wrapped, self.optimizer = fabric.setup(forward, optimizer)
        self.wrapped.train()
        self._sums = torch.zeros(2, device=self.device)  # over all processes: the step's loss, and how many were asked to end

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    def send(self, part: Tensor) -> Tensor:
        """A tensor of main memory, on the device; a GPU fetches it while this process goes on."""
        return part.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else part

    def loss(self, tokens: Tensor, label_mask: Tensor, row_numbers: Tensor) -> Tensor:
        """Sum of the cross-entropies of the labels that count, over the rows given: see Objective."""
        return self.wrapped(tokens, label_mask, row_numbers)  # type: ignore[no-any-return]

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits (n, T, V) fp32 of `tokens` (n, T) int64, each row a text by itself; all processes must call it, with their own.

        Nothing is compiled for it: texts have other shapes than rows of training, whose programs would be made anew.
        """
        with torch.compiler.set_stance("force_eager"):
            return self.wrapped(tokens.to(self.device))  # type: ignore[no-any-return]

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`, a part of the step's loss; `last` marks the part that completes it on this process."""
        self._sums[0].add_(loss.detach())
        # the strategies average gradients over processes; a step's loss is a sum over them
        self._backward(loss * self.world.size, last)

    def step(self, learning_rate: float, asked: bool = False) -> Step:
        """Apply the gradient if it is admitted. `asked`: whether this process was asked to end, which all learn from the outcome.

        Loss, norm and that come from the device in one transfer; DeepSpeed makes others.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if asked:
            self._sums[1].fill_(1)
        if self.world.size > 1:
            dist.all_reduce(self._sums)
        outcome = self._step()
        self.scale.update(outcome.applied or _finite(outcome))
        self._sums.zero_()
        return outcome

    def total(self, count: int) -> int | Tensor:
        """A count's sum over all processes; nothing waits for it."""
        if self.world.size == 1:
            return count
        total = torch.tensor(float(count), dtype=torch.float64).to(self.device, non_blocking=True)
        dist.all_reduce(total)
        return total

    def sum(self, value: Tensor) -> float:
        """A scalar's sum over all processes."""
        if self.world.size > 1:
            dist.all_reduce(value)
        return float(value)

    def gather(self, thing: object) -> list | None:
        """What every process gives, by rank, on the leading process; None on others."""
        if self.world.size == 1:
            return [thing]
        gathered: list | None = [None] * self.world.size if self.world.leads else None
        dist.gather_object(thing, gathered)
        return gathered

    def close(self) -> None:
        """Let go of the model, of which nothing is asked any more."""
        del self.wrapped, self.optimizer

    @abstractmethod
    def _backward(self, loss: Tensor, last: bool) -> None: ...

    @abstractmethod
    def _step(self) -> Step: ...

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The full fp32 parameters by name, in main memory, on the leading process; empty on others. All must call it."""

    @abstractmethod
    def moments(self) -> dict[str, Tensor]:
        """AdamW's running averages by parameter name, prefixed exp_avg. and exp_avg_sq., and its count of steps, as `weights`."""

    @abstractmethod
    def load_moments(self, moments: dict[str, Tensor]) -> None:
        """Put back what `moments()` gave, on any engine; every process is given all of them."""


class Replicated(Engine):
    """Every process holds the whole model and optimizer: one device, or several with DDP."""

    _parts = 0  # of the step, so far

    def loss(self, tokens: Tensor, label_mask: Tensor, row_numbers: Tensor) -> Tensor:
        if self.world.size > 1:  # DDP decides in the forward pass whether the backward pass will exchange gradients
            self.wrapped._forward_module.require_backward_grad_sync = self._parts + 1 == self.settings.accumulation
        return super().loss(tokens, label_mask, row_numbers)

    def _backward(self, loss: Tensor, last: bool) -> None:
        self._parts = 0 if last else self._parts + 1
        self.fabric.backward(loss * self.scale.value)

    def _step(self) -> Step:
        parameters = list(self.names.values())
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.scale.dynamic:
            torch._foreach_mul_(gradients, 1 / self.scale.value)
        norm = torch.nn.utils.get_total_norm(gradients)
        loss, asked, grad_norm = torch.cat([self._sums, norm.reshape(1)]).tolist()
        applied = self.admits(loss, grad_norm)
        if applied:
            if self.settings.clip:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.clip, norm)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Step(applied, grad_norm, loss, asked > 0)

    def weights(self) -> dict[str, Tensor]:
        if not self.world.leads:
            return {}
        return {name: p.detach().cpu().contiguous() for name, p in self.model.named_parameters()}

    def moments(self) -> dict[str, Tensor]:
        state = self.optimizer.state
        known = {name: state[p] for name, p in self.names.items() if p in state}
        if not self.world.leads or not known:
            return {}
        averages = {f"{key}.{name}": each[key] for name, each in known.items() for key in ("exp_avg", "exp_avg_sq")}
        averages["step"] = next(iter(known.values()))["step"]
        return {name: each.detach().cpu().contiguous() for name, each in averages.items()}

    def load_moments(self, moments: dict[str, Tensor]) -> None:
        for name, parameter in self.names.items():
            if f"exp_avg.{name}" in moments:
                self.optimizer.state[parameter] = {
                    "step": moments["step"].to(parameter.device, copy=True),  # where fused AdamW wants it
                    "exp_avg": moments[f"exp_avg.{name}"].to(parameter.device, copy=True),
                    "exp_avg_sq": moments[f"exp_avg_sq.{name}"].to(parameter.device, copy=True),
                }


def _finite(outcome: Step) -> bool:
    return abs(outcome.loss) < float("inf") and abs(outcome.grad_norm) < float("inf")


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; biases, norms and embeddings do not."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    others = [p for p in trained if p.ndim < 2 or id(p) in embeddings]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]  # DeepSpeed takes none that is empty


# ------------------------------------------------------------------------------------------------ Fabric


@contextmanager
def connected(settings: Train, world: World) -> Iterator[Fabric]:
    """Fabric on this process's device, connected with the other processes of `world`."""
    device = device_of(world)
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they count the processes aloud
    before, connected_before = dict(os.environ), dist.is_initialized()
    if world.interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", world.interface)
    strategy: Strategy
    if settings.strategy == "single":
        strategy = SingleDeviceStrategy(device)
    elif settings.strategy == "ddp":
        strategy = _DDP(device, gradient_as_bucket_view=True)
    else:
        if device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"  # read when DeepSpeed is imported
        from train.zero import ZeRO

        strategy = ZeRO(device, settings, world.size)
    try:
        # its own search for a cluster would complain of srun and of SLURM's variables where they are not meant for this process
        fabric = Fabric(accelerator=device.type, devices=1, strategy=strategy, plugins=[Environment(world)], precision="32-true")
        fabric.launch()
        yield fabric
    finally:
        if world.size == 1 and not connected_before:
            disconnect()  # a group of several serves all trainings of its world: see train.world
        for name in world.environment():  # the libraries set them for this world; the next may be another
            os.environ.pop(name, None)
        os.environ |= {name: before[name] for name in world.environment() if name in before}


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """The block on every process. Where it fails with an ImprintError on the leading one, all fail with it after the block."""
    failure: ImprintError | None = None
    try:
        yield
    except ImprintError as error:
        failure = error
    told = fabric.broadcast(failure and str(failure))
    if failure or told:
        raise failure or ImprintError(told)


def engine_of(strategy: str) -> type[Engine]:
    """The kind of engine of a strategy, which is not `auto`."""
    if strategy in ("single", "ddp"):
        return Replicated
    from train.zero import Sharded

    return Sharded


def require_whole_parameters(strategy: str) -> None:
    """RecipeError where a strategy leaves a process only a part of each parameter: for terms of the loss and LoRA."""
    if strategy == "zero_3":
        raise RecipeError(
            "a stage's penalty or lora needs whole parameters in every process, and train.strategy is zero_3, which parts them; "
            "possible: single, ddp, zero_1, zero_2"
        )


def device_of(world: World) -> torch.device:
    """The device of this process. A launcher may show each process its own GPU only, or all of a node's to all."""
    if torch.cuda.is_available():
        return torch.device("cuda", world.local_rank % torch.cuda.device_count())
    return torch.device("cpu")


class Environment(ClusterEnvironment):
    """The world as Fabric asks for it. (Its own reading of SLURM's variables refuses many ways to ask for tasks.)"""

    creates_processes_externally = True

    def __init__(self, world: World):
        self.world = world

    @property
    def main_address(self) -> str:
        return self.world.address

    @property
    def main_port(self) -> int:
        return self.world.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.world.size

    def set_world_size(self, size: int) -> None: ...

    def global_rank(self) -> int:
        return self.world.rank

    def set_global_rank(self, rank: int) -> None: ...

    def local_rank(self) -> int:
        return self.world.local_rank

    def node_rank(self) -> int:
        return self.world.rank // self.world.local_size


class _DDP(DDPStrategy):
    """DDP on the device given: Fabric would take it from a list of a node's devices, by local rank."""

    def __init__(self, device: torch.device, **options: Any):
        super().__init__(**options)
        self._device = device

    @property
    def root_device(self) -> torch.device:
        return self._device
