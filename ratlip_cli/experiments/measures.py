"""What the paper shows of single images, measured on every run of a sweep: Grad-CAM, angles, and a swap of age.

Each measure leaves a file of values of images in the run folder, and is not taken again while the model is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch.nn import functional as F

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.of_run import dataset_of_model
from ratlip_cli.demo.attribute_classifier import SIDE, load_classifier
from ratlip_cli.demo.attributes import ATTRIBUTES
from ratlip_cli.device import resolve_device
from ratlip_cli.errors import DataError
from ratlip_cli.experiments.claims import ANGLES_FILE, GRADCAM_FILE, SWAP_FILE
from ratlip_cli.experiments.ledger import DONE, read_ledger
from ratlip_cli.explain.gradcam.gradcam import gradcam, make_target, resolve_layer, upsample
from ratlip_cli.explain.gradcam.input_images import InputImage, from_dataset
from ratlip_cli.explain.latent.space import make_space
from ratlip_cli.explain.latent.views import pair_view, real_images
from ratlip_cli.files import whole_file
from ratlip_cli.progress import Progress, silent
from ratlip_cli.sampling import noise_vectors, sample
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import Model

Values = dict[str, NDArray[np.float32]]
"""By name (n,): image i is the same task in every run."""

GRADCAM_IMAGES, PAIRS, SWAPS = 200, 500, 64
"""Images of the test split; pairs of real and generated images; noise vectors under each pair of captions."""

NOT_THE_SUBJECT = frozenset({"perch"})
"""Segments that are masked and are not what the caption is about."""

SWAPPED_CAPTIONS = (
    ("a young person with brown hair", "an old person with brown hair"),
    ("a young person with short black hair", "an old person with short black hair"),
    ("a young smiling person with glasses", "an old smiling person with glasses"),
    ("a young person with a red hat", "an old person with a red hat"),
)
"""Captions that differ in the age alone, as the two of Fig. 5 do."""

_BATCH = 20


@dataclass(frozen=True)
class Measure:
    """Something that is measured on the images of a run."""

    file: str
    """In the run folder: values (n,) by name."""
    take: Callable[[Model, CaptionedImages], Values]


def gradcam_energy(model: Model, dataset: CaptionedImages) -> Values:
    """The share of the Grad-CAM map inside the subject, for each image of the test split whose segments are known.

    The map is that of the discriminator's logit: it learns with the generator, while the maps of the frozen CLIP are
    the same in every run. `area` is the share of the image that the subject covers, which a map of one value has.
    """
    target = make_target("discriminator", model)
    layer = resolve_layer(target, None)
    inputs = [one for one in from_dataset(dataset, GRADCAM_IMAGES) if one.masks]
    if not inputs:
        raise DataError(f"{dataset.path} has no masks of segments; rendered data, such as demo-birds, has them.")
    energy, area = [], []
    for start in range(0, len(inputs), _BATCH):
        some = inputs[start : start + _BATCH]
        text = target.encode([one.prompt for one in some])
        cells = gradcam(target, torch.stack([one.image for one in some]).to(model.device), text, layer).cells
        maps = upsample(cells, dataset.image_size).double().cpu().numpy()
        for one, own in zip(some, maps, strict=True):
            mask = _subject(one)
            total = own.sum()
            energy.append(own[mask].sum() / total if total > 0 else 0.0)
            area.append(mask.mean())
    return {"energy": np.asarray(energy, np.float32), "area": np.asarray(area, np.float32)}


def _subject(image: InputImage) -> NDArray[np.bool_]:
    masks = [mask for name, mask in image.masks.items() if name not in NOT_THE_SUBJECT]
    union: NDArray[np.bool_] = np.logical_or.reduce(masks)
    return union


def real_angles(model: Model, dataset: CaptionedImages) -> Values:
    """The angle in degrees between each real image and the one generated for its caption, in the space of CLIP.

    Pair k has noise vector k of seed 0. `mismatched` is the angle to the image of the next caption.
    """
    space = make_space("clip", model)
    view = pair_view(space, model, real_images(space, dataset, PAIRS), seed=0)
    return {"angle": view.angles.astype(np.float32), "mismatched": view.mismatched.astype(np.float32)}


def age_swap(weights: Path, model: Model, dataset: CaptionedImages) -> Values:
    """For each pair of SWAPPED_CAPTIONS under each noise vector: does the age change as said, and what else changes?

    `age`: 1 where the attribute classifier finds both images as old as their captions say, else 0. `kept`: the share of
    all other attributes that it finds the same in both.

    Args:
        weights: those of the attribute classifier.
    """
    classifier = load_classifier(weights).to(model.device)
    noise = noise_vectors(0, range(SWAPS), model.config.generator.noise_dim)
    age, kept = [], []
    for captions in SWAPPED_CAPTIONS:
        young, old = (_faces(classifier.answers, model, caption, noise) for caption in captions)
        others = [name for name in ATTRIBUTES["face"] if name != "age"]
        for k in range(SWAPS):
            age.append(young["age"][k] == "young" and old["age"][k] == "old")
            kept.append(np.mean([young[name][k] == old[name][k] for name in others]))
    return {"age": np.asarray(age, np.float32), "kept": np.asarray(kept, np.float32)}


def _faces(
    answers: Callable[[torch.Tensor, str], dict[str, list[str]]], model: Model, caption: str, noise: torch.Tensor
) -> dict[str, list[str]]:
    """What the attribute classifier finds in the images of a caption, by attribute."""
    images = sample(model, noise, model.encode([caption] * len(noise)), batch_size=8)
    if images.shape[-1] != SIDE:
        images = F.interpolate(images, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1, 1)
    return answers(images.to(model.device), "face")


def swap_of(weights: Path) -> Measure:
    """The measure `age_swap` by an attribute classifier."""
    return Measure(SWAP_FILE, partial(age_swap, weights))


GRADCAM = Measure(GRADCAM_FILE, gradcam_energy)
ANGLES = Measure(ANGLES_FILE, real_angles)


def measure_runs(folder: Path, measure: Measure, device: str = "auto", progress: Progress = silent) -> None:
    """Take a measure of every run of a sweep that is done, where it is not taken yet."""
    entries = [entry for entry in read_ledger(folder) if entry.state == DONE]
    for done, entry in enumerate(entries):
        progress(f"{Path(measure.file).stem} of runs", done, len(entries), "runs")
        path = folder / entry.run / measure.file
        if _taken_of(path) == entry.model_fingerprint:
            continue
        model = load_model(str(folder / entry.run), resolve_device(device))
        data = dataset_of_model(model.folder)
        if data is None:
            raise DataError(
                f"the dataset of {folder / entry.run} is not where it was; `ratlip sweep` prepares it again."
            )
        dataset = CaptionedImages(data, "test", model.config.generator.image_size)
        values = measure.take(model, dataset)
        with whole_file(path) as whole:
            save_file(values, whole, {"model": entry.model_fingerprint})
    progress(f"{Path(measure.file).stem} of runs", len(entries), len(entries), "runs")


def _taken_of(path: Path) -> str | None:
    try:
        with safe_open(path, framework="np") as file:
            return (file.metadata() or {}).get("model")
    except (OSError, SafetensorError):
        return None
