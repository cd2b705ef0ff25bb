"""What several tests share: a small corpus and a small model, each made once."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from configs.schema import Corpus as CorpusSettings
from configs.schema import Tokenizer
from inject.corpus import Corpus, build_corpus
from tests.clock import Clock
from tests.cluster.slurm import Cluster


@pytest.fixture(scope="session")
def small_settings() -> CorpusSettings:
    return CorpusSettings(source="synthetic", documents=300, tokenizer=Tokenizer(vocabulary=300))


@pytest.fixture(scope="session")
def small_corpus(small_settings: CorpusSettings, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A few hundred synthetic documents, about four hundred thousand tokens of a vocabulary of 300."""
    folder: Path = tmp_path_factory.mktemp("corpus") / "small"
    build_corpus(small_settings, seed=1, folder=folder, identity="small")
    return Corpus(folder)


@pytest.fixture(scope="session")
def small_model(small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GPT-2 of random weights that can be given 48 tokens, and the small corpus's tokenizer.

    Its logits spread by about 2.3, so that colder texts are much plainer than the vocabulary's size of 300 in perplexity.
    """
    folder = tmp_path_factory.mktemp("model") / "small"
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 48}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=small_corpus.vocabulary, tie_word_embeddings=False, **shape))
        model.lm_head.weight.data.normal_(0, 0.4)
    model.save_pretrained(folder)
    small_corpus.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The SLURM cluster that tests run on: whichever `sinfo` reaches. Skips, saying so, where there is none."""
    reached = Cluster.reached()
    if reached is None:
        pytest.skip("sinfo reaches no SLURM cluster")
    return reached
