"""Exported models: the same images without this package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import ratlip
from PIL import Image

from ratlip_cli.errors import RatlipError
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.generator import Generator
from ratlip_cli.tokenizer import Tokenizer
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.export import export
from ratlip_cli.weights.export.export import export_model
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import Model, create_model_folder, load_folder, model_config, save_weights

PROMPT = "a red bird with black wings, it isn't blue"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Random weights on the bundled CLIP, whose vocabulary is trimmed."""
    clip = load_clip("ratlip-demo")
    config = GeneratorConfig(image_size=32, noise_dim=6, hidden_size=4, base_channels=4, bridge_blocks=1)
    torch.manual_seed(0)
    generator = Generator(config, clip.geometry)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("models") / "birds"
    create_model_folder(folder, model_config(config, DiscriminatorConfig(), clip), clip)
    save_weights(folder, generator.state_dict())
    return load_folder(folder)


@pytest.fixture(scope="module")
def exported(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    answer = ratlip("export", model.folder, "--out", folder, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["fingerprint"] == model.fingerprint
    assert told["image_difference"] < 1e-3
    return folder


def generated(model: Model, noise: np.ndarray, prompt: str) -> np.ndarray:
    text = model.clip.encode_text([prompt]).expand(len(noise), -1)
    with torch.no_grad():
        images: np.ndarray = model.generator(torch.from_numpy(noise), text, model.clip).clamp(-1, 1).numpy()
    return images


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnxruntime_generates_the_same(model: Model, exported: Path, batch: int) -> None:
    encoder, generator = (
        onnxruntime.InferenceSession(exported / f"{name}.onnx") for name in ("text_encoder", "generator")
    )
    merges = (exported / "merges.txt").read_text(encoding="utf-8").splitlines()
    tokens = Tokenizer(merges, model.clip.context_length)([PROMPT] * batch)
    (text,) = encoder.run(["text"], {"tokens": tokens})
    assert np.abs(text - model.clip.encode_text([PROMPT]).numpy()).max() <= 1e-3
    noise = np.random.default_rng(batch).standard_normal((batch, 6), dtype=np.float32)
    (images,) = generator.run(["images"], {"noise": noise, "text": text})
    expected = generated(model, noise, PROMPT)
    assert expected.std() > 0.05
    assert np.abs(images - expected).max() <= 1e-3


def test_the_files_say_which_model_and_nothing_of_this_machine(model: Model, exported: Path) -> None:
    for name in ("generator.onnx", "text_encoder.onnx"):
        loaded = onnx.load(exported / name)
        assert {item.key: item.value for item in loaded.metadata_props}["fingerprint"] == model.fingerprint
        assert b".py" not in (exported / name).read_bytes()
    assert json.loads((exported / "export.json").read_text())["clip_fingerprint"] == model.clip.fingerprint


def test_nothing_is_written_into_images_piece_by_piece(exported: Path) -> None:
    """What adds in place in Python would be a ScatterND a piece, which takes most of the time of an image."""
    operators = {node.op_type for node in onnx.load(exported / "generator.onnx").graph.node}
    assert {"Conv", "ConvTranspose"} <= operators
    assert not {operator for operator in operators if operator.startswith("Scatter")}


def run_example(folder: Path, tmp_path: Path) -> set[str]:
    """Run the example of a copy elsewhere, in a process of its own. Returns the packages it loaded."""
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['example.py', {PROMPT!r}, '2']\n"
        f"sys.path.insert(0, {str(copy)!r})\n"
        f"runpy.run_path({str(copy / 'example.py')!r})\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split())


def test_the_example_needs_nothing_else(model: Model, exported: Path, tmp_path: Path) -> None:
    loaded = run_example(exported, tmp_path)
    assert {"onnxruntime", "numpy", "PIL"} <= loaded
    assert not loaded & {"torch", "open_clip", "ratlip_cli", "ftfy", "regex", "onnx"}
    noise = np.random.default_rng(0).standard_normal((2, 6), dtype=np.float32)
    for number, image in enumerate(generated(model, noise, PROMPT)):
        with Image.open(tmp_path / f"{number}.png") as sample:
            pixels = (image.transpose(1, 2, 0) + 1) * 127.5
            assert np.abs(np.asarray(sample) - pixels).max() <= 0.75
    assert len((exported / "example.py").read_text().splitlines()) <= 25


@pytest.mark.slow
def test_torch_export_generates_the_same(model: Model, tmp_path: Path) -> None:
    result = export_model(model, tmp_path / "torch", "torch-export")
    assert result.image_difference <= 1e-4
    loaded = run_example(tmp_path / "torch", tmp_path)
    assert not loaded & {"open_clip", "ratlip_cli", "ftfy"}
    noise = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).numpy()
    for number, image in enumerate(generated(model, noise, PROMPT)):
        with Image.open(tmp_path / f"{number}.png") as sample:
            pixels = (image.transpose(1, 2, 0) + 1) * 127.5
            assert np.abs(np.asarray(sample) - pixels).max() <= 0.75
    assert str(Path(export.__file__).parent).encode() not in (tmp_path / "torch" / "generator.pt2").read_bytes()


def test_what_differs_is_not_written(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_traced", lambda *arguments: None)
    monkeypatch.setattr(export, "_save_archive", lambda program, path, *names: path.touch())
    monkeypatch.setattr(export, "_run_archive", lambda path, inputs: torch.zeros(1))
    with pytest.raises(RatlipError, match=r"the exported images differ by .*: nothing is written"):
        export_model(model, tmp_path / "out", "torch-export")
    assert list(tmp_path.iterdir()) == []


def test_bad_input(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    for arguments, code, words in (
        (["--format", "onxx", "--out", tmp_path / "out"], 2, "Did you mean 'onnx'"),
        (["--out", tmp_path], 2, "exists; choose another --out"),
        (["--out", tmp_path / "out"], 1, "pip install onnx onnxruntime onnxscript"),
    ):
        answer = ratlip("export", model.folder, *arguments, "--quiet")
        assert (answer.code, answer.out) == (code, "")
        assert words in answer.err
    assert load_model(str(model.folder)).fingerprint == model.fingerprint
