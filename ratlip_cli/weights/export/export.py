"""A model without this package: its generator and its text encoder as ONNX or as PyTorch export archives.

generator.onnx or .pt2      noise (B,noise_dim) and text vectors (B,d) -> images (B,3,S,S) in [-1,1]
text_encoder.onnx or .pt2   token ids (B,context_length) -> text vectors (B,d)
tokenizer.py, merges.txt    prompts -> token ids
export.json                 sizes, and the fingerprints of the model and its CLIP
example.py                  all of it together
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import ratlip_cli
from ratlip_cli import tokenizer
from ratlip_cli.clip_tokenizer import CLIPTokenizer, merges
from ratlip_cli.errors import RatlipError, UsageError, WeightsError, unknown_name
from ratlip_cli.family import Family
from ratlip_cli.fast import for_export
from ratlip_cli.files import whole_folder, write_text
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.weights.clip_files import quiet
from ratlip_cli.weights.model_folder import Model

FORMATS = {"onnx": "onnx", "torch-export": "pt2"}
"""The endings of their files."""

TOLERANCE = 1e-3
"""How far an exported model's images and text vectors may be from the model's own."""

_STANDALONE = Path(__file__).parent / "standalone"
_PROMPTS = ("a red bird with black wings", "a flower", "a smiling face in front of a wall")
_LARGEST_BATCH = 4096


@dataclass(frozen=True)
class Exported:
    """An exported model that was compared with the original."""

    folder: Path
    image_difference: float  # Largest difference of a pixel in [-1,1].
    text_difference: float  # Largest difference of a text vector's component, relative to the largest component.


class _Generating(nn.Module):
    """Noise and text vectors to images in [-1,1]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.generator = for_export(model.generator)
        self.clip = _with_towers(model.clip, visual=True)
        self.family = model.family

    def forward(self, noise: Tensor, text: Tensor) -> Tensor:
        images: Tensor = self.generator(noise, self.family.condition(self.clip, text), self.clip)
        return images.clamp(-1, 1)


class _Encoding(nn.Module):
    """Token ids to text vectors."""

    def __init__(self, clip: FrozenCLIP) -> None:
        super().__init__()
        self.clip = _with_towers(clip, visual=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.clip.encode_tokens(tokens)


def export_model(model: Model, folder: Path, file_format: str) -> Exported:
    """Write the self-contained folder of a model and compare what it computes with the model itself.

    The model is on the CPU; `file_format` is one of FORMATS.

    Raises UsageError for an unknown format or a folder that exists; WeightsError where the CLIP has another tokenizer
    than OpenAI's, or the family another condition than CLIP's text vectors; RatlipError where a package is missing, or
    the exported model computes something else.
    """
    if file_format not in FORMATS:
        raise unknown_name("format", file_format, FORMATS)
    if folder.exists():
        raise UsageError(f"{folder} exists; choose another --out.")
    if not isinstance(model.clip.tokenizer, CLIPTokenizer):
        raise WeightsError(f"CLIP {model.clip.spec} has a tokenizer of its own, which cannot be exported yet.")
    if type(model.family).rows is not Family.rows or model.text_encoder is not model.clip:
        raise WeightsError(f"variant {model.family.name} reads more than text vectors, which cannot be exported yet.")
    if file_format == "onnx":
        _check_packages()
    tokens = model.clip.tokenizer(list(_PROMPTS))
    text = model.clip.encode_tokens(tokens)
    noise = torch.randn(len(_PROMPTS), model.config.generator.noise_dim, generator=torch.Generator().manual_seed(0))
    generating, encoding = _Generating(model).eval(), _Encoding(model.clip).eval()
    with torch.no_grad():
        images = model.generator(noise, model.encode(_PROMPTS), model.clip).clamp(-1, 1)
    ending = FORMATS[file_format]
    with whole_folder(folder) as partial:
        generator, encoder = partial / f"generator.{ending}", partial / f"text_encoder.{ending}"
        save, run = (_save_onnx, _run_onnx) if file_format == "onnx" else (_save_archive, _run_archive)
        with quiet():
            save(_traced(generating, noise[:2], text[:2]), generator, ("noise", "text", "images"), model.fingerprint)
            save(_traced(encoding, tokens[:2]), encoder, ("tokens", "text"), model.fingerprint)
            image_difference = float((run(generator, {"noise": noise, "text": text}) - images).abs().max())
            text_difference = float((run(encoder, {"tokens": tokens}) - text).abs().max() / text.abs().max())
        for what, difference in (("images", image_difference), ("text vectors", text_difference)):
            if not difference <= TOLERANCE:
                raise RatlipError(
                    f"the exported {what} differ by {difference:.2g} from the model's: nothing is written."
                )
        write_text(partial / "merges.txt", "".join(f"{merge}\n" for merge in merges()))
        write_text(partial / "export.json", json.dumps(_settings(model, file_format), indent=2) + "\n")
        shutil.copyfile(tokenizer.__file__, partial / "tokenizer.py")
        example = "example_onnx.py" if file_format == "onnx" else "example_torch.py"
        shutil.copyfile(_STANDALONE / example, partial / "example.py")
    return Exported(folder, image_difference, text_difference)


def _settings(model: Model, file_format: str) -> dict[str, object]:
    return {
        "library": "ratlip",
        "library_version": ratlip_cli.__version__,
        "format": file_format,
        "fingerprint": model.fingerprint,
        "clip_fingerprint": model.clip.fingerprint,
        "image_size": model.config.generator.image_size,
        "noise_dim": model.config.generator.noise_dim,
        "context_length": model.clip.context_length,
    }


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


def _run_onnx(path: Path, inputs: dict[str, Tensor]) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(output)


def _run_archive(path: Path, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        output: Tensor = torch.export.load(path).module()(*inputs.values())
    return output


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RatlipError(f"ONNX needs the package {error.name}: pip install onnx onnxruntime onnxscript.") from error
