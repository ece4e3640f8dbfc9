"""Text encoders and vocabularies of DAMSM from the files that were published with AttnGAN, DF-GAN and RAT-GAN."""

from __future__ import annotations

from pathlib import Path

from ratlip_cli.baselines.damsm import DamsmTextEncoder
from ratlip_cli.baselines.damsm_files import load_text_encoder, read_vocabulary, text_encoder
from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.tensor_files import load_weights
from ratlip_cli.weights.released.pickles import is_plain_pickle, read_captions


def read_words(path: Path) -> tuple[str, ...]:
    """The vocabulary in a captions.pickle or a vocabulary.json. Raises WeightsError where it is anything else."""
    return read_captions(path) if path.is_file() and is_plain_pickle(path) else read_vocabulary(path)


def read_text_encoder(path: Path, captions: Path | None) -> DamsmTextEncoder:
    """The text encoder in a file such as text_encoder200.pth, or in a folder that `ratlip convert` made of one.

    Args:
        captions: the captions.pickle or vocabulary.json with its words; a folder has them.

    Raises WeightsError where a file is anything else or the two do not belong together; UsageError where `captions` is
    needed or superfluous.
    """
    if path.is_dir():
        if captions is not None:
            raise UsageError(f"the folder {path} has its vocabulary: leave out --captions.")
        return load_text_encoder(path)
    if captions is None:
        raise UsageError(
            f"a text encoder needs the words it was trained on, which are not in {path}: give --captions "
            "captions.pickle of the same archive."
        )
    if path.is_file() and is_plain_pickle(path):
        raise WeightsError(f"{path} is no text encoder, but a plain pickle: captions go by --captions.")
    return text_encoder(load_weights(path), read_words(captions), path, captions)
