"""Train the small CLIP's text tower anew, against the image tower and the attribute heads of `train_clip.py`.

    python examples/demo/train_text.py --run runs/demo-clip

A tower that has read "a brown bird with orange wings" a thousand times and never the two colours exchanged learns the
pair, not the grammar: it reads "an orange bird with brown wings" as the pair it knows (93 % of the mistakes on held-out
pairs were such exchanges). So captions that tell both colours of a pair whose exchange is held out are left out here,
and words are hidden in half of the others, so that each segment is read for itself.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from check_clip import zero_shot
from rendered_set import CACHE, RenderedSet, rendered_set
from torch import Tensor
from torch.nn import functional as F
from train_clip import (
    CONTEXT,
    HEADS,
    PREPROCESS,
    AttributeLoss,
    labels_of,
    model_cfg,
    vocabulary,
)

from ratlip_cli.demo.attributes import ATTRIBUTES, FAMILIES, HELD_OUT, PAIRED
from ratlip_cli.demo.said import said
from ratlip_cli.files import whole_file
from ratlip_cli.weights.clip_files import load_clip, save_clip

MIXED = 0.4
"""Share of the batches that hold all families; without them nothing asks the text for its family."""
HIDDEN = 0.6
"""Share of the captions with a word hidden behind the unknown token; a third of those get an unknown word more."""
HIDING = "zebra"
"""A word that no caption has."""
SAID_WEIGHT = 2.0


def with_hidden_word(caption: str, rng: np.random.Generator) -> str:
    """The caption with one word hidden, and at times an unknown word more."""
    words = caption.split()
    place = int(rng.integers(len(words)))
    words[place] = HIDING + (words[place][-1] if words[place][-1] in ",." else "")
    if rng.random() < 0.3:
        words.insert(int(rng.integers(len(words) + 1)), HIDING)
    return " ".join(words)


def exchange_is_held_out(labels: Tensor) -> Tensor:
    """Which of the captions, by what they say (..., attributes), tell a pair whose exchange is held out: (...) bool."""
    exchanged = torch.zeros(labels.shape[:-1], dtype=torch.bool)
    for family, (first, second) in PAIRED.items():
        columns = HEADS.index((family, first)), HEADS.index((family, second))
        values = ATTRIBUTES[family][first], ATTRIBUTES[family][second]
        for held_first, held_second in HELD_OUT[family]:
            if held_second in values[0] and held_first in values[1]:
                told_first = labels[..., columns[0]] == values[0].index(held_second)
                exchanged |= told_first & (labels[..., columns[1]] == values[1].index(held_first))
    return exchanged


def encoded(images: RenderedSet, seed: int) -> dict[str, Tensor]:
    """Captions as rows of the embedding (N,10,CONTEXT) and what they say (N,10,attributes), whole and with a hidden
    word; made once and kept."""
    kept = CACHE / f"hidden-{len(images.captions)}-{seed}.pt"
    if not kept.exists():
        rng = np.random.default_rng([seed, 1])
        whole = [text for ten in images.captions for text in ten]
        hidden = [with_hidden_word(text, rng) for text in whole]
        words = vocabulary(_tokens(whole))
        table = torch.zeros(49408, dtype=torch.long)
        table[words[1:]] = torch.arange(1, len(words))
        families = images.family.repeat(10)
        content: dict[str, Tensor] = {"words": torch.tensor(words)}
        for name, texts in (("whole", whole), ("hidden", hidden)):
            labels = labels_of([said(FAMILIES[f], t) for f, t in zip(families, texts, strict=True)], families)
            content[name] = table[_tokens(texts)].view(-1, 10, CONTEXT)
            content[f"{name}_said"] = labels.view(-1, 10, len(HEADS))
        with whole_file(kept) as partial:
            torch.save(content, partial)
    return torch.load(kept, weights_only=True)


def _tokens(texts: Sequence[str]) -> Tensor:
    return open_clip.SimpleTokenizer(context_length=CONTEXT)(list(texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo-clip"), help="folder of train_clip.py's run")
    parser.add_argument("--images", type=int, default=30000, help="as in train_clip.py")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(2)
    samples = rendered_set("train", args.images, args.seed)
    captions = encoded(samples, args.seed)
    words = captions["words"].tolist()

    torch.manual_seed(args.seed)
    state = torch.load(args.run / "state.pt", weights_only=True)
    model = open_clip.CLIP(**model_cfg(len(words)))
    image_tower = {name: t for name, t in state["model"].items() if name.startswith("visual.") or name == "logit_scale"}
    model.load_state_dict(model.state_dict() | image_tower)
    heads = AttributeLoss(model.visual.output_dim)
    heads.load_state_dict(state["heads"])
    for parameter in (*model.visual.parameters(), model.logit_scale, *heads.parameters()):
        parameter.requires_grad_(False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        chunks = np.array_split(np.arange(len(samples.captions)), len(samples.captions) // 500 + 1)
        images = F.normalize(torch.cat([model.encode_image(samples.centre(rows)) for rows in chunks]), dim=1)

    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.1)
    contrastive = open_clip.ClipLoss()
    for step in range(args.steps):
        rng = np.random.default_rng([args.seed, step])
        family = FAMILIES[int(rng.integers(len(FAMILIES)))]
        among = np.arange(len(samples.captions)) if rng.random() < MIXED else samples.rows(family)
        rows = rng.choice(among, args.batch, replace=False)
        which = rng.integers(0, 10, args.batch)
        hide = torch.from_numpy(rng.random(args.batch) < HIDDEN)[:, None]
        texts = captions["hidden"][rows, which].where(hide, captions["whole"][rows, which])
        told = captions["hidden_said"][rows, which].where(hide, captions["whole_said"][rows, which])
        kept = ~exchange_is_held_out(told)
        rate = args.lr * min(1.0, (step + 1) / 20) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        vectors = F.normalize(model.encode_text(texts[kept]), dim=1)
        contrast = contrastive(images[rows][kept], vectors, model.logit_scale.exp())
        answers = heads(vectors, told[kept])
        optimizer.zero_grad()
        (contrast + SAID_WEIGHT * answers).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            losses = {"contrastive": round(contrast.item(), 4), "said": round(answers.item(), 4)}
            print(json.dumps({"step": step + 1} | losses), flush=True)

    halves = {name: tensor.half() for name, tensor in model.state_dict().items()}
    config = {"model_cfg": model_cfg(len(words)), "preprocess_cfg": PREPROCESS, "vocabulary": words}
    save_clip(args.run / "clip", config, halves)
    clip = load_clip(str(args.run / "clip"))
    print(json.dumps({"zero_shot": zero_shot(clip, rendered_set("test", 1500, args.seed))}), flush=True)


if __name__ == "__main__":
    main()
