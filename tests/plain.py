"""The model and its training step written down plainly: the yardstick for equality and for speed.

Line by line what the paper says (Section III, Fig. 1, Eqs. 1-8), on the weights of the package's own networks, with
nothing rearranged: images are enlarged before anything acts on them, the sentence is tiled to every patch, every
layer makes new tensors. The step has the habits of the published code: it encodes the sentences anew, sends a gradient
through CLIP to the real images, and computes the discriminator's weight gradients in the generator's half too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import GeneratorConfig
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator
from ratlip_cli.training.settings import TrainSettings


class Weights:
    """Tensors of a network by name, seen from inside one of its parts."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        self.tensors, self.prefix = tensors, prefix

    def __truediv__(self, name: object) -> Weights:
        return Weights(self.tensors, f"{self.prefix}{name}.")

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(self.prefix + name)


def weights_of(network: torch.nn.Module) -> Weights:
    return Weights({**dict(network.named_parameters()), **dict(network.named_buffers())})


def linear(w: Weights, x: Tensor) -> Tensor:
    return F.linear(x, w["weight"], w["bias"])


def conv(w: Weights, x: Tensor) -> Tensor:
    """With the padding that keeps the size."""
    return F.conv2d(x, w["weight"], w.get("bias"), padding=w["weight"].shape[-1] // 2)


def affine(w: Weights, x: Tensor, condition: Tensor) -> Tensor:
    def mlp(w: Weights) -> Tensor:
        return linear(w / 2, F.relu(linear(w / 0, condition)))[:, :, None, None]

    return mlp(w / "gamma") * x + mlp(w / "beta")


def shuffle_attention(w: Weights, x: Tensor, groups: int) -> Tensor:
    b, c, height, width = x.shape
    x = x.reshape(b * groups, c // groups, height, width)
    x0, x1 = x.chunk(2, dim=1)
    x0 = x0 * torch.sigmoid(w["channel_weight"] * F.adaptive_avg_pool2d(x0, 1) + w["channel_bias"])
    normed = F.group_norm(x1, x1.shape[1], w["norm.weight"], w["norm.bias"])
    x1 = x1 * torch.sigmoid(w["spatial_weight"] * normed + w["spatial_bias"])
    x = torch.cat([x0, x1], dim=1).reshape(b, c, height, width)
    return x.reshape(b, 2, c // 2, height, width).transpose(1, 2).reshape(b, c, height, width)


def reviewed(w: Weights, x: Tensor, config: GeneratorConfig, training: bool) -> Tensor:
    """SAConv, or the plain convolution of the variants without it."""
    if not config.has_attention:
        return conv(w, x)
    x = conv(w / "conv", x)
    norm = w / "norm"
    statistics = norm["running_mean"], norm["running_var"]
    x = F.batch_norm(x, *statistics, norm["weight"], norm["bias"], training=training, momentum=0.1)
    return shuffle_attention(w / "attention", F.leaky_relu(x, 0.01), min(config.attention_groups, x.shape[1] // 2))


def bridge(w: Weights, code: Tensor, noise: Tensor, text: Tensor, config: GeneratorConfig, training: bool) -> Tensor:
    y = torch.cat([noise, text], dim=1)
    lstm = w / "recurrence"
    h = c = None
    step = 0

    def condition() -> Tensor:
        nonlocal h, c, step
        step += 1
        if config.variant == "galip":
            return y
        if config.variant == "ratlip-released":
            cell = lstm / "cells" / (step - 1)
            gates = F.linear(y, cell["weight_ih"], cell["bias_ih"]) + cell["bias_hh"]
            i, f, u, o = gates.chunk(4, dim=1)
            return torch.sigmoid(o) * torch.tanh(torch.sigmoid(i) * torch.tanh(u))
        if h is None or c is None:
            h, c = linear(lstm / "initial_hidden", noise), linear(lstm / "initial_cell", noise)
        i, f, o, u = linear(lstm / "gates", torch.cat([text, h], dim=1)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(u)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h

    def ratblk(w: Weights, x: Tensor) -> Tensor:
        for number in range(2):
            x = F.leaky_relu(affine(w / "affines" / number, x, condition()), 0.2)
        return x

    x = code
    for number in range(config.bridge_blocks):
        block = w / "blocks" / number
        inner = ratblk(block / "fuse1", conv(block / "conv1", x))
        x = x + ratblk(block / "fuse2", reviewed(block / "conv2", inner, config, training))
    return conv(w / "to_clip", x)


def through_blocks(clip: FrozenCLIP, patches: Tensor, prompts: Tensor | None = None) -> list[Tensor]:
    """Tokens after each block of CLIP's vision transformer, from what stands for its patch convolution's output."""
    visual = clip.visual
    tokens = patches.flatten(2).transpose(1, 2)
    tokens = torch.cat([visual.class_embedding.expand(len(tokens), 1, -1), tokens], dim=1)
    tokens = visual.ln_pre(tokens + visual.positional_embedding)
    after = []
    for number, block in enumerate(visual.transformer.resblocks):
        if prompts is not None and 1 <= number <= prompts.shape[1]:
            tokens = clip_block(block, torch.cat([tokens, prompts[:, number - 1 : number]], dim=1))[:, :-1]
        else:
            tokens = clip_block(block, tokens)
        after.append(tokens)
    return after


def clip_block(block: Any, tokens: Tensor) -> Tensor:
    """A block of open_clip, with PyTorch's attention and linear layers, and open_clip's own QuickGELU."""
    normed = block.ln_1(tokens)
    attended: Tensor = tokens + torch_attention(block.attn)(normed, normed, normed, need_weights=False)[0]
    first, second = block.mlp.c_fc, block.mlp.c_proj
    hidden = F.linear(block.ln_2(attended), first.weight, first.bias)
    hidden = hidden * torch.sigmoid(1.702 * hidden) if isinstance(block.mlp.gelu, QuickGELU) else block.mlp.gelu(hidden)
    return attended + F.linear(hidden, second.weight, second.bias)


@functools.cache
def torch_attention(attention: SelfAttention) -> nn.MultiheadAttention:
    with torch.device("meta"):
        own = nn.MultiheadAttention(attention.out_proj.in_features, attention.heads, batch_first=True).eval()
    own.in_proj_weight, own.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
    own.out_proj = attention.out_proj
    return own


def as_map(tokens: Tensor, grid: int) -> Tensor:
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, grid, grid)


def catblk(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    for number in range(2):
        x = F.leaky_relu(affine(w / "affines" / number, x, y), 0.2)
    return x


def draw(
    w: Weights, config: GeneratorConfig, clip: FrozenCLIP, noise: Tensor, text: Tensor, training: bool = False
) -> Tensor:
    """G(z,T): images (B,3,S,S)."""
    grid, width = clip.geometry.grid, clip.geometry.width
    y = torch.cat([noise, text], dim=1)
    code = linear(w / "code", noise).reshape(len(noise), -1, grid, grid)
    feature = bridge(w / "bridge", code, noise, text, config, training)
    prompts = linear(w / "prompts", y).reshape(len(noise), -1, width)
    seen = as_map(through_blocks(clip, feature, prompts)[-1], grid)
    x = conv(w / "fuse", feature + 0.1 * seen)
    for number, size in enumerate(config.block_sizes(grid)):
        block = w / "blocks" / number
        x = F.interpolate(x, size=(size, size), mode="nearest")
        inner = reviewed(block / "conv1", catblk(block / "fuse1", x, y), config, training)
        inner = reviewed(block / "conv2", catblk(block / "fuse2", inner, y), config, training)
        x = (x if block.get("shortcut.weight") is None else conv(block / "shortcut", x)) + inner
    return conv(w / "to_rgb", F.leaky_relu(x, 0.2))


def resized(clip: FrozenCLIP, images: Tensor) -> Tensor:
    size = clip.geometry.image_size
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True, align_corners=False)


def features(clip: FrozenCLIP, images: Tensor) -> tuple[Tensor, Tensor]:
    """Patch tokens after three blocks (B,3,W,g,g), and the image vectors (B,d)."""
    pixels = (resized(clip, images) + 1) / 2
    after = through_blocks(clip, clip.visual.conv1((pixels - clip.mean) / clip.std))
    patches = [as_map(after[block], clip.geometry.grid) for block in clip.geometry.feature_blocks]
    return torch.stack(patches, dim=1), clip.visual.ln_post(after[-1][:, 0]) @ clip.visual.proj


def judge(w: Weights, patches: Tensor, text: Tensor, pixels: Tensor | None = None) -> Tensor:
    """D(x,T) (B,); `pixels`, at CLIP's size, are read by the demo's pixel stem alone, which is not in the paper."""

    def residual(w: Weights, x: Tensor) -> Tensor:
        return F.leaky_relu(conv(w / 2, F.leaky_relu(conv(w / 0, x), 0.2)), 0.2)

    extractor, referee = w / "extractor", w / "referee"
    a, b = extractor["a"], extractor["b"]
    x = patches[:, 0]
    if pixels is not None and extractor.get("stem.last.weight") is not None:
        x = x + pixel_stem(extractor / "stem", pixels, x.shape[-1])
    x = x + a[0] * residual(extractor / "residual1", x) + b[0] * patches[:, 1]
    x = x + a[1] * residual(extractor / "residual2", x) + b[1] * patches[:, 2]
    x = conv(extractor / "project", x) + a[2] * residual(extractor / "residual3", x)
    x = torch.cat([x, text[:, :, None, None].repeat(1, 1, *x.shape[2:])], dim=1)
    x = F.leaky_relu(F.conv2d(x, referee["conv1.weight"]), 0.2)
    return F.conv2d(x, referee["conv2.weight"]).flatten()


def pixel_stem(w: Weights, pixels: Tensor, grid: int) -> Tensor:
    x, number = pixels, 0
    while w.get(f"inner.{number}.weight") is not None:
        inner = w / "inner" / number
        x = F.leaky_relu(F.conv2d(x, inner["weight"], inner["bias"], stride=2, padding=1), 0.2)
        number += 1
    return F.adaptive_avg_pool2d(F.conv2d(x, w["last.weight"], stride=2, padding=1), grid)


class PlainTrainer:
    """Eq. 8 on a generator and a discriminator of the package, which it moves."""

    def __init__(
        self, generator: Generator, discriminator: Discriminator, clip: FrozenCLIP, settings: TrainSettings
    ) -> None:
        self.generator, self.discriminator = weights_of(generator), weights_of(discriminator)
        self.config, self.clip, self.settings = generator.config, clip, settings
        betas = (0.0, 0.9)
        self.optimizer_g = torch.optim.Adam(generator.parameters(), settings.lr_g, betas=betas)
        self.optimizer_d = torch.optim.Adam(discriminator.parameters(), settings.lr_d, betas=betas)

    def step(self, images: Tensor, sentences: list[str], noise: Tensor) -> tuple[float, float]:
        """One step; L_D and L_G."""
        text = self.clip.encode_text(sentences)
        images = images.clone().requires_grad_()
        real, _ = features(self.clip, images)
        drawn = draw(self.generator, self.config, self.clip, noise, text, training=True)
        fake, embedding = features(self.clip, drawn)

        sentence = text.clone().requires_grad_()
        pixels, drawn_pixels = resized(self.clip, images).detach().requires_grad_(), resized(self.clip, drawn)
        logit_real = judge(self.discriminator, real, sentence, pixels)
        inputs = (real, sentence, pixels) if self.settings.pixel_stem else (real, sentence)
        gradients = torch.autograd.grad(logit_real.sum(), inputs, create_graph=True)
        norm = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1).norm(dim=1)
        loss_d = (
            F.relu(1 - logit_real).mean()
            + F.relu(1 + judge(self.discriminator, fake.detach(), text, drawn_pixels.detach())).mean() / 2
            + F.relu(1 + judge(self.discriminator, real, text.roll(-1, dims=0), pixels)).mean() / 2
            + self.settings.penalty_weight * (norm**self.settings.penalty_power).mean()
        )
        self.optimizer_d.zero_grad()
        loss_d.backward()
        self.optimizer_d.step()

        similarity = F.cosine_similarity(embedding, text)
        logit_fake = judge(self.discriminator, fake, text, drawn_pixels)
        loss_g = -logit_fake.mean() - self.settings.clip_weight * similarity.mean()
        self.optimizer_g.zero_grad()
        loss_g.backward()
        self.optimizer_g.step()
        return loss_d.item(), loss_g.item()
