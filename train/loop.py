"""The training loop: read a step's rows, accumulate the gradient, step, write the ledger, log, save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from configs.errors import ImprintError, Stopped
from configs.layout import CheckpointInfo, ModelLayout, remove_leftovers, write_json
from configs.lock import Lock
from configs.progress import progress
from configs.schema import Model, Train
from inject.mixture import Mixture, used
from inject.stream import Stream, row_digests
from train.checkpoint import made_with, newest_state, read_state, save_checkpoint, save_state
from train.engine import Engine, connected, engine_of, require_whole_parameters, together
from train.execution import Execution, settle, shared_out
from train.flops import assumed_peak, flops_per_token
from train.held_out import held_out_loss, held_out_tokens, told
from train.ledger import Ledger
from train.lora import is_expanded, merged
from train.metrics import Metrics
from train.milestones import Milestones, milestones
from train.model import build_model, prepare, started_moments
from train.objective import Objective, Term
from train.probe_schedule import Schedule, Scorer
from train.probes import Probing
from train.schedule import learning_rate
from train.spikes import Guard
from train.stages import Ending
from train.stop import Stop
from train.world import World

# Given the model as its training starts and the device that it trains on: changes it, if it is to be changed before that, and says
# which terms are added to its loss. Called again where training goes on, before the state is read into the model.
Adapt = Callable[[PreTrainedModel, torch.device], Sequence[Term]]


@dataclass(frozen=True)
class Trajectory:
    """What defines one model's training, with the fingerprints that its checkpoints carry."""

    name: str
    model: Model
    train: Train
    stream: Stream | Mixture
    tokenizer: PreTrainedTokenizerFast
    init_seed: int
    windows: Sequence[tuple[int, int]]  # steps of the first and the last exposure of each window of the design
    corpus: str  # fingerprints
    plan: str
    config: str
    positions: int = 0  # tokens that new weights are drawn for, where other rows of the recipe are longer
    branched: int = 0  # the step at which it left its parent's trajectory: it has no checkpoints of its own before
    held_out: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.int64))  # of a stage: tokens (n, S + 1) of such rows
    ending: Ending | None = None  # of a stage: when it ends before its last step, if it does
    probes: Schedule = field(default_factory=dict)  # what is scored around exposures, and how
    scorer: Scorer | None = None
    adapt: Adapt | None = None  # of a stage


def train(trajectory: Trajectory, layout: ModelLayout, cache: Path, world: World, stop: Stop) -> None:
    """Train a model to its last step, from its newest resume state if there is one; all processes of `world` call this.

    The leading one writes all files. Where `stop` of any process is asked, all raise Stopped after the step they are in, once the
    state is saved and the lock is free.
    """
    settings = shared_out(trajectory.train, world)
    with connected(settings, world) as fabric:
        with ExitStack() as held:
            settled: tuple[Execution, Path | None] | None = None
            with together(fabric):
                if world.leads:
                    held.enter_context(Lock(layout.root, patient=world.scheduled))
                    layout.stopped.unlink(missing_ok=True)
                    for folder in (layout.root, layout.states, layout.checkpoint(0).parent):
                        remove_leftovers(folder)
                    settled = _settle(trajectory, settings, world, layout, cache), newest_state(layout)
            execution, state = fabric.broadcast(settled)
            training = Training(trajectory, settings, layout, fabric, execution, world, state, stop)
            try:
                stopped = training.run()
            finally:
                training.engine.close()
        if stopped:
            fabric.barrier()  # a launcher ends the others when one process has ended: none may before the lock is free
            raise Stopped(stopped)


