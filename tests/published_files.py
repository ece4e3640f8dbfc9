"""Small networks of every published code, as its files hold them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from published_pickles import network, save_captions, save_snapshot
from torch import Tensor, nn

from ratlip_cli.baselines.damsm import END, DamsmTextEncoder
from ratlip_cli.families import family_of
from ratlip_cli.families.attngan import ReleasedAttnGANConfig, ReleasedAttnGANDiscriminatorConfig
from ratlip_cli.families.dfgan import DFGANConfig, DFGANDiscriminatorConfig
from ratlip_cli.families.lafite import LafiteReleasedDiscriminatorConfig, LafiteReleasedGeneratorConfig
from ratlip_cli.families.ratgan import RATGANConfig, RATGANDiscriminatorConfig
from ratlip_cli.model.config import ClipGeometry
from ratlip_cli.weights.released.attngan import export_attngan
from ratlip_cli.weights.released.codes import code_for
from ratlip_cli.weights.released.lafite import export_lafite

Nets = dict[str, dict[str, Tensor]]

WORDS = ("a", "small", "bird", "with", "red", "wings")
ON_DAMSM = ("dfgan-released", "dfgan-2020-released", "ratgan-released", "ratgan-flower-released", "attngan-released")
ALONE = ("dfgan-2020-released", "ratgan-released", "ratgan-flower-released", "attngan-released")
"""Variants whose code keeps each network in a file of its own."""
DAMSM_OF_ATTNGAN = 8

GEOMETRY = ClipGeometry(width=32, grid=4, layers=3, embed_dim=16, image_size=32)
"""That of the tests' CLIP."""

SIZES = {
    "dfgan-released": (DFGANConfig("dfgan-released", 32, 6, 2), DFGANDiscriminatorConfig(32, 2)),
    "dfgan-2020-released": (DFGANConfig("dfgan-2020-released", 32, 6, 2), DFGANDiscriminatorConfig(32, 2)),
    "ratgan-released": (RATGANConfig("ratgan-released", 32, 6, 2, 4), RATGANDiscriminatorConfig(32, 2)),
    "ratgan-flower-released": (RATGANConfig("ratgan-flower-released", 32, 6, 2, 4), RATGANDiscriminatorConfig(32, 2)),
    "attngan-released": (
        ReleasedAttnGANConfig(
            base_size=64,
            z_dim=3,
            condition_dim=3,
            base_channels=2,
            residual_blocks=1,
            text_dim=DAMSM_OF_ATTNGAN,
            word_dim=DAMSM_OF_ATTNGAN,
            published_mask=False,
        ),
        ReleasedAttnGANDiscriminatorConfig(base_size=64, base_channels=2, text_dim=DAMSM_OF_ATTNGAN),
    ),
    "lafite-released": (
        LafiteReleasedGeneratorConfig(
            image_size=32, noise_dim=6, w_dim=6, mapping_layers=2, text_width=6, channel_base=64, channel_max=8
        ),
        LafiteReleasedDiscriminatorConfig(image_size=32, channel_base=64, channel_max=8),
    ),
}


@functools.cache
def networks(variant: str, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """A generator and a discriminator of small sizes and random weights, none of them 0."""
    generator_config, discriminator_config = SIZES[variant]
    family = family_of(variant)
    made = family.generator(generator_config, GEOMETRY), family.discriminator(discriminator_config, GEOMETRY)
    random = torch.Generator().manual_seed(seed)
    for one in made:
        for name, tensor in one.state_dict().items():
            if tensor.is_floating_point() and not name.endswith("running_var"):
                scale = 30.0 if name.startswith("mapping.") or ".style.text" in name else 0.3  # LAFITE's slow layers
                tensor.copy_(torch.randn(tensor.shape, generator=random) * scale)
    return made


def published(variant: str, seed: int = 0) -> Nets:
    """Their tensors as the published code names them."""
    generator, discriminator = (one.state_dict() for one in networks(variant, seed))
    if variant == "attngan-released":
        return export_attngan(SIZES[variant][0], generator, discriminator)
    if variant == "lafite-released":
        return export_lafite(SIZES[variant][0], generator, discriminator)
    publish = code_for(variant).publish
    assert publish is not None
    return publish(SIZES[variant][0], generator, discriminator)


def save(folder: Path, variant: str, nets: Nets) -> list[object]:
    """The files that the published code writes; what `ratlip convert` is given to read them all."""
    if variant == "lafite-released":
        buffers = ("w_avg", "noise_const", "resample_filter")
        objects = {
            name: network(tensors, [key for key in tensors if key.endswith(buffers)]) for name, tensors in nets.items()
        }
        return [save_snapshot(folder / "network-snapshot.pkl", objects)]
    if variant not in ALONE:
        torch.save({"model": nets, "optimizers": {}, "epoch": 1220}, folder / "state_epoch_1220.pth")
        return [folder / "state_epoch_1220.pth"]
    for name, tensors in nets.items():
        torch.save(tensors, folder / f"{name}.pth", _use_new_zipfile_serialization=False)
    given: list[object] = [folder / "netG.pth"]
    for name in sorted(nets):
        if name.startswith("netD"):
            given += ["--discriminator", folder / f"{name}.pth"]
    return given


def text_encoder(variant: str) -> DamsmTextEncoder:
    """A DAMSM text encoder of random weights, as wide as the variant reads it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        width = DAMSM_OF_ATTNGAN if variant == "attngan-released" else 256
        return DamsmTextEncoder((END, *WORDS), width, embedding=12)


def save_text_side(folder: Path, variant: str) -> list[object]:
    """Its files as they were published; the options by which they are given."""
    save_captions(folder / "captions.pickle", WORDS)
    torch.save(text_encoder(variant).state_dict(), folder / "text_encoder200.pth")
    return ["--text-encoder", folder / "text_encoder200.pth", "--captions", folder / "captions.pickle"]


def without_counters(nets: Mapping[str, Mapping[str, Tensor]]) -> Nets:
    """As PyTorch 0.3 wrote them: BatchNorm did not count."""
    return {
        net: {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
        for net, tensors in nets.items()
    }
