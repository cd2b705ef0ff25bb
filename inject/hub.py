"""Data sets of the Hugging Face hub, or folders laid out as those, read as a stream: nothing is downloaded as a whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from configs.errors import DataError, ImprintError
from configs.layout import fingerprint, folder_fingerprint
from configs.schema import Corpus

COMMIT = re.compile("[0-9a-f]{40}")
SECONDS = 30  # to wait for the hub


def hub_fingerprint(settings: Corpus) -> str:
    """What the documents depend on: the data set's commit, or the content of the files of a folder."""
    folder = Path(str(settings.path))
    content = folder_fingerprint(folder) if folder.is_dir() else [settings.path, commit(settings)]
    return fingerprint(["hub", settings.config, settings.split, settings.column, content])


def commit(settings: Corpus) -> str | None:
    """The commit that the revision of the corpus's data set stands for; None for a folder, which has none."""
    return dataset_commit(str(settings.path), settings.revision, "corpus.path", "corpus.revision")


def dataset_commit(name: str, revision: str, name_setting: str, revision_setting: str) -> str | None:
    """The commit that a revision of a data set stands for; None for a folder, which has none.

    DataError, naming the two settings, where the hub can't be asked; a revision that is a commit is not asked for.
    """
    if Path(name).is_dir():
        return None
    if COMMIT.fullmatch(revision):
        return revision
    try:
        return _ask("dataset_info", name, revision)
    except Exception as error:  # of many libraries: no network, no such data set, no such revision, no access
        raise DataError(
            f"{name_setting} is {name} and {revision_setting} is {revision}: the hub could not be asked for its commit "
            f"({_sentence(error)}); without a network, give the 40 hex digits of a commit as {revision_setting}"
        ) from error


def pinned_model(name: str) -> str:
    """A model, given as a folder, a hub name or name@revision: the folder, or the name with the commit that it stands for now.

    DataError where the hub can't be asked; a revision that is a commit is not asked for.
    """
    repository, _, revision = name.partition("@")
    if Path(name).exists() or COMMIT.fullmatch(revision):
        return name
    try:
        return f"{repository}@{_ask('model_info', repository, revision or 'main')}"
    except Exception as error:  # as above
        raise DataError(
            f"{name} is no folder, and the hub could not be asked for the commit of a model of that name ({_sentence(error)}); "
            f"without a network, give the 40 hex digits of a commit, as {repository}@<commit>, or a folder"
        ) from error


@lru_cache  # a branch may move while a corpus, or items, are made
def _ask(question: str, name: str, revision: str) -> str:
    from huggingface_hub import HfApi

    return str(getattr(HfApi(), question)(name, revision=revision, timeout=SECONDS).sha)


def hub_sections(settings: Corpus) -> list[Callable[[Callable[[int], bool]], Iterator[str | None]]]:
    """The documents of a data set, in one section for each of its files; the sections one after another are the data set."""
    dataset = _load(settings)
    return [partial(_documents, dataset, number, settings.column, str(settings.path)) for number in range(dataset.num_shards)]


def _load(settings: Corpus) -> Any:
    import datasets

    revision = commit(settings)
    try:
        return datasets.load_dataset(str(settings.path), settings.config, split=settings.split, revision=revision, streaming=True)
    except Exception as error:  # of many libraries: no network, no such configuration or split, no file of a known format
        raise DataError(
            f"corpus.path is {settings.path}, whose split {settings.split}"
            f"{f' of {settings.config}' if settings.config else ''} can't be opened as a data set: {_sentence(error)}"
        ) from error


def _documents(dataset: Any, number: int, column: str, name: str, wanted: Callable[[int], bool]) -> Iterator[str | None]:
    rows = iter(dataset.shard(dataset.num_shards, number, contiguous=True))
    place = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # of many libraries: what was read so far is kept, so it is no DataError
            raise ImprintError(
                f"{name} could not be read further ({_sentence(error)}); run again to go on from what is tokenized"
            ) from error
        yield _text(row, column, name) if wanted(place) else None
        place += 1


def _text(row: dict[str, Any], column: str, name: str) -> str | None:
    if column not in row:
        raise DataError(f"{name} has no column {column!r} (it has: {', '.join(row)}); name it as corpus.column")
    if row[column] is not None and not isinstance(row[column], str):
        raise DataError(f"{column!r} of {name} is {type(row[column]).__name__}, not text")
    return row[column]


def _sentence(error: Exception) -> str:
    """The first line of what a library says, or the name of its error."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
