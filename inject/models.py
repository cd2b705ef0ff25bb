"""Models that exist, to be scored: folders, and revisions of the Hugging Face hub. Which they are, and their files, fetched once.

An entry of `models` is a folder, a glob of folders (`runs/x/perturbed/checkpoints/step-*`), a hub name, NAME@revision, or a glob of
the branches and tags of a hub name (`EleutherAI/pythia-160m@step*`). A branch is pinned to the commit that it stands for; what
follows is about that commit alone, and after `fetch` needs no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from glob import glob
from math import prod
from os.path import abspath
from pathlib import Path
from typing import Any

from configs.errors import DataError, RecipeError
from configs.layout import CheckpointInfo, file_fingerprint, fingerprint, read_json
from inject.hub import COMMIT, SECONDS

WEIGHTS, INDEX = "model*.safetensors", "model.safetensors.index.json"  # never an optimizer's state
PICKLED, PICKLED_INDEX = "pytorch_model*.bin", "pytorch_model.bin.index.json"  # read only where they are asked for
TOKENIZER = ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"]
FILES = ["config.json", "generation_config.json", WEIGHTS, INDEX, *TOKENIZER]  # what is fetched of a revision
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
STEP = re.compile(r"(?<![A-Za-z])(?:global_?step|step|checkpoint|ckpt|iter)[-_]?(\d+)(?![A-Za-z\d])")


@dataclass(frozen=True)
class Reference:
    """What an entry stands for: one folder, or one commit of the hub."""

    name: str  # of the hub; or the folder
    revision: str = ""  # as it was asked for; of a folder none
    commit: str = ""


@dataclass(frozen=True)
class Released:
    """A model that exists, at one step of its training where its name tells it."""

    reference: Reference
    slug: str  # its folder and job within a run, unlike any other's
    model: str  # whose steps it is one of: equal for the revisions of a model that are named for steps
    step: int | None

    def title(self) -> str:
        """As it would be given in `models`."""
        return f"{self.reference.name}@{self.reference.revision}" if self.reference.commit else self.reference.name


# ------------------------------------------------------------------------------------------------ which they are


def references(entry: str) -> list[Reference]:
    """What one entry of `models` stands for, in the natural order of names. RecipeError or DataError where that is nothing."""
    if Path(entry).exists():
        return [_folder(entry)]
    name, at, revision = entry.partition("@")
    if not at and re.search(r"[*?\[]", entry):
        return _folders(entry)
    if not HUB_NAME.fullmatch(name) or (at and not revision):
        raise RecipeError(
            f"models holds {entry!r}, which is no folder that is there; possible: a folder, a glob of folders, or a name of the "
            "hub, as EleutherAI/pythia-160m, EleutherAI/pythia-160m@step1000 or EleutherAI/pythia-160m@step*"
        )
    if COMMIT.fullmatch(revision):
        return [Reference(name, revision, revision)]
    if re.search(r"[*?\[]", revision):
        refs = _ask_refs(name, entry)
        if not (matching := [ref for ref in refs if fnmatchcase(ref, revision)]):
            there = ", ".join(sorted(refs, key=natural)[:8])
            raise RecipeError(
                f"models holds {entry!r}, but no branch or tag of {name} is called so; it has {len(refs)}: {there} ..."
            )
        return [Reference(name, ref, refs[ref]) for ref in sorted(matching, key=natural)]
    return [Reference(name, revision or "main", _ask_commit(name, revision or "main", entry))]


def natural(name: str) -> list[Any]:
    """The order in which people count.

    >>> sorted(["step1000", "step8", "main"], key=natural)
    ['main', 'step8', 'step1000']
    """
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _folder(entry: str) -> Reference:
    if not Path(entry, "config.json").is_file():
        raise RecipeError(f"models holds {entry!r}, which is no folder of a Hugging Face model: it has no config.json")
    return Reference(entry)


def _folders(entry: str) -> list[Reference]:
    there = [path for path in glob(entry) if Path(path).is_dir()]
    models = [path for path in there if Path(path, "config.json").is_file()]
    if not models:
        found = f"{len(there)} folders, of which none is a Hugging Face model: they have no config.json" if there else "no folder"
        raise RecipeError(f"models holds {entry!r}, which matches {found}")
    return [Reference(path) for path in sorted(models, key=natural)]


@lru_cache  # a branch may move while a run is made
def _ask_refs(name: str, entry: str) -> dict[str, str]:
    """The commits of a repository's branches and tags, by name."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(name)
    except Exception as error:  # of many libraries: no network, no such model, no access
        raise _refused(name, entry, error) from error
    return {ref.name: ref.target_commit for ref in [*refs.tags, *refs.branches]}


