"""At full size, with the weights of the reference values: a published file to a model and back, CLIP by its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ratlip
from hub_connection import Connect
from hub_server import Fault, serve
from test_reference import FOLDER, RELATIVE, formula, names_and_shapes
from torch import Tensor

from ratlip_cli.tensor_files import load_pickled, save_tensors
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.load import load_model

pytestmark = pytest.mark.slow


def tensors(net: str) -> Iterator[tuple[str, Tensor]]:
    for name, shape in names_and_shapes("ratlip", net).items():
        formula_name = name.replace("netG.mapping.CLIP_ViT.", "clip.visual.")
        yield name.removeprefix(f"{net}."), formula(formula_name, shape)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of ViT-B/32, 605 MB, as the Hub has it."""
    path = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors"
    save_tensors(path, dict(tensors("clip")))
    return path


def test_an_unmodified_published_file_becomes_a_model_with_one_command(clip_file: Path, tmp_path: Path) -> None:
    file, out, back = tmp_path / "state.pth", tmp_path / "model", tmp_path / "back.pth"
    torch.save({"model": {net: dict(tensors(net)) for net in ("netG", "netD", "netC")}, "epoch": 1}, file)
    answer = ratlip("convert", file, "--out", out, "--clip", f"ViT-B-32-quickgelu:{clip_file}", "--quiet")
    assert answer.code == 0, answer.err

    model = load_model(str(out))
    with np.load(FOLDER / "ratlip_released_seed0.npz") as values, torch.no_grad():
        images = model.generator(
            torch.from_numpy(values["noise"]),
            model.clip.encode_tokens(torch.from_numpy(values["tokens"]).long()),
            model.clip,
        )
        expected = values["fake_sub"]
    assert np.abs(images[:, :, ::4, ::4].numpy() - expected).max() <= RELATIVE * np.abs(expected).max()

    answer = ratlip("convert", out, "--to-released", "--out", back, "--quiet")
    assert answer.code == 0, answer.err
    given, returned = load_pickled(file)["model"], load_pickled(back)["model"]
    assert {net: list(given[net].keys() ^ returned[net].keys()) for net in given} == {
        "netG": [],
        "netD": [],
        "netC": [],
    }
    unused = [name for name in given["netD"] if name.startswith("DBlocks") and "conv_s" in name]
    for net in given:
        for name, tensor in given[net].items():
            assert name in unused or torch.equal(tensor, returned[net][name]), f"{net}.{name}"


def test_a_full_size_clip_comes_from_the_hub_the_way_open_clip_goes(
    clip_file: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve({"timm/vit_base_patch32_clip_224.openai": clip_file.parent}) as hub:
        connect(hub)
        hub.faults.append(Fault("GET /cdn", cut_after=200_000_000))
        clip = load_clip("ViT-B-32-quickgelu:openai")
        ranges = [request for request in hub.requests if request.startswith("GET /cdn") and "bytes=" in request]
        assert len(ranges) == 1
        downloads = hub.downloads()
        expected = dict(tensors("clip"))
        state = clip.model.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
        assert load_clip("ViT-B-32-quickgelu:openai").fingerprint == clip.fingerprint
        assert hub.downloads() == downloads
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_clip("ViT-B-32-quickgelu:openai").fingerprint == clip.fingerprint
