"""Texts as the ids that CLIP's text tower reads, by Hugging Face's ``tokenizers`` and the file beside the weights."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from diffusion.errors import DataError

START, END = "<|startoftext|>", "<|endoftext|>"  # the last two of CLIP's vocabulary


def clip_tokeniser(file: Path, vocabulary: int, length: int) -> Callable[[Sequence[str]], np.ndarray]:
    """Reads a ``tokenizer.json``: texts -> i32[n length], each a start, the text's tokens, an end, and ends as filling.

    A text that is too long is cut; its end stays. ``vocabulary`` is the number of tokens that the tower knows.

    Raises:
      DataError: no such file, not CLIP's, or the package is missing.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DataError("texts need the package tokenizers: pip install tokenizers") from error
    if not file.is_file():
        raise DataError(f"{file} does not exist: texts need the tokenizer.json that is published beside the weights")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing narrower
        raise DataError(f"{file}: not a readable tokenizer.json ({error})") from error
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    if (start, end) != (vocabulary - 2, vocabulary - 1):
        raise DataError(
            f"{file}: its start and end are {start} and {end}, but the weights want {vocabulary - 2} and "
            f"{vocabulary - 1}: the tokenizer.json of another model"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def tokenise(texts: Sequence[str]) -> np.ndarray:
        ids = np.full((len(texts), length), end, np.int32)
        ids[:, 0] = start
        for row, encoding in zip(ids, tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True):
            words = encoding.ids[: length - 2]
            row[1 : 1 + len(words)] = words
        return ids

    return tokenise
