"""Models of random weights for the tests of explanations: milliseconds an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import open_clip
import torch

from ratlip_cli.families import family_of
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator
from ratlip_cli.weights.clip_files import load_clip, save_clip
from ratlip_cli.weights.model_folder import create_model_folder, model_config, save_weights


def clip_of_grid(folder: Path, grid: int, seed: int = 0) -> FrozenCLIP:
    """A CLIP of six blocks with a grid of `grid` patches of 8 pixels, kept in `folder`."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 8 * grid, "layers": 6, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = open_clip.CLIP(**config).state_dict()
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    save_clip(folder, {"model_cfg": config, "preprocess_cfg": preprocess}, weights)
    return load_clip(str(folder))


def model_of(folder: Path, clip: FrozenCLIP, seed: int = 0, discriminator: bool = True) -> Path:
    """A model folder of random weights on `clip`; all learned scalars of the discriminator are far from 0."""
    sizes = GeneratorConfig(
        image_size=32, noise_dim=6, hidden_size=4, base_channels=4, bridge_channels=8, bridge_blocks=1
    )
    discriminator_sizes = DiscriminatorConfig(base_channels=2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = Generator(sizes, clip.geometry)
        critic = Discriminator(discriminator_sizes, clip.geometry)
        for module in (generator, critic):
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
    create_model_folder(folder, model_config(sizes, discriminator_sizes, clip), clip)
    save_weights(folder, generator.state_dict(), critic.state_dict() if discriminator else None)
    return folder


def model_of_variant(folder: Path, clip: FrozenCLIP, variant: str, sizes: Mapping[str, int]) -> Path:
    """A model folder of another variant, of these sizes and random weights, on `clip`."""
    family = family_of(variant)
    config, discriminator = family.configs({"image_size": 32, **sizes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = family.generator(config, clip.geometry)
        for parameter in generator.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # some start as zeros, which no text passes
    create_model_folder(folder, model_config(config, discriminator, clip), clip)
    save_weights(folder, generator.state_dict())
    return folder
