"""The gate that the small CLIP has to pass before a GAN is trained against it.

    python examples/demo/check_clip.py runs/demo-clip/clip

On test images: zero-shot accuracy of every attribute with prompts of the form that captions have, and linear probes
on the image vectors for facing and the beak's length. On captions of pairs that training never saw: linear probes on
the text vectors, fitted to captions of pairs that it saw.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import script
import torch
from rendered_set import RenderedSet, rendered_set
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from ratlip_cli.demo.attributes import ATTRIBUTES, PAIRED
from ratlip_cli.demo.said import said
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.weights.clip_files import load_clip

_COUNTED = {"none": "no leaves", "one": "one leaf", "two": "two leaves"}
_PERCHED = {"branch": "on a branch", "rock": "on a rock", "fence": "on a fence", "grass": "on the grass"}
_SCENES = {
    "sky": "under a blue sky",
    "forest": "in a forest",
    "sunset": "at sunset",
    "snow": "in the snow",
    "meadow": "in a meadow",
    "desert": "in the desert",
}

PROMPTS = {
    "bird": {
        "body": lambda value: f"{_a(value)} bird",
        "wings": lambda value: f"a bird with {value} wings",
        "belly": lambda value: f"a bird with {_a(value)} belly",
        "beak": lambda value: f"a bird with {_a(value)} beak",
        "beak_length": lambda value: f"a bird with a {value} beak",
        "facing": lambda value: f"a bird facing {value}",
        "perch": lambda value: f"a bird {_PERCHED[value]}",
        "background": lambda value: f"a bird {_SCENES[value]}",
    },
    "flower": {
        "petals": lambda value: f"a flower with {value} petals",
        "centre": lambda value: f"a flower with {_a(value)} centre",
        "petal_count": lambda value: f"a flower with {value} petals",
        "petal_shape": lambda value: f"a flower with {value} petals",
        "leaves": lambda value: f"a flower with {_COUNTED[value]}",
        "background": lambda value: f"a flower {_SCENES[value]}",
    },
    "face": {
        "hair": lambda value: f"a person with {value} hair",
        "hair_length": lambda value: f"a person with {value} hair",
        "skin": lambda value: f"a person with {value} skin",
        "glasses": lambda value: f"a person with {'glasses' if value == 'yes' else 'no glasses'}",
        "smile": lambda value: f"a {'smiling' if value == 'yes' else 'serious'} person",
        "age": lambda value: f"{_a(value)} person",
        "hat": lambda value: f"a person with {'no hat' if value == 'none' else _a(value) + ' hat'}",
        "beard": lambda value: f"a person with {'a beard' if value == 'yes' else 'no beard'}",
        "background": lambda value: f"a person against {_a(value)} background",
    },
}
"""Family -> attribute -> the prompt for one of its values."""

ZERO_SHOT_GATE = {"bird body": 0.97, "flower petals": 0.97, "bird wings": 0.90, "flower centre": 0.90}
PROBE_GATE = {"bird facing": 0.85, "bird beak_length": 0.85}


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@torch.no_grad()
def image_vectors(clip: FrozenCLIP, images: RenderedSet, rows: np.ndarray) -> torch.Tensor:
    """Normalised image vectors (B,d) of centre crops."""
    batches = [clip.encode_image(images.centre(chunk)) for chunk in np.array_split(rows, max(1, len(rows) // 250))]
    return F.normalize(torch.cat(batches), dim=1)


def zero_shot(clip: FrozenCLIP, samples: RenderedSet) -> dict[str, float]:
    """Accuracy of every attribute: the value whose prompt is nearest to the sample."""
    scores = {}
    for family, prompts in PROMPTS.items():
        rows = samples.rows(family)
        if not len(rows):
            continue
        images = image_vectors(clip, samples, rows)
        for attribute, prompt in prompts.items():
            texts = F.normalize(clip.encode_text([prompt(value) for value in ATTRIBUTES[family][attribute]]), dim=1)
            answers = (images @ texts.T).argmax(dim=1).numpy()
            scores[f"{family} {attribute}"] = round(float((answers == samples.values(family, attribute)).mean()), 4)
    return scores


def linear_probes(clip: FrozenCLIP, train: RenderedSet, test: RenderedSet) -> dict[str, float]:
    """Test accuracy of logistic regression on image vectors, for the attributes of PROBE_GATE."""
    scores = {}
    for name in PROBE_GATE:
        family, attribute = name.split()
        known, unknown = (image_vectors(clip, images, images.rows(family)).numpy() for images in (train, test))
        probe = LogisticRegression(C=100.0, max_iter=5000).fit(known, train.values(family, attribute))
        scores[name] = round(float(probe.score(unknown, test.values(family, attribute))), 4)
    return scores


def text_probes(clip: FrozenCLIP, train: RenderedSet, unseen: RenderedSet) -> dict[str, float]:
    """Accuracy of logistic regression on text vectors, for the paired attributes of captions that state them."""
    scores = {}
    for family, attributes in PAIRED.items():
        for attribute in attributes:
            (known, told), (unknown, right) = (_stated(clip, images, family, attribute) for images in (train, unseen))
            probe = LogisticRegression(C=100.0, max_iter=5000).fit(known, told)
            scores[f"{family} {attribute}"] = round(float(probe.score(unknown, right)), 4)
    return scores


@torch.no_grad()
def _stated(clip: FrozenCLIP, images: RenderedSet, family: str, attribute: str) -> tuple[np.ndarray, list[str]]:
    """Text vectors (N,d) of the captions, one an image at most, that state an attribute, and what they state."""
    texts = [
        next((t for t in images.captions[row] if attribute in said(family, t)), None) for row in images.rows(family)
    ]
    kept = [text for text in texts if text is not None]
    chunks = [clip.encode_text(kept[start : start + 250]) for start in range(0, len(kept), 250)]
    return F.normalize(torch.cat(chunks), dim=1).numpy(), [said(family, text)[attribute] for text in kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", help="CLIP folder")
    parser.add_argument("--images", type=int, default=6000, help="test images, and training images of the probes")
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args()
    clip = load_clip(args.clip)
    test, train = (rendered_set(split, args.images, args.seed) for split in ("test", "train"))
    unseen = rendered_set("unseen", args.images // 2, args.seed)
    report = {
        "zero_shot": zero_shot(clip, test),
        "zero_shot_unseen": zero_shot(clip, unseen),
        "text_probes_unseen": text_probes(clip, train, unseen),
        "linear_probes": linear_probes(clip, train, test),
    }
    gates = ((report["zero_shot"], ZERO_SHOT_GATE), (report["linear_probes"], PROBE_GATE))
    missed = [name for scores, gate in gates for name, least in gate.items() if scores[name] < least]
    print(json.dumps(report | {"missed": missed}, indent=2))
    sys.exit(3 if missed else 0)


if __name__ == "__main__":
    script.run(main)
