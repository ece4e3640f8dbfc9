"""The frozen CLIP (Radford et al. 2021), over open_clip: the only room that imports it.

Section III uses one CLIP in four places, with one method for each: prompts to T (`encode_text`), images
to image vectors (`encode_image`), images to the discriminator's features (`features`), and the bridge feature through
the vision transformer without its patch convolution (`clip_blk`). Its weights never change and never get a gradient;
gradients pass through it to pixels, bridge features and prompts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.transformer import QuickGELU as OpenQuickGELU
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.errors import UsageError, WeightsError, unknown_name
from ratlip_cli.files import write_text
from ratlip_cli.model.config import ClipGeometry
from ratlip_cli.model.onednn import FixedLinear, fixed_linear
from ratlip_cli.tensor_files import fingerprint, load_into, load_tensors, load_weights, save_tensors

DEFAULT_CLIP = "ViT-B-32-quickgelu:openai"
CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
BUNDLED = {"ratlip-demo": Path(__file__).parents[1] / "demo" / "model" / "clip"}
"""CLIPs that ship inside the package, as folders of `save_clip`."""
WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
UNKNOWN = -1
"""Stands in a trimmed vocabulary for the row of every token that is not listed."""
_QUICK = 1.702
"""The slope in QuickGELU, with which it is near GELU."""

logger = logging.getLogger(__name__)


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
        model: open_clip's; its vision tower must be a ViT with a square grid and a class token, else WeightsError.
        tokenizer: sentences to token ids (B,context), open_clip's for this model.
        spec: how the model was named, for messages and records.
        mean, std: the normalisation of pixels in [0,1], three values each.
        vocabulary: for a trimmed token embedding, the tokenizer's id of each row; UNKNOWN for the row of all others.
        config: the content of a CLIP folder's configuration, for a CLIP that cannot be had by its name alone.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        spec: str,
        mean: Sequence[float],
        std: Sequence[float],
        vocabulary: Sequence[int] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        visual = getattr(model, "visual", None)
        if not isinstance(visual, VisionTransformer):
            raise WeightsError(f"CLIP '{spec}' has no vision transformer; choose a ViT, such as {DEFAULT_CLIP}.")
        if visual.attn_pool is not None or getattr(visual, "pool_type", "tok") != "tok":
            raise WeightsError(f"CLIP '{spec}' does not read its class token; choose another, such as {DEFAULT_CLIP}.")
        rows, columns = visual.grid_size
        if rows != columns:
            raise WeightsError(f"CLIP '{spec}' has a grid of {rows}x{columns} patches; it must be square.")
        self.spec = spec
        self.config = config
        for block in visual.transformer.resblocks:
            if isinstance(block.attn, nn.MultiheadAttention):
                block.attn = SelfAttention(block.attn)
        for module in list(visual.transformer.modules()):
            for name, part in module.named_children():
                if isinstance(part, nn.Linear):
                    setattr(module, name, FixedLinear(part))
                elif isinstance(part, OpenQuickGELU):
                    setattr(module, name, QuickGELU())
        self.model = model.float().eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.vocabulary = list(vocabulary) if vocabulary is not None else None
        self.geometry = ClipGeometry(
            width=visual.conv1.out_channels,
            grid=rows,
            layers=len(visual.transformer.resblocks),
            embed_dim=visual.proj.shape[1],
            image_size=visual.image_size[0],
        )
        self.mean: Tensor
        self.std: Tensor
        self.token_rows: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        if self.vocabulary is not None:
            self.register_buffer("token_rows", _token_rows(self.vocabulary), persistent=False)

    @property
    def visual(self) -> Any:
        """open_clip's vision transformer."""
        return self.model.visual

    def train(self, mode: bool = True) -> FrozenCLIP:
        """Stays in eval mode, whatever is asked of the module that holds it."""
        return super().train(False)

    @property
    def context_length(self) -> int:
        """Tokens of a sentence, start and end included; longer ones are cut."""
        return int(self.tokenizer.context_length)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over the weights, the pixel normalisation and the vocabulary."""
        settings = {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}
        return fingerprint(self.model.state_dict(), {**settings, "vocabulary": self.vocabulary})

    def is_overlong(self, sentence: str) -> bool:
        """Whether a sentence fills the text context, so that its end may be cut."""
        return bool(self.tokenizer([sentence])[0, -1] != 0)

    @torch.no_grad()
    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Sentence vectors T (B,d): the projected end-of-text token, not normalised, float32.

        Sentences longer than the text context are cut to it.
        """
        return self.encode_tokens(self.tokenizer(list(sentences)))

    @torch.no_grad()
    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Sentence vectors T (B,d) from token ids (B,context) of the tokenizer."""
        tokens = tokens.to(self.mean.device)
        if self.vocabulary is not None:
            tokens = self.token_rows[tokens]
        vectors: Tensor = self.model.encode_text(tokens)  # type: ignore[operator]
        return vectors

    def encode_image(self, images: Tensor) -> Tensor:
        """Image vectors (B,d), not normalised, from images (B,3,H,W) in [-1,1]."""
        return self._image_vector(self._in_front(images)[-1])

    def features(self, images: Tensor) -> ImageFeatures:
        """What the discriminator and the CLIP similarity look at, from images (B,3,H,W) in [-1,1]."""
        return self.features_and_tokens(images)[0]

    def features_and_tokens(self, images: Tensor) -> tuple[ImageFeatures, list[Tensor]]:
        """`features`, and the tokens (B,1+g*g,W) that enter each block on the way, to take gradients at."""
        pixels = self.resized(images)
        in_front = self._in_front(pixels)
        behind = in_front[1:]
        if self.geometry.feature_blocks[-1] == len(behind):  # of the last block too
            behind.append(self.visual.transformer.resblocks[-1](in_front[-1]))
        return ImageFeatures(self._patches(behind), self._image_vector(in_front[-1]), pixels), in_front

    def patch_features(self, images: Tensor) -> Tensor:
        """The patches of `features` alone; the blocks behind the last of them are not computed."""
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
            prompts: (B,P,W); prompt p is appended as a token to block p, for p = 1 ... P, and dropped behind it.

        Returns:
            The patch tokens after the last block (B,W,g,g), without ln_post and projection.
        """
        *_, last = self._blocks(self._tokens(feature), prompts)
        return self.as_map(last)

    def _in_front(self, images: Tensor) -> list[Tensor]:
        """The tokens (B,1+g*g,W) that enter each block."""
        first = self._image_tokens(images)
        return [first, *islice(self._blocks(first), self.geometry.layers - 1)]

    def _image_tokens(self, images: Tensor) -> Tensor:
        pixels = (self.resized(images) + 1) / 2  # [0,1], the range that CLIP normalises
        patch_conv = self.visual.conv1
        side = patch_conv.kernel_size[0]
        used = side * self.geometry.grid
        # Patches do not overlap: their convolution is one matrix for each of them.
        normalised = (pixels[:, :, :used, :used] - self.mean) / self.std
        patches = F.pixel_unshuffle(normalised, side)  # (B, 3*side*side, g, g)
        return self._tokens(F.conv2d(patches, patch_conv.weight.flatten(1)[:, :, None, None], patch_conv.bias))

    def _tokens(self, patches: Tensor) -> Tensor:
        """(B,W,g,g) -> (B,1+g*g,W): class token in front, positions added, ln_pre applied."""
        tokens = patches.flatten(2).transpose(1, 2)
        first = self.visual.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        tokens = torch.cat((first, tokens), dim=1) + self.visual.positional_embedding.to(tokens.dtype)
        normed: Tensor = self.visual.ln_pre(tokens)
        return normed

    def _blocks(self, tokens: Tensor, prompts: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the tokens (B,1+g*g,W) after each block; block p sees prompt p besides."""
        last_prompt = 0 if prompts is None else prompts.shape[1]
        for index, block in enumerate(self.visual.transformer.resblocks):
            prompted = 1 <= index <= last_prompt
            if prompts is not None and prompted:
                tokens = torch.cat((tokens, prompts[:, index - 1 : index].to(tokens.dtype)), dim=1)
            tokens = block(tokens)
            if prompted:
                tokens = tokens[:, :-1]
            yield tokens

    def _patches(self, behind: Sequence[Tensor]) -> Tensor:
        """Of the tokens behind each block those that the discriminator reads (B,3,W,g,g)."""
        return torch.stack([self.as_map(behind[block]) for block in self.geometry.feature_blocks], dim=1)

    def as_map(self, tokens: Tensor) -> Tensor:
        """Patch tokens of (B,1+g*g,W) as (B,W,g,g)."""
        grid = self.geometry.grid
        return torch.unflatten(tokens[:, 1:].transpose(1, 2), 2, (grid, grid))

    def _image_vector(self, tokens: Tensor) -> Tensor:
        """(B,d) from the tokens that enter the last block, whose class token alone is looked at."""
        last = _class_token(self.visual.transformer.resblocks[-1], tokens)
        vector: Tensor = self.visual.ln_post(last[:, 0]) @ self.visual.proj
        return vector


class SelfAttention(nn.Module):
    """The attention of a vision transformer, with the weights of PyTorch's and the same values.

    PyTorch's multiplies each position's tokens by themselves, which on a CPU takes twice as long as all in one product.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = attention.num_heads
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: object) -> tuple[Tensor, None]:
        """Tokens (B,N,W), the same for key and value, and the first n of them for the query -> (B,n,W)"""
        qkv = fixed_linear(key, self.in_proj_weight, self.in_proj_bias)
        of_heads = (torch.unflatten(x, 2, (self.heads, -1)) for x in qkv.chunk(3, dim=2))
        q, k, v = (x.transpose(1, 2) for x in of_heads)  # (B, heads, N, W/heads) each
        seen = F.scaled_dot_product_attention(q[:, :, : query.shape[1]], k, v)
        return self.out_proj(seen.transpose(1, 2).flatten(2)), None


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), as a SiLU: for a gradient it keeps one tensor, not two."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same"""
        return F.silu(_QUICK * x).div_(_QUICK)


