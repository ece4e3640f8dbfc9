"""Starting from the weights of a model, also of one for another image size: what fits is taken, the rest is new."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from ratlip_cli.errors import WeightsError
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.planned import planned
from ratlip_cli.tensor_files import check_fit, load_into, load_tensors
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.load import find_model
from ratlip_cli.weights.model_folder import (
    DISCRIMINATOR_FILE,
    GENERATOR_FILE,
    ModelConfig,
    clip_spec,
    computes_alike,
    file_of,
    read_model_config,
)

Tensors: TypeAlias = Mapping[str, Tensor]

_IN_A_ROW = re.compile(r"(?P<row>(?:.*?\.)??(?:blocks|nets)\.)(?P<place>\d+)\.(?P<inner>.*)")
"""Names of tensors of modules that stand in a row, of which networks of another image size have more or fewer."""


@dataclass(frozen=True)
class Start:
    """A model to start from."""

    spec: str  # As it was named.
    folder: Path
    config: ModelConfig
    generator: Tensors
    discriminator: Tensors | None  # None where the model has none.

    def check_clip(self, clip: FrozenCLIP) -> None:
        """Raise WeightsError where the model was trained with another CLIP."""
        if self.config.clip_fingerprint != clip.fingerprint or not computes_alike(self.config, clip):
            theirs = f"{clip_spec(self.folder, self.config)} ({self.config.clip_fingerprint})"
            raise WeightsError(
                f"--init-from {self.spec} was trained with CLIP {theirs}, this run has {clip.spec} "
                f"({clip.fingerprint}): leave out --clip."
            )


def find_start(settings: TrainSettings) -> Start:
    """The model that `settings.init_from` names, of whose sizes that of the image alone may be another.

    Raises WeightsError: no such model, its family or another size is another one, or its files are damaged.
    """
    folder = find_model(settings.init_from)
    config = read_model_config(folder)
    family = config.family
    theirs = {"variant": family.name, **family.model_of(config.generator, config.discriminator)}
    for name, value in settings.architecture.items():
        if theirs.get(name) != value and name != "image_size":
            option = f"--{name.replace('_', '-')}"
            raise WeightsError(
                f"--init-from {settings.init_from} has {name} = {theirs.get(name)}, this run {value}: its weights do "
                f"not fit; leave out {option}, or give it {theirs.get(name)}."
            )
    files = file_of(folder, GENERATOR_FILE), file_of(folder, DISCRIMINATOR_FILE)
    generator = load_tensors(files[0])
    discriminator = load_tensors(files[1]) if files[1].is_file() else None
    with planned():
        check_fit(family.generator(config.generator, config.geometry), generator, files[0])
        if discriminator is not None:
            check_fit(family.discriminator(config.discriminator, config.geometry), discriminator, files[1])
    return Start(settings.init_from, folder, config, generator, discriminator)


def start_from(start: Start, trainer: Trainer) -> str:
    """Put what fits of a model's weights into the networks; the rest stays as it was, new.

    Returns one line about what was taken. Raises WeightsError: another CLIP.
    """
    start.check_clip(trainer.clip)
    family = start.config.family
    own, others = trainer.generator.state_dict(), trainer.discriminator.state_dict()
    taken = fitting(start.generator, own)
    for network in (trainer.generator, trainer.ema):
        load_into(network, own | taken, start.folder)
    taken_d = fitting(start.discriminator or {}, others, from_end=True)
    load_into(trainer.discriminator, others | taken_d, start.folder)
    anew = _new(own, taken, family.blocks_name, lambda name: name)
    if taken_d:
        named = "the discriminator"
        anew += _new(others, taken_d, named, lambda name: f"{name} of {named}")
    else:
        anew.append("the discriminator")
    theirs, ours = start.config.generator.image_size, trainer.settings.image_size
    sizes = f", of {theirs} pixels, for {ours}" if theirs != ours else ""
    return f"starting from model {start.spec}{sizes}: {_told(anew, theirs != ours)}"


def fitting(tensors: Tensors, own: Tensors, from_end: bool = False) -> dict[str, Tensor]:
    """Those tensors of a network that fit one of another image size, by the names that they have there.

    A generator's blocks begin at the same size in both and have as many channels at their end, so there are more or
    fewer blocks of most channels. A block is that of the same place from the beginning where the shapes are the same,
    else that of the same place from the end, else any; no block is taken twice. What is no block is taken where it
    fits as it is.

    Args:
        tensors, own: state dicts of the network that there is, and of the new one.
        from_end: whether places from the end come first, as in a discriminator, whose last block is the smallest.
    """
    theirs, ours = _rows(tensors), _rows(own)
    taken = {
        name: value
        for name, value in tensors.items()
        if not _IN_A_ROW.fullmatch(name) and name in own and own[name].shape == value.shape
    }
    for row, blocks in ours.items():
        for place, block in _matches(theirs.get(row, {}), blocks, from_end).items():
            taken |= {f"{row}{place}.{name}": value for name, value in theirs[row][block].items()}
    return taken


def _matches(theirs: Mapping[int, Tensors], ours: Mapping[int, Tensors], from_end: bool) -> dict[int, int]:
    """For each of our blocks, by its place, the place of theirs that fits it."""
    more = len(ours) - len(theirs)
    shifts = [more, 0] if from_end else [0, more]
    left = set(theirs)
    places: dict[int, int] = {}
    for shift in (*shifts, *range(-len(theirs), len(ours))):
        for place, block in ours.items():
            if place not in places and place - shift in left and _shapes(block) == _shapes(theirs[place - shift]):
                places[place] = place - shift
                left.remove(place - shift)
    return places


def _rows(tensors: Tensors) -> dict[str, dict[int, Tensors]]:
    """The tensors of modules in a row: by the row's name, by place, and by their names inside the module."""
    found: dict[str, dict[int, dict[str, Tensor]]] = defaultdict(lambda: defaultdict(dict))
    for name, value in tensors.items():
        if match := _IN_A_ROW.fullmatch(name):
            found[match["row"]][int(match["place"])][match["inner"]] = value
    return {row: dict(sorted(blocks.items())) for row, blocks in found.items()}


def _shapes(block: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in block.items()}


def _new(own: Tensors, taken: Tensors, blocks_name: str, other: Callable[[str], str]) -> list[str]:
    """What of a network is new: blocks, by their number in it, and other modules, by their names."""
    found = set()
    for name in own.keys() - taken.keys():
        match = _IN_A_ROW.fullmatch(name)
        kind = {"blocks.": "block", "nets.": "network"}.get(match["row"]) if match else None
        found.add(f"{kind} {int(match['place']) + 1} of {blocks_name}" if match and kind else other(name.split(".")[0]))
    return sorted(found)


def _told(anew: list[str], resized: bool) -> str:
    if not anew:
        return "all that fits is taken; nothing starts anew" if resized else "all its weights are taken"
    return f"all that fits is taken; {', '.join(anew)} start{'s' if len(anew) == 1 else ''} anew"
