"""The generator for sampling alone: the same images with less work, derived from a trained one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.fast.attention import spatial_affine
from ratlip_cli.fast.chunks import CACHE_BYTES
from ratlip_cli.fast.clip import in_bf16
from ratlip_cli.fast.onednn import PackedConv
from ratlip_cli.fast.swaps import Swap, sharing_copy, swap_generator, swap_rows
from ratlip_cli.fast.upsampling import UpsamplingConv
from ratlip_cli.fast.workers import Result, spread
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.generator import Generator
from ratlip_cli.model.shuffle_attention import SAConv, ShuffleAttention
from ratlip_cli.planned import planned

AUTOCAST = "bf16-autocast"  # The precision where PyTorch chooses what is bf16: the LSTM and the affines too.
BATCH_SIZE = 16  # Images at a time where nobody says how many.
CHUNK = 8  # Images of a small model that one thread makes at once where nobody says how many: always so many.
_CHUNKS_A_THREAD = 4  # Chunks that a thread is given at a time: the fewer, the longer the others wait for the last.


class Sampler:
    """Noise and text vectors to images.

    Args:
        generator: of any family; it stays as it is, and shares its weights where they are not derived.
        clip: the frozen CLIP that it was trained with.
        swaps: see `fast.Swap`.
        precision: fp32, bf16 or AUTOCAST. Where `has_packed`, bf16 is that of the large products alone, see `derived`;
            else autocast's, whichever of both names it has.
    """

    def __init__(self, generator: nn.Module, clip: FrozenCLIP, swaps: frozenset[Swap], precision: str = "fp32") -> None:
        packs = has_packed(generator, swaps)
        self.autocast = torch.autocast(clip.mean.device.type, torch.bfloat16, precision != "fp32" and not packs)
        self.generator = derived(generator, swaps, precision) if isinstance(generator, Generator) else generator
        self.clip = in_bf16(clip) if precision == "bf16" and packs else clip
        self.device = next(generator.parameters()).device
        is_small = isinstance(self.generator, Generator) and images_at_once(self.generator) >= CHUNK
        self.chunk = CHUNK if is_small and self.device.type == "cpu" else 1
        if self.chunk > 1:
            swap_rows(self.generator)

    @property
    def together(self) -> int:
        """How many images at a time are no slower than more."""
        return max(BATCH_SIZE, _CHUNKS_A_THREAD * CHUNK * torch.get_num_threads()) if self.chunk > 1 else BATCH_SIZE

    @torch.no_grad()
    def __call__(self, noise: Tensor, text: Tensor, batch_size: int | None = None) -> Tensor:
        """Generate one image per row.

        Args:
            noise, text: (n,noise_dim) and (n,...), on any device.
            batch_size: images at a time; 16 or CHUNK if left out. A CPU works on a batch of RATLIP's in chunks that
                stay in its cache, together in CLIP-BLK alone. If left out, an image is the same to the bit there
                whatever else is generated: the chunks are single images, or for a small model those of `each`.

        Returns:
            Images (n,3,S,S) on the CPU, float32, not clamped.
        """
        with self.autocast:
            if batch_size is None and self.chunk > 1:
                return self.each(lambda z, t: self.generator(z, t, self.clip).float(), noise, text)
            return self._by_batches(noise, text, batch_size)

    def _by_batches(self, noise: Tensor, text: Tensor, batch_size: int | None) -> Tensor:
        batch = batch_size or BATCH_SIZE
        on_cpu = self.device.type == "cpu"
        if not isinstance(self.generator, Generator):
            size = 1 if on_cpu and batch_size is None else batch
            return torch.cat([self.generator(*rows, self.clip).float().cpu() for rows in self._rows(noise, text, size)])
        chunk = batch
        if on_cpu:
            chunk = 1 if batch_size is None else images_at_once(self.generator)
        images: list[Tensor] = []
        for z, t in self._rows(noise, text, batch):
            images += self._by_chunks(self.generator, z, t, chunk)
        return torch.cat(images)

    def each(self, work: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """work(*rows) where every row (1,...) of the result is of one row of each of `rows` (n,...).

        On a CPU it is the same to the bit whatever the other rows are: of a large model `work` is given them one by
        one, of a small one always CHUNK at once, by one thread, so that every kernel always meets the same shapes. What
        lacks in the last chunk is filled with its last row.
        """
        count = len(rows[0])
        filled = [torch.cat((one, one[-1:].expand(-count % self.chunk, *one.shape[1:]))).contiguous() for one in rows]
        chunks = zip(*(torch.split(one, self.chunk) for one in filled), strict=True)
        made = [work(*chunk) for chunk in chunks] if self.chunk == 1 else spread(work, chunks)
        return torch.cat(made)[:count]

    def alone(self, work: Callable[[], Result]) -> Result:
        """work(), by one thread where `each` has it done by one: the same however many threads there are."""
        return work() if self.chunk == 1 else spread(work, [()])[0]

    def _rows(self, noise: Tensor, text: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(torch.split(noise.to(self.device), size), torch.split(text.to(self.device), size), strict=True)

    def _by_chunks(self, generator: Generator, noise: Tensor, text: Tensor, chunk: int) -> list[Tensor]:
        """A batch: together through CLIP-BLK, whose weights are then read once, and chunk by chunk through the rest."""
        vectors = list(zip(torch.split(noise, chunk), torch.split(text, chunk), strict=True))
        features, prompts = zip(*(generator.clip_input(*rows) for rows in vectors), strict=True)
        after = torch.split(self.clip.clip_blk(torch.cat(features), torch.cat(prompts)), chunk)
        return [
            generator.image_g(feature, clip_feature, *rows).float().cpu()
            for rows, feature, clip_feature in zip(vectors, features, after, strict=True)
        ]


def has_packed(generator: nn.Module, swaps: frozenset[Swap]) -> bool:
    """Whether the weights of its convolutions are packed for sampling: only then can they alone be bf16."""
    return isinstance(generator, Generator) and {Swap.FOLDED, Swap.PACKED} <= swaps


@torch.no_grad()
def derived(generator: Generator, swaps: frozenset[Swap], precision: str = "fp32") -> Generator:
    """A generator of the same images that cannot be trained; `generator` stays as it is.

    FOLDED: BatchNorm becomes part of the convolution before it, the weights of upsampled convolutions are summed once,
    and the channel shuffle becomes the order of the weights around it; with neither shuffle nor groups to pay for it,
    the layout is channels last, which convolutions are fastest in. PACKED: their weights lie as the kernels read them;
    with the precision bf16 those of image-G but for the last are bfloat16, and all else float32, as small errors in
    what is read from the noise and the text show in the image. All other weights are shared with `generator`.
    """
    sampling: Generator = sharing_copy(generator).eval()
    if Swap.FOLDED not in swaps:
        swap_generator(sampling, swaps)
        return sampling
    swap_generator(sampling, swaps | {Swap.UPSAMPLING, Swap.IN_PLACE})
    for module in sampling.modules():
        if (
            isinstance(module, SAConv)
            and isinstance(module.conv, nn.Conv2d)
            and isinstance(module.norm, nn.BatchNorm2d)
        ):
            module.conv, module.norm = _folded(module.conv, module.norm), nn.Identity()
    _unshuffle(sampling)
    sizes = sampling.config.block_sizes(sampling.geometry.grid)
    for block, before, size in zip(sampling.blocks, [sampling.geometry.grid, *sizes], sizes, strict=False):
        if size == 2 * before and isinstance(block.conv1, SAConv):
            block.conv1.conv = _doubling(block.conv1.conv)
        elif size == 2 * before:
            block.conv1 = _doubling(block.conv1)
    for module in sampling.modules():
        if isinstance(module, nn.Conv2d | DoublingConv):
            weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight, requires_grad=False)
    if Swap.PACKED in swaps:
        _pack(sampling, torch.bfloat16 if precision == "bf16" else torch.float32)
    return sampling


def images_at_once(generator: Generator) -> int:
    """How many images image-G makes at once on a CPU: as many as keep its largest tensor within CACHE_BYTES."""
    config, grid = generator.config, generator.geometry.grid
    sizes = config.block_sizes(grid)
    channels = config.block_channels(grid)[1:]
    largest = max(count * size**2 for count, size in zip(channels, sizes, strict=True))
    return max(1, CACHE_BYTES // (4 * largest))


class DoublingConv(nn.Module):
    """A UpsamplingConv that always enlarges to twice the side: its 4x4 weights are summed once and for all."""

    def __init__(self, conv: UpsamplingConv) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.spread_weight(), requires_grad=False)
        self.bias = conv.bias

    def forward(self, x: Tensor, size: int) -> Tensor:
        """(B,in,h,h) -> (B,out,2h,2h)"""
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


class UnshuffledAttention(nn.Module):
    """Shuffle attention that moves no channel: both kinds of attention act in place, each on one half of the tensor.

    Its channels come in the order `before` and leave in the order `after` of `channel_orders`, for which the weights
    before it and after it must be ordered.
    """

    def __init__(self, attention: ShuffleAttention) -> None:
        super().__init__()
        groups = attention.groups
        self.channel_weight = nn.Parameter(attention.channel_weight.repeat(1, groups, 1, 1), requires_grad=False)
        self.channel_bias = nn.Parameter(attention.channel_bias.repeat(1, groups, 1, 1), requires_grad=False)
        gain, offset = (tensor.repeat(groups)[None, :, None, None] for tensor in spatial_affine(attention))
        self.gain, self.offset = nn.Parameter(gain, requires_grad=False), nn.Parameter(offset, requires_grad=False)
        self.eps = attention.norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W), which is overwritten -> (B,C,H,W)"""
        x0, x1 = x.chunk(2, dim=1)
        pooled = x0.mean(dim=(2, 3), keepdim=True)
        x0.mul_(torch.sigmoid(self.channel_weight * pooled + self.channel_bias))
        # PyTorch's GroupNorm takes E[x^2] - E[x]^2 in channels last on a CPU: no digits are left where means are large.
        centred = x1 - x1.mean(dim=(2, 3), keepdim=True)
        scale = self.gain * torch.rsqrt(centred.square().mean(dim=(2, 3), keepdim=True) + self.eps)
        x1.mul_(torch.addcmul(self.offset, scale, centred).sigmoid_())
        return x