def load_clip(spec: str, device: str | torch.device = "cpu") -> FrozenCLIP:
    """Load a CLIP by what a user types.

    Args:
        spec: `NAME[:PRETRAINED]` of open_clip (PRETRAINED is a tag, downloaded from the Hugging Face Hub; or a weights
            file; or `random`; left out, `openai`), a folder written by `save_clip`, or the bundled `ratlip-demo`.

    Raises:
        UsageError: an unknown name or tag. WeightsError: weights that cannot be had or do not fit.
    """
    folder = BUNDLED.get(spec, Path(spec))
    if folder.is_dir():
        return _load_folder(folder).to(device)
    name, _, pretrained = spec.partition(":")
    pretrained = pretrained or DEFAULT_CLIP.partition(":")[2]
    model_cfg = _model_cfg(spec, name)
    if pretrained == "random":
        logger.warning("CLIP %s has random weights: fit for dry runs and benchmarks, not for images.", name)
        return _named(spec, name, pretrained=None).to(device)
    if Path(pretrained).suffix in WEIGHTS_SUFFIXES or Path(pretrained).is_file():
        return _from_file(spec, name, Path(pretrained), model_cfg).to(device)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags:
        raise unknown_name(f"pretrained tag of CLIP {name}", pretrained, [*tags, "random"])
    quick = f"{name}-quickgelu"
    if quick in open_clip.list_models() and pretrained in open_clip.list_pretrained_tags_by_model(quick):
        raise UsageError(
            f"the {pretrained} weights of CLIP {name} were trained with QuickGELU: use {quick}:{pretrained}."
        )
    return _named(spec, name, pretrained).to(device)


