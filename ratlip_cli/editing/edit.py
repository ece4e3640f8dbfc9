"""An image changed by words, from a request to a result: inversion, then a move along the difference of two captions.

G(z, T + s (T_to - T_from)) with the z and T that generate the image x, which then settle: CLIP's vector of the image is
to be v(x) + s (t_to - t_from), of unit vectors of image and captions, and all else as in x.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ratlip_cli.device import resolve_device
from ratlip_cli.editing.inversion import Inversion, Weights, as_long, invert, settle
from ratlip_cli.editing.request import EditRequest, steps_after_move
from ratlip_cli.errors import UsageError
from ratlip_cli.files import printable, whole_files
from ratlip_cli.grids import captioned_grid
from ratlip_cli.like import image_vectors, reads_vectors, text_like
from ratlip_cli.model.losses import clip_similarity
from ratlip_cli.outputs import next_number, png_text, slug
from ratlip_cli.pixels import from_image, to_images
from ratlip_cli.sampling import TorchModel, read_square, sample
from ratlip_cli.weights.load import default_model, load_model
from ratlip_cli.weights.model_folder import Model

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Edit:
    """An image, what the model makes of it, and the changes."""

    request: EditRequest
    model: Model
    original: Image.Image  # The square middle, at the model's size.
    reconstruction: Image.Image
    edited: list[Image.Image]  # One a strength.
    inversion: Inversion  # Of one image.
    similarity: Mapping[str, list[float]]  # Caption -> its CLIP similarity with original, reconstruction, edited ones.
    seconds: float  # Of both searches.

    @property
    def loss(self) -> float:
        """Of the inversion, in the end."""
        return float(Weights().loss(self.inversion.losses))

    @property
    def says(self) -> str:
        """How near the reconstruction is, and what the search for it came to, in a sentence."""
        levels = 127.5 * float(self.inversion.losses["pixel"][0]) ** 0.5
        cosine = 1 - float(self.inversion.losses["identity"][0])
        near = f"{levels:.0f} of 255 levels off (root mean square), CLIP cosine {cosine:.2f}"
        found = f"loss {self.loss:.3f} after {self.request.steps} steps in {self.seconds:.1f} s"
        return f"reconstruction: {near}; {found}"

    def strip(self) -> Image.Image:
        """Original, reconstruction and the changes side by side."""
        request = self.request
        names = ", ".join(["original", "reconstruction", *(f"{strength:g}" for strength in request.strengths)])
        caption = f"{request.start} \N{RIGHTWARDS ARROW} {request.end} ({names})"
        return captioned_grid([(caption, [self.original, self.reconstruction, *self.edited])])

    def record(self) -> dict[str, object]:
        """How it was made, and how well."""
        request = self.request
        return {
            "image": str(request.image),
            "from": request.start,
            "to": request.end,
            "strengths": list(request.strengths),
            "steps": request.steps,
            "seed": request.seed,
            "model": self.model.name,
            "fingerprint": self.model.fingerprint,
            "reconstruction": {name: round(float(value[0]), 4) for name, value in self.inversion.losses.items()},
            "clip_similarity": {name: [round(value, 4) for value in row] for name, row in self.similarity.items()},
            "loss": round(self.loss, 4),
            "seconds": round(self.seconds, 1),
        }

    def save(self, folder: str | Path) -> list[Path]:
        """Write NNNN_TITLE_strip.png, an image for each strength, which says it, and the record as JSON; the files.

        Args:
            folder: made where it does not exist; numbers go on from what it holds, and nothing is replaced.

        All of them are written or none. Raises RatlipError where they cannot be.
        """
        folder, request = Path(folder), self.request
        stem = f"{next_number(folder):04d}_{slug(f'{request.start} to {request.end}')}"
        named: dict[str, tuple[Image.Image, dict[str, float]]] = {"strip": (self.strip(), {})}
        for strength, changed in zip(request.strengths, self.edited, strict=True):
            named[f"{strength:g}"] = changed, {"strength": strength}
        record = json.dumps(self.record(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with whole_files(folder) as partial:
            for end, (image, own) in named.items():
                image.save(partial / f"{stem}_{end}.png", pnginfo=png_text(self.record() | own))
            (partial / f"{stem}.json").write_bytes(printable(record).encode())
        return [*(folder / f"{stem}_{end}.png" for end in named), folder / f"{stem}.json"]

    def _repr_png_(self) -> bytes:
        shown = io.BytesIO()
        self.strip().save(shown, "PNG")
        return shown.getvalue()

    def __repr__(self) -> str:
        return f"<Edit of {self.request.image} from '{self.request.start}' to '{self.request.end}'>"


def edit(request: EditRequest, on_step: Callable[[float], None] = lambda loss: None) -> Edit:
    """Change an image from what one caption says to what another says.

    Args:
        on_step: called with the loss before each step of the inversion, and then of each strength's search.

    Raises DataError where the image cannot be read; UsageError where the model does not tell the captions apart or
    reads words one by one; WeightsError or DeviceError where a model or a device cannot be used.
    """
    model = _loaded(request)
    original = read_square(request.image, model.config.generator.image_size)
    start, _ = caption_vectors(model, request.start, request.end)
    began = time.monotonic()
    target = from_image(original)[None]
    found = invert(
        model,
        target,
        first_text(model, target, start, [request.start, request.end]),
        request.steps,
        request.seed,
        on_step=on_step,
    )
    captions = [request.start, request.end]
    strengths = torch.tensor([0.0, *request.strengths])
    images = moved(model, target, found, captions, strengths, steps_after_move(request.steps), on_step)
    seconds = time.monotonic() - began
    similarity = _similarity(model, torch.cat((target, images)), captions)
    reconstruction, *edited = to_images(images)
    return Edit(request, model, original, reconstruction, edited, found, similarity, seconds)


def with_model(request: EditRequest) -> EditRequest:
    """The same request with its model loaded, in fp32. Raises WeightsError or DeviceError where it cannot be."""
    return replace(request, model=_loaded(request))


def _loaded(request: EditRequest) -> Model:
    model = request.model
    if not isinstance(model, Model):
        read_square(request.image, 1)  # what is wrong with it is told before a model is loaded
        model = load_model(model or default_model(), resolve_device(request.device))
        logger.info("model %s (%s) on %s", model.name, model.fingerprint, model.device)
    return model.in_precision("fp32")


def caption_vectors(model: Model, start: str, end: str) -> tuple[Tensor, Tensor]:
    """The conditions (1,d) of two captions.

    Raises UsageError where they are the same, or the model's conditions are words.
    """
    images = TorchModel(model)
    for number, caption in enumerate((start, end), 1):
        for line in images.about(caption):
            logger.warning("prompt %d: %s", number, line)
    vectors = model.encode([start]), model.encode([end])
    if vectors[0].ndim != 2:
        raise UsageError(
            f"model {model.name} reads the words of a prompt one by one, and ratlip edits along the difference of the "
            "vectors of whole prompts: take a model of another variant."
        )
    if torch.equal(*vectors):
        why = "it does not know the words that differ"
        if any(map(model.text_encoder.is_overlong, (start, end))):
            why += f", or they come after the {model.text_encoder.context_length} tokens that it reads"
        raise UsageError(f"model {model.name} reads '{start}' and '{end}' as the same: {why}.")
    return vectors


def first_text(model: Model, images: Tensor, start: Tensor, captions: Sequence[str]) -> Tensor:
    """T0 (n,d) of images (n,3,S,S) in [-1,1]: their image vectors as text, see `like`.

    It says more than the captions' conditions `start` (n,d), which stand in where the model does not read such vectors.
    """
    if not reads_vectors(model):
        return start
    target, length = text_like(model, image_vectors(model, images), captions)
    return length * target


def moved(
    model: Model,
    image: Tensor,
    found: Inversion,
    captions: Sequence[str],
    strengths: Tensor,
    steps: int,
    on_step: Callable[[float], None] = lambda loss: None,
) -> Tensor:
    """One image's changes (k,3,S,S) in [-1,1], on the CPU.

    Args:
        image: (1,3,S,S) in [-1,1].
        found: what generates it.
        captions: from which to which.
        strengths: (k,); where one is 0 it is the reconstruction.
        steps: of the search after the move, for each strength.
        on_step: called with the loss before each of them.
    """
    start, end = (model.encode([caption]) for caption in captions)
    with torch.no_grad():
        told = F.normalize(model.clip.encode_text(list(captions)), dim=1).cpu()
        vector = F.normalize(model.clip.encode_image(image.to(model.device)), dim=1).cpu()
    noise, text = [], []
    for strength in strengths:
        one = Inversion(found.noise, as_long(model, found.text + strength * (end - start)), {})
        if strength:
            one = settle(model, image, vector + strength * (told[1:] - told[:1]), one, steps, on_step=on_step)
        noise.append(one.noise)
        text.append(one.text)
    return sample(model, torch.cat(noise), torch.cat(text))


@torch.no_grad()
def _similarity(model: Model, images: Tensor, captions: list[str]) -> dict[str, list[float]]:
    vectors = model.sampler.each(model.clip.encode_image, images.to(model.device)).cpu()
    texts = (model.clip.encode_text([caption]).cpu() for caption in captions)
    return {
        caption: clip_similarity(vectors, text.expand(len(vectors), -1)).tolist()
        for caption, text in zip(captions, texts, strict=True)
    }
