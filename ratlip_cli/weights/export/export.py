"""A model without this package: its networks as ONNX, as OpenVINO's files or as PyTorch export archives.

generator       noise (B,noise_dim) and what text_encoder gives -> images (B,3,S,S) in [-1,1]
text_encoder    token ids (B,context_length) -> text vectors T (B,d); of AttnGAN T and words with their mask, packed
                (B,context_length,1+n): text[:, 0, 1:1+d] is T, text[:, 1:, 1:] words, text[:, 1:, 0] 1 for real ones
image_encoder   images (B,3,S,S) in [-1,1] -> image vectors (B,d), whose cosine with a text vector is the similarity
tokenizer.py, merges.txt    prompts -> token ids
export.json     sizes, the fingerprints of the model and its CLIP, the model's config.json, SHA-256 of merges.txt
example.py      all of it together

The networks are .onnx, .xml with .bin, or .pt2. `ratlip_cli.exported` reads the folder of the first two.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

import ratlip_cli
from ratlip_cli import tokenizer
from ratlip_cli.clip_tokenizer import CLIPTokenizer, merges
from ratlip_cli.errors import RatlipError, UsageError, WeightsError, unknown_name
from ratlip_cli.exported import (
    GENERATOR,
    IMAGE_ENCODER,
    MERGES_FILE,
    TEXT_ENCODER,
    ExportedModel,
    ExportSettings,
)
from ratlip_cli.family import Family
from ratlip_cli.fast import for_export
from ratlip_cli.files import whole_folder, write_text
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.setting import EXPORT_ENDINGS, EXPORT_FILE
from ratlip_cli.weights.clip_files import quiet
from ratlip_cli.weights.model_folder import Model, config_content

TOLERANCE = 1e-3
"""How far an exported model's images and vectors may be from the model's own."""

_STANDALONE = Path(__file__).parent / "standalone"
_PROMPTS = ("a red bird with black wings", "a flower", "a smiling face in front of a wall")
_LARGEST_BATCH = 4096


@dataclass(frozen=True)
class Exported:
    """An exported model that was compared with the original."""

    folder: Path
    image_difference: float  # Largest difference of a pixel in [-1,1].
    text_difference: float  # Largest difference of a text vector's component, relative to the largest component.
    vector_difference: float  # The same of CLIP's vectors of the images.


class _Generating(nn.Module):
    """Noise and what `_Encoding` makes to images in [-1,1]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.generator = for_export(model.generator)
        self.clip = _with_towers(model.clip, visual=True)
        self.family = model.family

    def forward(self, noise: Tensor, text: Tensor) -> Tensor:
        condition = text if _reads_tokens(self.family) else self.family.condition(self.clip, text)
        images: Tensor = self.generator(noise, condition, self.clip)
        return images.clamp(-1, 1)


