"""What a published checkpoint file holds: networks by the names that its code gives them, whatever kind it is of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ratlip_cli.errors import WeightsError
from ratlip_cli.file_kinds import TensorFile, tensor_file
from ratlip_cli.tensor_files import check_kind, load_pickled, load_tensors, named_tensors
from ratlip_cli.weights.released.pickles import is_plain_pickle, read_snapshot

Nets = dict[str, dict[str, Tensor]]
"""Tensors by name, by network: `netG`, `netD` or `netD0`, `netD1` ..., `netC`."""

GENERATOR = "netG"
_NETS = re.compile(r"net[GDC]\d?|netG_?ema", re.IGNORECASE)
_EMA = re.compile(r"(net)?G_?ema", re.IGNORECASE)
_SNAPSHOT = {"G": GENERATOR, "D": "netD"}  # LAFITE's names.
_IMAGE_ENCODER = ("emb_features.weight", "emb_cnn_code.weight")
_OF_DISCRIMINATORS = ("COND_DNET.", "UNCOND_DNET.", "img_code_s16.", "joint_conv.", "DBlocks.", "b4.fts.")


def read_nets(path: Path, ema: bool = True) -> tuple[Nets, bool]:
    """The networks of a file, and whether the generator is an EMA that the file holds beside the trained one.

    A file with the tensors of one network alone is `netG`. A leading `module.` is taken off every name of a PyTorch
    file.

    Args:
        ema: take the generator's EMA, where the file holds one, for `netG`.

    Raises WeightsError where the file is anything else, or a pickle that would execute something.
    """
    nets = _all_nets(path)
    emas = [name for name in nets if _EMA.fullmatch(name)]
    taken = {name: nets.pop(name) for name in emas}
    if taken and (ema or GENERATOR not in nets):
        nets[GENERATOR] = taken[emas[0]]
    if GENERATOR not in nets:
        raise WeightsError(
            f"{path} is not a checkpoint of published code that is known here: it has no '{GENERATOR}'. The tensors of "
            "a CLIP go by --clip NAME:FILE."
        )
    for net, tensors in nets.items():
        named_tensors(tensors, f"{net} in {path}")
    return nets, bool(taken) and nets[GENERATOR] is taken[emas[0]]


def read_net(path: Path) -> dict[str, Tensor]:
    """The tensors of one network, alone in its file. Raises WeightsError like `read_nets`."""
    nets = _all_nets(path)
    if list(nets) != [GENERATOR]:
        raise WeightsError(
            f"{path} holds {', '.join(nets) or 'nothing'}; a file with the tensors of one network is needed."
        )
    return named_tensors(nets[GENERATOR], path)


def what_else(tensors: Mapping[str, Tensor]) -> str:
    """What the tensors of one network are, where no published generator has such, and what to do."""
    if all(name in tensors for name in _IMAGE_ENCODER):
        return "is the image encoder of DAMSM, which AttnGAN's training alone used"
    if any(name.startswith(_OF_DISCRIMINATORS) for name in tensors):
        return "is a discriminator: give it by --discriminator beside the generator of the same training"
    some = ", ".join(f"{name!a:.60}" for name in sorted(tensors)[:3])
    return f"has tensors of no published generator that is known here: {some}"


def _all_nets(path: Path) -> Nets:
    check_kind(path, *TensorFile)
    if tensor_file(path) is TensorFile.SAFETENSORS:
        return {GENERATOR: load_tensors(path)}
    if is_plain_pickle(path):
        return {_SNAPSHOT.get(name, name): tensors for name, tensors in read_snapshot(path).items()}
    content = load_pickled(path)
    for wrapped in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapped), dict):
            content = content[wrapped]
    if not isinstance(content, dict):
        content = {}
    nets = {name: net for name, net in content.items() if isinstance(name, str) and _NETS.fullmatch(name)}
    if not nets and content and all(isinstance(value, Tensor) for value in content.values()):
        nets = {GENERATOR: content}
    return {name: _without_module(net) for name, net in nets.items() if isinstance(net, dict) and net}


def _without_module(net: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as they were before training on several GPUs. What is no name is told later."""
    return {name.removeprefix("module.") if isinstance(name, str) else name: value for name, value in net.items()}
