"""What the paper shows of single images, measured on every run of a sweep: Grad-CAM, angles, and a swap of age.

Each measure leaves a file of values of images in the run folder, and is not taken again while all that decides it is
the same: see measure_files.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.layout import split_fingerprint
from ratlip_cli.data.of_run import dataset_of_model
from ratlip_cli.data.prepare import resolve_dataset
from ratlip_cli.demo.attribute_classifier import SIDE, load_classifier
from ratlip_cli.demo.attributes import ATTRIBUTES, sample_attributes
from ratlip_cli.demo.captions import LONGEST, caption
from ratlip_cli.device import resolve_device
from ratlip_cli.errors import DataError
from ratlip_cli.experiments.ledger import DONE, SCENES, Entry, read_ledger
from ratlip_cli.experiments.measure_files import (
    ANGLES_FILE,
    GRADCAM_FILE,
    GRADCAM_IMAGES,
    PAIRS,
    SWAP_FILE,
    SWAP_NOISE,
    SWAPS,
    is_current,
    metadata_of,
)
from ratlip_cli.explain.gradcam.gradcam import gradcam, make_target, upsample
from ratlip_cli.explain.gradcam.input_images import InputImage, from_dataset
from ratlip_cli.explain.latent.space import make_space
from ratlip_cli.explain.latent.views import pair_view, real_images
from ratlip_cli.progress import Progress, silent
from ratlip_cli.sampling import noise_vectors, sample
from ratlip_cli.tensor_files import fingerprint, save_tensors
from ratlip_cli.training.settings import settings_of_run
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import Model

Values = dict[str, NDArray[Any]]
"""By name (n,): image i is the same task in every run. Images of one number in SCENES are alike."""

NOT_THE_SUBJECT = frozenset({"perch"})
"""Segments that are masked and are not what the caption is about."""

_BATCH = 20


@dataclass(frozen=True)
class Measure:
    """Something that is measured on the images of a run."""

    file: str
    """In the run folder: values (n,) by name."""
    take: Callable[[Model, CaptionedImages], Values]
    classifier: str = ""
    """The fingerprint of the attribute classifier that judges."""


def gradcam_energy(model: Model, dataset: CaptionedImages) -> Values:
    """The share of the Grad-CAM map inside the subject, for each image of the test split whose segments are known.

    The map is that of the discriminator's logit: it learns with the generator, while the maps of the frozen CLIP are
    the same in every run. It is at the first block that the discriminator reads, from where all of its features come:
    from the last one, the tokens reach the logit by one learned scalar alone, whose sign differs between runs.
    `area` is the share of the image that the subject covers, which a map of one value has; `zero` is 1 where the map is
    zero everywhere, and has no energy anywhere.
    """
    target = make_target("discriminator", model)
    layer = None if target.feature_map is not None else target.reads_after[0]
    inputs = [one for one in from_dataset(dataset, GRADCAM_IMAGES) if one.masks]
    if not inputs:
        raise DataError(f"{dataset.path} has no masks of segments; rendered data, such as demo-birds, has them.")
    energy, area, zero = [], [], []
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
            zero.append(total == 0)
    found = {"energy": energy, "area": area, "zero": zero}
    return {name: np.asarray(values, np.float32) for name, values in found.items()}


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


def swapped_captions(count: int) -> list[tuple[str, str]]:
    """So many pairs of different captions of rendered faces; the two of a pair differ in `young` and `old` alone.

    Each is of another face, whose age and some of whose other attributes it says, as captions of the data do.
    """
    pairs: dict[tuple[str, str], None] = {}
    number = 0
    while len(pairs) < count:
        face = sample_attributes("face", random.Random(number))
        young, old = (caption("face", {**face, "age": age}, random.Random(number)) for age in ("young", "old"))
        number += 1
        if young != old and len(young.split()) <= LONGEST:
            pairs.setdefault((young, old))
    return list(pairs)


def age_swap(weights: Path, model: Model, dataset: CaptionedImages) -> Values:
    """For each pair of captions under each of its noise vectors: does the age change as said, and what else changes?

    `age`: 1 where the attribute classifier finds both images as old as their captions say, else 0. `kept`: the share of
    all other attributes that it finds the same in both. `scenes`: the number of the pair of captions.

    Args:
        weights: those of the attribute classifier.
    """
    classifier = load_classifier(weights).to(model.device)
    pairs = swapped_captions(SWAPS)
    noise = noise_vectors(0, range(SWAPS * SWAP_NOISE), model.config.generator.noise_dim)
    others = [name for name in ATTRIBUTES["face"] if name != "age"]
    young, old = (
        _faces(classifier.answers, model, [pair[age] for pair in pairs for _ in range(SWAP_NOISE)], noise)
        for age in (0, 1)
    )
    age = [one == "young" and other == "old" for one, other in zip(young["age"], old["age"], strict=True)]
    kept = [np.mean([young[name][k] == old[name][k] for name in others]) for k in range(len(noise))]
    return {
        "age": np.asarray(age, np.float32),
        "kept": np.asarray(kept, np.float32),
        SCENES: np.repeat(np.arange(SWAPS), SWAP_NOISE),
    }


def _faces(
    answers: Callable[[torch.Tensor, str], dict[str, list[str]]],
    model: Model,
    captions: Sequence[str],
    noise: torch.Tensor,
) -> dict[str, list[str]]:
    """What the attribute classifier finds in the images of captions, each with a noise vector, by attribute."""
    images = sample(model, noise, model.encode(captions), batch_size=8)
    if images.shape[-1] != SIDE:
        images = F.interpolate(images, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1, 1)
    return answers(images.to(model.device), "face")


def swap_of(weights: Path) -> Measure:
    """The measure `age_swap` by an attribute classifier."""
    return Measure(SWAP_FILE, partial(age_swap, weights), fingerprint(load_classifier(weights).state_dict()))


def _is_of_run(test: CaptionedImages, entry: Entry) -> bool:
    """Whether a test split is what a run was scored on, beside what it was trained on where that is there."""
    scored = entry.protocol.get("data_fingerprint") if entry.protocol.get("split") == "test" else None
    if scored is not None and scored != test.fingerprint:
        return False
    try:
        return split_fingerprint(test.path, "train") == str(entry.data.get("fingerprint"))
    except DataError:  # rendered again: the split that is needed alone
        return scored is not None


GRADCAM = Measure(GRADCAM_FILE, gradcam_energy)
ANGLES = Measure(ANGLES_FILE, real_angles)


def measure_runs(folder: Path, measure: Measure, device: str = "auto", progress: Progress = silent) -> None:
    """Take a measure of every run of a sweep that is done, where it is not taken yet.

    Raises DataError where the data are not there, or not those that a run was trained on.
    """
    entries = [entry for entry in read_ledger(folder) if entry.state == DONE]
    for done, entry in enumerate(entries):
        progress(f"{Path(measure.file).stem} of runs", done, len(entries), "runs")
        path = folder / entry.run / measure.file
        if is_current(path, entry, measure.classifier):
            continue
        model = load_model(str(folder / entry.run), resolve_device(device))
        size = model.config.generator.image_size
        data = dataset_of_model(model.folder)
        if data is None:  # it is not where it was: prepared again, where it is a published or a rendered one
            settings = settings_of_run(folder / entry.run)
            data = resolve_dataset(settings.dataset, Path(settings.data_dir), size, progress, "test")
        dataset = CaptionedImages(data, "test", size)
        if not _is_of_run(dataset, entry):
            raise DataError(
                f"{data} is not what {folder / entry.run} was trained and scored on: captions or images differ. Put "
                "the dataset of the run there, or prepare it with the version of ratlip and the settings that made it."
            )
        values = measure.take(model, dataset)
        tensors = {name: torch.from_numpy(array) for name, array in values.items()}
        save_tensors(path, tensors, metadata_of(measure.file, entry, measure.classifier))
    progress(f"{Path(measure.file).stem} of runs", len(entries), len(entries), "runs")