class Training:
    """One process's part in the training of a model."""

    def __init__(
        self,
        trajectory: Trajectory,
        settings: Train,
        layout: ModelLayout,
        fabric: Fabric,
        execution: Execution,
        world: World,
        state: Path | None,
        stop: Stop,
    ):
        self.trajectory, self.settings, self.layout, self.world, self.stop = trajectory, settings, layout, world, stop
        self.stream = trajectory.stream
        model, moments, trainer, self.first = new_model(trajectory), {}, {}, 0
        torch.set_num_threads(execution.threads)  # before adapt: a Fisher information taken again is the same bits
        terms = trajectory.adapt(model, fabric.device) if trajectory.adapt else ()
        if state is None:
            moments = {} if trajectory.ending else started_moments(trajectory.model) or {}  # a stage's averages begin at zero
        else:
            found = read_state(state, {name: p.shape for name, p in model.named_parameters()})
            if found.info.config != trajectory.config:
                raise ImprintError(f"{state} was made with other settings; give this run a name of its own with name=")
            model.load_state_dict(found.weights, strict=False)  # tied weights are named once; read_state has compared the names
            moments, trainer, self.first = found.moments, found.trainer, found.info.step
        flops = flops_per_token(model, settings.sequence_length)
        peak = assumed_peak(fabric.device, execution.precision, world.size, settings.peak_tflops)
        self.guard = Guard(settings.spikes, self.first, trainer.get("spikes"), scaled=execution.precision == "fp16")
        self.engine = new_engine(fabric, trajectory, model, settings, execution, world, self.guard, terms)
        self.engine.scale.load(trainer.get("loss_scale"))
        if moments:
            self.engine.load_moments(moments)
        self.milestones: Milestones = milestones(settings, trajectory.windows)
        self.held_out = trajectory.held_out
        if isinstance(self.stream, Stream):
            self.held_out = held_out_tokens(settings, self.stream)
        self.ending = trajectory.ending
        if self.ending:
            self.ending.load(trainer.get("ending"))
        self.ledger = Ledger(layout, self.first, self.engine.gather)
        probes, scorer, vocabulary = trajectory.probes, trajectory.scorer, trajectory.stream.corpus.vocabulary
        self.probes = Probing(layout, probes, scorer, settings, self.engine, vocabulary, self.first)
        self.info = CheckpointInfo(
            trajectory.name, 0, 0, 0, trajectory.corpus, trajectory.plan, trajectory.config, {}, "",
            made_with(execution.precision, settings.strategy, world.size),
        )  # fmt: skip
        self.metrics = Metrics(
            layout,
            settings,
            self.first,
            flops_per_token=flops,
            peak=peak.flops,
            described={"model": trajectory.name, "config": trajectory.config, **asdict(trajectory.model), **asdict(settings)},
            leads=world.leads,
        )
        if world.leads:
            devices = f" on {world.size} {fabric.device.type} devices" if world.size > 1 else ""
            how = f"{execution.precision}, {settings.strategy}{devices}, {execution.threads} thread(s)"
            print(f"  {trajectory.name}: {how}" + (f", from step {self.first:,}" if self.first else ""))
            lines = [
                started(trajectory.model, bool(moments))
                if state is None
                else missing(layout, self.milestones, trajectory.branched, self.first - bool(self.ending and self.ending.why)),
                peak.told if peak.flops or fabric.device.type == "cuda" else "",
                told(settings, len(self.held_out)),
                self.probes.announced(),
            ]
            for line in filter(None, lines):
                print(f"  {line}", flush=True)

    def run(self) -> str | None:
        """Take the steps that are left, or those until all processes agree to stop: then a sentence that says so."""
        settings = self.settings
        shown = progress(f"train {self.trajectory.name}", "steps", settings.steps, done=self.first, shown=self.world.leads)
        with self.metrics as metrics, shown as meter:
            step, ended, stopping = self.first, bool(self.ending and self.ending.why), False
            if step == 0:
                self.probes.take(0)
            if step == 0 or ended:  # the checkpoint of a stage that has ended may be gone
                self._save(step, ended=ended)
            while step < settings.steps and not (ended or stopping):
                with self.probes.budget.stepping():
                    note, asked = self.step(step)
                step += 1
                with metrics.aside():
                    self.probes.take(step)
                    ended = self.ending is not None and self.ending.ends(step - 1, self.loss, self.engine)
                    stopping = asked and step < settings.steps and not ended
                    self._save(step, stopping, ended)
                meter.advance(1, note)
        if stopping:
            return self._stopped(step)
        if self.world.leads and (told_of_probes := self.probes.told()):
            print(f"  {told_of_probes}", flush=True)
        if self.ending:
            self._finished(step)
        return None

    def step(self, step: int) -> tuple[str | None, bool]:
        """Take one step, from its rows to its line in the ledger; what there is to say of it, if anything, and whether to stop."""
        settings, batch = self.settings, self.settings.global_batch
        share = batch // self.world.size  # rows of a step that are this process's
        numbers = step * batch + self.world.rank * share + np.arange(share)
        rows = self.stream.rows(numbers)
        labels = self.engine.total(int(rows.label_mask.sum()))
        length = used(rows.label_mask) if self.stream.padded else settings.sequence_length
        accumulate(self.engine, rows.tokens[:, : length + 1], rows.label_mask[:, :length], numbers, labels, settings)
        digests = row_digests(rows.tokens, rows.label_mask)  # while the device computes
        rate = learning_rate(settings, step)
        applied, grad_norm, self.loss, asked = self.engine.step(rate, self.stop.asked is not None)
        self.ledger.add(step, rate, applied, digests)
        return self.metrics.taken(step, self.loss, rate, grad_norm, applied, self.guard.reason, length), asked

    def _finished(self, step: int) -> None:
        """Record at which step a stage has ended, and why."""
        with together(self.engine.fabric):
            if self.world.leads and self.ending:
                write_json(self.layout.finished, {"step": step, "steps": self.settings.steps, "why": self.ending.why})
                print(f"  {self.trajectory.name} ended after {step:,} steps: {self.ending.why}", flush=True)

    def _stopped(self, step: int) -> str:
        """Record that training stopped before `step`; a sentence that says so, the same on every process."""
        asked, sentence = self.engine.gather(self.stop.asked), ""
        with together(self.engine.fabric):
            if asked is not None:
                signal, steps = next(name for name in asked if name), self.settings.steps
                write_json(self.layout.stopped, {"step": step, "steps": steps, "signal": signal})
                sentence = f"{self.trajectory.name} stopped at step {step:,} of {steps:,}, as {signal} asked; its state is saved, "
                sentence += "and run again it goes on"
        return str(self.engine.fabric.broadcast(sentence))

    def _save(self, step: int, stopping: bool = False, ended: bool = False) -> None:
        """Leave a checkpoint and a resume state where the schedule has one, or training has ended; and a state where it stops.

        See train/checkpoint.py on why in this order.
        """
        kept, resumed = self.milestones.keeps(step) or ended, self.milestones.resumes(step) or stopping or ended
        if not (kept or resumed):
            return
        with together(self.engine.fabric):
            self.ledger.commit()
        with together(self.engine.fabric):
            self.probes.commit(step)
        if kept and len(self.held_out):
            self.metrics.held_out(step, held_out_loss(self.engine, self.held_out, self.settings.micro_batch or 1))
        settings, model = self.settings, self.engine.model
        resumable = step in self.milestones.resumable and not is_expanded(model)
        tokens = step * settings.global_batch * settings.sequence_length
        info = replace(self.info, step=step, tokens=tokens, row=step * settings.global_batch, files={})
        weights = self.engine.weights()
        moments = self.engine.moments() if resumed or resumable else {}
        trainer = {"spikes": self.guard.state(), "loss_scale": self.engine.scale.state()}
        trainer |= {"ending": self.ending.state()} if self.ending else {}
        with together(self.engine.fabric):
            if kept and self.world.leads:
                state = (moments, trainer) if resumable else None
                plain = merged(model, weights)
                save_checkpoint(self.layout.checkpoint(step), model, plain, self.trajectory.tokenizer, info, state)
            if resumed and self.world.leads:
                save_state(self.layout, weights, moments, trainer, info)


