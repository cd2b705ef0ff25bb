"""Checkpoints, which are kept, and resume states, of which the newest are: written whole or not at all, read only when intact.

Both are folders with `imprint.json`, which has the digest of every other file. A checkpoint is a Hugging Face folder that loads
anywhere; a resumable one holds moments.safetensors and trainer.json, too. A state holds weights.safetensors, by parameter name,
and the same two. `read_state` reads either: one format for every strategy and number of processes.

Whatever the instruction at which a training is killed, or the disk is full, starting it again goes on:
- A folder is filled under a temporary name, its files hashed, `imprint.json` written last, all of it synced, and only then
  renamed. Before that there is a leftover that nobody reads and the next start removes; after it, the whole folder.
- The ledger is committed before a checkpoint or state of the same step. So it holds every step that either has seen, and what it
  holds beyond the step that is resumed from is cut off and consumed again.
- A checkpoint is written before the state of its step. Killed between them, training goes on from an earlier state (or from that
  checkpoint if it is resumable), and the checkpoint stays. The other way round it would go on behind a checkpoint it never wrote.
- An old state is removed only when the newer ones are whole and synced. It is first renamed to what a leftover is called: a state
  that is half removed never bears a state's name.
- Checkpoints are never removed, renamed or written again. What is trained a second time passes by those that are there.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from configs.errors import DataError, ImprintError
from configs.layout import CheckpointInfo, ModelLayout, atomic_folder, file_fingerprint, fingerprint, read_json

STATES_KEPT = 2
MODEL, WEIGHTS, MOMENTS, TRAINER = "model.safetensors", "weights.safetensors", "moments.safetensors", "trainer.json"
MARKER = "imprint.json"


@dataclass(frozen=True)
class State:
    """What going on needs: everything else derives from the seed, the step and the row."""

    info: CheckpointInfo
    weights: dict[str, Tensor]  # fp32, by parameter name; tied ones once
    moments: dict[str, Tensor]  # AdamW's exp_avg.NAME and exp_avg_sq.NAME, fp32, and its count of steps, `step`; none at step 0
    trainer: dict[str, Any]


def made_with(precision: str, strategy: str, devices: int) -> dict[str, Any]:
    """What a training runs with, for `CheckpointInfo.made_with`: versions of the programs, and how it is computed."""
    packages = ["torch", "transformers", "lightning", "deepspeed"]
    versions = {"imprint": _version("imprint-testbed"), "python": platform.python_version(), **{p: _version(p) for p in packages}}
    return {**versions, "precision": precision, "strategy": strategy, "devices": devices}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


# ------------------------------------------------------------------------------------------------ writing


def save_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerFast,
    info: CheckpointInfo,
    state: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None,
) -> None:
    """A Hugging Face folder (safetensors, fp32, with the tokenizer). One that is there already stays.

    weights: the full parameters by name; of `model` only the configuration and buffers are written, its own parameters may be
    empty. state: (moments, trainer) make the checkpoint resumable. ImprintError where it can't be written.
    """
    if (folder / MARKER).exists():
        return
    with _whole(folder, info) as temporary:
        with _no_progress_bars():
            model.save_pretrained(temporary, state_dict=_fp32(weights) | _buffers(model), max_shard_size=2**62)  # one file
        _say_fp32(temporary)
        tokenizer.save_pretrained(temporary)
        if state is not None:
            _write_state(temporary, *state)
    layout = ModelLayout(folder.parents[1])
    if equal := same_weights(layout, info.step):
        names = ", ".join(layout.checkpoint(step).name for step in equal)
        print(f"  {folder.name} has the same weights as {names}: no step between them changed the model", flush=True)


def save_state(
    layout: ModelLayout,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    trainer: Mapping[str, Any],
    info: CheckpointInfo,
) -> None:
    """A resume state; older ones than the newest two are then removed. ImprintError where it can't be written."""
    folder = layout.states / f"step-{info.step:08d}"
    if not (folder / MARKER).exists():
        with _whole(folder, info) as temporary:
            save_file(_fp32(weights), temporary / WEIGHTS)
            _write_state(temporary, moments, trainer)
    for old in sorted(_folders(layout.states))[:-STATES_KEPT]:
        leftover = old.with_name(f"{old.name}.tmp-old")
        with _told(old):
            shutil.rmtree(leftover, ignore_errors=True)
            old.rename(leftover)
        shutil.rmtree(leftover, ignore_errors=True)  # what stays of it, the next start removes


