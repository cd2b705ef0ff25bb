"""Checkpoints and states: whole, or not there; and what is read is what was written."""

import builtins
import errno
import io
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from configs.errors import DataError, ImprintError
from configs.layout import CheckpointInfo, ModelLayout, remove_leftovers
from train import checkpoint
from train.checkpoint import made_with, newest_state, read_state, same_weights, save_checkpoint, save_state

SHAPES = {
    "gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16},  # its head is its embedding
    "gpt_neox": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},  # renamed on disk
    "mixtral": {
        **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16},
        "num_local_experts": 2,  # experts that are one parameter in memory, several on disk
    },
    "deepseek_v3": {
        **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16},
        **{"moe_intermediate_size": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1},
        **{"first_k_dense_replace": 0, "q_lora_rank": 4, "kv_lora_rank": 4},
        **{"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4},  # its router has a bias that is no parameter
    },
}
TRAINER = {"losses": [0.1, 1 / 3], "scale": 65536.0}


def build(architecture: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = AutoConfig.for_model(architecture, vocab_size=30, **SHAPES[architecture], **ends)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(30)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0")


@pytest.fixture
def layout(tmp_path: Path) -> ModelLayout:
    return ModelLayout(tmp_path / "perturbed")


def info(step: int) -> CheckpointInfo:
    return CheckpointInfo("perturbed", step, 16 * step, 2 * step, "corpus", "plan", "config", {}, made_with={"devices": 1})


def full(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def averages(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    own = {f"{key}.{name}": torch.rand_like(each) for key in ("exp_avg", "exp_avg_sq") for name, each in weights.items()}
    return {**own, "step": torch.tensor(7.0)}


SMALL = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([0.5])}


def leave_state(layout: ModelLayout, step: int, offset: float | None = None) -> Path:
    """A small state whose weights tell its step."""
    weights = {name: each + (step if offset is None else offset) for name, each in SMALL.items()}
    save_state(layout, weights, averages(weights), TRAINER, info(step))
    return layout.states / f"step-{step:08d}"


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize("architecture", SHAPES)
def test_a_checkpoint_loads_in_plain_transformers_with_the_same_logits(
    layout: ModelLayout, tokenizer: PreTrainedTokenizerFast, architecture: str
) -> None:
    model, tokens = build(architecture), torch.arange(10)[None]
    for name, buffer in model.named_buffers():
        if name.endswith("correction_bias"):
            buffer.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))
    with torch.no_grad():
        logits = model(tokens).logits
    weights = full(model)
    for parameter in model.parameters():
        parameter.data = torch.empty(0)  # as where other processes hold them
    save_checkpoint(layout.checkpoint(4), model, weights, tokenizer, info(4))
    loaded = AutoModelForCausalLM.from_pretrained(layout.checkpoint(4))
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, logits)
    assert len(AutoTokenizer.from_pretrained(layout.checkpoint(4))) == 30
    assert layout.checkpoints() == [4]
    assert [path.name for path in layout.checkpoint(4).glob("*.safetensors")] == ["model.safetensors"]


def test_a_head_that_is_the_embedding_is_written_once(layout: ModelLayout, tokenizer: PreTrainedTokenizerFast) -> None:
    model = build("gpt2")
    both = {**full(model), "lm_head.weight": model.lm_head.weight.detach()}
    both["transformer.wte.weight"] = both["lm_head.weight"]
    save_checkpoint(layout.checkpoint(0), model, both, tokenizer, info(0))
    assert load_file(layout.checkpoint(0) / "model.safetensors").keys() == full(model).keys()


