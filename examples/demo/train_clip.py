"""Train the small CLIP of the demo: open_clip's own model class and loss, on rendered images and their captions.

    python examples/demo/train_clip.py --out runs/demo-clip

It goes on from `state.pt` where a run was stopped, and writes a CLIP folder that `ratlip --clip` takes every time it
saves. Batches are a pure function of seed and step, so a stopped and resumed run equals one that never stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
from check_clip import zero_shot
from rendered_set import CACHE, TWIN_CAPTIONS, RenderedSet, TwinSet, random_crops, rendered_set, twin_set
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.demo.attributes import ATTRIBUTES, FAMILIES
from ratlip_cli.demo.said import said
from ratlip_cli.files import whole_file
from ratlip_cli.model.clip import UNKNOWN
from ratlip_cli.weights.clip_files import load_clip, save_clip

CONTEXT = 32
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
MIXED = 0.25
"""Share of the batches that hold all families; the others hold one, whose images are harder to tell apart."""
HEADS = [(family, name) for family in FAMILIES for name in ATTRIBUTES[family]]
NONE = -100
HEAD_SCALE = 12.0
SHOWN_WEIGHT, SAID_WEIGHT = 8.0, 2.0
TWINS = 0.5
"""Share of the batches made of twins, which teach which segment has which colour, and left from right."""
DISTURBED = 0.25
"""Share of the captions with a word replaced by, or an added, unknown token, so that its row means "some word"."""


def model_cfg(rows: int) -> dict[str, object]:
    """open_clip's configuration for a token embedding of `rows` rows."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 128, "layers": 6, "head_width": 32},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": rows, "width": 96, "heads": 3, "layers": 3},
    }


def vocabulary(tokens: Tensor) -> list[int]:
    """The ids in `tokens`, ascending, behind the one entry for every other id."""
    return [UNKNOWN, *(int(token) for token in tokens.unique() if token != 0)]


def rows_of(tokens: Tensor, words: list[int]) -> Tensor:
    """Rows of the trimmed embedding for token ids; padding, which nothing attends to, becomes the unknown row."""
    table = torch.zeros(max(words) + 1, dtype=torch.long)
    table[words[1:]] = torch.arange(1, len(words))
    return table[tokens]


def disturbed(rows: Tensor, rng: np.random.Generator) -> Tensor:
    """Some of the captions (B, CONTEXT) with one word replaced by the unknown row, or with an unknown word more."""
    rows = rows.clone()
    lengths = rows.argmax(dim=1).tolist()  # where the end-of-text token, the last of the vocabulary, stands
    for index in np.flatnonzero(rng.random(len(rows)) < DISTURBED):
        place = int(rng.integers(1, lengths[index]))
        if rng.random() < 0.6 and lengths[index] < CONTEXT - 1:
            rows[index, place + 1 :] = rows[index, place:-1].clone()
        rows[index, place] = 0
    return rows


def labels_of(attributes: Sequence[Mapping[str, str]], families: np.ndarray) -> Tensor:
    """(N, number of attributes): which value each attribute has, NONE for those not given or of other families."""
    labels = torch.full((len(attributes), len(HEADS)), NONE)
    for column, (family, name) in enumerate(HEADS):
        values = ATTRIBUTES[family][name]
        for row in np.flatnonzero(families == FAMILIES.index(family)):
            value = attributes[row].get(name)
            if value in values:  # a caption may speak of "a hat" of any colour
                labels[row, column] = values.index(value)
    return labels


class AttributeLoss(nn.Module):
    """Cross-entropy of the attributes, read by the same linear heads from image and text vectors.

    Body and wings of a bird are about as large and as often named, so a contrastive loss alone is content for a long
    time with which colours there are, and learns late which segment has which. The heads ask for that from the start,
    and as both towers answer to the same ones, their vectors meet. The heads are not kept.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.sizes = [len(ATTRIBUTES[family][name]) for family, name in HEADS]
        self.linear = nn.Linear(embed_dim, sum(self.sizes))

    def forward(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Of normalised vectors (B,d), averaged over the attributes that `labels` (B, number of attributes) give."""
        logits = torch.split(self.linear(HEAD_SCALE * vectors), self.sizes, dim=1)
        losses = [
            F.cross_entropy(values, labels[:, column], ignore_index=NONE, reduction="sum")
            for column, values in enumerate(logits)
        ]
        return torch.stack(losses).sum() / (labels != NONE).sum().clamp(min=1)


class Batch(NamedTuple):
    """Images (B,3,64,64) in [-1,1], their captions (B,CONTEXT), and what they show and say (B, attributes)."""

    images: Tensor
    texts: Tensor
    shown: Tensor
    said: Tensor


