"""DAMSM's text encoder: the published values, its vocabulary, and files that are none."""

from __future__ import annotations

import json
import logging
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ratlip_cli.baselines.damsm import CONTEXT, END, DamsmTextEncoder, words_of
from ratlip_cli.baselines.damsm_files import (
    TEXT_ENCODER_FILE,
    VOCABULARY_FILE,
    load_text_encoder,
    read_vocabulary,
    save_text_encoder,
    text_encoder,
)
from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.tensor_files import save_tensors

REFERENCE = Path(__file__).parent / "reference" / "baselines"
BIRDS = (END, "a", "small", "bird", "with", "red", "wings", "s", "white", "bellied")


def filled(encoder: DamsmTextEncoder, gain: float = 1.0) -> DamsmTextEncoder:
    """The encoder with the reference's weights for its names and shapes."""
    weights = {}
    for name, tensor in encoder.state_dict().items():
        draw = np.random.RandomState(zlib.crc32(f"text_encoder.{name}".encode())).standard_normal(tensor.shape)
        if name != "encoder.weight":
            draw *= gain / np.sqrt(tensor.shape[1]) if tensor.ndim == 2 else 0.1
        weights[name] = torch.from_numpy(draw.astype(np.float32))
    encoder.load_state_dict(weights)
    return encoder


@pytest.fixture
def encoder() -> DamsmTextEncoder:
    return filled(DamsmTextEncoder(BIRDS, width=8, embedding=12))


@pytest.mark.parametrize(
    ("paper", "words", "width", "arrays"),
    [("dfgan", 50, 256, ("words_embs", "sent_emb")), ("attngan", 30, 32, ("te_words", "te_sent"))],
)
def test_published_values(paper: str, words: int, width: int, arrays: tuple[str, str]) -> None:
    encoder = filled(DamsmTextEncoder([END, *map(str, range(1, words))], width))
    with np.load(REFERENCE / paper / f"{paper}_seed0.npz") as stored:
        captions, of_words, of_sentence = (torch.from_numpy(stored[array]) for array in ("captions", *arrays))
    read, sentence = encoder.encode_words(captions)
    longest = of_words.shape[2]
    for value, expected in ((read[:, :longest].transpose(1, 2), of_words), (sentence, of_sentence)):
        assert (value - expected).abs().max() <= 2e-4 * expected.abs().max()
    assert not read[:, longest:].any()


def test_published_names_shapes_and_counts() -> None:
    keys = json.loads((REFERENCE / "dfgan" / "keys.json").read_text())
    for name, count in (("text_encoder_bird", 2_075_320), ("text_encoder_coco", 8_629_420)):
        words = keys[name]["encoder.weight"][0]
        encoder = DamsmTextEncoder([END, *map(str, range(1, words))])
        assert {key: list(tensor.shape) for key, tensor in encoder.state_dict().items()} == keys[name]
        assert sum(parameter.numel() for parameter in encoder.parameters()) == count
        assert not any(parameter.requires_grad for parameter in encoder.parameters())


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_caption_depends_on_itself_alone(encoder: DamsmTextEncoder) -> None:
    """Not on the batch, its order, or the padding."""
    captions = ["a bird", "a small bird with red wings", "red"]
    words, sentences = encoder.encode_words(encoder.tokenizer(captions))
    for row, caption in enumerate(captions):
        tokens = encoder.tokenizer([caption])
        for padding in (len(words_of(caption)), 20, CONTEXT):
            alone, sentence = encoder.encode_words(tokens[:, :padding])
            assert close(alone[0], words[row, :padding])
            assert close(sentence[0], sentences[row])
        assert not words[row, len(words_of(caption)) :].any()
    backwards = encoder.encode_text(captions[::-1])
    assert close(backwards.flip(0), sentences)
    assert not close(sentences[0], sentences[1])


def test_it_stays_in_eval_mode(encoder: DamsmTextEncoder) -> None:
    torch.nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A white-bellied Bird's wings, red.", ["a", "white", "bellied", "bird", "s", "wings", "red"]),
        ("a\ufffd\ufffdbird", ["a", "bird"]),
        ("na\u00efve \u9e1f bird_1", ["nave", "bird_1"]),
        ("  \t\n", []),
    ],
)
def test_words_as_they_were_counted(caption: str, words: list[str]) -> None:
    assert words_of(caption) == words


def test_unknown_words_are_left_out_and_named_once(encoder: DamsmTextEncoder, caplog: pytest.LogCaptureFixture) -> None:
    known = encoder.encode_text(["a small bird"])
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(encoder.encode_text(["a small crimson bird <end>"]), known)
        assert torch.equal(encoder.encode_text(["a small crimson bird end"]), known)
    (note,) = [record.getMessage() for record in caplog.records]
    assert note == "the model's text encoder does not know, and leaves out: crimson, end"
    with caplog.at_level(logging.WARNING):
        encoder.encode_text(["bird " + " ".join(f"x{number}" for number in range(9))])
    assert caplog.records[-1].getMessage().endswith("x0, x1, x2, x3, x4 and 4 more")


@pytest.mark.parametrize("caption", ["", "...", "un oiseau rouge", "<end>", "\x1b[31m" + "x" * 500])
def test_a_caption_of_unknown_words_is_one_clear_line(encoder: DamsmTextEncoder, caption: str) -> None:
    with pytest.raises(
        UsageError, match=r"no word that the model's text encoder knows; it knows 9, such as a, small"
    ) as e:
        encoder.encode_text(["a bird", caption])
    assert str(e.value).isprintable()
    assert len(str(e.value)) < 250


