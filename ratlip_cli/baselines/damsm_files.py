"""A text encoder of DAMSM as files: text_encoder.safetensors, and vocabulary.json with its words in their order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ratlip_cli.baselines.damsm import END, DamsmTextEncoder
from ratlip_cli.errors import WeightsError
from ratlip_cli.file_kinds import other_file
from ratlip_cli.files import write_text
from ratlip_cli.json_files import read_json
from ratlip_cli.planned import planned
from ratlip_cli.tensor_files import load_into, load_tensors, save_tensors

TEXT_ENCODER_FILE, VOCABULARY_FILE = "text_encoder.safetensors", "vocabulary.json"
_EMBEDDING, _RECURRENT = "encoder.weight", "rnn.weight_hh_l0"
_PUBLISHED = {5450: "birds", 27297: "COCO"}
"""Words of the published vocabularies, and the dataset."""


def save_text_encoder(folder: Path, encoder: DamsmTextEncoder) -> None:
    """Write both files into a folder."""
    save_vocabulary(folder / VOCABULARY_FILE, encoder.vocabulary)
    save_tensors(folder / TEXT_ENCODER_FILE, encoder.state_dict())


def load_text_encoder(folder: Path, device: str | torch.device = "cpu") -> DamsmTextEncoder:
    """The text encoder in a folder. Raises WeightsError naming what is missing, damaged or does not fit."""
    path = folder / TEXT_ENCODER_FILE
    vocabulary = read_vocabulary(folder / VOCABULARY_FILE)
    return text_encoder(load_tensors(path), vocabulary, path, folder / VOCABULARY_FILE).to(device)


def save_vocabulary(path: Path, vocabulary: Sequence[str]) -> None:
    """Write the words by their numbers."""
    write_text(path, json.dumps({"words": list(vocabulary)}, indent=0) + "\n")


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """The words by their numbers. Raises WeightsError where the file is missing or anything else."""
    try:
        content = read_json(path)
    except OSError as error:
        raise WeightsError(f"the vocabulary {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise WeightsError(f"{path} is {other_file(path) or f'damaged: {error}'}.") from error
    words = content.get("words") if isinstance(content, dict) else None
    if not isinstance(words, list):
        raise WeightsError(f"{path} is no vocabulary, as `ratlip convert captions.pickle --out vocabulary.json` makes.")
    return checked_vocabulary(words, path)


def checked_vocabulary(words: Sequence[object], where: object) -> tuple[str, ...]:
    """`words`, which a file held, as a vocabulary. Raises WeightsError where they are none."""
    if len(words) < 2 or words[0] != END:
        raise WeightsError(f"{where} is no vocabulary of DAMSM: word 0 must be {END}, and others must follow.")
    seen: set[str] = set()
    for number, word in enumerate(words):
        if not isinstance(word, str) or not word.isprintable() or not 0 < len(word) <= 100 or word in seen:
            raise WeightsError(f"{where} is no vocabulary of DAMSM: word {number} is {word!a:.40}.")
        seen.add(word)
    return tuple(map(str, words))


def is_text_encoder(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these tensors, from a file, are those of a text encoder."""
    return _EMBEDDING in tensors and _RECURRENT in tensors


def text_encoder(
    tensors: Mapping[str, Tensor], vocabulary: Sequence[str], where: object, vocabulary_where: object
) -> DamsmTextEncoder:
    """The text encoder of these tensors and words; messages name their files.

    Raises WeightsError where the tensors are no text encoder's, or its words are others than the vocabulary's.
    """
    if not is_text_encoder(tensors) or any(tensors[name].ndim != 2 for name in (_EMBEDDING, _RECURRENT)):
        raise WeightsError(f"{where} is no text encoder of DAMSM: it needs {_EMBEDDING} and {_RECURRENT}.")
    words, embedding = tensors[_EMBEDDING].shape
    gates, half = tensors[_RECURRENT].shape
    if words != len(vocabulary):
        raise WeightsError(
            f"{where} knows {_counted(words)}, but {vocabulary_where} has {_counted(len(vocabulary))}: they are of two "
            "datasets or of two trainings; take both from the archive that the generator's authors link."
        )
    if gates != 4 * half:
        raise WeightsError(f"{where} is no text encoder of DAMSM: its recurrent network is no LSTM.")
    with planned():
        encoder = DamsmTextEncoder(vocabulary, 2 * half, embedding)
    load_into(encoder, tensors, where)
    return encoder.eval().requires_grad_(False)


def _counted(words: int) -> str:
    return f"{words:,} words" + (f" (published: {_PUBLISHED[words]})" if words in _PUBLISHED else "")
