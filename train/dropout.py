"""Dropout whose mask is a function of (seed, row, module, place) and of nothing else.

Hence it is equal for every micro-batch, number of devices and restart, and again where activation checkpointing computes a block
twice, and no generator's state is kept.
"""

from __future__ import annotations

import zlib

import torch

from configs.errors import RecipeError

# Mixers that change half of the output's bits, on average, for each bit of the input.
MIX_64 = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64 (Steele, Lea and Flood, 2014), with shifts 30, 27, 31
MIX_32 = (0x7FEB352D, 0x846CA68B)  # lowbias32 (Wellons, 2018), with shifts 16, 15, 16
GOLDEN = 0x9E3779B97F4A7C15  # splitmix64's step: 2^64 over the golden ratio


def _signed(value: int, bits: int) -> int:
    """The signed integer with the same lowest bits."""
    value &= 2**bits - 1
    return value - 2**bits if value >> (bits - 1) else value


def _shifted(x: torch.Tensor, by: int, bits: int) -> torch.Tensor:
    """x >> by with zeros moved in."""
    return (x >> by) & ((1 << (bits - by)) - 1)


def mix_64(x: torch.Tensor) -> torch.Tensor:
    """A bijection of int64 that looks random."""
    x = (x ^ _shifted(x, 30, 64)) * _signed(MIX_64[0], 64)
    x = (x ^ _shifted(x, 27, 64)) * _signed(MIX_64[1], 64)
    return x ^ _shifted(x, 31, 64)


def mix_32(x: torch.Tensor) -> torch.Tensor:
    """A bijection of int32 that looks random."""
    x = (x ^ _shifted(x, 16, 32)) * _signed(MIX_32[0], 32)
    x = (x ^ _shifted(x, 15, 32)) * _signed(MIX_32[1], 32)
    return x ^ _shifted(x, 16, 32)


class RowKeys:
    """The keys of the rows in the current forward pass, which the model's dropout modules share."""

    def __init__(self, seed: int) -> None:
        self.seed = _signed(seed * GOLDEN, 64)
        self.keys: torch.Tensor | None = None

    def set(self, row_numbers: torch.Tensor) -> None:
        """`row_numbers` (n,) int64: step x global batch + slot, which says step and row."""
        self.keys = mix_64(mix_64(row_numbers * _signed(GOLDEN, 64) + 1) ^ self.seed)


class RowDropout(torch.nn.Module):
    """torch.nn.Dropout with a mask that depends on the seed, the row, `name` and the place within the row."""

    module_key: torch.Tensor

    def __init__(self, p: float, name: str, keys: RowKeys) -> None:
        super().__init__()
        self.p = p
        self.name = name
        self.keys = keys
        module_key = torch.tensor(_signed((zlib.crc32(name.encode()) + 1) * GOLDEN, 64))
        self.register_buffer("module_key", module_key, persistent=False)  # for another number torch.compile would compile again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` holds the n rows of the current pass one after the other: (n, S, d), (n, heads, S, S), (n x S, d), ..."""
        if not self.training or self.p == 0.0:
            return x
        if self.keys.keys is None:
            raise RuntimeError(f"{self.name}: dropout needs the rows of the pass; call the model through its objective")
        keep = keep_mask(self.keys.keys ^ self.module_key, x.numel() // len(self.keys.keys), self.p).view(x.shape)
        return torch.where(keep, x, 0.0) * (1.0 / (1.0 - self.p) if self.p < 1.0 else 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}, {self.name}"


def keep_mask(keys: torch.Tensor, places: int, p: float) -> torch.Tensor:
    """(n, places) bool, each false with probability `p`, from one int64 key a row, (n,)."""
    mixed = mix_64(keys)
    low, high = mixed.to(torch.int32)[:, None], (mixed >> 32).to(torch.int32)[:, None]
    place = mix_32(torch.arange(places, dtype=torch.int32, device=keys.device))[None]
    return mix_32((place + low) ^ mix_32(high)) >= round(p * 2**32) - 2**31 if p < 1.0 else (place + low) != (place + low)


def replace_dropout(model: torch.nn.Module, keys: RowKeys) -> list[str]:
    """Put RowDropout in the place of each torch.nn.Dropout above 0; returns their names."""
    found = [(n, m) for n, m in model.named_modules() if type(m) is torch.nn.Dropout and m.p > 0.0]
    for name, module in found:
        parent, _, child = name.rpartition(".")
        ours = RowDropout(module.p, name, keys)
        ours.training = module.training
        setattr(model.get_submodule(parent), child, ours)
    return [name for name, _ in found]


def check_no_other_dropout(model: torch.nn.Module, keys: RowKeys) -> None:
    """RecipeError if a forward pass in training still draws random numbers, as dropout within attention kernels does."""
    device = next(model.parameters()).device
    tokens = torch.zeros(1, 4, dtype=torch.long, device=device)
    modes = [(module, module.training) for module in model.modules()]
    state, before = keys.keys, torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        keys.set(torch.zeros(1, dtype=torch.long, device=device))
        model.train()
        with torch.no_grad():
            model(input_ids=tokens, use_cache=False)
        drew = not torch.equal(before, torch.get_rng_state())
        drew |= cuda is not None and not torch.equal(cuda, torch.cuda.get_rng_state(device))
    finally:
        torch.set_rng_state(before)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)
        keys.keys = state
        for module, training in modes:
            module.training = training
    if drew:
        config = getattr(model, "config", None)
        fields = config.to_dict() if config is not None else {}
        above = [f"{name} {value}" for name, value in fields.items() if isinstance(value, float) and "drop" in name and value > 0]
        raise RecipeError(
            f"{getattr(config, 'model_type', 'the model')} draws random numbers outside its dropout modules, so its loss "
            f"would vary with the split of a batch ({', '.join(above)}); possible: 0.0 for dropout of attention and of layers"
        )