class Batches:
    """The batch of a step is a pure function of seed and step."""

    def __init__(self, images: RenderedSet, twins: TwinSet, size: int, seed: int) -> None:
        self._images, self._twins, self._size, self._seed = images, twins, size, seed
        kept = CACHE / f"captions-{len(images.captions)}-{len(twins.captions)}-{seed}.pt"
        if not kept.exists():
            with whole_file(kept) as partial_file:
                torch.save(_captions(images, twins), partial_file)
        captions = torch.load(kept, weights_only=True)
        self.words: list[int] = captions["words"]
        self._captions, self._said = captions["captions"], captions["said"]
        self._twin_captions, self._twin_said = captions["twin_captions"], captions["twin_said"]
        self._shown = labels_of(images.attributes, images.family)
        self._twin_shown = labels_of(twins.attributes, twins.family.repeat(2))

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self._seed, step])
        family = None if rng.random() < MIXED else int(rng.integers(len(FAMILIES)))
        if rng.random() < TWINS:
            all_pairs = np.arange(len(self._twins.family))
            among = all_pairs if family is None else np.flatnonzero(self._twins.family == family)
            pairs = rng.choice(among, self._size // 2, replace=False)
            rows = np.stack((2 * pairs, 2 * pairs + 1), axis=1).ravel()
            which = rng.integers(0, TWIN_CAPTIONS, len(pairs))
            images = random_crops(self._twins.pixels, rows, rng)
            texts, said_ = self._twin_captions[pairs, which].flatten(0, 1), self._twin_said[pairs, which].flatten(0, 1)
            return Batch(images, texts, self._twin_shown[rows], said_)
        among = np.arange(len(self._captions)) if family is None else self._images.rows(FAMILIES[family])
        chosen = rng.choice(among, self._size, replace=False)
        which = rng.integers(0, self._captions.shape[1], self._size)
        images = random_crops(self._images.pixels, chosen, rng)
        texts = disturbed(self._captions[chosen, which], rng)
        whole = (texts == self._captions[chosen, which]).all(dim=1, keepdim=True)
        return Batch(images, texts, self._shown[chosen], self._said[chosen, which].where(whole, NONE))


def _captions(images: RenderedSet, twins: TwinSet) -> dict[str, object]:
    """Rows of the trimmed embedding for all captions, and what each of them says."""
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT)
    texts = [text for ten in images.captions for text in ten]
    twin_texts = [text for pairs in twins.captions for pair in pairs for text in pair]
    tokens = tokenizer(texts)
    words = vocabulary(tokens)
    families, twin_families = (
        images.family.repeat(len(images.captions[0])),
        twins.family.repeat(2 * TWIN_CAPTIONS),
    )
    return {
        "words": words,
        "captions": rows_of(tokens, words).view(len(images.captions), -1, CONTEXT),
        "said": _said(texts, families).view(len(images.captions), -1, len(HEADS)),
        "twin_captions": rows_of(tokenizer(twin_texts), words).view(len(twins.captions), -1, 2, CONTEXT),
        "twin_said": _said(twin_texts, twin_families).view(len(twins.captions), -1, 2, len(HEADS)),
    }


def _said(texts: Sequence[str], families: np.ndarray) -> Tensor:
    return labels_of([said(FAMILIES[f], text) for f, text in zip(families, texts, strict=True)], families)


def train(out: Path, batches: Batches, test: RenderedSet, args: argparse.Namespace) -> None:
    """Train until the steps or the minutes are used up, saving on the way."""
    words = batches.words
    config = model_cfg(len(words))
    torch.manual_seed(args.seed)
    model = open_clip.CLIP(**config)
    attribute_loss = AttributeLoss(model.visual.output_dim)
    parameters = [*model.parameters(), *attribute_loss.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    loss_function = open_clip.ClipLoss()
    state_file, started, step = out / "state.pt", time.monotonic(), 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        attribute_loss.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    saved, losses = time.monotonic(), []
    while step < args.steps:
        batch = batches[step]
        rate = args.lr * min(1.0, (step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        image_vectors, text_vectors, scale = model(batch.images, batch.texts)
        contrastive = loss_function(image_vectors, text_vectors, scale)
        shown, told = attribute_loss(image_vectors, batch.shown), attribute_loss(text_vectors, batch.said)
        loss = contrastive + SHOWN_WEIGHT * shown + SAID_WEIGHT * told
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        step += 1
        losses.append((contrastive.item(), shown.item(), told.item()))
        out_of_time = time.monotonic() - started > 60 * args.minutes
        if step % 25 == 0:
            means = [round(float(mean), 4) for mean in np.mean(losses[-25:], axis=0)]
            line = {"step": step, "contrastive": means[0], "shown": means[1], "said": means[2], "lr": round(rate, 6)}
            print(json.dumps(line | {"minutes": round((time.monotonic() - started) / 60, 2)}), flush=True)
        if step % 250 == 0 or step == args.steps or out_of_time or time.monotonic() - saved > 240:
            with whole_file(state_file) as partial:
                heads = attribute_loss.state_dict()
                state = {"model": model.state_dict(), "heads": heads, "optimizer": optimizer.state_dict(), "step": step}
                torch.save(state, partial)
            halves = {name: tensor.half() for name, tensor in model.state_dict().items()}
            save_clip(out / "clip", {"model_cfg": config, "preprocess_cfg": PREPROCESS, "vocabulary": words}, halves)
            saved = time.monotonic()
        if step % 250 == 0 or step == args.steps or out_of_time:
            clip = load_clip(str(out / "clip"))
            print(json.dumps({"step": step, "zero_shot": zero_shot(clip, test)}), flush=True)
        if out_of_time:
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo-clip"))
    parser.add_argument("--images", type=int, default=30000, help="training images to render")
    parser.add_argument("--twins", type=int, default=15000, help="pairs of twins to render")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, default=90, help="stop, saved, after this long")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(2)
    args.out.mkdir(parents=True, exist_ok=True)
    images, twins = rendered_set("train", args.images, args.seed), twin_set(args.twins, args.seed)
    train(args.out, Batches(images, twins, args.batch, args.seed), rendered_set("test", 1500, args.seed), args)


if __name__ == "__main__":
    main()
