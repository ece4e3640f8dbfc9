"""A folder of `ratlip export` as a model that generates: onnxruntime or OpenVINO, numpy and Pillow. No torch here.

Every image is computed by itself, so that the same noise and prompt make the same bits whatever else is generated;
where there are several, each has threads of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ratlip_cli.errors import RatlipError, UsageError, WeightsError, first_line
from ratlip_cli.generation import LikeRequest
from ratlip_cli.json_files import from_json, is_of_kind, read_json
from ratlip_cli.noise import noise_vectors
from ratlip_cli.samples import overlong_prompt, unknown_words
from ratlip_cli.setting import EXPORT_ENDINGS, EXPORT_FILE
from ratlip_cli.threads import available_threads
from ratlip_cli.tokenizer import Tokenizer, without_accidents
from ratlip_cli.tokenizer import unknown_words as words_outside

MERGES_FILE = "merges.txt"
GENERATOR, TEXT_ENCODER, IMAGE_ENCODER = "generator", "text_encoder", "image_encoder"
"""The files' names before the ending. Early folders have no image encoder."""

OPENAI_MERGES = "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"
"""SHA-256 of the merges of OpenAI's tokenizer, a line each: of all that folders held before export.json said it."""

_LARGEST_SIZE = 2**20
"""More than any image, noise vector or prompt has."""
_TOGETHER, _IMAGES_A_WORKER = 16, 4
"""Images that are generated before the first of them is shown, at least; and for each of several calls at a time."""

Floats = NDArray[np.float32]
Graph = Callable[..., Floats]
"""Arrays to the one array that a network makes of them; several threads may call it."""


@dataclass(frozen=True)
class ExportSettings:
    """What export.json says."""

    library: str
    library_version: str
    format: str  # One of EXPORT_ENDINGS.
    fingerprint: str  # Of the model that was exported.
    clip_fingerprint: str
    image_size: int
    noise_dim: int
    context_length: int
    vocabulary: list[Any] | None = None  # Of a CLIP whose token embedding is trimmed, see `FrozenCLIP`.
    scales_noise: bool = True  # Whether truncation scales the noise; else it acts inside the generator.
    unit_text: bool = False  # Whether the generator reads text vectors at unit length.
    model: dict[str, Any] | None = None  # The model's config.json; early folders have none.
    merges_sha256: str = OPENAI_MERGES  # Of MERGES_FILE.

    def __post_init__(self) -> None:
        for name in ("image_size", "noise_dim", "context_length"):
            if not 1 <= (size := getattr(self, name)) <= _LARGEST_SIZE:
                raise ValueError(f"'{name}' must be 1 to {_LARGEST_SIZE}, not {size}")
        if not all(is_of_kind(token, int) for token in self.vocabulary or ()):
            raise ValueError("'vocabulary' must be a list of whole numbers")


def read_export(folder: Path) -> ExportSettings:
    """Read export.json. Raises WeightsError where it is damaged or of another program."""
    path = folder / EXPORT_FILE
    try:
        settings = from_json(ExportSettings, read_json(path), optional=True)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise WeightsError(f"{path} is not what `ratlip export` writes: {error}.") from error
    if settings.format not in EXPORT_ENDINGS:
        raise WeightsError(f"{path} has format {settings.format!a:.40}, which this ratlip does not know; export again.")
    return settings