def clip_architecture(spec: str) -> FrozenCLIP:
    """The CLIP of `load_clip(spec)` on the meta device: all its sizes, no weights, nothing downloaded."""
    with torch.device("meta"):
        folder = BUNDLED.get(spec, Path(spec))
        if folder.is_dir():
            return build_clip(_read_config(folder), spec).to("meta")
        name = spec.partition(":")[0]
        model_cfg = _model_cfg(spec, name)
        kind = open_clip.CustomTextCLIP if model_cfg.pop("custom_text", False) else open_clip.CLIP
        mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
        return FrozenCLIP(kind(**model_cfg), open_clip.get_tokenizer(name), spec, mean, std)


def save_clip(
    folder: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
) -> None:
    """Write a CLIP of one's own as a folder that `load_clip` takes.

    Args:
        config: `model_cfg` as open_clip has it (`embed_dim`, `vision_cfg`, `text_cfg`, `quick_gelu` where used);
            `preprocess_cfg` with `mean` and `std` of pixels in [0,1], three values each; and `vocabulary`, see
            FrozenCLIP, where the token embedding is trimmed.
        weights: the state dict of `open_clip.CLIP(**model_cfg)`.
    """
    save_tensors(folder / WEIGHTS_FILE, weights)
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def build_clip(config: Mapping[str, Any], spec: str) -> FrozenCLIP:
    """A CLIP with open_clip's initial weights from the content of a CLIP folder's configuration."""
    model_cfg = dict(config["model_cfg"])
    context = model_cfg["text_cfg"]["context_length"]
    return FrozenCLIP(
        open_clip.CLIP(**model_cfg),
        open_clip.SimpleTokenizer(context_length=context),
        spec,
        mean=config["preprocess_cfg"]["mean"],
        std=config["preprocess_cfg"]["std"],
        vocabulary=config.get("vocabulary"),
        config=config,
    )


