"""CLIP's towers and tokeniser against Hugging Face's transformers, on torch: `make test-second-opinion`."""

import json
from pathlib import Path

import numpy as np
import pytest

from diffusion.errors import DataError
from diffusion.extractors.clip import MODELS, cut
from diffusion.tokeniser import END, START, clip_tokeniser
from tests.nets import tiny_vits
from tests.nets.test_vit import answer
from tests.second_opinion import transformers_nets

pytestmark = pytest.mark.second_opinion

TEXTS = [
    "a photo of a cat",
    "A Photo  of\ta\n CAT ",
    "",
    " ",
    "don't, we'll, I'm, they've, you'd, she's, it're",
    "l'été à Noël — naïve café",
    "ÅNGSTRÖM Straße İstanbul ΑΣ",
    "東京の猫 고양이 кошка גור",
    "\U0001f431\U0001f408\u200d\u2b1b\U0001f469\U0001f3fd\u200d\U0001f680 flags \U0001f1e9\U0001f1ea",
    "3 cats, 12 dogs & 1,000.5 birds; ½ ² Ⅷ ٣",
    "snake_case-and#tags @you http://x.y/z?a=b%20c",
    "...!?!? ((x)) <a> \\ |",
    "zero\u200bwidth \xa0space \u3000wide",
    "' 's 'S ''",
    "² x₁ ﬁ ﬂ ǅ ß ſ",
    "tab\tnewline\r\nnull\x00bell\x07",
    "\ud7ff\ue000\U0010ffff",
    "العربية ١٢٣",
    *("a" * 200, "word " * 100, "e\u0301" * 90, f"{START}x{END} y"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A tokenizer.json as transformers writes it, with a vocabulary of bytes and a few merges in CLIP's order."""
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    shown = bytes_shown()
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("p", "h"), ("ph", "o"), ("pho", "to</w>")]
    merges = [("t", "o</w>"), *merges, ("a", "a"), ("'", "s</w>"), ("1", "2</w>"), ("Ã", "©")]
    tokens = [*shown, *(s + "</w>" for s in shown), *("".join(pair) for pair in merges), START, END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=12).save_pretrained(folder)
    (folder / "size").write_text(str(len(tokens)))
    return folder


def bytes_shown() -> list[str]:
    """The 256 bytes as GPT-2's byte-level BPE writes them (Radford 2019)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


@pytest.fixture(scope="module")
def tokenise(files):
    return clip_tokeniser(files / "tokenizer.json", int((files / "size").read_text()), 12)


def test_ids_are_those_of_transformers(files, tokenise):
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(files)
    wanted = theirs(TEXTS, padding="max_length", truncation=True, max_length=12).input_ids
    np.testing.assert_array_equal(tokenise(TEXTS), wanted)


def test_ids_by_hand(files, tokenise):
    vocabulary = json.loads((files / "tokenizer.json").read_text())["model"]["vocab"]
    ids = tokenise(["Photo  CAT's", "dog " * 50])
    start, end = vocabulary[START], vocabulary[END]
    words = [vocabulary[token] for token in ("photo</w>", "cat</w>", "'s</w>")]
    assert ids[0].tolist() == [start, *words, *[end] * 8]
    assert ids[1].tolist() == [start, *[vocabulary["dog</w>"]] * 10, end]
    assert ids.dtype == np.int32


def test_another_tokenizer(files, tmp_path):
    with pytest.raises(DataError, match="does not exist: texts need the tokenizer.json"):
        clip_tokeniser(tmp_path / "tokenizer.json", 49408, 77)
    with pytest.raises(DataError, match="the weights want 49406 and 49407: the tokenizer.json of another model"):
        clip_tokeniser(files / "tokenizer.json", 49408, 77)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="not a readable tokenizer.json"):
        clip_tokeniser(tmp_path / "tokenizer.json", 49408, 77)


@pytest.mark.parametrize("name", tiny_vits.CLIPS)
@pytest.mark.parametrize("rule", ["argmax", "first"])
def test_both_towers(name, rule, tmp_path):
    """Both of transformers' rules of the end: the highest id (eos_token_id 2) and the first end."""
    last = tiny_vits.CLIPS[name].text.vocabulary - 1
    wanted = transformers_nets.answers(name, tmp_path, eos_token_id=2 if rule == "argmax" else last)
    for port in ("image", "text"):
        found = answer(name, port)
        np.testing.assert_allclose(found, wanted[port], rtol=0, atol=1e-5 * np.abs(wanted[port]).max())


def test_published_sizes():
    import torch
    from transformers import CLIPConfig, CLIPModel

    counts = {}
    for name, (shape, _) in MODELS.items():
        config = transformers_nets.clip_config(shape)
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in CLIPModel(CLIPConfig.from_dict(config)).parameters())
    assert counts == {"vit_b_32": 151_277_313, "vit_l_14": 427_616_513, "vit_l_14_336": 427_944_193}


@pytest.mark.parametrize("size", [(40, 40), (20, 30), (50, 28)])
def test_images_are_cut_as_by_transformers(size):
    from PIL import Image
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28, do_normalize=False, do_rescale=False)
    wanted = processor(Image.fromarray(image), return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(cut(image[None], 28)[0], wanted)