def accumulate(
    engine: Engine, tokens: np.ndarray, label_mask: np.ndarray, numbers: np.ndarray, labels: int | torch.Tensor, settings: Train
) -> None:
    """Add up the gradient of a step's loss, the mean over the step's `labels`, from this process's rows.

    tokens (n, S + 1) int64, label_mask (n, S) bool, numbers (n,) int64: the rows' numbers in the stream.
    """
    micro_batch = settings.micro_batch or len(tokens)
    starts = range(0, len(tokens), micro_batch)
    for start in starts:
        chosen = slice(start, start + micro_batch)
        parts = (engine.send(torch.from_numpy(part[chosen])) for part in (tokens, label_mask, numbers))
        engine.backward(engine.loss(*parts) / labels, last=start == starts[-1])


def started(model: Model, averages: bool) -> str:
    """What training starts from, if from a model that exists."""
    if model.start is None:
        return ""
    if averages:
        return f"starts from {model.start}, with the optimizer's averages of its training"
    return f"starts from {model.start}, which holds no averages of an optimizer: AdamW's begin at zero"


def missing(layout: ModelLayout, milestones: Milestones, branched: int, first: int) -> str:
    """Which checkpoints that were left from step `branched` to step `first` are not there any more, if any."""
    there = set(layout.checkpoints())
    gone = [step for step in milestones.kept if branched <= step <= first and step not in there]
    if not gone:
        return ""
    return (
        f"checkpoints that were kept are missing, {len(gone)} up to step {first:,}: {', '.join(f'{step:,}' for step in gone[:8])}"
        f"{', ...' if len(gone) > 8 else ''}; training goes on behind them and does not make them again"
    )