class ExportedModel:
    """See `samples.ImageModel`.

    Args:
        folder: of `ratlip export`, in the format onnx or openvino.
        at_once: images that are wanted at a time; where there are several, each is computed by fewer threads.
        batch_size: images in one call of the generator, by all threads; one by one, several calls at a time, if left
            out. With more than one an image may depend on its neighbours, in its last bits.
        threads: of the CPU; those of `available_threads` if left out.

    Raises WeightsError where the folder is damaged or of a format that needs PyTorch; RatlipError where a package is
    missing.
    """

    precision = "fp32"
    like: LikeRequest | None = None

    def __init__(
        self, folder: Path, at_once: int = 1, batch_size: int | None = None, threads: int | None = None
    ) -> None:
        self.settings = read_export(folder)
        if self.settings.format == "torch-export":
            raise WeightsError(
                f"{folder} holds PyTorch archives: its example.py generates; --model takes a folder of `ratlip export "
                "--format onnx` or openvino, or the model that it was exported from."
            )
        self.name, self.folder = str(folder), folder
        self.fingerprint = self.settings.fingerprint
        self.exported_as = self.settings.format
        self.has_similarity = self._path(IMAGE_ENCODER).is_file()
        self._batch_size = batch_size or 1
        threads = threads or available_threads()
        self._workers = 1 if batch_size else min(threads, at_once)
        self._threads = threads // self._workers
        self.together = max(_TOGETHER, _IMAGES_A_WORKER * self._workers)
        self._pool = ThreadPoolExecutor(self._workers)

    def noise(self, seed: int, indices: Iterable[int]) -> Floats:
        """See `noise_vectors`."""
        return noise_vectors(seed, indices, self.settings.noise_dim)

    def truncated(self, noise: Floats, psi: float) -> Floats:
        """Noise scaled by psi. Raises UsageError for a model that truncates otherwise."""
        if psi != 1 and not self.settings.scales_noise:
            raise UsageError(
                f"{self.name} truncates inside its generator, which was exported without: leave out --truncation, or "
                "generate with the model that was exported."
            )
        return (noise * psi).astype(noise.dtype)

    def about(self, prompt: str) -> list[str]:
        """See `samples.ImageModel`."""
        repaired, settings = without_accidents(prompt), self.settings
        lines = []
        if self._tokenizer([repaired], settings.context_length + 1)[0, -1]:
            lines.append(overlong_prompt(settings.context_length))
        if settings.vocabulary and (words := words_outside(self._tokenizer.words(repaired), settings.vocabulary)):
            known = "`ratlip info MODEL --words` of the model that was exported lists the words that it knows"
            lines.append(f"{unknown_words(self.name, words)}: {known}")
        return lines

    def encoded(self, prompt: str) -> Floats:
        """What the text encoder gives (1,...) for a prompt, at unit length where the generator reads that."""
        text = self.encode_tokens(self._tokenizer([without_accidents(prompt)]))
        return text / np.linalg.norm(text, axis=1, keepdims=True) if self.settings.unit_text else text

    @staticmethod
    def between(start: Floats, end: Floats, share: float) -> Floats:
        """See `samples.ImageModel`."""
        mixed: Floats = np.float32(1 - share) * start + np.float32(share) * end
        if mixed.ndim == 3:  # of an AttnGAN, see `baselines.attngan.between`
            here, there = start[..., :1], end[..., :1]
            words = np.where(here < there, end, np.where(here > there, start, mixed))
            mixed = np.concatenate((mixed[..., :1], words[..., 1:]), axis=2)
        return mixed

    def reads_alike(self, one: Floats, other: Floats) -> bool:
        """See `samples.ImageModel`."""
        return np.array_equal(one, other)

    def images(self, noise: Floats, encoded: Sequence[Floats]) -> tuple[list[Image.Image], Sequence[float | None]]:
        """See `samples.ImageModel`."""
        text = np.concatenate(encoded)
        images = self.generated(noise, text)
        if not np.isfinite(images).all():
            raise RatlipError(
                f"model {self.name} generates pixels that are not numbers: its weights are broken; export it again."
            )
        if not self.has_similarity:
            return _to_images(images), [None] * len(images)
        vectors = self.encode_images(images)
        return _to_images(images), _cosines(vectors, text_vectors(text, vectors.shape[1]))

    def encode_tokens(self, tokens: NDArray[np.int64]) -> Floats:
        """Text vectors (n,d) of token ids (n,context_length), or all that an AttnGAN reads, see `text_vectors`."""
        return self._each(self._text_encoder, 1, tokens)

    def generated(self, noise: Floats, text: Floats) -> Floats:
        """Images (n,3,S,S) in [-1,1] of noise (n,noise_dim) and what `encode_tokens` gave."""
        return self._each(self._generator, self._batch_size, noise, text)

    def encode_images(self, images: Floats) -> Floats:
        """CLIP's image vectors (n,d), not normalised, of images (n,3,S,S) in [-1,1]."""
        return self._each(self._image_encoder, self._batch_size, images)

    def _each(self, graph: Graph, size: int, *arrays: NDArray[Any]) -> Floats:
        """What a network makes of the rows of arrays, `size` at a time, shared among the threads."""
        starts = range(0, len(arrays[0]), size)
        parts = self._pool.map(lambda start: graph(*(array[start : start + size] for array in arrays)), starts)
        return np.concatenate(list(parts))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        path = self.folder / MERGES_FILE
        try:
            content = path.read_bytes()
        except OSError as error:
            raise WeightsError(f"{path} cannot be read: export the model again.") from error
        if hashlib.sha256(content).hexdigest() != self.settings.merges_sha256:
            raise WeightsError(f"{path} is not what `ratlip export` wrote: export the model again.")
        return Tokenizer(content.decode().splitlines(), self.settings.context_length)

    @cached_property
    def _generator(self) -> Graph:
        return self._graph(GENERATOR)

    @cached_property
    def _text_encoder(self) -> Graph:
        return self._graph(TEXT_ENCODER)

    @cached_property
    def _image_encoder(self) -> Graph:
        return self._graph(IMAGE_ENCODER)

    def _path(self, network: str) -> Path:
        return self.folder / f"{network}.{EXPORT_ENDINGS[self.settings.format]}"

    def _graph(self, network: str) -> Graph:
        """Open one of the folder's networks, and check that it is of the model that export.json names."""
        path = self._path(network)
        if not path.is_file():
            raise WeightsError(f"{path} does not exist: export the model again.")
        load = _load_onnx if self.settings.format == "onnx" else _load_openvino
        try:
            graph, fingerprint, width = load(path, self._threads, self._workers)
        except ImportError as error:
            name = "onnxruntime" if self.settings.format == "onnx" else "openvino"
            raise RatlipError(f"{self.folder} needs the package {name}: pip install {name}.") from error
        except (RuntimeError, UnicodeError) as error:  # what both libraries raise for a file that they cannot read
            raise WeightsError(f"{path} is damaged: export the model again ({first_line(error)}).") from error
        settings = self.settings
        own = {
            GENERATOR: settings.noise_dim,
            TEXT_ENCODER: settings.context_length,
            IMAGE_ENCODER: settings.image_size,
        }
        if (fingerprint, width) != (self.fingerprint, own[network]):
            raise WeightsError(f"{path} is of another model than {EXPORT_FILE} beside it: export the model again.")
        return graph


