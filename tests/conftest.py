"""What several tests share: a small corpus, built once."""

from pathlib import Path

import pytest

from configs.schema import Corpus as CorpusSettings
from configs.schema import Tokenizer
from inject.corpus import Corpus, build_corpus


@pytest.fixture(scope="session")
def small_settings() -> CorpusSettings:
    return CorpusSettings(source="synthetic", documents=300, tokenizer=Tokenizer(vocabulary=300))


@pytest.fixture(scope="session")
def small_corpus(small_settings: CorpusSettings, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A few hundred synthetic documents, about four hundred thousand tokens of a vocabulary of 300."""
    folder: Path = tmp_path_factory.mktemp("corpus") / "small"
    build_corpus(small_settings, seed=1, folder=folder, identity="small")
    return Corpus(folder)