def same_weights(layout: ModelLayout, step: int) -> list[int]:
    """The steps of the other kept checkpoints whose weights equal those of the one at `step`, to the last bit."""
    own, equal = CheckpointInfo.read(layout.checkpoint(step)).weights, []
    for other in layout.checkpoints():
        try:
            if other != step and CheckpointInfo.read(layout.checkpoint(other)).weights == own:
                equal.append(other)
        except DataError:  # who reads that checkpoint is told
            continue
    return equal


def _write_state(folder: Path, moments: Mapping[str, Tensor], trainer: Mapping[str, Any]) -> None:
    save_file(_fp32(moments), folder / MOMENTS)
    (folder / TRAINER).write_text(json.dumps(trainer, indent=2) + "\n")


def _fp32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In main memory and contiguous; those that are so already are not copied."""
    return {name: each.detach().to("cpu", torch.float32).contiguous() for name, each in tensors.items()}


def _buffers(model: PreTrainedModel) -> dict[str, Tensor]:
    """What a model saves besides its parameters."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: each.detach().cpu() for name, each in model.state_dict().items() if name not in parameters}


def _say_fp32(folder: Path) -> None:
    """A model that is computed in another precision than its weights are written in says its own."""
    config = read_json(folder / "config.json")
    if config.get("dtype") != "float32":
        (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")


@contextmanager
def _whole(folder: Path, info: CheckpointInfo) -> Iterator[Path]:
    """A temporary folder that, hashed, marked and synced, becomes `folder`. What has its name, but no marker, is set aside."""
    with _told(folder), atomic_folder(folder) as temporary:
        yield temporary
        names = sorted(str(path.relative_to(temporary)) for path in temporary.rglob("*") if path.is_file())
        files = {name: file_fingerprint(temporary / name) for name in names}
        weights = fingerprint(
            [[name, digest] for name, digest in files.items() if name.endswith(".safetensors") and name != MOMENTS]
        )
        replace(info, files=files, weights=weights).write(temporary)
        if folder.exists():
            _set_aside(folder)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What the disk refuses, in a sentence."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and "(os error " not in str(error):  # so the Rust of safetensors and tokenizers tells it
            raise
        raise ImprintError(
            f"{folder} can't be written: {error}; what was saved before is whole, and running again goes on from it"
        ) from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _set_aside(folder: Path) -> Path:
    """Rename a folder to damaged-..., with a number where that is taken."""
    aside, number = folder.with_name(f"damaged-{folder.name}"), 1
    while aside.exists():
        number += 1
        aside = folder.with_name(f"damaged-{folder.name}-{number}")
    return folder.rename(aside)


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]


# ------------------------------------------------------------------------------------------------ reading


def newest_state(layout: ModelLayout) -> Path | None:
    """The newest whole folder to go on from: a state, or a resumable checkpoint; None where training starts at step 0.

    A damaged state is named and set aside, so that the steps that made it can leave it anew; a damaged checkpoint is named and
    stays. Where nothing is whole, training starts again: its steps are the same ones, so it passes by the checkpoints that are
    there, and goes on behind them.
    """
    resumable = [path for path in _folders(layout.checkpoint(0).parent) if is_resumable(path)]
    found = sorted([*_folders(layout.states), *resumable], key=lambda path: (path.name, path.parent == layout.states), reverse=True)
    for folder in found:
        fault = _fault(folder)
        if fault is None:
            return folder
        what = f"  {folder / fault} is {'damaged' if (folder / fault).exists() else 'missing'}"
        if folder.parent == layout.states:
            with _told(folder):
                aside = _set_aside(folder)
            print(f"{what}; the state is set aside as {aside.name}", flush=True)
        else:
            print(f"{what}; the checkpoint stays as it is, and training does not go on from it", flush=True)
    kept = [step for step in layout.checkpoints() if step]
    if found or kept:
        stay = f"; the {len(kept)} checkpoints after step 0 stay as they are" if kept else ""
        print(f"  {layout.root} has no whole state to go on from: training starts again from step 0{stay}", flush=True)
    return None


def read_state(folder: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> State:
    """A state, or a resumable checkpoint. `shapes`: of the parameters of the model that is to go on, by name.

    DataError where it is no such folder, or its tensors don't fit each other or the model.
    """
    info = CheckpointInfo.read(folder)
    if absent := [name for name in (MOMENTS, TRAINER) if name not in info.files]:
        raise DataError(
            f"{folder} has no {absent[0]}: it holds a model, but not the optimizer's state, so training can't go on from it"
        )
    try:
        weights = load_file(folder / WEIGHTS) if WEIGHTS in info.files else _parameters(folder)
        moments = load_file(folder / MOMENTS)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise DataError(f"{folder} can't be read: {error}") from error
    if shapes is not None:
        _require_fit(folder, weights, shapes, "the model's parameters")
    known = {f"{key}.{name}": each.shape for key in ("exp_avg", "exp_avg_sq") for name, each in weights.items()}
    averages = {name: each for name, each in moments.items() if name != "step"}
    if moments:  # those of a parameter that was never trained are missing
        own = {name: shape for name, shape in known.items() if name.split(".", 1)[1] in _trained(averages)}
        _require_fit(folder, averages, own, "its own parameters")
        if "step" not in moments or moments["step"].numel() != 1:
            raise DataError(f"{folder / MOMENTS} doesn't say how many steps the optimizer has taken")
    return State(info, weights, moments, read_json(folder / TRAINER))


def _trained(averages: Mapping[str, Tensor]) -> set[str]:
    """Names of the parameters that have a moment."""
    return {name.split(".", 1)[1] for name in averages if "." in name}


def _require_fit(folder: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], what: str) -> None:
    """DataError for the first tensor that is missing, superfluous or of another shape."""
    for name in [*shapes, *tensors]:
        if name not in tensors:
            raise DataError(f"{folder} doesn't fit {what}: it has no {name}")
        if name not in shapes:
            raise DataError(f"{folder} doesn't fit {what}: its {name} is none of theirs")
        if (given := list(tensors[name].shape)) != (wanted := list(shapes[name])):
            raise DataError(f"{folder} doesn't fit {what}: its {name} has shape {given}, not {wanted}")


def _parameters(folder: Path) -> dict[str, Tensor]:
    """The parameters of a Hugging Face folder as its model names them, which is not always how they are called in the folder."""
    with _no_progress_bars():
        model, told = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if wrong := [name for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in told[key]]:
        raise DataError(f"{folder / MODEL} doesn't fit its config.json: {wrong[0]} is in one of them only, or of another shape")
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def is_resumable(checkpoint: Path) -> bool:
    """Whether a kept checkpoint holds the optimizer's state, too."""
    try:
        return MOMENTS in CheckpointInfo.read(checkpoint).files
    except (DataError, OSError):
        return (checkpoint / MOMENTS).exists()


def _fault(folder: Path) -> str | None:
    """The first file of a folder that is missing or not what was written; None where it is whole."""
    try:
        info = CheckpointInfo.read(folder)
    except (DataError, OSError):
        return MARKER
    if folder.name != f"step-{info.step:08d}":
        return MARKER
    return info.damaged(folder)
