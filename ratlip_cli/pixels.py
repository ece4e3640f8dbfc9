"""Images as tensors in [-1,1] and as 8-bit pixels, converted here alone."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_images(images: Tensor) -> list[Image.Image]:
    """Images (B,3,H,W), nominally in [-1,1] and clamped to it, as B RGB images."""
    return [Image.fromarray(image) for image in to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()]


def from_image(image: Image.Image) -> Tensor:
    """An RGB image as a tensor (3,H,W), float32 in [-1,1]."""
    return from_uint8(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def to_uint8(images: Tensor) -> Tensor:
    """Images (...,3,H,W), nominally in [-1,1] and clamped to it, as uint8 images (...,3,H,W)."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 images (...,3,H,W) as float32 in [-1,1]."""
    return images.float() / 127.5 - 1