def new_model(trajectory: Trajectory) -> PreTrainedModel:
    corpus, length = trajectory.stream.corpus, max(trajectory.positions, trajectory.train.sequence_length)
    return build_model(trajectory.model, corpus.vocabulary, length, corpus.end_of_text, trajectory.init_seed, trajectory.tokenizer)


def new_engine(
    fabric: Fabric,
    trajectory: Trajectory,
    model: PreTrainedModel,
    settings: Train,
    execution: Execution,
    world: World,
    guard: Guard,
    terms: Sequence[Term] = (),
) -> Engine:
    """The engine of a model that holds its weights; `terms` are added to its loss."""
    if terms or is_expanded(model):
        require_whole_parameters(settings.strategy)
    end_of_text = trajectory.stream.corpus.end_of_text
    objective = Objective(
        model,
        end_of_text,
        mask_documents=settings.mask_documents,
        chunk=settings.loss_chunk,
        seed=trajectory.init_seed,
        terms=terms,
        compiled=settings.compile,
    )
    prepare(model, settings, fabric.device)
    return engine_of(settings.strategy)(fabric, objective, settings, execution, world, guard.admits)


def _settle(trajectory: Trajectory, settings: Train, world: World, layout: ModelLayout, cache: Path) -> Execution:
    model = trajectory.model
    sizes = [model.architecture, model.layers, model.width, trajectory.stream.corpus.vocabulary]
    shape = [*sizes, settings.micro_batch, settings.sequence_length]
    return settle(settings, world, cache, layout.root / "execution.json", shape, lambda e: _try_steps(trajectory, settings, e))


def _try_steps(trajectory: Trajectory, settings: Train, execution: Execution) -> None:
    """A few steps of a throw-away model on one device, to be timed."""
    alone = replace(settings, strategy="single")
    with connected(alone, World()) as fabric:
        engine = new_engine(fabric, trajectory, new_model(trajectory), alone, execution, World(), Guard(settings.spikes))
        numbers = np.arange(settings.micro_batch or 1)
        rows = trajectory.stream.rows(numbers)
        for _ in range(5):
            accumulate(engine, rows.tokens, rows.label_mask, numbers, rows.label_mask.size, alone)
            engine.step(0.0)
