"""Inception networks with weights from a formula, so that no download is needed: for tests and benchmarks."""

from __future__ import annotations

import zlib
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


def filled(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of `network`, every tensor drawn from its own name."""
    return {name: _drawn(name, tensor) for name, tensor in network.state_dict().items()}


def _drawn(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor)
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tensor.shape)
    if tensor.ndim > 1:
        values = normal * np.sqrt(2 / np.prod(tensor.shape[1:]))
    elif name.endswith("running_var"):
        values = 1 + 0.1 * np.abs(normal)
    else:
        values = 0.1 * normal + name.endswith("weight")
    return torch.from_numpy(values.astype(np.float32))


def write_inception(path: Path) -> Path:
    """Write weights for torch-fidelity's Inception of 2015-12-05."""
    with patch.object(FeatureExtractorInceptionV3, "load_state_dict"), patch("torch.load"):
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path="none")
    torch.save(filled(network), path)
    return path


def write_imagenet_inception(path: Path) -> Path:
    """Write weights for torchvision's Inception."""
    torch.save(filled(torchvision.models.inception_v3(weights=None, init_weights=False)), path)
    return path