@lru_cache
def _ask_commit(name: str, revision: str, entry: str) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().model_info(name, revision=revision, timeout=SECONDS).sha)
    except Exception as error:  # as above
        raise _refused(name, entry, error) from error


def _refused(name: str, entry: str, error: Exception) -> DataError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return DataError(
            f"models holds {entry!r}, which is gated: accept its terms at huggingface.co/{name} and run: hf auth login"
        )
    if isinstance(error, RevisionNotFoundError):
        return DataError(f"models holds {entry!r}, but {name} has no such branch, tag or commit; {name}@* is all it has")
    if isinstance(error, RepositoryNotFoundError):
        return DataError(
            f"models holds {entry!r}, which is no folder, and the hub shows no model {name}; for a private one run: hf auth login"
        )
    said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return DataError(
        f"models holds {entry!r}, which is no folder, and the hub could not be asked about it ({said}); without a network give the "
        f"40 hex digits of a commit that was fetched before, as {name}@<commit>, or a folder"
    )


def released(found: Iterable[Reference]) -> list[Released]:
    """References as models and steps, each once, with names that are safe for files. RecipeError where two are one step."""
    named = [_named(reference) for reference in dict.fromkeys(found)]
    sources: dict[str, set[str]] = {}
    for one in named:
        sources.setdefault(one.model, set()).add(_source(one))
    made: dict[str, Released] = {}
    for one in named:
        if len(sources[one.model]) > 1:  # folders of the same name elsewhere
            other = fingerprint(_source(one))[:6]
            one = replace(one, slug=f"{one.slug}-{other}", model=f"{one.model}-{other}")
        for before in made.values():
            if before.slug == one.slug or (one.step is not None and (before.model, before.step) == (one.model, one.step)):
                what = one.slug if one.step is None else f"step {one.step} of {one.model}"
                raise RecipeError(f"models holds {before.title()} and {one.title()}, which are both {what}; leave one out")
        made[one.slug] = one
    return list(made.values())


def _named(reference: Reference) -> Released:
    """A reference by the names that it has alone. A folder goes by its last two names, `checkpoints` between them left out."""
    if not reference.commit:
        *parents, last = Path(abspath(reference.name)).parts
        step = STEP.fullmatch(last)
        own = [part for part in parents if part != "checkpoints"] if step else [*parents, last]
        model = "--".join(_safe(part) for part in own[-2:])
        return (
            Released(reference, f"{model}-step{int(step[1])}", model, int(step[1]))
            if step
            else Released(reference, model, model, None)
        )
    base, revision = _safe(reference.name), reference.revision
    slug = f"{base}-{_safe(revision if revision != reference.commit else revision[:12])}"
    step = STEP.search(revision)
    if step is None:
        return Released(reference, slug, slug, None)
    stage = _safe(revision[: step.start()]).strip("-_.")  # stage2-step1000
    return Released(reference, slug, f"{base}-{stage}" if stage else base, int(step[1]))


def _source(one: Released) -> str:
    """What a model's steps lie in: a repository, or a folder."""
    name = one.reference.name
    return name if one.reference.commit else abspath(name if one.step is None else Path(name).parent)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name.replace("/", "--"), flags=re.ASCII)


# ------------------------------------------------------------------------------------------------ their files


@dataclass(frozen=True)
class Examined:
    """What the files of a model say of it."""

    weights: dict[str, str]  # sha256 of each file of weights
    tokenizer: str  # fingerprint of the tokenizer's files
    parameters: int
    longest: int | None  # tokens that it can be given, where its positions are limited