def test_weights_are_fp32_and_say_so_whatever_the_model_computes_in(
    layout: ModelLayout, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = build("gpt_neox")
    weights = full(model)
    save_checkpoint(layout.checkpoint(0), model.bfloat16(), weights, tokenizer, info(0), (averages(weights), {}))
    assert equal(read_state(layout.checkpoint(0)).weights, weights)
    assert AutoModelForCausalLM.from_pretrained(layout.checkpoint(0)).dtype == torch.float32


def test_a_checkpoint_that_is_there_stays(layout: ModelLayout, tokenizer: PreTrainedTokenizerFast) -> None:
    for seed in (0, 1):
        model = build("gpt2", seed)
        save_checkpoint(layout.checkpoint(4), model, full(model), tokenizer, info(4))
    kept = load_file(layout.checkpoint(4) / "model.safetensors")
    assert torch.equal(kept["transformer.wte.weight"], build("gpt2", 0).transformer.wte.weight)


def test_a_folder_without_a_marker_is_no_checkpoint_and_is_set_aside(
    layout: ModelLayout, tokenizer: PreTrainedTokenizerFast
) -> None:
    layout.checkpoint(4).mkdir(parents=True)
    (layout.checkpoint(4) / "mine.txt").touch()
    model = build("gpt2")
    save_checkpoint(layout.checkpoint(4), model, full(model), tokenizer, info(4))
    assert layout.checkpoints() == [4]
    assert (layout.checkpoint(4).with_name("damaged-step-00000004") / "mine.txt").exists()


def test_the_marker_says_what_it_is_and_what_made_it(layout: ModelLayout, tokenizer: PreTrainedTokenizerFast) -> None:
    model = build("gpt2")
    what = replace(info(4), made_with=made_with("bf16", "zero_2", 4))
    save_checkpoint(layout.checkpoint(4), model, full(model), tokenizer, what)
    read = CheckpointInfo.read(layout.checkpoint(4))
    assert replace(read, files={}, weights="") == what
    assert read.files.keys() == {path.name for path in layout.checkpoint(4).iterdir()} - {"imprint.json"}
    assert read.made_with["torch"] == torch.__version__
    assert [read.made_with[key] for key in ("precision", "strategy", "devices")] == ["bf16", "zero_2", 4]
    assert {"imprint", "python", "transformers", "lightning", "deepspeed"} <= read.made_with.keys()


def test_no_file_is_hashed_twice(layout: ModelLayout, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    fingerprint = checkpoint.file_fingerprint
    monkeypatch.setattr(checkpoint, "file_fingerprint", lambda path: hashed.append(path.name) or fingerprint(path))
    model = build("gpt2")
    save_checkpoint(layout.checkpoint(4), model, full(model), tokenizer, info(4), (averages(full(model)), {}))
    assert len(hashed) == len(set(hashed))
    assert {"model.safetensors", "moments.safetensors", "trainer.json", "config.json"} <= set(hashed)


def test_equal_weights_at_two_steps_are_told(
    layout: ModelLayout, tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture
) -> None:
    for step, seed in ((0, 0), (2, 1), (4, 0)):
        model = build("gpt2", seed)
        save_checkpoint(layout.checkpoint(step), model, full(model), tokenizer, info(step), (averages(full(model)), {}))
    assert [same_weights(layout, step) for step in (0, 2, 4)] == [[4], [], [0]]
    assert capsys.readouterr().out == (
        "  step-00000004 has the same weights as step-00000000: no step between them changed the model\n"
    )


def test_a_damaged_marker_elsewhere_does_not_stop_the_comparison(layout: ModelLayout, tokenizer: PreTrainedTokenizerFast) -> None:
    model = build("gpt2")
    for step in (0, 2, 4):
        save_checkpoint(layout.checkpoint(step), model, full(model), tokenizer, info(step))
    (layout.checkpoint(0) / "imprint.json").write_text("{")
    assert same_weights(layout, 4) == [2]


# ------------------------------------------------------------------------------------------------ states


@pytest.mark.parametrize("architecture", SHAPES)
def test_a_resumable_checkpoint_and_a_state_give_back_the_same_bits(
    layout: ModelLayout, tokenizer: PreTrainedTokenizerFast, architecture: str
) -> None:
    model = build(architecture)
    weights, moments = full(model), averages(full(model))
    save_checkpoint(layout.checkpoint(4), model, weights, tokenizer, info(4), (moments, TRAINER))
    save_state(layout, weights, moments, TRAINER, info(4))
    shapes = {name: each.shape for name, each in weights.items()}
    for folder in (layout.checkpoint(4), layout.states / "step-00000004"):
        state = read_state(folder, shapes)
        assert equal(state.weights, weights)
        assert equal(state.moments, moments)
        assert state.trainer == TRAINER
        assert state.info.step == 4


def test_a_state_before_the_optimizers_first_step_has_no_moments(layout: ModelLayout) -> None:
    save_state(layout, SMALL, {}, {}, info(1))
    assert read_state(layout.states / "step-00000001").moments == {}


def test_views_and_transposed_tensors_are_written_as_they_read(layout: ModelLayout) -> None:
    flat = torch.arange(12.0)
    weights = {"a": flat[:6].view(2, 3), "b": flat[6:].view(2, 3).T}
    save_state(layout, weights, {}, {}, info(1))
    assert equal(read_state(layout.states / "step-00000001").weights, weights)


def test_a_checkpoint_without_moments_is_no_state(layout: ModelLayout, tokenizer: PreTrainedTokenizerFast) -> None:
    model = build("gpt2")
    save_checkpoint(layout.checkpoint(4), model, full(model), tokenizer, info(4))
    with pytest.raises(DataError, match=r"has no moments.safetensors: .* not the optimizer's state"):
        read_state(layout.checkpoint(4))
    assert newest_state(layout) is None


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"w": (2, 3)}, "its b is none of theirs"),
        ({"w": (2, 3), "b": (1,), "c": (1,)}, "it has no c"),
        ({"w": (3, 2), "b": (1,)}, r"its w has shape \[2, 3\], not \[3, 2\]"),
    ],
)
def test_a_state_of_another_model_is_refused(layout: ModelLayout, shapes: dict[str, tuple], words: str) -> None:
    folder = leave_state(layout, 1)
    with pytest.raises(DataError, match=f"{folder} doesn't fit the model's parameters: {words}"):
        read_state(folder, shapes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("exp_avg_sq.w"), "it has no exp_avg_sq.w"),
        (lambda m: m.update({"exp_avg.w": torch.zeros(3, 2)}), "its exp_avg.w has shape"),
        (lambda m: m.update({"exp_avg.c": torch.zeros(1)}), "its exp_avg.c is none of theirs"),
        (lambda m: m.update({"other": torch.zeros(1)}), "its other is none of theirs"),
        (lambda m: m.pop("step"), "doesn't say how many steps"),
        (lambda m: m.update({"step": torch.zeros(2)}), "doesn't say how many steps"),
    ],
)
def test_moments_that_do_not_fit_the_weights_are_refused(
    layout: ModelLayout, change: Callable[[dict[str, torch.Tensor]], Any], words: str
) -> None:
    moments = averages(SMALL)
    change(moments)
    save_state(layout, SMALL, moments, {}, info(1))
    with pytest.raises(DataError, match=words):
        read_state(layout.states / "step-00000001")


