"""Train the small CLIP of the demo: open_clip's own model class and loss, on drawn pictures and their captions.

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

import numpy as np
import open_clip
import torch
from check_clip import zero_shot
from drawn_set import TWIN_CAPTIONS, DrawnSet, TwinSet, drawn_set, random_crops, twin_set
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.data.drawn.attributes import ATTRIBUTES, FAMILIES
from ratlip_cli.files import whole_file
from ratlip_cli.model.clip import UNKNOWN, load_clip, save_clip

CONTEXT = 32
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
MIXED = 0.25
"""Share of the batches that hold all families; the others hold one, whose pictures are harder to tell apart."""
HEADS = [(family, name) for family in FAMILIES for name in ATTRIBUTES[family]]
NONE = -100
ATTRIBUTE_WEIGHT = 2.0
TWINS = 0.5
"""Share of the batches made of twins, which teach which part has which colour, and left from right."""
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
    """(N, number of attributes): which value each attribute has, NONE for those of other families."""
    labels = torch.full((len(attributes), len(HEADS)), NONE)
    for column, (family, name) in enumerate(HEADS):
        values = ATTRIBUTES[family][name]
        for row in np.flatnonzero(families == FAMILIES.index(family)):
            labels[row, column] = values.index(attributes[row][name])
    return labels


class AttributeLoss(nn.Module):
    """Cross-entropy of linear heads on the image vector, averaged over the attributes that the pictures have.

    The contrastive loss alone is content for a long time with which colours there are, and learns late which part has
    which. The heads ask for the parts from the start; they are not kept.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.sizes = [len(ATTRIBUTES[family][name]) for family, name in HEADS]
        self.linear = nn.Linear(embed_dim, sum(self.sizes))

    def forward(self, vectors: Tensor, labels: Tensor) -> Tensor:
        logits = torch.split(self.linear(vectors), self.sizes, dim=1)
        losses = [
            F.cross_entropy(part, labels[:, column], ignore_index=NONE, reduction="sum")
            for column, part in enumerate(logits)
        ]
        return torch.stack(losses).sum() / (labels != NONE).sum()


class Batches:
    """Pictures, rows of their captions, and labels: the batch of a step is a pure function of seed and step."""

    def __init__(self, pictures: DrawnSet, twins: TwinSet, size: int, seed: int) -> None:
        tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT)
        tokens = tokenizer([text for texts in pictures.captions for text in texts])
        self.words = vocabulary(tokens)
        self._pictures, self._twins, self._size, self._seed = pictures, twins, size, seed
        self._captions = rows_of(tokens, self.words).view(len(pictures.captions), -1, CONTEXT)
        twin_tokens = tokenizer([text for pairs in twins.captions for pair in pairs for text in pair])
        self._twin_captions = rows_of(twin_tokens, self.words).view(len(twins.captions), -1, 2, CONTEXT)
        self._labels = labels_of(pictures.attributes, pictures.family)
        self._twin_labels = labels_of(twins.attributes, twins.family.repeat(2))

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (B,3,64,64) in [-1,1], captions (B,CONTEXT), labels (B,number of attributes)."""
        rng = np.random.default_rng([self._seed, step])
        family = None if rng.random() < MIXED else int(rng.integers(len(FAMILIES)))
        if rng.random() < TWINS:
            among = (
                np.arange(len(self._twins.family)) if family is None else np.flatnonzero(self._twins.family == family)
            )
            pairs = rng.choice(among, self._size // 2, replace=False)
            rows = np.stack((2 * pairs, 2 * pairs + 1), axis=1).ravel()
            texts = self._twin_captions[pairs, rng.integers(0, TWIN_CAPTIONS, len(pairs))].flatten(0, 1)
            return random_crops(self._twins.pixels, rows, rng), texts, self._twin_labels[rows]
        among = np.arange(len(self._captions)) if family is None else self._pictures.rows(FAMILIES[family])
        chosen = rng.choice(among, self._size, replace=False)
        images = random_crops(self._pictures.pixels, chosen, rng)
        texts = disturbed(self._captions[chosen, rng.integers(0, self._captions.shape[1], self._size)], rng)
        return images, texts, self._labels[chosen]


def train(out: Path, batches: Batches, test: DrawnSet, args: argparse.Namespace) -> None:
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
        images, texts, labels = batches[step]
        rate = args.lr * min(1.0, (step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        vectors, text_vectors = model.encode_image(images), model.encode_text(texts, normalize=True)
        contrastive = loss_function(F.normalize(vectors, dim=1), text_vectors, model.logit_scale.exp())
        attributes = attribute_loss(vectors, labels)
        loss = contrastive + ATTRIBUTE_WEIGHT * attributes
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        step += 1
        losses.append((contrastive.item(), attributes.item()))
        out_of_time = time.monotonic() - started > 60 * args.minutes
        if step % 25 == 0:
            means = [round(float(mean), 4) for mean in np.mean(losses[-25:], axis=0)]
            line = {"step": step, "contrastive": means[0], "attributes": means[1], "lr": round(rate, 6)}
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
    parser.add_argument("--pictures", type=int, default=30000, help="training pictures to draw")
    parser.add_argument("--twins", type=int, default=15000, help="pairs of twins to draw")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, default=90, help="stop, saved, after this long")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(2)
    args.out.mkdir(parents=True, exist_ok=True)
    pictures, twins = drawn_set("train", args.pictures, args.seed), twin_set(args.twins, args.seed)
    train(args.out, Batches(pictures, twins, args.batch, args.seed), drawn_set("test", 1500, args.seed), args)


if __name__ == "__main__":
    main()
