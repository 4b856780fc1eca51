"""Texts as CLIP's ids, with a tokenizer.json of a few merges; tests/second_opinion has transformers' own reading."""

from pathlib import Path

import numpy as np
import pytest

from diffusion.errors import DataError
from diffusion.tokeniser import END, START, clip_tokeniser

MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("'", "s</w>")]
LETTERS = sorted("acdgost'&1")
TOKENS = [*LETTERS, *(letter + "</w>" for letter in LETTERS), *("".join(pair) for pair in MERGES), START, END]
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # Radford 2021, as it is published


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    vocabulary = {token: i for i, token in enumerate(TOKENS)}
    made = Tokenizer(BPE(vocabulary, MERGES, end_of_word_suffix="</w>", unk_token=END))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.enable_truncation(3)  # settings of the file that must not matter
    path = tmp_path_factory.mktemp("clip") / "tokenizer.json"
    made.save(str(path))
    return path


def ids(*tokens: str) -> list[int]:
    return [TOKENS.index(token) for token in tokens]


def test_words_stand_between_start_and_ends(file):
    found = clip_tokeniser(file, len(TOKENS), 8)(["Cat's  DOG &1", "", "dog " * 20])
    assert found.dtype == np.int32 and found.shape == (3, 8)
    assert found[0].tolist() == ids(START, "cat</w>", "'s</w>", "dog</w>", "&</w>", "1</w>", END, END)
    assert found[1].tolist() == ids(START, *[END] * 7)
    assert found[2].tolist() == ids(START, *["dog</w>"] * 6, END), "cut, and still ended"


def test_files_that_are_not_the_weights_own(file, tmp_path):
    with pytest.raises(DataError, match="does not exist: texts need the tokenizer.json"):
        clip_tokeniser(tmp_path / "tokenizer.json", 49408, 77)
    with pytest.raises(DataError, match="the weights want 49406 and 49407: the tokenizer.json of another model"):
        clip_tokeniser(file, 49408, 77)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="not a readable tokenizer.json"):
        clip_tokeniser(tmp_path / "tokenizer.json", 49408, 77)
