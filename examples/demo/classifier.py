"""The attribute classifier: what an image of the demo shows, by a small network trained on rendered images alone.

    python examples/demo/classifier.py            # where examples/demo/classifier.safetensors is not there
    python examples/demo/classifier.py --again    # in its place; the scores are by it, and are to be made anew

It shares no weights with CLIP, generator or discriminator and is never used in their training. It learns under blur,
noise and changes of brightness, so that it reads a generator's softer images too. In half of the birds and flowers
one of the two paired segments is painted over: where brown birds have orange wings and orange ones never brown, both
colours together would tell which segment has which, and images of held-out pairs would be read the wrong way round.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import script
import torch
from history import HISTORY_FILE, fingerprint_of, here, write_history
from rendered_set import RenderedSet, paint, random_crops, rendered_set
from torch import Tensor
from torch.nn import functional as F

from ratlip_cli.demo import attribute_classifier
from ratlip_cli.demo.attribute_classifier import Classifier
from ratlip_cli.demo.attributes import ATTRIBUTES, FAMILIES, PAIRED
from ratlip_cli.tensor_files import save_tensors

PAINTED = 0.5
"""Share of the birds and flowers that have a segment painted over."""
WEIGHTS = Path(__file__).with_name("classifier.safetensors")
IGNORED = -100


def load_classifier(path: Path = WEIGHTS) -> Classifier:
    """The trained classifier, in eval mode."""
    return attribute_classifier.load_classifier(path)


def accuracy(classifier: Classifier, samples: RenderedSet) -> dict[str, float]:
    """Share of right answers on centre crops, for every attribute and for the family."""
    scores = {}
    for number, family in enumerate(FAMILIES):
        rows = samples.rows(family)
        if not len(rows):
            continue
        images = samples.centre(rows)
        with torch.no_grad():
            logits = torch.cat([classifier.family(classifier.features(chunk)) for chunk in images.split(500)])
        scores[f"{family} family"] = round((logits.argmax(dim=1) == number).float().mean().item(), 4)
        for name, answers in classifier.answers(images, family).items():
            right = [answer == samples.attributes[row][name] for answer, row in zip(answers, rows, strict=True)]
            scores[f"{family} {name}"] = round(float(np.mean(right)), 4)
    return scores


def disturbed(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Images with another brightness, and half of them blurred, noisy or both."""
    count = len(images)
    brightness = torch.from_numpy(rng.uniform(0.9, 1.1, (count, 3, 1, 1))).float()
    images = (images + 1) * brightness - 1
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)
    share = torch.from_numpy(np.where(rng.random((count, 1, 1, 1)) < 0.4, rng.random((count, 1, 1, 1)), 0.0)).float()
    amount = torch.from_numpy(np.where(rng.random((count, 1, 1, 1)) < 0.4, rng.random((count, 1, 1, 1)), 0.0)).float()
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))
    return (images + share * (blurred - images) + 0.15 * amount * noise).clamp(-1, 1)


def painted(images: RenderedSet, family: str, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Tensor]:
    """Copies of images of a family, some with one of the paired segments in a colour of no name.

    Returns the pixels (B, STORED, STORED, 3) and the painted attribute's number in PAIRED (B,), or -1.
    """
    pixels, which = images.pixels[rows], np.full(len(rows), -1)
    for place, row in enumerate(rows):
        if family in PAIRED and rng.random() < PAINTED:
            which[place] = rng.integers(2)
            paint(pixels[place], images.labels[row], family, PAIRED[family][which[place]], rng)
    return pixels, torch.from_numpy(which)


def train(samples: RenderedSet, test: RenderedSet, steps: int, batch: int, seed: int) -> Classifier:
    """A classifier trained for `steps` batches, a batch of each family a step in turn."""
    torch.manual_seed(seed)
    classifier = Classifier().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(classifier.parameters(), 2e-3, weight_decay=0.02)
    rows = {family: samples.rows(family) for family in FAMILIES}
    targets = {
        family: {name: torch.from_numpy(samples.values(family, name)) for name in ATTRIBUTES[family]}
        for family in FAMILIES
    }
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * (0.01 + 0.495 * (1 + math.cos(math.pi * step / steps)))
        chosen = {family: rng.choice(len(rows[family]), batch // len(FAMILIES), replace=False) for family in FAMILIES}
        shown = {family: painted(samples, family, rows[family][places], rng) for family, places in chosen.items()}
        pixels = np.concatenate([pixels for pixels, _ in shown.values()])
        images = random_crops(pixels, np.arange(len(pixels)), rng)
        images = disturbed(images, rng).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):  # half the time of float32; weights and losses stay float32
            features = classifier.features(images)
        features = features.float()
        families = torch.arange(len(FAMILIES)).repeat_interleave(batch // len(FAMILIES))
        loss = F.cross_entropy(classifier.family(features), families)
        for own, (family, places) in zip(features.chunk(len(FAMILIES)), chosen.items(), strict=True):
            for name, logits in classifier.logits(own, family).items():
                target = targets[family][name][places]
                if name in PAIRED.get(family, ()):
                    target = target.masked_fill(shown[family][1] == PAIRED[family].index(name), IGNORED)
                loss = loss + F.cross_entropy(logits, target, ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 250 == 0:
            print(json.dumps({"step": step + 1, "loss": round(loss.item(), 4)}), flush=True)
            print(json.dumps(accuracy(classifier.eval(), test)), flush=True)
            classifier.train()
    return classifier.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--again", action="store_true", help="train although --out is there, and replace it")
    parser.add_argument("--images", type=int, default=30000, help="training images to render")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1, help="the last bits of the weights depend on it")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.out.is_file() and not args.again:
        print(f"{args.out} is there and left alone; --again trains another in its place")
        return
    torch.set_num_threads(args.threads)
    record, started = here(Path(__file__).parent), time.monotonic()
    images, test = rendered_set("train", args.images, args.seed), rendered_set("test", 1500, args.seed)
    classifier = train(images, test, args.steps, args.batch, args.seed)
    save_tensors(
        args.out,
        {
            name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in classifier.state_dict().items()
        },
    )
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "again")}
    record |= {"seconds": round(time.monotonic() - started), "settings": settings}
    write_history(args.out.with_name(HISTORY_FILE), {"classifier": record | {"fingerprint": fingerprint_of(args.out)}})
    classifier = load_classifier(args.out)
    report = {
        "test": accuracy(classifier, rendered_set("test", 6000, 2)),
        "unseen": accuracy(classifier, rendered_set("unseen", 2000, 0)),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    script.run(main)