def _load_onnx(path: Path, threads: int, _workers: int) -> tuple[Graph, str | None, int]:
    """A network in ONNX, the fingerprint in it, and the last size of its first input; a call takes so many threads."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf) as error:
        raise RuntimeError(str(error)) from error
    names = [one.name for one in session.get_inputs()]

    def graph(*arrays: NDArray[Any]) -> Floats:
        output: Floats = session.run(None, dict(zip(names, arrays, strict=True)))[0]
        return output

    fingerprint = session.get_modelmeta().custom_metadata_map.get("fingerprint")
    return graph, fingerprint, session.get_inputs()[0].shape[-1]


def _load_openvino(path: Path, threads: int, workers: int) -> tuple[Graph, str | None, int]:
    """The same of a network in OpenVINO's format; so many calls at a time take so many threads each."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    settings = {
        "INFERENCE_NUM_THREADS": threads * workers,
        "NUM_STREAMS": workers,
        "INFERENCE_PRECISION_HINT": "f32",  # else a CPU that has bfloat16 takes it, which changes pixels
    }
    compiled = core.compile_model(model, "CPU", settings)

    def graph(*arrays: NDArray[Any]) -> Floats:
        request = compiled.create_infer_request()
        request.infer(list(arrays))
        output: Floats = request.get_output_tensor(0).data.copy()
        return output

    fingerprint = model.get_rt_info(["fingerprint"]).astype(str) if model.has_rt_info(["fingerprint"]) else None
    return graph, fingerprint, model.input(0).partial_shape[-1].get_max_length()


def _to_images(images: Floats) -> list[Image.Image]:
    """Images (n,3,S,S), clamped to [-1,1], as RGB images."""
    levels = ((images.clip(-1, 1) + 1) * np.float32(127.5)).round().astype(np.uint8)
    return [Image.fromarray(image) for image in np.ascontiguousarray(levels.transpose(0, 2, 3, 1))]


def text_vectors(encoded: Floats, width: int) -> Floats:
    """CLIP's text vectors (n,width) in what a text encoder gives: all of it, or the first of an AttnGAN's rows."""
    return encoded if encoded.ndim == 2 else encoded[:, 0, 1 : 1 + width]


def _cosines(vectors: Floats, text: Floats) -> list[float]:
    """Of vectors (n,d) with text vectors (n,d), row by row."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(text, axis=1)
    cosines: list[float] = ((vectors * text).sum(axis=1) / norms).tolist()
    return cosines
