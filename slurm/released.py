"""The jobs of an experiment without training, whose `models` exist: prefetch -> items -> eval, one for each -> report.

`prefetch` pins branches to commits, fetches the files and says in models.json what each model is; it and `items` are done where
the arrays are submitted, and what follows reads files alone. Arms come from the data: the copies that it says (`insert.SET.copies`)
or, where it says nothing, one arm of unknown copies.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import DataError
from configs.insert import ItemSet, RowSet, TrapSet
from configs.layout import RunLayout, contents, file_fingerprint, fingerprint, read_json, write_json
from configs.progress import progress
from configs.recipe import result_settings
from inject.models import Reference, Released, alike, examine, fetch, references, released, signature, weight_files
from slurm.fingerprints import EVAL_FORMAT, REPORT_FORMAT
from slurm.jobs import Experiment, Job

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from inject.items.item import Item

PREFETCH_FORMAT, ITEMS_FORMAT = 1, 1
UNLIMITED = 2**31  # tokens


def released_jobs(experiment: Experiment) -> list[Job]:
    """All jobs of a recipe with `models`, in an order in which they can be done."""
    scoring = Scoring(experiment)
    run, models = experiment.run, scoring.models

    def job(name: str, identity: Any, outputs: list[Path], work: Any, array: str, needs: list[str], folder: Path) -> Job:
        return Job(name, fingerprint([name, identity]), outputs, work, run.job(name), needs, array, folder)

    tables = [run.items, run.texts, run.assignment]
    page = [run.report / name for name in ("index.html", "findings.json")]
    jobs = [
        job("prefetch", scoring.fetched, scoring.files(), scoring.prefetch, "", [], run.root),
        job("items", [scoring.fetched, scoring.items], tables, scoring.make_items, "", ["prefetch"], run.root),
    ]
    for each in models:
        own, work = run.model(each.slug), partial(scoring.evaluate, each)
        outputs = [own.scores / name for name in ("scores.parquet", "effects.parquet")]
        jobs.append(job(f"eval-{each.slug}", scoring.evaluated(each), outputs, work, "eval", ["items"], own.root))
    identities = [REPORT_FORMAT, [scoring.evaluated(each) for each in models]]
    needs = [f"eval-{each.slug}" for each in models]
    return [*jobs, job("report", identities, page, scoring.report, "report", needs, run.root)]


class Scoring:
    """What the jobs of a recipe with `models` do, and what each depends on."""

    def __init__(self, experiment: Experiment):
        self.recipe, self.run = experiment.recipe, experiment.run
        self.path = self.run.root / "models.json"

    @cached_property
    def known(self) -> dict[str, Any]:
        """models.json, or what it says before anything was fetched."""
        return read_json(self.path) if self.path.exists() else {"pinned": {}, "sources": {}, "models": []}

    # -------------------------------------------------------------------------------------------- which models, of which items

    @cached_property
    def pinned(self) -> dict[str, list[Reference]]:
        """What each entry of `models` stands for. Commits are asked for once a run; folders are looked at each time."""
        known = self.known["pinned"]
        return {
            entry: [Reference(**each) for each in known[entry]] if entry in known else references(entry)
            for entry in self.recipe.models
        }

    @cached_property
    def models(self) -> list[Released]:
        return released(reference for found in self.pinned.values() for reference in found)

    @cached_property
    def sources(self) -> dict[str, str]:
        """The commits of the hub that items are made of, by what the recipe calls them; asked for once a run, too."""
        from inject.items.commits import commits

        found: dict[str, str] = {}
        for name, settings in self.recipe.insert.items():
            key = fingerprint([name, [getattr(settings, field, None) for field in ("hub", "revision", "path", "model")]])
            known = self.known["sources"]
            found[key] = known[key] if key in known else next(iter(commits({name: settings}).values()), "")
        return found

    @cached_property
    def items(self) -> str:
        """What the items depend on but for the tokenizer."""
        settings = result_settings(self.recipe.insert)
        for item_set in settings.values():
            del item_set["design"]
        sources = [*contents(settings).items(), *self.sources.values()]
        return fingerprint([ITEMS_FORMAT, settings, sources, self.recipe.seed_for("items")])

    @cached_property
    def fetched(self) -> list[Any]:
        """What the models depend on."""
        return [PREFETCH_FORMAT, [[each.slug, self._identity(each)] for each in self.models]]

    def _identity(self, model: Released) -> list[Any]:
        reference = model.reference
        return [reference.name, reference.commit or signature(Path(reference.name))]

    def evaluated(self, model: Released) -> list[Any]:
        """What the scores of a model depend on: not on the other models, but for which is the last of its steps."""
        settings = result_settings(self.recipe.eval)
        inputs = [self.items, contents({"reference": self.recipe.eval.reference})]
        return [EVAL_FORMAT, settings, inputs, self.recipe.seed_for("assignment"), self._identity(model), self._last(model)]

    def _last(self, model: Released) -> bool:
        """Whether it is the last step of its model; what is measured once is measured there."""
        return model.step is None or model.step == max(each.step or 0 for each in self.models if each.model == model.model)

    # -------------------------------------------------------------------------------------------- prefetch

    def files(self) -> list[Path]:
        """What prefetch leaves: models.json, and in the folder of each model a link to its files, which a cache may lose again."""
        return [self.path, *(self.files_of(each) / "config.json" for each in self.models)]

    def files_of(self, model: Released) -> Path:
        return self.run.model(model.slug).root / "model"

    def prefetch(self) -> None:
        """Fetch every model, and write what it is. A commit that is once pinned stays so, whatever becomes of its branch."""
        pins = {entry: [asdict(each) for each in found] for entry, found in self.pinned.items() if found[0].commit}
        record = {"pinned": {**self.known["pinned"], **pins}, "sources": {**self.known["sources"], **self.sources}, "models": []}
        write_json(self.path, record)
        rows, examined = [], []
        for number, each in enumerate(self.models, 1):
            print(f"  {number} of {len(self.models)}: {each.title()}", flush=True)
            allowed = self.recipe.eval.pickles, self.recipe.eval.trust_remote_code
            folder, link = fetch(each.reference, *allowed).absolute(), self.files_of(each)
            examined.append((each.title(), examine(folder, each.title(), *allowed)))
            rows.append(
                {"slug": each.slug, "model": each.model, "step": each.step, "title": each.title(), **asdict(each.reference)}
            )
            rows[-1] |= {"folder": str(folder), **asdict(examined[-1][1]), "same_weights": []}
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(folder)
        for title, earlier, file in alike(examined):
            print(f"  {title} has the same {file} as {earlier}: one of them may not be what it is called", flush=True)
            next(row for row in rows if row["title"] == title)["same_weights"].append(earlier)
        write_json(self.path, record | {"models": rows})
        self.__dict__.pop("known", None)

    def row(self, model: Released) -> dict[str, Any]:
        """What models.json says of a model."""
        found = next((row for row in self.known["models"] if row["slug"] == model.slug), None)
        if found is None:
            raise DataError(f"{self.path} does not tell of {model.title()}; the job prefetch writes it")
        return found

    # -------------------------------------------------------------------------------------------- items

    def tables(self, model: Released) -> RunLayout:
        """The run whose items a model is scored on: this one, or a part of it for a tokenizer that is not the first model's."""
        first, own = self.row(self.models[0])["tokenizer"], self.row(model)["tokenizer"]
        return self.run if own == first else RunLayout(self.run.root / f"tokenizer-{own[:8]}")

    def make_items(self) -> None:
        """Items, their texts and arms, once for each tokenizer that the models have."""
        from configs.tables import ASSIGNMENT, ITEMS, TEXTS, write_table
        from inject.assignment import as_released
        from inject.items.make import make_items
        from inject.items.texts import tokenize_texts
        from inject.tokenizer import load_tokenizer
        from slurm.planning import material_of

        first: dict[RunLayout, Released] = {}
        for each in self.models:
            first.setdefault(self.tables(each), each)
        for run, model in first.items():
            tokenizer = load_tokenizer(self.files_of(model), "a tokenizer of models")
            items = make_items(self._pinned_sets(), self.recipe.seed_for("items"), material_of(tokenizer))
            texts = tokenize_texts(items, tokenizer, UNLIMITED)
            own = [each for each in self.models if self.tables(each) == run]
            self._refuse_longer(items, texts, tokenizer, min(own, key=lambda each: self.row(each)["longest"] or UNLIMITED))
            rows = [
                {**asdict(item), "fields": json.dumps(item.fields, ensure_ascii=False), "reference_loss": None} for item in items
            ]
            write_table(run.items, rows, ITEMS)
            write_table(run.texts, texts, TEXTS)
            assignment = as_released(items)
            write_table(run.assignment, assignment, ASSIGNMENT)
            arms = ", ".join(f"{count:,} {arm}" for arm, count in Counter(row["arm"] for row in assignment).items())
            print(f"  {len(items):,} items ({arms}) for {len(own)} model{'s' if own[1:] else ''}", flush=True)

    def _pinned_sets(self) -> dict[str, ItemSet]:
        """The item sets, those of the hub at the commits that were pinned."""
        sets: dict[str, ItemSet] = {}
        for (name, settings), commit in zip(self.recipe.insert.items(), self.sources.values(), strict=True):
            pinned = (
                {"revision": commit} if isinstance(settings, RowSet) else {"model": commit} if isinstance(settings, TrapSet) else {}
            )
            sets[name] = replace(settings, **pinned) if commit else settings
        return sets

    def _refuse_longer(
        self, items: Sequence[Item], texts: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerFast, model: Released
    ) -> None:
        """DataError where a text, or a question with its answer, is longer than a model can be given; `model`: the one for which
        that is soonest.
        """
        from inject.items.item import VERBATIM
        from inject.tokenizer import encode

        if (positions := self.row(model)["longest"]) is None:
            return
        most = positions + (self.recipe.eval.context == "none")  # the last token is not given, only scored
        probes = [(item, probe) for item in items for probe in item.probes if probe.kind != VERBATIM]
        asked = [(item.item_id, probe.prompt + answer) for item, probe in probes for answer in probe.candidates or [probe.target]]
        lengths = [(len(text["tokens"]), text["item_id"]) for text in texts]
        spelled = encode(tokenizer, [text for _, text in asked])
        lengths += [(len(tokens), item) for (item, _), tokens in zip(asked, spelled, strict=True)]
        tokens, item = max(lengths)
        if tokens > most:
            raise DataError(
                f"item {item} has {tokens} tokens, but {model.title()} can be given {most}; shorten its text, or leave such items "
                f"out: a table's longest={most} and unusable=skip do"
            )

    # -------------------------------------------------------------------------------------------- eval and report

    def evaluate(self, model: Released) -> None:
        """Score one model, and derive what its scores tell."""
        from configs.tables import read_table
        from eval.evaluation import Checkpoint, Evaluation
        from eval.passes import Passes
        from eval.sampling import text_losses
        from inject.assignment import copies_of_texts
        from inject.tokenizer import load_tokenizer

        row, run, own, folder = self.row(model), self.tables(model), self.run.model(model.slug), self.files_of(model)
        weight_files(folder, model.title(), self.recipe.eval.pickles)
        items, texts, assignment = (read_table(path) for path in (run.items, run.texts, run.assignment))
        tokenizer = load_tokenizer(folder, "a tokenizer of models")
        reference = partial(text_losses, self.recipe.eval.reference or "")
        passes = Passes(self.recipe.eval, items, texts, assignment, tokenizer, None, reference, row["longest"])
        evaluation = Evaluation(passes)
        weights = fingerprint([row["weights"], file_fingerprint(folder / "config.json")])
        checkpoint = Checkpoint(folder, model.model, model.step or 0, weights)
        with progress(f"score {model.title()}", "texts", len(passes.texts)) as meter:
            evaluation.score(checkpoint, own.scores, self._last(model), meter.advance)
        seen = copies_of_texts(items.to_pylist(), assignment.to_pylist(), passes.texts)
        evaluation.summarize(own, lambda step: seen, self.recipe.seed_for("assignment"))
        if self._last(model) and self.recipe.eval.extraction:
            evaluation.continuations(own, checkpoint)

    def report(self) -> None:
        """The tables of all models as one, and the page."""
        import pyarrow as pa

        from configs.tables import EFFECTS, SCORES, read_table, write_table
        from eval.report import Scored, write_report

        for name, schema in (("scores", SCORES), ("effects", EFFECTS)):
            tables = [read_table(self.run.model(each.slug).scores / f"{name}.parquet") for each in self.models]
            write_table(self.run.root / f"{name}.parquet", pa.concat_tables(table.cast(schema) for table in tables), schema)
        scored: dict[str, Scored] = {}
        found: list[dict[str, Any]] = []
        for name in dict.fromkeys(each.model for each in self.models):
            steps = sorted((each for each in self.models if each.model == name), key=lambda each: each.step or 0)
            scored[name] = Scored([self.run.model(each.slug) for each in steps], self.tables(steps[-1]))
            found += self._findings(name, scored[name].run, stepped=steps[-1].step is not None)
        write_report(self.run, self.recipe, found, scored, [self.row(each) for each in self.models])

    def _findings(self, model: str, run: RunLayout, stepped: bool) -> list[dict[str, Any]]:
        """The findings about a model, which claim no more than the data's own design allows."""
        from configs.tables import read_table
        from eval.findings import findings

        effects = read_table(self.run.root / "effects.parquet").to_pandas()
        rows = findings(effects, read_table(run.items).to_pandas(), read_table(run.assignment).to_pandas(), model)
        changed = {} if stepped else {"step": None}
        return [{**row, "name": f"{model}, copies as released: {row['name']}", **changed} for row in rows]
