"""Score `ratlip edit` on the demo: does the attribute that is named change, and do all others stay?

    python examples/demo/score_edit.py ratlip-demo --images 100

Rendered images of the test split, families in turn, are inverted and moved from a caption such as "a red bird" to one
such as "a blue bird", both of which name one attribute alone. The attribute classifier (classifier.py), which shares
no weights with the model, reads original, reconstruction and changed image. At `STRENGTH` the named attribute must
change, and each other one stay, as often as `GOALS` says.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import script
import torch
from classifier import load_classifier
from rendered_set import rendered_set
from torch import Tensor

from ratlip_cli.demo.attributes import ATTRIBUTES, FAMILIES
from ratlip_cli.editing.edit import caption_vectors, first_text, moved
from ratlip_cli.editing.inversion import Inversion, invert
from ratlip_cli.editing.request import STEPS, steps_after_move
from ratlip_cli.files import whole_file
from ratlip_cli.grids import captioned_grid
from ratlip_cli.pixels import to_images
from ratlip_cli.weights.load import load_model

EDITS = {
    "bird": {"body": "a {} bird", "wings": "a bird with {} wings"},
    "flower": {"petals": "a {} flower", "centre": "a flower with a {} centre"},
    "face": {"hair": "a person with {} hair", "hat": "a person with a {} hat"},
}
"""Family -> attribute -> a caption that names it alone."""
GAP_CAPTIONS = ("a bird", "a flower", "a person")
"""For a model that does not name its prompts."""
GOALS = {"changed": 0.8, "kept": 0.8}
STRENGTH = 0.7
SHOWN = 8
"""Images of the strip that --strip writes."""


def edits(samples_attributes: list[dict[str, str]], families: list[str], seed: int) -> list[tuple[str, str, str]]:
    """For each image an attribute, the value that it has, and another one, which no other attribute of it has."""
    chosen = []
    for number, (attributes, family) in enumerate(zip(samples_attributes, families, strict=True)):
        rng = random.Random(f"edit/{seed}/{number}")
        names = [name for name in EDITS[family] if attributes[name] != "none"]
        name = names[number // len(FAMILIES) % len(names)]
        others = set(attributes.values()) | {"none"}
        value = rng.choice([value for value in ATTRIBUTES[family][name] if value not in others])
        chosen.append((name, attributes[name], value))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--strength", type=float, nargs="+", default=[STRENGTH, 1.0])
    parser.add_argument("--batch", type=int, default=12, help="images that are inverted at a time")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--strip", type=Path, help="write some originals, reconstructions and changes as a PNG")
    args = parser.parse_args()
    args.strength = sorted({STRENGTH, *args.strength} - {0.0})
    model, classifier = load_model(args.model).in_precision("fp32"), load_classifier()
    samples = rendered_set("test", args.images, args.seed, workers=1)
    families = [FAMILIES[number] for number in samples.family]
    images, wanted = samples.centre(np.arange(args.images)), edits(samples.attributes, families, args.seed)

    changed: dict[float, list[Tensor]] = defaultdict(list)
    losses: dict[str, list[float]] = defaultdict(list)
    began = time.monotonic()
    for first in range(0, args.images, args.batch):
        rows = range(first, min(first + args.batch, args.images))
        templates = [EDITS[families[row]][wanted[row][0]] for row in rows]
        pairs = [
            (template.format(wanted[row][1]), template.format(wanted[row][2]))
            for row, template in zip(rows, templates, strict=True)
        ]
        start = torch.cat([caption_vectors(model, *captions)[0] for captions in pairs])
        text = first_text(model, images[list(rows)], start, list(GAP_CAPTIONS))
        found = invert(model, images[list(rows)], text, args.steps)
        for name, values in found.losses.items():
            losses[name] += values.tolist()
        strengths = torch.tensor([0.0, *args.strength])
        for number, (row, captions) in enumerate(zip(rows, pairs, strict=True)):
            one = Inversion(found.noise[number : number + 1], found.text[number : number + 1], {})
            shown = moved(model, images[row : row + 1], one, captions, strengths, steps_after_move(args.steps))
            for strength, image in zip(strengths.tolist(), shown, strict=True):
                changed[round(strength, 4)].append(image)
        print(f"{rows.stop}/{args.images} images, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    def read(shown: Tensor) -> list[dict[str, str]]:
        answers = [classifier.answers(shown[row : row + 1], family) for row, family in enumerate(families)]
        return [{name: values[0] for name, values in one.items()} for one in answers]

    before = read(images)

    def kept(after: list[dict[str, str]]) -> float:
        """Share of all attributes but the named one that are read as in the original."""
        same = [
            one[name] == other[name]
            for one, other, (named, _, _) in zip(before, after, wanted, strict=True)
            for name in one
            if name != named
        ]
        return round(float(np.mean(same)), 3)

    def each(after: list[dict[str, str]]) -> dict[str, float]:
        found = defaultdict(list)
        for one, other, family, (named, _, _) in zip(before, after, families, wanted, strict=True):
            for name in one:
                if name != named:
                    found[f"{family} {name}"].append(one[name] == other[name])
        return {name: round(float(np.mean(same)), 3) for name, same in sorted(found.items())}

    results = {}
    for strength, shown in changed.items():
        after = read(torch.stack(shown))
        target = 0 if strength == 0 else 1
        hits = [one[named] == values[target] for one, (named, *values) in zip(after, wanted, strict=True)]
        results[f"{strength:g}"] = {
            "changed" if target else "named attribute as in the original": round(float(np.mean(hits)), 3),
            "kept": kept(after),
            "each kept": each(after),
        }
    print(
        json.dumps(
            {
                "model": model.name,
                "fingerprint": model.fingerprint,
                "images": args.images,
                "steps": args.steps,
                "goals": GOALS,
                "reconstruction": {name: round(float(np.mean(values)), 4) for name, values in losses.items()},
                "strengths": results,
            },
            indent=2,
        )
    )
    judged = results[f"{STRENGTH:g}"]
    missed = [
        f"{name} {value}"
        for name, value in ({"changed": judged["changed"]} | judged["each kept"]).items()
        if value < GOALS["changed" if name == "changed" else "kept"]
    ]
    print(f"missed: {', '.join(missed)}" if missed else "every goal is met", file=sys.stderr)
    if args.strip:
        rows = [("originals", images), *((f"strength {s:g}", torch.stack(shown)) for s, shown in changed.items())]
        with whole_file(args.strip) as partial:
            captioned_grid([(name, to_images(shown[:SHOWN])) for name, shown in rows], 1).save(partial, "PNG")
    sys.exit(3 if missed else 0)


if __name__ == "__main__":
    script.run(main)
