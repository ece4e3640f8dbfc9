"""Train the small CLIP of the demo: open_clip's own model class and loss, on rendered images and their captions.

    python examples/demo/train_clip.py --out runs/demo-clip

It goes on from `state.pt` where a run was stopped, with the same settings or more `--steps`, and writes a CLIP folder
that `ratlip --clip` takes every time it saves. Batches are a pure function of seed and step, so a stopped and resumed
run equals one that never stopped.

Some pairs of colours never occur in training. Two towers that learn pairs instead of segments would read them as pairs
they know, so each of the two colours is also shown and told without the other: in a share of the images one segment is
painted in a colour of no name, and in captions the word for it is hidden behind the unknown token.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import script
import torch
from check_clip import zero_shot
from history import HISTORY_FILE, here, write_history
from rendered_set import CACHE, TWIN_CAPTIONS, RenderedSet, TwinSet, paint, random_crops, rendered_set, twin_set
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.demo.attributes import ATTRIBUTES, BIRD_COLOURS, FAMILIES, HELD_OUT, PAIRED
from ratlip_cli.demo.said import said
from ratlip_cli.errors import UsageError
from ratlip_cli.files import whole_file
from ratlip_cli.model.clip import UNKNOWN
from ratlip_cli.weights.clip_files import load_clip, save_clip

STATE_FILE = "state.pt"
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
PAINTED = 0.5
"""Share of the birds and flowers that have one of their two paired segments painted over."""
HIDDEN = 0.25
"""Share of the other captions of birds and flowers with the colour word of one paired segment hidden."""
_COLOUR_WORDS = re.compile("|".join(rf"\b{word}\b" for word in (*BIRD_COLOURS, "pink", "gray", "violet")))


def model_cfg(rows: int, vision_width: int = 128, text_width: int = 128) -> dict[str, object]:
    """open_clip's configuration for a token embedding of `rows` rows; widths are multiples of 32."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "patch_size": 8, "width": vision_width, "layers": 6, "head_width": 32},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": rows,
            "width": text_width,
            "heads": text_width // 32,
            "layers": 3,
        },
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


class Captions(NamedTuple):
    """Encoded captions."""

    rows: Tensor  # (..., CONTEXT): rows of the trimmed embedding.
    said: Tensor  # (..., attributes): what each says.
    places: Tensor  # (..., 2): where the words for the two paired colours stand, 0 where there is none.

    def at(self, *index: Any) -> Captions:
        """Those at an index of the leading dimensions."""
        return Captions(self.rows[index], self.said[index], self.places[index])