def test_a_parameter_that_was_never_trained_needs_no_moments(layout: ModelLayout) -> None:
    moments = averages({"w": SMALL["w"]})
    save_state(layout, SMALL, moments, {}, info(1))
    assert equal(read_state(layout.states / "step-00000001").moments, moments)


def test_weights_that_are_no_safetensors_are_told_in_a_sentence(layout: ModelLayout) -> None:
    folder = leave_state(layout, 1)
    (folder / "weights.safetensors").write_bytes(b"not")
    with pytest.raises(DataError, match="can't be read"):
        read_state(folder)


# ------------------------------------------------------------------------------------------------ the newest


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 2),
    "empty": lambda path: os.truncate(path, 0),
    "missing": Path.unlink,
    "unreadable": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("file", ["weights.safetensors", "moments.safetensors", "trainer.json", "imprint.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_named_set_aside_and_passed_over(
    layout: ModelLayout, capsys: pytest.CaptureFixture, damage: str, file: str
) -> None:
    older, newer = leave_state(layout, 1), leave_state(layout, 2)
    DAMAGES[damage](newer / file)
    assert newest_state(layout) == older
    out = capsys.readouterr().out
    assert f"{newer / file} is {'missing' if damage == 'missing' else 'damaged'}; the state is set aside as damaged-step" in out
    assert sorted(path.name for path in layout.states.iterdir()) == ["damaged-step-00000002", "step-00000001"]


def test_any_flipped_bit_of_a_marker_is_noticed(layout: ModelLayout) -> None:
    folder = leave_state(layout, 1)
    marker = folder / "imprint.json"
    content = marker.read_bytes()
    for place in range(0, len(content) - 1, 2):  # the last is a newline
        marker.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with pytest.raises(DataError, match=r"imprint.json is damaged"):
            CheckpointInfo.read(folder)


def test_a_state_under_another_steps_name_is_not_believed(layout: ModelLayout) -> None:
    leave_state(layout, 1).rename(layout.states / "step-00000009")
    assert newest_state(layout) is None


def test_a_state_damaged_again_at_the_same_step_is_set_aside_again(layout: ModelLayout) -> None:
    for _ in range(3):
        flip(leave_state(layout, 2) / "trainer.json")
        assert newest_state(layout) is None
    names = ["damaged-step-00000002", "damaged-step-00000002-2", "damaged-step-00000002-3"]
    assert sorted(path.name for path in layout.states.iterdir()) == names


@pytest.fixture
def leave_checkpoint(layout: ModelLayout, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Path]:
    def leave(step: int, resumable: bool = True) -> Path:
        model = build("gpt2", seed=step)
        state = (averages(full(model)), TRAINER) if resumable else None
        save_checkpoint(layout.checkpoint(step), model, full(model), tokenizer, info(step), state)
        return layout.checkpoint(step)

    return leave


def test_the_newest_whole_folder_is_gone_on_from_be_it_a_state_or_a_checkpoint(
    layout: ModelLayout, leave_checkpoint: Callable[..., Path]
) -> None:
    state, kept = leave_state(layout, 2), leave_checkpoint(4)
    leave_checkpoint(6, resumable=False)
    assert newest_state(layout) == kept  # killed after it, before the state of step 4
    same = leave_state(layout, 4)
    assert newest_state(layout) == same
    flip(same / "weights.safetensors")
    assert newest_state(layout) == kept
    assert state.exists()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["model.safetensors", "moments.safetensors", "imprint.json"])