def channel_orders(channels: int, groups: int) -> tuple[Tensor, Tensor]:
    """Which channel (C,) of shuffle attention's input, and which of its output, is k-th in UnshuffledAttention."""
    before = torch.arange(channels).view(groups, 2, -1).transpose(0, 1).flatten()
    half = channels // 2
    return before, 2 * (before % half) + before // half


def _unshuffle(generator: Generator) -> None:
    """Leave out image-G's channel shuffles, and order the weights of everything that meets what was shuffled."""
    if not generator.config.has_attention:
        return

    def orders(channels: int) -> tuple[Tensor, Tensor]:
        return channel_orders(channels, min(generator.config.attention_groups, channels // 2))

    channels = generator.config.block_channels(generator.geometry.grid)
    blocks: Iterable[Any] = generator.blocks
    _order(generator.fuse, outputs=orders(channels[0])[1])
    for block, inner, outer in zip(blocks, channels, channels[1:], strict=False):
        (_, shuffled), (before, after) = orders(inner), orders(outer)
        for fuse, sa_conv, order in ((block.fuse1, block.conv1, shuffled), (block.fuse2, block.conv2, after)):
            for affine in fuse.affines:
                _order(affine.gamma[-1], outputs=order)
                _order(affine.beta[-1], outputs=order)
            _order(sa_conv.conv, inputs=order, outputs=before)
            sa_conv.attention = UnshuffledAttention(sa_conv.attention)
        if isinstance(block.shortcut, nn.Conv2d):
            _order(block.shortcut, inputs=shuffled, outputs=after)
    _order(generator.to_rgb, inputs=orders(channels[-1])[1])


def _pack(generator: Generator, dtype: torch.dtype) -> None:
    """Pack the weights of every convolution, for images of the size that it meets; those of the bridge as float32."""
    grid = generator.geometry.grid
    sizes = generator.config.block_sizes(grid)
    blocks: Iterable[Any] = generator.blocks
    _packed(generator.bridge, grid)
    generator.fuse = _packed(generator.fuse, grid, dtype)
    for block, before, size in zip(blocks, [grid, *sizes], sizes, strict=False):
        block.conv1 = _packed(block.conv1, before if size == 2 * before else size, dtype)
        block.conv2 = _packed(block.conv2, size, dtype)
        block.shortcut = _packed(block.shortcut, before, dtype)
    generator.to_rgb = _packed(generator.to_rgb, sizes[-1])


def _packed(module: nn.Module, size: int, dtype: torch.dtype = torch.float32) -> Any:
    """`module`, or what it is made of, with its convolutions packed."""
    if isinstance(module, nn.Conv2d | DoublingConv):
        return PackedConv(module.weight, module.bias, size, isinstance(module, DoublingConv), dtype)
    for name, part in module.named_children():
        setattr(module, name, _packed(part, size, dtype))
    return module


def _order(layer: nn.Conv2d | nn.Linear, inputs: Tensor | None = None, outputs: Tensor | None = None) -> None:
    """Let input and output k of a convolution or a linear layer be what `inputs[k]` and `outputs[k]` were."""
    weight = layer.weight if inputs is None else layer.weight[:, inputs]
    if outputs is not None:
        weight = weight[outputs]
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias[outputs], requires_grad=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)


def _doubling(conv: object) -> DoublingConv:
    if not isinstance(conv, UpsamplingConv):
        raise TypeError(f"{type(conv).__name__} is no convolution of a generator with UPSAMPLING swapped in")
    return DoublingConv(conv)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> UpsamplingConv:
    """norm(conv(x)) as one convolution: its weights divided by sigma, and moved by -mu/sigma, each rounded once."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("this BatchNorm has no running statistics")
    scale = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    with planned():
        folded = UpsamplingConv(conv.in_channels, conv.out_channels, 3, padding=1)
    folded.weight = nn.Parameter((conv.weight * scale[:, None, None, None]).to(conv.weight), requires_grad=False)
    folded.bias = nn.Parameter(bias.to(conv.weight), requires_grad=False)
    return folded
