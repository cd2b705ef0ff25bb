"""Checkpoints, which are kept, and resume states, of which the newest are: written whole or not at all, read only when intact."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from configs.errors import DataError, ImprintError
from configs.layout import CheckpointInfo, ModelLayout, atomic_folder, file_fingerprint
from train.engine import Engine

STATES_KEPT = 2


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """An atomic folder whose failure for want of room is told as such."""
    try:
        with atomic_folder(folder) as temporary:
            yield temporary
    except (SafetensorError, OSError) as error:
        raise ImprintError(
            f"{folder} can't be written: {error}; what was saved before is whole, and running again goes on from it"
        ) from error


def _record(folder: Path, info: CheckpointInfo) -> None:
    info.files.update({path.name: file_fingerprint(path) for path in sorted(folder.iterdir())})
    info.write(folder)


def save_checkpoint(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, info: CheckpointInfo) -> None:
    """A Hugging Face folder (safetensors, fp32, with the tokenizer) and `imprint.json`. One that is there already stays."""
    if (folder / "imprint.json").exists():
        return
    with _whole(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        _record(temporary, info)


def save_state(layout: ModelLayout, engine: Engine, info: CheckpointInfo) -> None:
    """Everything that going on needs: fp32 weights and AdamW moments by name. Older states than the newest two are removed."""
    folder = layout.states / f"step-{info.step:08d}"
    if not (folder / "imprint.json").exists():
        with _whole(folder) as temporary:
            weights = {name: p.detach().cpu().contiguous() for name, p in engine.bare.named_parameters()}
            save_file(weights, temporary / "weights.safetensors")
            save_file(engine.moments(), temporary / "moments.safetensors")
            _record(temporary, info)
    for old in sorted(layout.states.glob("step-????????"))[:-STATES_KEPT]:
        shutil.rmtree(old)


def _inspect(folder: Path) -> tuple[CheckpointInfo | None, str]:
    """What a folder says it holds, and the first of its files that is missing or not what was written."""
    try:
        info = CheckpointInfo.read(folder)
    except DataError:
        return None, "imprint.json"
    return info, info.damaged(folder) or ""


def newest_state(layout: ModelLayout) -> tuple[CheckpointInfo, dict[str, torch.Tensor], dict[str, torch.Tensor]] | None:
    """The newest intact state as (info, weights, moments); a damaged one is named, moved aside and passed over."""
    for folder in sorted(layout.states.glob("step-????????"), reverse=True):
        info, damaged = _inspect(folder)
        if info is None or damaged:
            print(f"  {folder / damaged} is damaged; going on from the state before it", flush=True)
            folder.rename(folder.with_name(f"damaged-{folder.name}"))
            continue
        return info, load_file(folder / "weights.safetensors"), load_file(folder / "moments.safetensors")
    return None
