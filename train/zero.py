"""DeepSpeed's ZeRO (Rajbhandari et al., 2020): optimizer state (1), gradients (2) and parameters (3) shared out among processes.

All of DeepSpeed is in this file. Without a GPU it runs on processors with gloo, to debug a training on a laptop.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state, safe_set_full_optimizer_state
from lightning.fabric.strategies import DeepSpeedStrategy
from torch import Tensor

from configs.schema import Train
from train.engine import Engine, Step


class GatedAdamW(torch.optim.AdamW):
    """AdamW that takes a step only where it is admitted."""

    admits: Callable[[], bool]

    def step(self, closure: Any = None) -> Any:
        if self.admits():
            return super().step(closure)
        return None


def _count_anew() -> None:
    """Have DeepSpeed number parameters and modules from 0.

    It goes on counting from one training of a process to the next, and compares the numbers of all processes: those that have
    trained before and new ones would not agree. The count of modules is a default argument.
    """
    deepspeed.zero.Init.param_id = 0
    DeepSpeedZeRoOffload._register_deepspeed_module.__defaults__[0][0] = 0


class Sharded(Engine):
    """ZeRO 1, 2 or 3, through Fabric's DeepSpeed strategy."""

    _adamw = GatedAdamW

    def __init__(self, *arguments: Any):
        _count_anew()
        self._linear = torch.nn.functional.linear
        super().__init__(*arguments)
        self.engine = self.wrapped._forward_module
        self.zero = self.engine.optimizer  # DeepSpeed's, around `adamw`
        self.adamw = self.zero.optimizer
        self.adamw.admits = self._admitted
        self.stage = self.engine.zero_optimization_stage()
        self.shapes = {name: getattr(p, "ds_shape", p.shape) for name, p in self.names.items()}
        self._decided: Step | None = None
        for flat in self._flat():  # AdamW's state, which its first step would make: so that a state can be loaded into it
            step = torch.zeros((), dtype=torch.float32, device=flat.device)
            self.adamw.state[flat] = {"step": step, "exp_avg": torch.zeros_like(flat), "exp_avg_sq": torch.zeros_like(flat)}
        if self.stage < 3:
            self.zero._lazy_init_hp_params_optimizer_state()

    def _flat(self) -> list[Tensor]:
        """This process's shares of the parameters, each flat, fp32."""
        return self.zero.single_partition_of_fp32_groups if self.stage < 3 else self.zero.fp32_partitioned_groups_flat

    def close(self) -> None:
        self.engine.destroy()  # its hooks hold the parameters
        self.adamw.state.clear()
        # ZeRO-3 puts its own in its place for the whole process, and with that one ZeRO-2 takes wrong gradients.
        torch.nn.functional.linear = self._linear
        del self.engine, self.zero, self.adamw, self.wrapped, self.optimizer

    def _backward(self, loss: Tensor, last: bool) -> None:
        if self.scale.dynamic:
            self.zero.override_loss_scale(self.scale.value)  # DeepSpeed multiplies the loss by it, and divides the gradient
        self.fabric.backward(loss, model=self.wrapped, scale_wrt_gas=False)
        if not last:
            self.engine.step()  # counts the part; only the last one of a step reaches the optimizer

    def _step(self) -> Step:
        self._decided = None
        self.engine.step()
        if self._decided is None:  # DeepSpeed itself saw that the gradient is not finite
            self._decided = self._decide(float("inf"))._replace(applied=False)
        return self._decided

    def _decide(self, norm: float | Tensor) -> Step:
        loss, asked, grad_norm = torch.cat([self._sums, torch.as_tensor(norm, device=self.device).reshape(1)]).tolist()
        return Step(self.admits(loss, grad_norm), grad_norm, loss, asked > 0)

    def _admitted(self) -> bool:
        """Asked by the optimizer for each group of parameters, with the norm known: decided with the first."""
        if self._decided is None:
            self._decided = self._decide(self.zero._global_grad_norm)
        return self._decided.applied

    def weights(self) -> dict[str, Tensor]:
        full = {}
        for name, parameter in self.model.named_parameters():
            value = safe_get_full_fp32_param(parameter) if self.stage == 3 and name in self.names else parameter
            if self.world.leads:
                full[name] = value.detach().cpu().reshape(self.shapes.get(name, value.shape)).contiguous()
        return full

    def moments(self) -> dict[str, Tensor]:
        full = {}
        for name, parameter in self.names.items():
            for key in ("exp_avg", "exp_avg_sq"):
                value = safe_get_full_optimizer_state(parameter, key)
                if self.world.leads:
                    full[f"{key}.{name}"] = value.detach().cpu().reshape(self.shapes[name]).contiguous()
        if self.world.leads:
            full["step"] = self.adamw.state[self._flat()[0]]["step"].detach().cpu()
        return full

    def load_moments(self, moments: dict[str, Tensor]) -> None:
        for flat in self._flat():
            self.adamw.state[flat]["step"].copy_(moments["step"])
        for name, parameter in self.names.items():
            for key in ("exp_avg", "exp_avg_sq"):
                if f"{key}.{name}" in moments:
                    safe_set_full_optimizer_state(parameter, moments[f"{key}.{name}"].to(self.device), key)


def disconnect() -> bool:
    """Leave the group of processes with DeepSpeed's own groups, if it is in use; whether it was."""
    if not deepspeed.comm.is_initialized():
        return False
    deepspeed.comm.destroy_process_group()
    return True


class ZeRO(DeepSpeedStrategy):
    """Fabric's DeepSpeed on the device given, a processor too, which Fabric refuses."""

    def __init__(self, device: torch.device, settings: Train, processes: int):
        backend = "nccl" if device.type == "cuda" else "gloo"
        config = _config(settings, device, processes)
        super().__init__(config=config, process_group_backend=backend, logging_level=logging.ERROR)
        self._device = torch.device(device.type, device.index or 0)  # DeepSpeed wants an index
        # what DeepSpeed calls by its old name
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
        if device.type == "cpu":  # gloo alone, without the exchange in shared memory that DeepSpeed would compile first
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    @property
    def root_device(self) -> torch.device:
        return self._device

    def setup_environment(self) -> None:
        self.accelerator.setup_device(self.root_device)
        self._set_world_ranks()
        self._init_deepspeed_distributed()
        self._format_config()
        self._config_initialized = True


def _config(settings: Train, device: torch.device, processes: int) -> dict[str, Any]:
    """DeepSpeed's settings. The weights are fp32 for it: precision is the engine's autocast, the same under every strategy."""
    zero: dict[str, Any] = {
        "stage": int(settings.strategy.removeprefix("zero_")),
        # together these corrupted gradients before DeepSpeed 0.19.3 (its issues 8061 and 8080); pyproject.toml asks for a later one
        "overlap_comm": device.type == "cuda" and processes > 1,
        # one process exchanges nothing: the buffers would only be copied (6% of a small model's step, benchmarks/README.md)
        "contiguous_gradients": processes > 1,
        "reduce_scatter": processes > 1,
    }
    if settings.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
    return {
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_clipping": settings.clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # AdamW with a gate
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW steps in the processor's memory, too
    }