def _class_token(block: Any, tokens: Tensor) -> Tensor:
    """What becomes of the class token (B,1,W) of all tokens (B,N,W) in a block of open_clip."""
    if isinstance(block, ResidualAttentionBlock):
        normed = block.ln_1(tokens)
        token: Tensor = tokens[:, :1] + block.ls_1(block.attention(normed[:, :1], normed, normed))
        token = token + block.ls_2(block.mlp(block.ln_2(token)))
    else:
        token = block(tokens)[:, :1]
    return token


def _model_cfg(spec: str, name: str) -> dict[str, Any]:
    """open_clip's description of the CLIP of that name."""
    if name in BUNDLED:
        raise WeightsError(f"CLIP {name} is not bundled with this version; name another, such as {DEFAULT_CLIP}.")
    if name in open_clip.list_models():
        return dict(open_clip.get_model_config(name))
    if "/" in name or name.startswith("."):
        raise WeightsError(f"CLIP folder {spec} does not exist; give one with {CONFIG_FILE}, or NAME:PRETRAINED.")
    usable = [known for known in open_clip.list_models() if known.startswith("ViT-") and "SigLIP" not in known]
    raise unknown_name("CLIP", name, [*usable, *BUNDLED])


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        _ = config["model_cfg"]["text_cfg"]["context_length"], config["preprocess_cfg"]["mean"]
    except OSError as error:
        raise WeightsError(f"CLIP folder {folder} has no readable {CONFIG_FILE}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} does not describe a CLIP of open_clip: {error!r}.") from error
    return dict(config)


def _load_folder(folder: Path) -> FrozenCLIP:
    config = _read_config(folder)
    try:
        clip = build_clip(config, str(folder))
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise WeightsError(f"{folder / CONFIG_FILE} does not describe a CLIP of open_clip: {error!r}.") from error
    load_into(clip.model, load_tensors(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)
    return clip


def _from_file(spec: str, name: str, path: Path, model_cfg: Mapping[str, Any]) -> FrozenCLIP:
    clip = _named(spec, name, pretrained=None)
    weights = load_weights(path)
    for setting in ("input_resolution", "context_length", "vocab_size"):  # OpenAI's files carry them as tensors
        weights.pop(setting, None)
    load_into(clip.model, weights, path)
    if not model_cfg.get("custom_text"):
        preprocess_cfg = {"mean": clip.mean.flatten().tolist(), "std": clip.std.flatten().tolist()}
        clip.config = {"model_cfg": dict(model_cfg), "preprocess_cfg": preprocess_cfg}
    return clip


def _named(spec: str, name: str, pretrained: str | None) -> FrozenCLIP:
    try:
        with torch.random.fork_rng(devices=[]), _warnings_disabled():
            torch.manual_seed(0)  # random weights are the same ones every time
            model = open_clip.create_model(name, pretrained=pretrained)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"the weights of CLIP {spec} could not be had ({reason}). Go online once, or give a file: {name}:PATH."
        ) from error
    visual = model.visual
    return FrozenCLIP(
        model,
        open_clip.get_tokenizer(name),
        spec,
        mean=getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN,
        std=getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD,
    )


@contextmanager
def _warnings_disabled() -> Iterator[None]:
    """open_clip warns on the root logger of what is meant here, such as a model without weights."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def _token_rows(vocabulary: Sequence[int]) -> Tensor:
    """Row of a trimmed embedding for every token id of the standard tokenizer."""
    if vocabulary.count(UNKNOWN) != 1:
        raise UsageError(f"a trimmed vocabulary needs exactly one entry {UNKNOWN}, for unknown tokens.")
    known = [token for token in vocabulary if token != UNKNOWN]
    rows = torch.full((max(known) + 1,), vocabulary.index(UNKNOWN))
    rows[known] = torch.tensor([row for row, token in enumerate(vocabulary) if token != UNKNOWN])
    return rows
