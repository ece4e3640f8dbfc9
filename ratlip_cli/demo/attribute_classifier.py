"""The attribute classifier's network: what an image of the demo shows. `examples/demo/classifier.py` trains it.

It shares no weights with CLIP, generator or discriminator, and none of them is trained with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ratlip_cli.demo.attributes import ATTRIBUTES, FAMILIES
from ratlip_cli.tensor_files import load_into, load_tensors

SIDE = 64
"""Pixels of the images that it takes."""

FEATURES = 128


class Classifier(nn.Module):
    """Images (B,3,64,64) in [-1,1] to what they show."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(3, 32, 2),  # 32 x 32
            _conv(32, 64, 2),  # 16 x 16
            _conv(64, 64, 1),
            _conv(64, 96, 2),  # 8 x 8
            _conv(96, 96, 1),
            _conv(96, 128, 2),  # 4 x 4
            nn.Flatten(),
            nn.Linear(128 * 16, FEATURES),
            nn.ReLU(),
        )
        self.family = nn.Linear(FEATURES, len(FAMILIES))
        self.heads = nn.ModuleDict(
            {
                family: nn.ModuleDict({name: nn.Linear(FEATURES, len(values)) for name, values in attributes.items()})
                for family, attributes in ATTRIBUTES.items()
            }
        )

    def features(self, images: Tensor) -> Tensor:
        """Image features (B,128), for the Fréchet distance."""
        return cast(Tensor, self.layers(images))

    def logits(self, features: Tensor, family: str) -> dict[str, Tensor]:
        """Attribute -> logits (B, number of values)."""
        return {name: head(features) for name, head in cast(nn.ModuleDict, self.heads[family]).items()}

    @torch.no_grad()
    def answers(self, images: Tensor, family: str) -> dict[str, list[str]]:
        """Attribute -> the most likely value for each image, which is of `family`."""
        return self.answers_of(torch.cat([self.features(chunk) for chunk in torch.split(images, 500)]), family)

    @torch.no_grad()
    def answers_of(self, features: Tensor, family: str) -> dict[str, list[str]]:
        """`answers` of images by their features (B,128)."""
        return {name: _most_likely(family, name, logits) for name, logits in self.logits(features, family).items()}


def _most_likely(family: str, name: str, logits: Tensor) -> list[str]:
    values: Sequence[str] = ATTRIBUTES[family][name]
    return [values[index] for index in logits.argmax(dim=1).tolist()]


def _conv(inputs: int, outputs: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def load_classifier(path: Path) -> Classifier:
    """The trained classifier in a file, in eval mode. Raises WeightsError where it is missing or is another network."""
    classifier = Classifier()
    load_into(classifier, load_tensors(path), path)
    return classifier.eval().requires_grad_(False)
