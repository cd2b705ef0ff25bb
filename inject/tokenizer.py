"""How text becomes tokens: a byte-level BPE trained on the corpus, or a tokenizer that exists."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Encoding, Tokenizer, decoders, models, pre_tokenizers, trainers

from configs.errors import DataError
from configs.layout import fingerprint, input_fingerprint
from configs.schema import Tokenizer as TokenizerSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
_KNOWN_ENDS = [END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>"]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) in which every digit is a token of its own."""
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def load_tokenizer(where: str | Path, setting: str = "corpus.tokenizer") -> PreTrainedTokenizerFast:
    """A tokenizer from a tokenizer.json, a folder that holds one, or the hub (NAME or NAME@revision); it must end texts.

    `setting`: what names it in the recipe. DataError where it is none; code of the hub's is never run.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # which takes seconds; fingerprints need neither

    path = Path(where)
    if path.is_file():
        try:
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), clean_up_tokenization_spaces=False)
        except Exception as error:  # tokenizers raises nothing more special
            raise DataError(f"{setting} is {where}, which is no tokenizer.json: {error}") from error
    else:
        name, _, revision = (str(where), "", "") if path.exists() else str(where).partition("@")
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision or "main", trust_remote_code=False)  # type: ignore[assignment]
        except (OSError, ValueError) as error:
            raise DataError(
                f"{setting} is {where}, which is no tokenizer file or folder and could not be had from the hub"
            ) from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise DataError(f"{setting} is {where}, a tokenizer without a tokenizer.json; convert it to a fast tokenizer first")
    if tokenizer.eos_token_id is None:
        vocabulary = tokenizer.get_vocab()
        known = [token for token in _KNOWN_ENDS if token in vocabulary]
        if not known:
            raise DataError(f"{setting} is {where}, which has no end-of-text token; give it an eos_token")
        tokenizer.eos_token = known[0]
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def tokenizer_fingerprint(settings: TokenizerSettings) -> str:
    """What the tokenizer depends on: the content of a local file, or its name or training settings."""
    if settings.path is None:
        return f"trained {settings.vocabulary}"
    path = Path(settings.path)
    files = sorted(path.glob("*token*.json")) if path.is_dir() else [path]  # tokenizer.json, and what says which token ends a text
    return fingerprint([input_fingerprint(file) for file in files]) if path.exists() else settings.path


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """One more than the largest id; ids may have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def ordinary_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids of all tokens but the special ones (end of text, padding, reserved ones ...), ascending."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return sorted(set(tokenizer.get_vocab().values()) - special - set(tokenizer.all_special_ids))


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Token ids of each text: nothing is added, and a text that spells a special token does not become it."""
    return [encoding.ids for encoding in _encodings(tokenizer, texts)]


def encode_batches(
    tokenizer: PreTrainedTokenizerFast, batches: Iterable[list[str]], dtype: np.dtype
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Of each batch of texts: its characters; its tokens end to end, an end-of-text after each text; where each ends, int64.

    Batches are encoded without holding the interpreter, so the caller's work, and reading what comes next, take place meanwhile.
    """
    with ThreadPoolExecutor(1) as encoder:
        waiting: deque[tuple[int, Future[list[Encoding]]]] = deque()
        for batch in batches:
            waiting.append((sum(map(len, batch)), encoder.submit(_encodings, tokenizer, batch)))
            if len(waiting) > 2:  # one that is being encoded, and one that waits for its turn
                size, encoded = waiting.popleft()
                yield size, *_flat(encoded.result(), tokenizer.eos_token_id, dtype)
        for size, encoded in waiting:
            yield size, *_flat(encoded.result(), tokenizer.eos_token_id, dtype)


def _encodings(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[Encoding]:
    bare = tokenizer.backend_tokenizer
    bare.encode_special_tokens = True
    return bare.encode_batch_fast(texts, add_special_tokens=False)


def _flat(encodings: list[Encoding], end_of_text: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    ends = np.cumsum([len(encoding) + 1 for encoding in encodings], dtype=np.int64)
    tokens = np.full(ends[-1], end_of_text, dtype)
    begin = 0
    for encoding, end in zip(encodings, ends.tolist(), strict=True):
        tokens[begin : end - 1] = array("I", encoding.ids)  # the fastest way from a list of whole numbers to numpy
        begin = end
    return tokens, ends


def encode_with_offsets(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of a text and the characters [start, end) that each covers."""
    bare = tokenizer.backend_tokenizer
    bare.encode_special_tokens = True
    encoding = bare.encode(text, add_special_tokens=False)
    return encoding.ids, encoding.offsets


def encode_batch_with_offsets(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """The same of many texts, which is faster than one by one."""
    bare = tokenizer.backend_tokenizer
    bare.encode_special_tokens = True
    return [(encoding.ids, encoding.offsets) for encoding in bare.encode_batch(list(texts), add_special_tokens=False)]


def decode(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int]) -> str:
    """What tokens spell. Not all tokens are those of the text they spell; those of `encode` are."""
    return str(tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))
