"""Starting from the weights of a model, also of one for another image size: what fits is taken, the rest is new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ratlip_cli.errors import WeightsError
from ratlip_cli.tensor_files import load_into, load_tensors
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.load import find_model
from ratlip_cli.weights.model_folder import (
    DISCRIMINATOR_FILE,
    GENERATOR_FILE,
    ModelConfig,
    clip_spec,
    file_of,
    read_model_config,
)

BLOCKS = "blocks."  # How the names of the tensors begin that belong to the blocks of image-G.


@dataclass(frozen=True)
class Start:
    """A model to start from."""

    spec: str  # As it was named.
    folder: Path
    config: ModelConfig


def find_start(settings: TrainSettings) -> Start:
    """The model that `settings.init_from` names, of whose sizes that of the image alone may be another.

    Raises WeightsError: no such model, or its family or another size is another one.
    """
    folder = find_model(settings.init_from)
    config = read_model_config(folder)
    theirs = {"variant": config.family.name, **config.family.model_of(config.generator, config.discriminator)}
    for name, value in settings.architecture.items():
        if theirs.get(name) != value and name != "image_size":
            option = f"--{name.replace('_', '-')}"
            raise WeightsError(
                f"--init-from {settings.init_from} has {name} = {theirs.get(name)}, this run {value}: its weights do "
                f"not fit; leave out {option}, or give it {theirs.get(name)}."
            )
    return Start(settings.init_from, folder, config)


def start_from(start: Start, trainer: Trainer) -> str:
    """Put what fits of a model's weights into the networks; the rest stays as it was, new.

    Returns one line about what was taken. Raises WeightsError: another CLIP, or damaged files.
    """
    config, clip = start.config, trainer.clip
    if config.clip_fingerprint != clip.fingerprint:
        theirs = f"{clip_spec(start.folder, config)} ({config.clip_fingerprint})"
        raise WeightsError(
            f"--init-from {start.spec} was trained with CLIP {theirs}, this run has {clip.spec} ({clip.fingerprint}): "
            "leave out --clip."
        )
    file = file_of(start.folder, GENERATOR_FILE)
    own = trainer.generator.state_dict()
    taken = load_tensors(file)
    if config.generator.image_size != trainer.settings.image_size:
        taken = fitting(taken, own)
    for network in (trainer.generator, trainer.ema):
        load_into(network, own | taken, file)
    path = file_of(start.folder, DISCRIMINATOR_FILE)
    if path.is_file():
        load_into(trainer.discriminator, load_tensors(path), path)
    theirs, ours = config.generator.image_size, trainer.settings.image_size
    sizes = f", of {theirs} pixels, for {ours}" if theirs != ours else ""
    return f"starting from model {start.spec}{sizes}: {_told(own, taken, path.is_file(), theirs != ours)}"


def fitting(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors of a generator that fit one of another image size, by the names that they have there.

    Image-G begins at the same size in both and has as many channels at its end, so there are more or fewer blocks at
    8 nf channels. A block is that of the same place from the beginning where the channels are the same, else that of
    the same place from the end; no block is taken twice. What is no block of image-G is taken where it fits as it is.

    Args:
        tensors, own: state dicts of the generator that there is, and of the new one.
    """
    theirs, ours = _blocks(tensors), _blocks(own)
    taken = {
        name: value
        for name, value in tensors.items()
        if not name.startswith(BLOCKS) and name in own and own[name].shape == value.shape
    }
    left = set(range(len(theirs)))
    more = len(ours) - len(theirs)
    places: dict[int, int] = {}
    for shift in (0, more):
        for place in range(len(ours)):
            if place not in places and place - shift in left and _shapes(ours[place]) == _shapes(theirs[place - shift]):
                places[place] = place - shift
                left.remove(place - shift)
    for place, block in places.items():
        taken |= {f"{BLOCKS}{place}.{name}": value for name, value in theirs[block].items()}
    return taken


def _blocks(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors of each block of image-G."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(BLOCKS):
            place, _, inner = name.removeprefix(BLOCKS).partition(".")
            found.setdefault(int(place), {})[inner] = value
    return [found[place] for place in sorted(found)]


def _shapes(block: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in block.items()}


def _told(own: Mapping[str, Tensor], taken: Mapping[str, Tensor], discriminator: bool, resized: bool) -> str:
    """What is new: modules of the generator, by their names, and the discriminator."""
    parts = [name.split(".") for name in own if name not in taken]
    modules = {f"block {int(path[1]) + 1} of image-G" if path[0] == BLOCKS[:-1] else path[0] for path in parts}
    anew = sorted(modules) + ([] if discriminator else ["the discriminator"])
    if not anew:
        return "all that fits is taken; nothing starts anew" if resized else "all its weights are taken"
    return f"all that fits is taken; {', '.join(anew)} start{'s' if len(anew) == 1 else ''} anew"