def fetch(reference: Reference, pickles: bool = False, code: bool = False) -> Path:
    """The folder of a model: of the hub's, its configuration, tokenizer and safetensors are fetched to the cache that all programs
    of Hugging Face share, or found there. What was fetched before an interruption is kept. DataError where it can't be had.
    """
    if not reference.commit:
        return Path(reference.name)
    try:
        folder = _download(reference, [*FILES, *(["*.py"] if code else [])])
        if pickles and not list(Path(folder).glob(WEIGHTS)):
            folder = _download(reference, [PICKLED, PICKLED_INDEX])
    except Exception as error:  # of many libraries: no network, no access, a full disk
        said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise DataError(
            f"{reference.name}@{reference.revision} could not be fetched ({said}); run again where the hub can be reached, to "
            "go on from what was fetched"
        ) from error
    return Path(folder)


def _download(reference: Reference, patterns: Sequence[str]) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(reference.name, revision=reference.commit, allow_patterns=list(patterns), ignore_patterns=["*/*"])


def signature(folder: Path) -> list[Any]:
    """Names, sizes and times of a model's files: what tells cheaply whether they have changed."""
    files = sorted({file for pattern in [*FILES, PICKLED, "*.py"] for file in folder.glob(pattern)})
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def examine(folder: Path, name: str, pickles: bool = False, code: bool = False) -> Examined:
    """Read what a model's files say, and refuse what can't be scored; `name` is what the model is called. DataError says why.

    `pickles`: weights may be such; `code`: what comes with the model may be run.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    files = weight_files(folder, name, pickles)
    if (folder / "imprint.json").exists() and (damaged := CheckpointInfo.read(folder).damaged(folder)):
        raise DataError(f"{folder / damaged} is damaged: it is not what was written")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=code)
    except Exception as error:  # of many kinds: an unknown architecture, code of its own, a damaged file
        said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise DataError(
            f"{name} is no model that transformers can build without running code that comes with it "
            f"(eval.trust_remote_code=true allows that): {said}"
        ) from error
    if not code and config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise DataError(f"{name} is a {config.model_type}, which is no causal language model of Hugging Face")
    tokenizer = [[file.name, file_fingerprint(file)] for file in sorted({f for pattern in TOKENIZER for f in folder.glob(pattern)})]
    if not tokenizer:
        raise DataError(f"{name} comes without a tokenizer; put the files of one, as tokenizer.json, in its folder")
    return Examined(
        weights={file.name: file_fingerprint(file) for file in files},
        tokenizer=fingerprint(tokenizer),
        parameters=sum(_parameters(file, name) for file in files if file.suffix == ".safetensors"),
        longest=getattr(config, "max_position_embeddings", None),
    )


def weight_files(folder: Path, name: str, pickles: bool = False) -> list[Path]:
    """The files that hold a model's weights, of `pickles` only where there are no others and they are asked for; DataError where
    there are none, or some are missing.
    """
    files: list[Path] = []
    for pattern, index in [(WEIGHTS, INDEX), *([(PICKLED, PICKLED_INDEX)] if pickles else [])]:
        if (folder / index).exists():
            files = [folder / file for file in sorted(set(read_json(folder / index)["weight_map"].values()))]
        else:
            files = sorted(folder.glob(pattern))
        if files:
            break
    if not files:
        pickled = (
            "; it has pickles, which could hold any program: eval.pickles=true reads them" if any(folder.glob(PICKLED)) else ""
        )
        raise DataError(f"{name} has no weights in safetensors, and only these are read{pickled}")
    if missing := [file.name for file in files if not file.exists()]:
        raise DataError(f"{name} lacks {missing[0]}, a part of its weights; run again where the hub can be reached, to fetch it")
    return files


def _parameters(file: Path, name: str) -> int:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as weights:
            return sum(prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise DataError(f"{name} has damaged weights: {file} ({error})") from error


def alike(examined: Sequence[tuple[str, Examined]]) -> list[tuple[str, str, str]]:
    """(title, earlier title, file) of models that share a file of weights with an earlier one, as uploads by mistake do."""
    first: dict[str, str] = {}
    found: dict[tuple[str, str], str] = {}
    for title, each in examined:
        for file, digest in each.weights.items():
            if (earlier := first.setdefault(digest, title)) != title:
                found.setdefault((title, earlier), file)
    return [(title, earlier, file) for (title, earlier), file in found.items()]