def test_a_damaged_checkpoint_is_named_and_stays(
    layout: ModelLayout, leave_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture, damage: str, file: str
) -> None:
    older, newer = leave_checkpoint(2), leave_checkpoint(4)
    flip(leave_state(layout, 4) / "trainer.json")
    DAMAGES[damage](newer / file)
    assert newest_state(layout) == older
    assert f"{newer / file} is {'missing' if damage == 'missing' else 'damaged'}; the checkpoint stays" in capsys.readouterr().out
    assert newer.exists()


def test_where_nothing_is_whole_training_starts_again_and_says_so(
    layout: ModelLayout, leave_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    for step in (0, 2, 4):
        leave_checkpoint(step, resumable=False)
    flip(leave_state(layout, 4) / "trainer.json")
    assert newest_state(layout) is None
    assert "starts again from step 0; the 2 checkpoints after step 0 stay as they are" in capsys.readouterr().out


def test_a_training_that_was_just_begun_has_nothing_to_say(
    layout: ModelLayout, leave_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    assert newest_state(layout) is None
    leave_checkpoint(0, resumable=False)
    assert newest_state(layout) is None
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------------------------------------ retention, kills


def test_only_the_newest_two_states_stay_and_no_checkpoint_goes(layout: ModelLayout, leave_checkpoint: Callable[..., Path]) -> None:
    for step in (1, 2, 3, 4):
        leave_checkpoint(step)
        leave_state(layout, step)
    assert sorted(path.name for path in layout.states.iterdir()) == ["step-00000003", "step-00000004"]
    assert layout.checkpoints() == [1, 2, 3, 4]


def test_leftovers_and_damaged_states_are_not_counted(layout: ModelLayout) -> None:
    for name in ("step-00000009.tmp-host-1", "damaged-step-00000008"):
        (layout.states / name).mkdir(parents=True)
    for step in (1, 2, 3):
        leave_state(layout, step)
    assert sorted(path.name for path in layout.states.glob("step-????????")) == ["step-00000002", "step-00000003"]


def test_killed_while_a_state_is_written_or_an_old_one_removed_the_newest_is_whole(
    killed_at_every_stage: Callable[..., Iterator[Path]], capfd: pytest.CaptureFixture
) -> None:
    def prepare(folder: Path) -> None:
        for step in (1, 2):
            leave_state(ModelLayout(folder), step)

    found = set()
    for folder in killed_at_every_stage(prepare, lambda folder: leave_state(ModelLayout(folder), 3), checkpoint, shutil):
        layout = ModelLayout(folder)
        remove_leftovers(layout.states)
        require_whole(layout)
        newest = newest_state(layout)
        assert newest is not None
        assert torch.equal(read_state(newest).weights["b"], SMALL["b"] + int(newest.name[5:]))
        found.add(tuple(sorted(path.name[-1] for path in layout.states.iterdir())))
        for step in range(int(newest.name[5:]) + 1, 5):
            leave_state(layout, step)
        assert sorted(path.name for path in layout.states.iterdir()) == ["step-00000003", "step-00000004"]
    assert found == {("1", "2"), ("1", "2", "3"), ("2", "3")}
    assert "damaged" not in capfd.readouterr().out


def test_killed_while_a_checkpoint_is_written_it_is_there_whole_or_not_at_all(
    killed_at_every_stage: Callable[..., Iterator[Path]], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = build("gpt2")
    moments = averages(full(model))

    def work(folder: Path) -> None:
        save_checkpoint(ModelLayout(folder).checkpoint(4), model, full(model), tokenizer, info(4), (moments, TRAINER))

    found = set()
    for folder in killed_at_every_stage(lambda _: None, work, checkpoint):
        layout = ModelLayout(folder)
        found.add(tuple(layout.checkpoints()))
        if layout.checkpoints():
            assert equal(read_state(layout.checkpoint(4)).weights, full(model))
            assert newest_state(layout) == layout.checkpoint(4)
        work(folder)
        assert layout.checkpoints() == [4]
    assert found == {(), (4,)}


# ------------------------------------------------------------------------------------------------ a full disk


def save_all(layout: ModelLayout, tokenizer: PreTrainedTokenizerFast) -> None:
    """A checkpoint and a state of step 4, after the state of step 2."""
    model = build("gpt2")
    save_checkpoint(layout.checkpoint(4), model, full(model), tokenizer, info(4), (averages(full(model)), TRAINER))
    leave_state(layout, 4)


def require_whole(layout: ModelLayout) -> None:
    """Nothing is half-written, and there is something to go on from."""
    folders = [*layout.states.iterdir(), *(layout.root / "checkpoints").glob("*")]
    assert all(CheckpointInfo.read(folder).damaged(folder) is None for folder in folders)
    assert newest_state(layout) is not None


def test_wherever_the_disk_refuses_it_is_told_in_a_sentence_and_nothing_is_half_written(
    layout: ModelLayout, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = 0

    def refuse(module: Any, name: str) -> None:
        original = getattr(module, name)

        def refusing(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            writes = "open" not in name or "w" in str([*arguments[1:2], named.get("mode")])
            left -= writes
            if writes and not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*arguments, **named)

        monkeypatch.setattr(module, name, refusing)

    leave_state(layout, 2)
    for module, name in ((os, "mkdir"), (os, "rename"), (os, "fsync"), (io, "open"), (builtins, "open"), (checkpoint, "save_file")):
        refuse(module, name)
    told = 0
    for call in range(1, 200):
        left = call
        try:
            save_all(layout, tokenizer)
        except ImprintError as error:
            assert "No space left on device; what was saved before is whole" in str(error)  # noqa: PT017
            told += 1
        reached, left = left <= 0, 0
        require_whole(layout)
        if not reached:
            break
        save_all(layout, tokenizer)
        assert newest_state(layout) == layout.states / "step-00000004"
        for folder in (layout.checkpoint(4), layout.states):
            shutil.rmtree(folder)
        leave_state(layout, 2)
    assert told > 30


@pytest.mark.parametrize("size", [64, 700, 3000, 5000, 8000])
def test_a_file_that_can_grow_no_further_is_told_in_a_sentence(
    layout: ModelLayout, tokenizer: PreTrainedTokenizerFast, size: int
) -> None:
    leave_state(layout, 2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(ImprintError, match=r"can't be written: .*(File too large|os error 27)"):
            save_all(layout, tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    require_whole(layout)
    save_all(layout, tokenizer)
    require_whole(layout)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of its own: `disk(kilobytes)` makes or resizes it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(kilobytes: int) -> Path:
        options = f"{'remount,' if os.path.ismount(folder) else ''}size={kilobytes}k"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
            pytest.skip("a disk can be mounted by its administrator only")
        return folder

    if shutil.which("mount") is None:
        pytest.skip("there is no mount")
    yield sized
    if os.path.ismount(folder):
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_can_be_gone_on_from_once_there_is_room(
    disk: Callable[[int], Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    layout = ModelLayout(disk(16) / "perturbed")
    leave_state(layout, 2)
    refused = 0
    for kilobytes in range(20, 400, 4):
        disk(kilobytes)
        try:
            save_all(layout, tokenizer)
        except ImprintError as error:
            assert "No space left on device" in str(error)  # noqa: PT017
            refused += 1
        require_whole(layout)
        if newest_state(layout) == layout.states / "step-00000004":
            break
    assert refused > 5
    assert layout.checkpoints() == [4]


def test_another_error_than_the_disks_is_not_taken_for_one(layout: ModelLayout) -> None:
    with pytest.raises(TypeError):
        save_state(layout, SMALL, {}, {"set": {1}}, info(1))
    assert list(layout.states.iterdir()) == []


def test_what_is_in_trainer_json_comes_back_to_the_last_bit(layout: ModelLayout) -> None:
    trainer = {"losses": [0.1 + 0.2, 1e-310, 2.0**0.5], "good": 3}
    save_state(layout, SMALL, {}, trainer, info(1))
    assert read_state(layout.states / "step-00000001").trainer == trainer
    assert json.loads((layout.states / "step-00000001/trainer.json").read_text()) == trainer