class _Encoding(nn.Module):
    """Token ids to text vectors or, where the generator reads more, to its condition."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.clip = _with_towers(model.clip, visual=False)
        self.family = model.family

    def forward(self, tokens: Tensor) -> Tensor:
        if not _reads_tokens(self.family):
            return self.clip.encode_tokens(tokens)
        condition: Tensor = self.family.condition(self.clip, tokens)
        return condition


def _reads_tokens(family: Family) -> bool:
    """Whether captions come to the family as token ids, of which it makes words; else as text vectors."""
    return type(family).rows is not Family.rows


class _Seeing(nn.Module):
    """Images of the generator's size to CLIP's image vectors."""

    def __init__(self, clip: FrozenCLIP, size: int) -> None:
        super().__init__()
        self.clip = _with_towers(clip, visual=True)
        clip_size = clip.geometry.image_size
        self.resize: Tensor | None = None
        if size != clip_size:  # what `FrozenCLIP.resized` does to columns, and to rows: runtimes lack this resampling
            self.resize = F.interpolate(
                torch.eye(size)[None, None], size=(clip_size, size), mode="bicubic", antialias=True
            )[0, 0]

    def forward(self, images: Tensor) -> Tensor:
        return self.clip.encode_image(images if self.resize is None else self.resize @ images @ self.resize.T)


def export_model(model: Model, folder: Path, file_format: str) -> Exported:
    """Write the self-contained folder of a model and compare what it computes with the model itself.

    The model is on the CPU; `file_format` is one of `setting.EXPORT_ENDINGS`.

    Raises UsageError for an unknown format or a folder that exists; WeightsError where the CLIP has another tokenizer
    than OpenAI's, or the model reads captions by a text encoder of its own; RatlipError where a package is missing, or
    the exported model computes something else.
    """
    if file_format not in EXPORT_ENDINGS:
        raise unknown_name("format", file_format, EXPORT_ENDINGS)
    if folder.exists():
        raise UsageError(f"{folder} exists; choose another --out.")
    if not isinstance(model.clip.tokenizer, CLIPTokenizer):
        raise WeightsError(f"CLIP {model.clip.spec} has a tokenizer of its own, which cannot be exported yet.")
    if model.text_encoder is not model.clip:
        raise WeightsError(
            f"{model.name} reads captions by DAMSM's text encoder, which cannot be exported: variant "
            f"{model.family.name.partition('-')[0]}, trained on a CLIP, can."
        )
    _check_packages(file_format)
    config = model.config.generator
    tokens = model.clip.tokenizer(list(_PROMPTS))
    encoder = _Encoding(model)
    text: Tensor = encoder(tokens)
    noise = torch.randn(len(_PROMPTS), config.noise_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images: Tensor = model.generator(noise, model.encode(_PROMPTS), model.clip).clamp(-1, 1)
        vectors = model.clip.encode_image(images)
    networks: dict[str, tuple[nn.Module, dict[str, Tensor], str]] = {  # with its inputs and the name of its output
        GENERATOR: (_Generating(model), {"noise": noise, "text": text}, "images"),
        TEXT_ENCODER: (encoder, {"tokens": tokens}, "text"),
        IMAGE_ENCODER: (_Seeing(model.clip, config.image_size), {"images": images}, "vectors"),
    }
    save = {"onnx": _save_onnx, "openvino": _save_openvino, "torch-export": _save_archive}[file_format]
    with whole_folder(folder) as partial:
        write_text(partial / MERGES_FILE, "".join(f"{merge}\n" for merge in merges()))
        digest = hashlib.sha256((partial / MERGES_FILE).read_bytes()).hexdigest()
        write_text(partial / EXPORT_FILE, json.dumps(asdict(_settings(model, file_format, digest)), indent=2) + "\n")
        with quiet():
            for name, (network, inputs, output) in networks.items():
                program = _traced(network.eval(), *(tensor[:2] for tensor in inputs.values()))
                save(program, partial / f"{name}.{EXPORT_ENDINGS[file_format]}", (*inputs, output), model.fingerprint)
            run = _run_archive if file_format == "torch-export" else _run_exported
            computed = [run(partial, name, tuple(inputs.values())) for name, (_, inputs, _) in networks.items()]
        differences = []
        for what, ours, theirs, scale in (
            ("images", images, computed[0], 1.0),
            ("text vectors", text, computed[1], float(text.abs().max())),
            ("image vectors", vectors, computed[2], float(vectors.abs().max())),
        ):
            differences.append(float((theirs - ours).abs().max()) / scale)
            if not differences[-1] <= TOLERANCE:
                raise RatlipError(
                    f"the exported {what} differ by {differences[-1]:.2g} from the model's: nothing is written."
                )
        shutil.copyfile(tokenizer.__file__, partial / "tokenizer.py")
        shutil.copyfile(_STANDALONE / f"example_{file_format.replace('-', '_')}.py", partial / "example.py")
    return Exported(folder, *differences)


def _settings(model: Model, file_format: str, merges_sha256: str) -> ExportSettings:
    return ExportSettings(
        library="ratlip",
        library_version=ratlip_cli.__version__,
        format=file_format,
        fingerprint=model.fingerprint,
        clip_fingerprint=model.clip.fingerprint,
        image_size=model.config.generator.image_size,
        noise_dim=model.config.generator.noise_dim,
        context_length=model.clip.context_length,
        vocabulary=model.clip.vocabulary,
        scales_noise=type(model.family).truncated is Family.truncated,
        unit_text=model.family.unit_text,
        model=config_content(model.config),
        merges_sha256=merges_sha256,
    )


def _with_towers(clip: FrozenCLIP, visual: bool) -> FrozenCLIP:
    """The same CLIP with its vision transformer alone, or with everything else."""
    model = copy.copy(clip.model)
    model._modules = {name: tower for name, tower in clip.model._modules.items() if (name == "visual") == visual}
    slim = copy.copy(clip)
    slim._modules = {"model": model}
    return slim


def _traced(module: nn.Module, *arguments: Tensor) -> ExportedProgram:
    """The computation of `module` for any batch size; the arguments have two rows."""
    batch = Dim("batch", min=1, max=_LARGEST_BATCH)
    shapes = tuple({0: batch} for _ in arguments)
    with torch.no_grad():
        module(*arguments)  # so that tensors that are made once and kept are none of the tracer's
    with torch.no_grad():  # else PyTorch 2.6 puts what switches gradients off into the program, and cannot write it
        return torch.export.export(module, arguments, dynamic_shapes=shapes, strict=False)


def _save_onnx(program: ExportedProgram, path: Path, names: tuple[str, ...], fingerprint: str) -> None:
    """Write the computation; `names` are those of its inputs and, last, of its output."""
    *inputs, output = names
    onnx_program = torch.onnx.export(program, (), input_names=inputs, output_names=[output], dynamo=True, verbose=False)
    if onnx_program is None:
        raise RatlipError("this PyTorch cannot export to ONNX; install another.")
    for node in onnx_program.model.graph.all_nodes():
        node.metadata_props.clear()  # where in the code it came from, with the paths of this machine
    onnx_program.model.metadata_props["fingerprint"] = fingerprint
    onnx_program.save(path)


def _save_archive(program: ExportedProgram, path: Path, _names: tuple[str, ...], fingerprint: str) -> None:
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, path, extra_files={"fingerprint": fingerprint})


def _save_openvino(program: ExportedProgram, path: Path, names: tuple[str, ...], fingerprint: str) -> None:
    import openvino

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # ONNX keeps large weights in a second file
        onnx = Path(folder) / "network.onnx"
        _save_onnx(program, onnx, names, fingerprint)
        converted = openvino.convert_model(onnx)
        converted.set_rt_info(fingerprint, "fingerprint")
        openvino.save_model(converted, path, compress_to_fp16=False)
        del converted  # which may read the weights from there


def _run_exported(folder: Path, network: str, inputs: tuple[Tensor, ...]) -> Tensor:
    exported = ExportedModel(folder)
    compute: dict[str, Callable[..., Any]] = {
        GENERATOR: exported.generated,
        TEXT_ENCODER: exported.encode_tokens,
        IMAGE_ENCODER: exported.encode_images,
    }
    return torch.from_numpy(compute[network](*(tensor.numpy() for tensor in inputs)))


def _run_archive(folder: Path, network: str, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        output: Tensor = torch.export.load(folder / f"{network}.pt2").module()(*inputs)
    return output


def _check_packages(file_format: str) -> None:
    needed = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
    for name in needed.get(file_format, ()):
        try:
            importlib.import_module(name)
        except ImportError as error:
            extra = "export" if file_format == "onnx" else file_format
            raise RatlipError(
                f"--format {file_format} needs the package {error.name}: pip install 'ratlip[{extra}]'."
            ) from error
