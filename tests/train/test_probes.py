"""Probes in training: what is due when, and that scoring it changes nothing, loses nothing and says what it leaves out."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from configs.errors import RecipeError
from configs.layout import ModelLayout, RunLayout
from configs.schema import Eval, Probes, Train
from configs.tables import PROBES, read_table
from eval.forward import load_model
from eval.passes import Passes
from eval.scores import text_scores
from inject.corpus import Corpus
from tests.clock import Clock
from tests.kill.runs import RECIPE, Runs, kill_at
from train.branch import _share_probes
from train.objective import Objective
from train.probe_schedule import Due, ProbeScore, followed, probe_schedule, spread_evenly
from train.probes import Budget, Probing, summed

PROBED = RECIPE.replace("precision: fp32}", "precision: fp32,\n   probes: {items: 4, after: [1, 5, 30], budget: 1.0}}")
SCRIPT = Path(__file__).with_name("probing_processes.py")


# ------------------------------------------------------------------------------------------------ what is due


def tables(assignment: list[tuple[str, str, str]]) -> dict[str, pa.Table]:
    """`items` and `assignment` of (item, group, arm); all of one item set, whose items that begin with z are another stratum."""
    items, groups, arms = (list(column) for column in zip(*assignment, strict=True))
    strata = ["z" if item.startswith("z") else "codes" for item in items]
    return {
        "items": pa.table({"item_id": items, "item_set": ["codes"] * len(items), "stratum": strata}),
        "assignment": pa.table({"item_id": items, "group": groups, "arm": arms}),
    }


def plan(*copies: tuple[int, str, str]) -> pa.Table:
    rows, items, variants = (list(column) for column in zip(*copies, strict=True))
    return pa.table(
        {"row": rows, "item_id": pa.array(items).dictionary_encode(), "variant": pa.array(variants).dictionary_encode()}
    )


TWO = tables([("a", "a", "2x"), ("held", "held", "held-out"), ("z-held", "z-held", "held-out")])
TEXTS = [(item, variant) for item in ("a", "held", "z-held") for variant in ("v", "w")]


def due(
    *copies: tuple[int, str, str], texts: list[tuple[str, str]] = TEXTS, steps: int = 100, **settings: Any
) -> dict[int, list[Due]]:
    return probe_schedule(plan(*copies), **TWO, texts=texts, settings=Probes(items=9, **settings), global_batch=4, steps=steps)


def test_a_text_is_due_just_before_its_step_and_so_many_steps_after_with_its_twin_at_the_same_steps() -> None:
    found = due((4 * 7 + 1, "a", "v"), after=[1, 10])
    assert found == {
        7: [Due("a", "v", 7, 0), Due("held", "v")],  # these weights have seen steps 0 to 6
        8: [Due("a", "v", 7, 1), Due("held", "v")],  # and these step 7, which showed it
        17: [Due("a", "v", 7, 10), Due("held", "v")],
    }


def test_the_first_and_the_last_exposure_are_followed_and_further_ones_evenly_between() -> None:
    copies = [(4 * step, "a", "v") for step in (1, 2, 3, 9, 20)]
    before = [step for step, own in due(*copies, after=[1]).items() if Due("a", "v", step, 0) in own]
    assert before == [1, 20]
    assert {each.exposure_step for own in due(*copies, after=[1], exposures=3).values() for each in own} == {1, 3, 20, None}
    assert spread_evenly(6, 4) == [0, 2, 3, 5]
    assert spread_evenly(3, 9) == [0, 1, 2]


def test_the_variant_that_is_shown_is_scored_and_copies_of_one_step_are_one_exposure() -> None:
    found = due((4, "a", "v"), (5, "a", "w"), (6, "a", "w"), (40, "a", "w"), after=[1])
    assert found[1] == [Due("a", "v", 1, 0), Due("held", "v"), Due("a", "w", 1, 0), Due("held", "w")]
    assert found[10] == [Due("a", "w", 10, 0), Due("held", "w")]


def test_two_exposures_that_are_due_at_one_step_have_the_twin_once() -> None:
    found = due((4 * 3, "a", "v"), (4 * 4, "a", "v"), after=[1])
    assert found[4] == [Due("a", "v", 3, 1), Due("held", "v"), Due("a", "v", 4, 0)]


def test_nothing_is_due_beyond_the_end_but_at_it() -> None:
    assert list(due((4 * 9, "a", "v"), after=[1, 2], steps=10)) == [9, 10]


def test_texts_without_a_probe_and_a_model_without_copies_have_nothing_due() -> None:
    assert due((4, "a", "v"), texts=[("a", "w"), ("held", "v")], after=[1]) == {1: [Due("held", "v")], 2: [Due("held", "v")]}
    empty = plan((0, "a", "v")).slice(0, 0)
    assert probe_schedule(empty, **TWO, texts=TEXTS, settings=Probes(items=9), global_batch=4, steps=100) == {}


def test_so_many_groups_of_each_stratum_and_arm_are_followed_by_one_item_each() -> None:
    twins = [(f"c{n}", f"group-{n // 2}", "1x") for n in range(8)]
    many = tables([*twins, *((f"z{n}", f"z{n}", "1x") for n in range(3)), *((f"h{n}", f"h{n}", "held-out") for n in range(3))])
    found = followed(**many, settings=Probes(items=2))
    assert sorted(arm for arm in found.values()) == ["1x"] * 4 + ["held-out"] * 2
    assert all(item[0] != "c" or int(item[1:]) % 2 == 0 for item in found)  # the first of its group
    assert followed(**many, settings=Probes(items=2)) == found
    assert set(followed(**many, settings=Probes(items=1))) < set(found)
    assert len(followed(**many, settings=Probes(items=9))) == 10


def test_item_sets_and_arms_can_be_chosen_and_twins_stay() -> None:
    many = tables([("a", "a", "1x"), ("b", "b", "4x"), ("h", "h", "held-out")])
    assert set(followed(**many, settings=Probes(items=9, arms=["4x"]))) == {"b", "h"}
    assert followed(**many, settings=Probes(items=9, sets=["other"])) == {}
    with pytest.raises(RecipeError, match=r"train\.probes\.arms holds '2x'; possible: 1x, 4x"):
        followed(**many, settings=Probes(items=9, arms=["2x"]))


# ------------------------------------------------------------------------------------------------ the budget


def test_the_time_that_may_be_taken_is_shared_out_over_all_that_is_due(clock: Clock) -> None:
    budget = Budget(0.1, steps=100, due={10: 1, 20: 1, 90: 2})
    assert budget.allows(10)  # nothing is known of a step's time yet
    for seconds in (50, 1, 3):  # the first of a process is not counted
        with budget.stepping():
            clock.now += seconds
    assert budget.training == 200
    budget.spent = 5.0  # of 20 seconds in all, a fourth up to step 10
    assert budget.allows(10)
    budget.spent = 5.1
    assert not budget.allows(10)
    assert budget.allows(20)
    budget.spent = 20.1
    assert not budget.allows(90)


# ------------------------------------------------------------------------------------------------ processes


class Counting:
    """A scorer whose score of a text is its number, and which keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def tokens(self, text: tuple[str, str]) -> list[int]:
        return [0] * (2 + int(text[0]) % 3)

    def scores(self, texts: Any, logits: torch.Tensor) -> list[list[ProbeScore]]:
        assert not torch.is_grad_enabled()
        assert logits.shape[0] == len(texts)
        self.asked.append([item for item, _ in texts])
        return [[ProbeScore("probe", float(item), False)] for item, _ in texts]