def test_long_captions_are_cut(encoder: DamsmTextEncoder) -> None:
    cut, whole = "bird " * (CONTEXT + 1), "bird " * CONTEXT
    assert encoder.overlong(["a bird", cut, whole, "unknown " * CONTEXT + "bird"]) == [1]
    assert encoder.is_overlong(cut)
    assert torch.equal(encoder.encode_text([cut]), encoder.encode_text([whole]))


def test_files_give_the_same_encoder(encoder: DamsmTextEncoder, tmp_path: Path) -> None:
    save_text_encoder(tmp_path, encoder)
    read = load_text_encoder(tmp_path)
    assert (read.vocabulary, read.fingerprint) == (BIRDS, encoder.fingerprint)
    assert torch.equal(read.encode_text(["a red bird"]), encoder.encode_text(["a red bird"]))
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_the_fingerprint_covers_weights_and_words(encoder: DamsmTextEncoder) -> None:
    swapped = filled(DamsmTextEncoder((*BIRDS[:1], *BIRDS[:0:-1]), width=8, embedding=12))
    other = filled(DamsmTextEncoder(BIRDS, width=8, embedding=12), gain=2)
    assert len({encoder.fingerprint, swapped.fingerprint, other.fingerprint}) == 3


VOCABULARIES = [
    ("[]", "is no vocabulary"),
    ("{}", "is no vocabulary"),
    ('{"words": 3}', "is no vocabulary"),
    ('{"words": []}', "word 0 must be <end>"),
    ('{"words": ["<end>"]}', "word 0 must be <end>"),
    ('{"words": ["a", "<end>"]}', "word 0 must be <end>"),
    ('{"words": ["<end>", "a", "a"]}', "word 2 is 'a'"),
    ('{"words": ["<end>", ""]}', "word 1 is ''"),
    ('{"words": ["<end>", 1]}', "word 1 is 1"),
    ('{"words": ["<end>", null]}', "word 1 is None"),
    ('{"words": ["<end>", "\\u001b[31m"]}', "word 1 is '\\x1b[31m'"),
    ('{"words": ["<end>", ["a"]]}', "word 1 is ['a']"),
    ("{", "damaged"),
    ("", "an empty file"),
    ("[" * 10_000, "nested deeper"),
    ("<!DOCTYPE html>", "a web page"),
]


@pytest.mark.parametrize(("content", "words"), VOCABULARIES)
def test_what_is_no_vocabulary(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / VOCABULARY_FILE
    path.write_text(content)
    with pytest.raises(WeightsError) as caught:
        read_vocabulary(path)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_wrong_pairing_is_named(encoder: DamsmTextEncoder, tmp_path: Path) -> None:
    bird = {"encoder.weight": torch.zeros(5450, 2), "rnn.weight_hh_l0": torch.zeros(8, 2)}
    with pytest.raises(WeightsError) as caught:
        text_encoder(bird, [END, *map(str, range(27296))], "text_encoder200.pth", "captions.pickle")
    assert str(caught.value) == (
        "text_encoder200.pth knows 5,450 words (published: birds), but captions.pickle has 27,297 words (published: "
        "COCO): they are of two datasets or of two trainings; take both from the archive that the generator's authors "
        "link."
    )
    save_text_encoder(tmp_path, encoder)
    (tmp_path / VOCABULARY_FILE).write_text(json.dumps({"words": BIRDS[:-1]}))
    with pytest.raises(
        WeightsError, match=r"text_encoder.safetensors knows 10 words, but .*vocabulary.json has 9 words:"
    ):
        load_text_encoder(tmp_path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rnn.weight_hh_l0": torch.zeros(12, 4)}, "its recurrent network is no LSTM"),
        ({"rnn.weight_hh_l0": torch.zeros(16)}, "is no text encoder of DAMSM"),
        ({"encoder.weight": torch.zeros(10)}, "is no text encoder of DAMSM"),
        ({"encoder.weight": torch.zeros(10, 12, dtype=torch.int64)}, "of another kind of number: encoder.weight"),
        ({"rnn.bias_hh_l0": torch.zeros(17)}, "rnn.bias_hh_l0 (17,) instead of (16,)"),
        ({"rnn.weight_hh_l1": torch.zeros(16, 4)}, "not of this model: rnn.weight_hh_l1"),
    ],
)
def test_what_is_no_text_encoder(
    encoder: DamsmTextEncoder, tmp_path: Path, changed: dict[str, Tensor], words: str
) -> None:
    save_text_encoder(tmp_path, encoder)
    save_tensors(tmp_path / TEXT_ENCODER_FILE, encoder.state_dict() | changed)
    with pytest.raises(WeightsError) as caught:
        load_text_encoder(tmp_path)
    assert words in str(caught.value)


def test_a_missing_file_is_named(encoder: DamsmTextEncoder, tmp_path: Path) -> None:
    for file in (TEXT_ENCODER_FILE, VOCABULARY_FILE):
        save_text_encoder(tmp_path, encoder)
        (tmp_path / file).unlink()
        with pytest.raises(WeightsError, match=file):
            load_text_encoder(tmp_path)