class Batches:
    """The batch of a step is a pure function of seed and step."""

    def __init__(self, images: RenderedSet, twins: TwinSet, size: int, seed: int, data_seed: int) -> None:
        self._images, self._twins, self._size, self._seed = images, twins, size, seed
        kept = CACHE / f"encoded-{len(images.captions)}-{len(twins.captions)}-{data_seed}.pt"
        if not kept.exists():
            with whole_file(kept) as partial_file:
                torch.save(_captions(images, twins), partial_file)
        stored = torch.load(kept, weights_only=True)
        self.words: list[int] = stored["words"]
        self._captions, self._twin_captions = Captions(*stored["captions"]), Captions(*stored["twin_captions"])
        self._shown = labels_of(images.attributes, images.family)
        self._twin_shown = labels_of(twins.attributes, twins.family.repeat(2))

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self._seed, step])
        family = None if rng.random() < MIXED else int(rng.integers(len(FAMILIES)))
        return (self._twin_batch if rng.random() < TWINS else self._batch)(family, rng)

    def _batch(self, family: int | None, rng: np.random.Generator) -> Batch:
        among = np.arange(len(self._captions.rows)) if family is None else self._images.rows(FAMILIES[family])
        chosen = rng.choice(among, self._size, replace=False)
        captions = self._captions.at(chosen, rng.integers(0, self._captions.rows.shape[1], self._size))
        families = self._images.family[chosen]
        paired = np.isin(families, [FAMILIES.index(family) for family in PAIRED])
        painted = np.where(paired & (rng.random(self._size) < PAINTED), rng.integers(0, 2, self._size), -1)
        images, shown = _painted(self._images, chosen, families, painted, self._shown, rng)
        texts, told = hide(captions, families, hidden_places(captions, painted, rng))
        some = disturbed(texts, rng)
        whole = (some == texts).all(dim=1, keepdim=True)
        return Batch(images, some, shown, told.where(whole, NONE))

    def _twin_batch(self, family: int | None, rng: np.random.Generator) -> Batch:
        """Twins are painted, and their captions hidden, at the same attribute, and never at one that differs."""
        all_pairs = np.arange(len(self._twins.family))
        among = all_pairs if family is None else np.flatnonzero(self._twins.family == family)
        pairs = rng.choice(among, self._size // 2, replace=False)
        rows = np.stack((2 * pairs, 2 * pairs + 1), axis=1).ravel()
        captions = self._twin_captions.at(pairs, rng.integers(0, TWIN_CAPTIONS, len(pairs)))
        families = self._twins.family[pairs]
        held = exchange_is_held_out(captions.said).any(dim=1).numpy()
        painted, hidden = np.full(len(pairs), -1), np.full(len(pairs), -1)
        for place, pair in enumerate(pairs):
            names = PAIRED.get(FAMILIES[families[place]], ())
            one, other = self._twins.attributes[2 * pair : 2 * pair + 2]
            same = [number for number, name in enumerate(names) if one[name] == other[name]]
            to_paint, chosen = rng.random() < PAINTED, int(rng.integers(2))
            if same and (to_paint or held[place]):
                hidden[place] = same[chosen % len(same)]
                painted[place] = hidden[place] if to_paint else -1
        both = families.repeat(2)
        images, shown = _painted(self._twins, rows, both, painted.repeat(2), self._twin_shown, rng)
        texts, told = hide(Captions(*(part.flatten(0, 1) for part in captions)), both, hidden.repeat(2))
        return Batch(images, texts, shown, told)


def hidden_places(captions: Captions, painted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which of the two paired colours of (B) captions to hide, or -1: what is painted over; one of a pair whose
    exchange is held out, which would be learnt as a pair; and at times another."""
    hidden = painted.copy()
    both = ((captions.places > 0).all(dim=1) & torch.from_numpy(painted < 0)).numpy()
    held = exchange_is_held_out(captions.said).numpy()
    hide_it = both & (held | (rng.random(len(hidden)) < HIDDEN))
    hidden[hide_it] = rng.integers(0, 2, int(hide_it.sum()))
    return hidden


def hide(captions: Captions, families: np.ndarray, hidden: np.ndarray) -> tuple[Tensor, Tensor]:
    """Rows (B, CONTEXT) of captions with a colour word behind the unknown token, and what they still say."""
    rows, told = captions.rows.clone(), captions.said.clone()
    for row in np.flatnonzero(hidden >= 0):
        place = int(captions.places[row, hidden[row]])
        if place:
            family = FAMILIES[families[row]]
            rows[row, place] = 0
            told[row, HEADS.index((family, PAIRED[family][hidden[row]]))] = NONE
    return rows, told


def _painted(
    images: RenderedSet | TwinSet,
    rows: np.ndarray,
    families: np.ndarray,
    painted: np.ndarray,
    shown: Tensor,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Random crops (B,3,64,64), attribute `painted` (B; -1: none) of a pair painted over, and what they show."""
    pixels, labels = images.pixels[rows], shown[rows]
    for place in np.flatnonzero(painted >= 0):
        family = FAMILIES[families[place]]
        attribute = PAIRED[family][painted[place]]
        paint(pixels[place], images.labels[rows[place]], family, attribute, rng)
        labels[place, HEADS.index((family, attribute))] = NONE
    return random_crops(pixels, np.arange(len(rows)), rng), labels


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


def _captions(images: RenderedSet, twins: TwinSet) -> dict[str, object]:
    """All captions, encoded, and the ids of the trimmed vocabulary."""
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT)
    texts = [text for ten in images.captions for text in ten]
    twin_texts = [text for pairs in twins.captions for pair in pairs for text in pair]
    words = vocabulary(tokenizer(texts))
    encode = partial(_encoded, tokenizer=tokenizer, words=words)
    return {
        "words": words,
        "captions": encode(texts, images.family.repeat(10), (len(images.captions), -1)),
        "twin_captions": encode(
            twin_texts, twins.family.repeat(2 * TWIN_CAPTIONS), (len(twins.captions), TWIN_CAPTIONS, 2)
        ),
    }


def _encoded(
    texts: Sequence[str],
    families: np.ndarray,
    shape: tuple[int, ...],
    tokenizer: open_clip.SimpleTokenizer,
    words: list[int],
) -> tuple[Tensor, ...]:
    stated = [said(FAMILIES[f], text) for f, text in zip(families, texts, strict=True)]
    places = torch.zeros(len(texts), 2, dtype=torch.long)
    for row, (family, text) in enumerate(zip(families, texts, strict=True)):
        for column, attribute in enumerate(PAIRED.get(FAMILIES[family], ())):
            if attribute in stated[row]:
                before = _before_word(FAMILIES[family], attribute, text)
                places[row, column] = 1 + len(tokenizer.encode(before))  # 1: the start-of-text token
    parts = rows_of(tokenizer(list(texts)), words), labels_of(stated, families), places
    return tuple(part.view(*shape, part.shape[-1]) for part in parts)


def _before_word(family: str, attribute: str, text: str) -> str:
    """The text before the colour word without which a caption no longer states this attribute."""
    for match in _COLOUR_WORDS.finditer(text):
        if attribute not in said(family, f"{text[: match.start()]}zebra{text[match.end() :]}"):
            return text[: match.start()]
    raise ValueError(f"no colour word of '{text}' tells {attribute}")


def saved_state(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The state that a run was stopped in, None for a new one. Raises UsageError where its settings are others."""
    if not (out / STATE_FILE).exists():
        return None
    state: dict[str, Any] = torch.load(out / STATE_FILE, weights_only=True)
    before = state["record"]["settings"]
    names = sorted(before.keys() | settings.keys())
    other = [name for name in names if name != "steps" and before.get(name) != settings.get(name)]
    if other or settings["steps"] < before["steps"]:
        told = ", ".join(f"{name} {before.get(name)}" for name in other or ["steps"])
        raise UsageError(f"{out} was begun with {told}: go on with that, or choose another --out.")
    return state


def train(
    out: Path, batches: Batches, test: RenderedSet, args: argparse.Namespace, state: dict[str, Any] | None
) -> None:
    """Train until the steps or the minutes are used up, saving on the way.

    Args:
        state: the state to go on from, None to begin.
    """
    words = batches.words
    config = model_cfg(len(words), args.vision_width, args.text_width)
    torch.manual_seed(args.seed)
    model = open_clip.CLIP(**config)
    attribute_loss = AttributeLoss(model.visual.output_dim)
    parameters = [*model.parameters(), *attribute_loss.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    loss_function = open_clip.ClipLoss()
    started, step = time.monotonic(), 0
    record: dict[str, Any] = here(Path(__file__).parent) | {"seconds": 0, "settings": settings_of(args)}
    if state is not None:
        model.load_state_dict(state["model"])
        attribute_loss.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        record |= {name: state["record"][name] for name in ("began", "seconds")}
    saved, losses, before = time.monotonic(), [], record["seconds"]
    while step < args.steps:
        batch = batches[step]
        rate = args.lr * min(1.0, (step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            image_vectors, text_vectors, scale = model(batch.images, batch.texts)
        image_vectors, text_vectors = image_vectors.float(), text_vectors.float()
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
            record |= {"steps": step, "seconds": before + round(time.monotonic() - started)}
            states = {"model": model, "heads": attribute_loss, "optimizer": optimizer}
            with whole_file(out / STATE_FILE) as partial:
                parts = {name: part.state_dict() for name, part in states.items()}
                torch.save(parts | {"step": step, "record": record}, partial)
            halves = {name: tensor.half() for name, tensor in model.state_dict().items()}
            save_clip(out / "clip", {"model_cfg": config, "preprocess_cfg": PREPROCESS, "vocabulary": words}, halves)
            write_history(out / HISTORY_FILE, {"clip": record})
            saved = time.monotonic()
        if step % 250 == 0 or step == args.steps or out_of_time:
            clip = load_clip(str(out / "clip"))
            print(json.dumps({"step": step, "zero_shot": zero_shot(clip, test)}), flush=True)
        if out_of_time:
            break


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What decides the weights, for the record."""
    return {name: value for name, value in vars(args).items() if name not in ("out", "minutes")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo-clip"))
    parser.add_argument("--images", type=int, default=40000, help="training images to render")
    parser.add_argument("--twins", type=int, default=20000, help="pairs of twins to render")
    parser.add_argument("--vision-width", type=int, default=128)
    parser.add_argument("--text-width", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, default=180, help="stop, saved, after this long")
    parser.add_argument("--threads", type=int, default=1, help="the last bits of the weights depend on it")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="towers in bfloat16")
    parser.add_argument("--seed", type=int, default=1, help="of the first weights and of the batches")
    parser.add_argument("--data-seed", type=int, default=1, help="of the rendered images")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    state = saved_state(args.out, settings_of(args))
    images, twins = rendered_set("train", args.images, args.data_seed), twin_set(args.twins, args.data_seed)
    batches = Batches(images, twins, args.batch, args.seed, args.data_seed)
    train(args.out, batches, rendered_set("test", 1500, args.data_seed), args, state)


if __name__ == "__main__":
    script.run(main)
