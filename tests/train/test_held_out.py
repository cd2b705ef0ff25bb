"""The loss on rows that training never reaches."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from configs.schema import Train
from inject.corpus import Corpus
from inject.stream import Overlay, Stream
from train.held_out import held_out_loss, held_out_rows, held_out_tokens, told
from train.objective import Objective
from train.world import World

LENGTH = 12


def settings(steps: int, held_out: int) -> Train:
    return Train(steps=steps, global_batch=4, sequence_length=LENGTH, held_out_rows=held_out)


class Processes:
    """An engine seen from one of several processes, which share out the rows and sum up by hand."""

    def __init__(self, rank: int = 0, size: int = 1):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": LENGTH + 1, "vocab_size": 300}
            model = GPT2LMHeadModel(
                GPT2Config(**shape, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
            )
        self.world = World(rank, size)
        self.device = torch.device("cpu")
        self.wrapped = Objective(model, end_of_text=0).train()
        self.passes: list[tuple[int, ...]] = []

    def loss(self, tokens: torch.Tensor, label_mask: torch.Tensor, row_numbers: torch.Tensor) -> torch.Tensor:
        self.passes.append((*tokens.shape, *label_mask.shape, *row_numbers.shape))
        assert not self.wrapped.training
        assert not torch.is_grad_enabled()
        return self.wrapped(tokens, label_mask, row_numbers)

    def sum(self, value: torch.Tensor) -> float:
        return float(value)


def tokens(rows: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 300, (rows, LENGTH + 1))


def test_the_last_rows_of_the_first_epoch_that_no_step_reads_are_held_out() -> None:
    assert held_out_rows(settings(steps=10, held_out=3), base_rows=100).tolist() == [97, 98, 99]
    assert held_out_rows(settings(steps=24, held_out=8), base_rows=100).tolist() == [96, 97, 98, 99]
    assert held_out_rows(settings(steps=25, held_out=8), base_rows=100).tolist() == []
    assert held_out_rows(settings(steps=60, held_out=8), base_rows=100).tolist() == []
    assert held_out_rows(settings(steps=10, held_out=0), base_rows=100).tolist() == []


def test_too_few_rows_are_told() -> None:
    assert told(settings(10, held_out=3), 3) == told(settings(10, held_out=0), 0) == ""
    assert "4 rows" in told(settings(24, held_out=8), 4)
    assert "no held-out loss" in told(settings(25, held_out=8), 0)


def test_the_rows_are_base_rows_that_differ_from_all_that_training_reads(small_corpus: Corpus) -> None:
    rows = small_corpus.tokens // (LENGTH + 1)
    train = settings(steps=(rows - 5) // 4, held_out=5)
    at = np.arange(rows)
    everywhere = Overlay(at, at * 0 + 2, at * 0, at < 0, np.array([0]), np.array([3]), np.array([7, 7, 7]))
    perturbed = Stream(small_corpus, 3, LENGTH, everywhere)
    held_out = held_out_tokens(train, perturbed)
    assert (held_out == held_out_tokens(train, Stream(small_corpus, 3, LENGTH))).all()
    assert not (held_out == perturbed.rows(at[-5:]).tokens).all()
    read = perturbed.base_row(np.arange(train.steps * train.global_batch))
    assert not np.isin(perturbed.base_row(held_out_rows(train, rows)), read).any()


@pytest.mark.parametrize("micro_batch", [1, 3, 7, 20])
def test_the_loss_is_the_mean_of_the_labels_whatever_the_passes(micro_batch: int) -> None:
    engine, rows = Processes(), tokens(7)
    model = engine.wrapped.model.eval()
    expected = float(model(input_ids=torch.from_numpy(rows), labels=torch.from_numpy(rows)).loss.detach())
    engine.wrapped.train()
    assert held_out_loss(engine, rows, micro_batch) == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(math.log(300), rel=0.02)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_processes_share_the_rows_and_make_equally_many_passes_of_one_shape(size: int) -> None:
    rows = tokens(7)
    processes = [Processes(rank, size) for rank in range(size)]
    parts = [held_out_loss(process, rows, micro_batch=2) for process in processes]
    assert sum(parts) == pytest.approx(held_out_loss(Processes(), rows, micro_batch=7), rel=1e-6)
    assert len({tuple(process.passes) for process in processes}) == 1
    assert set(processes[0].passes) == {(2, LENGTH + 1, 2, LENGTH, 2)}


def test_training_goes_on_with_dropout_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Processes()
    held_out_loss(engine, tokens(2), 2)
    assert all(module.training for module in engine.wrapped.modules())
    monkeypatch.setattr(engine, "sum", None)
    with pytest.raises(TypeError):
        held_out_loss(engine, tokens(2), 2)
    monkeypatch.setattr(engine, "loss", SimpleNamespace())
    with pytest.raises(TypeError):
        held_out_loss(engine, tokens(2), 2)
    assert all(module.training for module in engine.wrapped.modules())
