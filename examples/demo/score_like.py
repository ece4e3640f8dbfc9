"""Score `ratlip generate --like` on the demo: does what is generated show what the image shows?

    python examples/demo/score_like.py ratlip-demo runs/lafite --images 60

For each rendered image of the test split one image is generated from a caption of it, from its CLIP vector under more
and more noise, and from both, half and half. The attribute classifier (classifier.py) reads them against the image's
attributes. `cosine` is that of the CLIP vectors of both images. Prints a table in Markdown for each model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import numpy as np
import script
import torch
from classifier import Classifier, load_classifier
from rendered_set import RenderedSet, rendered_set
from torch import Tensor
from torch.nn import functional as F

from ratlip_cli.baselines.lafite import perturbed
from ratlip_cli.demo.attributes import FAMILIES
from ratlip_cli.like import image_vectors, text_like
from ratlip_cli.sampling import noise_vectors, sample
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import Model

MAIN = {"bird": "body", "flower": "petals", "face": "hair"}
"""Of each family the attribute that is the main colour."""
NOISES = (0.0, 0.1, 0.3, 0.75)
FIRST_OF_VECTORS = 1 << 40
"""As in `ratlip_cli.like`: noise of vectors is none of images."""
GAP_CAPTIONS = ("a bird", "a flower", "a person")
"""For a model that does not name its prompts."""


def conditions(model: Model, images: Tensor, captions: list[str], seed: int) -> dict[str, Tensor]:
    """What stands for the text, by name."""
    told = torch.cat([model.encode([caption]) for caption in captions])
    vectors, length = text_like(model, image_vectors(model, images), GAP_CAPTIONS)
    others = noise_vectors(seed, (FIRST_OF_VECTORS + row for row in range(len(images))), vectors.shape[1])
    mixed = 0.5 * F.normalize(told, dim=1) + 0.5 * perturbed(vectors, others, 0.1)
    return {
        "a caption of the image": told,
        **{f"its vector, --like-noise {noise:g}": length * perturbed(vectors, others, noise) for noise in NOISES},
        "its vector, --like-noise 0.1, and the caption, half and half": length * F.normalize(mixed, dim=1),
    }


def right(classifier: Classifier, generated: Tensor, real: RenderedSet) -> Iterable[tuple[bool, float, bool]]:
    """Of each image: whether its family is right, the share of its attributes that are, whether its main colour is."""
    with torch.no_grad():
        families = classifier.family(classifier.features(generated)).argmax(dim=1)
    for row, (attributes, own) in enumerate(zip(real.attributes, real.family, strict=True)):
        family = FAMILIES[own]
        answers = {name: values[0] for name, values in classifier.answers(generated[row : row + 1], family).items()}
        hits = [answers[name] == value for name, value in attributes.items()]
        yield bool(families[row] == own), float(np.mean(hits)), answers[MAIN[family]] == attributes[MAIN[family]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    classifier = load_classifier()
    real = rendered_set("test", args.images, args.seed, workers=1)
    images = real.centre(np.arange(args.images))
    captions = [texts[0] for texts in real.captions]
    for name in args.models:
        model = load_model(name).in_precision("fp32")
        noise = noise_vectors(args.seed, range(args.images), model.config.generator.noise_dim)
        own = image_vectors(model, images)
        print(f"{name} ({model.fingerprint[:12]})\n")
        print("| instead of the text vector | family right | attributes right | main colour right | cosine |")
        print("|---|---|---|---|---|")
        for what, condition in conditions(model, images, captions, args.seed).items():
            generated = sample(model, noise, condition)
            family, attributes, colour = np.mean(list(right(classifier, generated, real)), axis=0)
            cosine = (image_vectors(model, generated) * own).sum(dim=1).mean().item()
            print(f"| {what} | {family:.2f} | {attributes:.2f} | {colour:.2f} | {cosine:.2f} |", flush=True)
        print()


if __name__ == "__main__":
    script.run(main)