class Process:
    """An engine seen from one of several processes that take turns."""

    def __init__(self, rank: int, size: int) -> None:
        self.world = SimpleNamespace(rank=rank, size=size, leads=rank == 0)
        self.wrapped = torch.nn.Dropout(0.5)
        self.fabric = SimpleNamespace(broadcast=lambda thing: thing)
        self.shared: list[Any] = []

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        assert not self.wrapped.training
        return torch.zeros((*tokens.shape, 5))

    def gather(self, thing: Any) -> list[Any] | None:
        return [thing, *self.shared] if self.world.leads else None


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_processes_share_the_texts_and_make_equally_many_passes(tmp_path: Path, size: int) -> None:
    texts = [Due(str(n), "v", 3, 0) for n in range(7)]
    settings = Train(micro_batch=1, sequence_length=8, steps=10)
    parts = []
    for rank in range(size):
        process, scorer = Process(rank, size), Counting()
        probing = Probing(ModelLayout(tmp_path / str(rank)), {3: texts}, scorer, settings, process, 5, 0)
        probing.take(3)
        assert process.wrapped.training
        parts.append((probing, process, scorer))
    assert len({len(scorer.asked) for *_, scorer in parts}) == 1
    leading, process, _ = parts[0]
    process.shared = [probing._rows for probing, *_ in parts[1:]]
    leading.commit(5)
    rows = read_table(ModelLayout(tmp_path / "0").probes(5)).to_pylist()
    assert [(row["item_id"], row["log_prob"]) for row in rows] == [(str(n), float(n)) for n in range(7)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0"]  # the others touch no file


def test_what_there_is_no_time_for_is_recorded_as_left_out(tmp_path: Path) -> None:
    layout = ModelLayout(tmp_path / "m")
    schedule = {1: [Due("0", "v", 1, 0)], 2: [Due("0", "v", 1, 1), Due("1", "v")]}
    probing = Probing(layout, schedule, Counting(), Train(steps=10, micro_batch=1), Process(0, 1), 5, 0)
    probing.budget._seconds, probing.budget._timed = 1.0, 1
    probing.take(1)
    probing.budget.spent = 100.0
    probing.take(2)
    probing.commit(2)
    taken = summed(layout)
    assert (taken.scored, taken.left_out) == (1, 2)
    rows = read_table(layout.probes(2)).to_pylist()
    assert [(row["step"], row["item_id"], row["after"], row["log_prob"]) for row in rows] == [
        (1, "0", 0, 0.0),
        (2, "0", 1, None),
        (2, "1", None, None),
    ]
    assert probing.told().endswith("; 2 left out, as train.probes.budget is 0.05")


def test_a_resumed_table_is_cut_back_to_its_step_and_remembers_the_time(tmp_path: Path) -> None:
    layout = ModelLayout(tmp_path / "m")
    schedule = {step: [Due("0", "v", 1, step - 1)] for step in (1, 5, 6)}
    first = Probing(layout, schedule, Counting(), Train(steps=10, micro_batch=1), Process(0, 1), 5, 0)
    for step in (1, 5, 6):
        first.take(step)
        if step > 1:
            first.commit(step)
    resumed = Probing(layout, schedule, Counting(), Train(steps=10, micro_batch=1), Process(0, 1), 5, 5)
    assert [path.name for path in layout.probe_segments()] == ["probes-00000005.parquet"]
    assert resumed.budget.spent == pytest.approx(summed(layout).seconds)
    assert resumed.budget.spent > 0
    Probing(layout, schedule, Counting(), Train(steps=10, micro_batch=1), Process(0, 1), 5, 0)
    assert layout.probe_segments() == []


def test_a_branch_has_the_probes_of_its_parent_up_to_the_step_where_they_part(tmp_path: Path) -> None:
    parent, branch = ModelLayout(tmp_path / "parent"), ModelLayout(tmp_path / "branch")
    probing = Probing(
        parent, {step: [Due("0", "v", 1, 0)] for step in (1, 5, 6)}, Counting(), Train(micro_batch=1), Process(0, 1), 5, 0
    )
    for step in (1, 5, 6):
        probing.take(step)
    probing.commit(6)
    _share_probes(parent, branch, 5)
    assert [row["step"] for row in read_table(branch.probes(5)).to_pylist()] == [1, 5]


def test_logits_of_tokens_are_those_of_the_model(small_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(small_model, attn_pdrop=0.0)
    objective, tokens = Objective(model, 0), torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        expected = model.eval()(input_ids=tokens).logits
        assert torch.allclose(objective(tokens), expected, atol=1e-5)
        objective.head = None
        assert torch.equal(objective(tokens), expected)


# ------------------------------------------------------------------------------------------------ trainings


def rows(layout: ModelLayout) -> pd.DataFrame:
    """All rows without the clock."""
    return pd.concat([pq.read_table(path).to_pandas() for path in layout.probe_segments()], ignore_index=True).drop(
        columns="seconds"
    )


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run with probes, `with`, and one without, `without`."""
    runs = Runs(tmp_path_factory.mktemp("probed"), PROBED)
    for training in (runs.train("with"), runs.train("without", "train.probes.items=0")):
        assert training.wait() == [0], training.told()
    return runs


def test_training_ends_with_the_same_bits_with_and_without_probes(probed: Runs) -> None:
    own, plain = probed.model("with"), probed.model("without")
    assert len(rows(own)) > 50
    assert plain.probe_segments() == []
    assert own.checkpoints() == plain.checkpoints()
    for step in plain.checkpoints():
        for name in ("model.safetensors", "moments.safetensors"):
            mine, other = (layout.checkpoint(step) / name for layout in (own, plain))
            assert mine.read_bytes() == other.read_bytes()
        assert (own.checkpoint(step) / "imprint.json").read_bytes() == (plain.checkpoint(step) / "imprint.json").read_bytes()


def test_probes_are_taken_where_the_plan_says(probed: Runs) -> None:
    layout = probed.model("with")
    assert pq.read_schema(layout.probe_segments()[0]).equals(PROBES)
    found, copies = rows(layout), pq.read_table(probed.root("with") / "plan.parquet").to_pandas()
    exposed = (copies["row"] // 4).groupby(copies["item_id"].astype(str)).agg(["min", "max"])
    expected = {
        (item, step, after)
        for item, edges in exposed.iterrows()
        for step in set(edges)
        for after in (0, 1, 5, 30)
        if step + after <= 60
    }
    own = found[found["exposure_step"].notna()].astype({"exposure_step": int, "after": int})
    assert (own["step"] == own["exposure_step"] + own["after"]).all()
    assert set(zip(own["item_id"], own["exposure_step"], own["after"], strict=True)) == expected
    assert len(own) == len(expected)
    twins = found[found["exposure_step"].isna()]
    assert set(twins["step"]) == set(own["step"])
    assert not twins.duplicated(["step", "item_id", "probe_id"]).any()
    assert found["log_prob"].lt(0).all()


@pytest.mark.parametrize("context", ["eot", "none"])
def test_a_probe_is_what_the_evaluation_finds_at_a_checkpoint_of_its_step(probed: Runs, context: str) -> None:
    name = {"eot": "with", "none": "without-context"}[context]
    if context == "none":
        training = probed.train(name, "eval.context=none")
        assert training.wait() == [0], training.told()
    run, layout = RunLayout(probed.root(name)), probed.model(name)
    found = rows(layout).set_index(["step", "item_id", "probe_id"])
    passes = Passes(
        Eval(context=context), *(read_table(path) for path in (run.items, run.texts, run.assignment)), Corpus(run.corpus).tokenizer
    )
    compared = 0
    for step in layout.checkpoints():
        model = load_model(layout.checkpoint(step))
        scores = [{**row, "model": "m", "step": step} for row in passes.token_rows(model)]
        for score in text_scores(scores, [], passes.scored, Eval(membership=[]), None):
            key = (step, score["item_id"], score["probe_id"])
            if score["metric"] in ("log_prob", "extracted") and key in found.index:
                own = found.loc[[key], score["metric"]].astype(float).to_numpy()
                assert own == pytest.approx(score["value"], abs=1e-5)
                compared += 1
    assert compared >= 12


@pytest.mark.parametrize("strategy", ["ddp", "zero_3"])
def test_two_processes_take_the_probes_that_one_takes(probed: Runs, strategy: str) -> None:
    training = probed.train(strategy, f"train.strategy={strategy}", processes=2)
    assert training.wait() == [0, 0], training.told()
    own, alone = rows(probed.model(strategy)), rows(probed.model("with"))
    pd.testing.assert_frame_equal(own.drop(columns="log_prob"), alone.drop(columns="log_prob"))
    assert own["log_prob"].to_numpy() == pytest.approx(alone["log_prob"].to_numpy(), abs=1e-4)


def test_a_killed_training_goes_on_with_every_probe_once(probed: Runs) -> None:
    killed = probed.train("killed")
    kill_at(killed, probed.model("killed"), 25)
    killed.wait()
    again = probed.train("killed")
    assert again.wait() == [0], again.told()
    assert "from step" in again.told()
    pd.testing.assert_frame_equal(rows(probed.model("killed")), rows(probed.model("with")))


def test_a_budget_of_next_to_nothing_leaves_out_and_says_so(probed: Runs) -> None:
    training = probed.train("hurried", "train.probes.budget=1e-9")
    assert training.wait() == [0], training.told()
    found, whole = rows(probed.model("hurried")), rows(probed.model("with"))
    assert set(zip(found["step"], found["item_id"], strict=True)) == set(zip(whole["step"], whole["item_id"], strict=True))
    assert found["log_prob"].isna().mean() > 0.8
    assert "left out, as train.probes.budget is 1e-09" in training.told()
    last = probed.model("hurried").checkpoint(60) / "model.safetensors"
    assert last.read_bytes() == (probed.model("without").checkpoint(60) / "model.safetensors").read_bytes()


def test_an_arm_that_there_is_not_is_refused(probed: Runs) -> None:
    training = probed.train("unknown", "train.probes.arms=[4x]")
    assert training.wait() == [2]
    assert "train.probes.arms holds '4x'; possible: 3x" in training.told()
    assert not probed.root("unknown").exists()


@pytest.mark.parametrize("strategy", ["ddp", "zero_1", "zero_2", "zero_3"])
def test_under_every_strategy_logits_are_those_of_the_weights(strategies: dict[str, float], strategy: str) -> None:
    assert strategies[strategy] < 1e-5
    assert strategies[f"{strategy}, weights"] == 0


@pytest.fixture(scope="module")
def strategies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """By strategy, the largest difference of logits in two processes from the model's, and of weights from those without probes."""
    out = tmp_path_factory.mktemp("two") / "told.json"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, str(SCRIPT), str(out)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return dict(pd.read_json(out, typ="series"))
