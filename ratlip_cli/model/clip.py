"""The frozen CLIP (Radford et al. 2021).

Section III uses one CLIP in four places, with one method for each: captions to T (`encode_text`), images to image
vectors (`encode_image`), images to the discriminator's features (`features`), and the bridge feature through the vision
transformer without its patch convolution (`clip_blk`). Its weights never change and never get a gradient; gradients
pass through it to pixels, bridge features and prompts. `weights/clip_files.py` loads one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.errors import UsageError
from ratlip_cli.model.config import ClipGeometry
from ratlip_cli.model.towers import CLIP, VisionTransformer, Words
from ratlip_cli.tensor_files import fingerprint
from ratlip_cli.tokenizer import END, unknown_words

_TOKENIZED_AT_ONCE = 1024
_T = TypeVar("_T")
UNKNOWN = -1
"""Stands in a trimmed vocabulary for the row of every token that is not listed."""


class ImageFeatures(NamedTuple):
    """What CLIP sees in images."""

    patches: Tensor
    """Patch tokens after the three feature blocks (B,3,W,g,g)."""
    embedding: Tensor
    """Image vectors (B,d), not normalised."""
    pixels: Tensor
    """The images at CLIP's size (B,3,image_size,image_size), float32 in [-1,1]."""


class FrozenCLIP(nn.Module):
    """A CLIP with a vision transformer, never trained, always in eval mode.

    Args:
        model: its towers.
        tokenizer: captions to token ids (B,context).
        spec: how the model was named, for messages and records.
        mean, std: the normalisation of pixels in [0,1], three values each.
        vocabulary: for a trimmed token embedding, the tokenizer's id of each row; UNKNOWN for the row of all others.
        config: the content of a CLIP folder's configuration, for a CLIP that cannot be loaded by its name alone.
    """

    def __init__(
        self,
        model: CLIP,
        tokenizer: Any,
        spec: str,
        mean: Sequence[float],
        std: Sequence[float],
        vocabulary: Sequence[int] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        visual = model.visual
        self.spec = spec
        self.config = config
        self.model = model.float().eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.vocabulary = list(vocabulary) if vocabulary is not None else None
        self.geometry = ClipGeometry(
            width=visual.conv1.out_channels,
            grid=visual.grid,
            layers=len(visual.transformer.resblocks),
            embed_dim=visual.proj.shape[1],
            image_size=visual.image_size,
            text_width=model.text_config.width,
        )
        self.mean: Tensor
        self.std: Tensor
        self.token_rows: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        if self.vocabulary is not None:
            self.register_buffer("token_rows", token_rows(self.vocabulary), persistent=False)

    @property
    def visual(self) -> VisionTransformer:
        """Its vision transformer."""
        return self.model.visual

    def train(self, mode: bool = True) -> FrozenCLIP:
        """Stays in eval mode, whatever is asked of the module that holds it."""
        return super().train(False)

    @property
    def logit_scale(self) -> Tensor:
        """What cosines of image and text vectors are multiplied by, to be the logits of its probabilities. Scalar."""
        return self.model.logit_scale.exp()

    @property
    def context_length(self) -> int:
        """Tokens of a caption, start and end included; longer ones are cut."""
        return int(self.tokenizer.context_length)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over the weights, the pixel normalisation and the vocabulary."""
        settings = {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}
        return fingerprint(self.model.state_dict(), {**settings, "vocabulary": self.vocabulary})

    @cached_property
    def computes(self) -> str:
        """16 hex digits over all that its vectors depend on: the fingerprint's, and what no weight shows.

        The fingerprint itself where the latter is as usual.
        """
        unusual = self.model.unusual
        return fingerprint({}, [self.fingerprint, unusual]) if unusual else self.fingerprint

    def is_overlong(self, caption: str) -> bool:
        """Whether a caption is longer than the text context, so that its end is cut."""
        return bool(overlong([caption], self.tokenizer, self.context_length))

    def overlong(self, captions: Sequence[str]) -> list[int]:
        """Which of the captions are longer than the text context, so that their ends are cut."""
        return overlong(captions, self.tokenizer, self.context_length)

    def alike(self, captions: Sequence[str]) -> int:
        """How many captions have the text vector of a caption in other words: cut to it, or of unknown words."""
        wordings: defaultdict[bytes, set[str]] = defaultdict(set)
        for batch in _batches(sorted(set(captions))):
            for caption, row in zip(batch, self.embedding_rows(self.tokenizer(batch)).cpu().numpy(), strict=True):
                wordings[row.tobytes()].add(caption)
        shared = {caption for same in wordings.values() if len(same) > 1 for caption in same}
        return sum(caption in shared for caption in captions)

    def unknown_words(self, caption: str) -> list[str]:
        """The words of a caption, each once, that a trimmed vocabulary lacks: to such a CLIP they are all the same."""
        if self.vocabulary is None:
            return []
        return unknown_words(self.tokenizer.words(caption), self.vocabulary)

    def known_words(self) -> list[str] | None:
        """The words of a trimmed vocabulary, sorted; None where any word can be read.

        One that ends in "-" begins words, and goes with any that follows it.
        """
        if self.vocabulary is None:
            return None
        tokens = [self.tokenizer.token(number) for number in self.vocabulary if number != UNKNOWN]
        words = [token.removesuffix(END) if token.endswith(END) else f"{token}-" for token in tokens]
        return sorted(word for word in words if word[0].isalnum())

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> Tensor:
        """Text vectors T (B,d): the projected end-of-text token, not normalised, float32.

        Captions longer than the text context are cut to it.
        """
        return self.encode_tokens(self.tokenizer(list(captions)))

    @torch.no_grad()
    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Text vectors T (B,d) from token ids (B,context) of the tokenizer."""
        return self.model.encode_text(self.embedding_rows(tokens))

    @torch.no_grad()
    def encode_words(self, tokens: Tensor) -> Words:
        """Hidden states (B,context,text_width) of every token, and T (B,d), from token ids (B,context)."""
        return self.model.encode_words(self.embedding_rows(tokens))

    def embedding_rows(self, tokens: Tensor) -> Tensor:
        """Rows of the token embedding (B,context) of token ids (B,context): all that a text vector depends on."""
        tokens = tokens.to(self.mean.device)
        return tokens if self.vocabulary is None else self.token_rows[tokens]

    def encode_image(self, images: Tensor) -> Tensor:
        """Image vectors (B,d), not normalised, from images (B,3,H,W) in [-1,1]."""
        return self._image_vector(self._block_inputs(images)[-1])

    def features(self, images: Tensor) -> ImageFeatures:
        """What the discriminator and the CLIP similarity look at, from images (B,3,H,W) in [-1,1]."""
        return self.features_and_tokens(images)[0]

    def features_and_tokens(self, images: Tensor) -> tuple[ImageFeatures, list[Tensor]]:
        """`features`, and the tokens (B,1+g*g,W) that enter each block, to take gradients at."""
        pixels = self.resized(images)
        before = self._block_inputs(pixels)
        after = before[1:]
        if self.geometry.feature_blocks[-1] == len(after):  # of the last block too
            after.append(self.visual.transformer.resblocks[-1](before[-1]))
        return ImageFeatures(self._patches(after), self._image_vector(before[-1]), pixels), before

    def patch_features(self, images: Tensor) -> Tensor:
        """The patches of `features` alone; the blocks after the last of them are not computed."""
        blocks = self._blocks(self._image_tokens(images))
        return self._patches(list(islice(blocks, self.geometry.feature_blocks[-1] + 1)))

    def resized(self, images: Tensor) -> Tensor:
        """Images (B,3,H,W) in [-1,1] at CLIP's size, in float32."""
        size = self.geometry.image_size
        if images.shape[2:] == (size, size):
            return images.float()
        return F.interpolate(images.float(), size=(size, size), mode="bicubic", antialias=True, align_corners=False)

    def clip_blk(self, feature: Tensor, prompts: Tensor) -> Tensor:
        """CLIP-BLK (Fig. 1): the bridge feature takes the place of the patch convolution's output.

        Args:
            feature: (B,W,g,g).
            prompts: (B,P,W); prompt p is appended as a token to block p, for p = 1 ... P, and dropped after it.

        Returns:
            The patch tokens after the last block (B,W,g,g), without ln_post and projection.
        """
        *_, last = self._blocks(self._tokens(feature), prompts)
        return self.as_map(last)

    def as_map(self, tokens: Tensor) -> Tensor:
        """Patch tokens of (B,1+g*g,W) as (B,W,g,g)."""
        grid = self.geometry.grid
        return torch.unflatten(tokens[:, 1:].transpose(1, 2), 2, (grid, grid))

    def _block_inputs(self, images: Tensor) -> list[Tensor]:
        """The tokens (B,1+g*g,W) that enter each block."""
        first = self._image_tokens(images)
        return [first, *islice(self._blocks(first), self.geometry.layers - 1)]

    def _image_tokens(self, images: Tensor) -> Tensor:
        return self._tokens(self._patch_embedding(self._normalised(images)))

    def _normalised(self, images: Tensor) -> Tensor:
        """Images in [-1,1] at CLIP's size and with its mean and standard deviation."""
        pixels = (self.resized(images) + 1) / 2  # [0,1], the range that CLIP normalises
        return (pixels - self.mean) / self.std

    def _patch_embedding(self, pixels: Tensor) -> Tensor:
        """The patch convolution: (B,3,image_size,image_size) -> (B,W,g,g)"""
        patches: Tensor = self.visual.conv1(pixels)
        return patches

    def _tokens(self, patches: Tensor) -> Tensor:
        """(B,W,g,g) -> (B,1+g*g,W): class token first, positions added, ln_pre applied."""
        tokens = patches.flatten(2).transpose(1, 2)
        first = self.visual.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        tokens = torch.cat((first, tokens), dim=1) + self.visual.positional_embedding.to(tokens.dtype)
        normed: Tensor = self.visual.ln_pre(tokens)
        return normed

    def _blocks(self, tokens: Tensor, prompts: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the tokens (B,1+g*g,W) after each block; block p is given prompt p besides."""
        last_prompt = 0 if prompts is None else prompts.shape[1]
        for index, block in enumerate(self.visual.transformer.resblocks):
            prompted = 1 <= index <= last_prompt
            if prompts is not None and prompted:
                tokens = torch.cat((tokens, prompts[:, index - 1 : index].to(tokens.dtype)), dim=1)
            tokens = block(tokens)
            if prompted:
                tokens = tokens[:, :-1]
            yield tokens

    def _patches(self, after: Sequence[Tensor]) -> Tensor:
        """Of the tokens after each block those that the discriminator reads (B,3,W,g,g)."""
        return torch.stack([self.as_map(after[block]) for block in self.geometry.feature_blocks], dim=1)

    def _image_vector(self, tokens: Tensor) -> Tensor:
        """(B,d) from the tokens that enter the last block."""
        class_token = self.visual.transformer.resblocks[-1](tokens)[:, 0]
        vector: Tensor = self.visual.ln_post(class_token) @ self.visual.proj
        return vector


def overlong(captions: Sequence[str], tokenizer: Any, context_length: int) -> list[int]:
    """Which captions have more tokens of the tokenizer, start and end included, than `context_length`.

    A token is at least a byte, so that captions of few bytes need no tokenizer.
    """
    long = [number for number, caption in enumerate(captions) if len(caption.lower().encode()) > context_length - 2]
    cut: list[int] = []
    filling = int(tokenizer([""], context_length + 1)[0, -1]) if long else 0  # not 0 in every tokenizer
    for numbers in _batches(long):
        tokens = tokenizer([captions[number] for number in numbers], context_length + 1)
        cut += [number for number, last in zip(numbers, tokens[:, -1].tolist(), strict=True) if last != filling]
    return cut


def _batches(values: Sequence[_T]) -> Iterator[list[_T]]:
    for start in range(0, len(values), _TOKENIZED_AT_ONCE):
        yield list(values[start : start + _TOKENIZED_AT_ONCE])


def token_rows(vocabulary: Sequence[int]) -> Tensor:
    """Row of a trimmed embedding for every token id of the standard tokenizer."""
    if vocabulary.count(UNKNOWN) != 1:
        raise UsageError(f"a trimmed vocabulary needs exactly one entry {UNKNOWN}, for unknown tokens.")
    known = [token for token in vocabulary if token != UNKNOWN]
    rows = torch.full((max(known) + 1,), vocabulary.index(UNKNOWN))
    rows[known] = torch.tensor([row for row, token in enumerate(vocabulary) if token != UNKNOWN])
    return rows
