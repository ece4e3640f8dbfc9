"""LAFITE (Zhou et al., "Towards Language-Free Training for Text-to-Image Generation", CVPR 2022).

A StyleGAN2 whose every convolution is styled by noise and CLIP's text vector, and whose discriminator compares its
features with that vector. Plain PyTorch operations alone, all of which can be differentiated twice: R1 and the path
length need it. Text vectors t and image vectors come in at unit length. Values and names follow the published code
(drboog/Lafite 1ad161c); `weights/released/lafite.py` has the names of its files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.distributed import world

if TYPE_CHECKING:
    from ratlip_cli.families.lafite import LafiteDiscriminatorConfig, LafiteGeneratorConfig
    from ratlip_cli.model.clip import FrozenCLIP

SLOW = 0.01  # Learning-rate multiplier of the mapping and of the text layers.
CLAMP = 256.0  # Largest absolute value behind an activation, for half precision.
_SQRT2, _HALF = math.sqrt(2), math.sqrt(0.5)

# ------------------------------------------------------------------------------------------------------------- layers


def exactly(like: Tensor) -> torch.autocast:
    """A context without half precision, for small matrices that much depends on."""
    return torch.autocast("cpu" if like.is_meta else like.device.type, enabled=False)


def fir(like: Tensor) -> Tensor:
    """The filter outer([1,3,3,1])/64 (4,4), in the precision and on the device of `like`."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=like.dtype, device=like.device)
    return torch.outer(taps, taps) / 64


def blur(x: Tensor, padding: int, stride: int = 1, gain: float = 1.0) -> Tensor:
    """(B,C,H,W) correlated with the filter, of which every `stride`-th value is kept."""
    channels = x.shape[1]
    kernel = (fir(x) * gain).expand(channels, 1, 4, 4)
    return F.conv2d(x, kernel, stride=stride, padding=padding, groups=channels)


def up2(x: Tensor) -> Tensor:
    """(B,C,H,W) -> (B,C,2H,2W): zeros between the samples, then four times the filter."""
    channels = x.shape[1]
    return F.conv_transpose2d(x, (4 * fir(x)).expand(channels, 1, 4, 4), stride=2, padding=1, groups=channels)


def down2(x: Tensor) -> Tensor:
    """(B,C,H,W) -> (B,C,H//2,W//2)"""
    return blur(x, padding=1, stride=2)


def conv3_up2(x: Tensor, weight: Tensor) -> Tensor:
    """(B,in,H,W) -> (B,out,2H,2W) by a kernel (out,in,3,3) between the samples, then four times the filter."""
    return blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), padding=1, gain=4)


def conv3_down2(x: Tensor, weight: Tensor) -> Tensor:
    """(B,in,H,W) -> (B,out,H//2,W//2): the filter, then a kernel (out,in,3,3) with stride 2."""
    return F.conv2d(blur(x, padding=2), weight, stride=2)


def modulated_conv(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool = True, up: bool = False) -> Tensor:
    """A convolution (out,in,k,k) whose input channels are scaled per sample by `style` (B,in).

    Demodulated, it is divided by the norm of the scaled kernel. Scaling input and output of one convolution for the
    whole batch gives the same as a kernel for each sample. In half precision kernel and styles are scaled before, which
    cancels and keeps their products from overflowing.
    """
    out_scale = None
    if demodulate:
        gain = 1 / math.sqrt(weight[0].numel())
        weight = weight * gain
        with exactly(x):
            least = torch.full_like(style[:, :1], 1e-8 * gain**2)
            if x.dtype == torch.float16:
                largest = style.abs().amax(dim=1, keepdim=True).clamp_min(1e-8)
                style, least = style / largest, least / largest.square()
            squares = style.square() @ weight.square().sum(dim=(2, 3)).T  # (B, out)
            out_scale = torch.rsqrt(squares + least)
    x = x * style[:, :, None, None].to(x.dtype)
    x = conv3_up2(x, weight) if up else F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    return x if out_scale is None else x * out_scale[:, :, None, None].to(x.dtype)


class Linear(nn.Module):
    """A fully connected layer with an equalised learning rate, and leaky ReLU times sqrt(2) where it is active."""

    def __init__(
        self, inputs: int, outputs: int, multiplier: float = 1.0, active: bool = False, bias: float = 0.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.multiplier, self.active = multiplier, active

    def forward(self, x: Tensor) -> Tensor:
        """(B,in) -> (B,out)"""
        gain = self.multiplier * (_SQRT2 if self.active else 1.0)
        y = F.linear(x, self.weight * (gain / math.sqrt(self.weight.shape[1])), self.bias * gain)
        return F.leaky_relu(y, 0.2) if self.active else y


class Conv(nn.Module):
    """A convolution of the discriminator with an equalised learning rate, leaky ReLU times sqrt(2), and a clamp.

    Args:
        gain: what comes out is multiplied by it.
        down: halve the side.
        active: with bias, leaky ReLU and clamp; without, the kernel alone.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, gain: float = 1.0, down: bool = False, active: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if active else None
        self.gain, self.down = gain, down

    def forward(self, x: Tensor) -> Tensor:
        """(B,in,H,W) -> (B,out,H,W), or half as large"""
        kernel = self.weight.shape[-1]
        gain = self.gain if self.bias is None else self.gain * _SQRT2  # lrelu(a x) = a lrelu(x)
        weight = self.weight * (gain / math.sqrt(self.weight[0].numel()))
        if self.down:
            x = conv3_down2(x, weight) if kernel == 3 else F.conv2d(down2(x), weight)
        else:
            x = F.conv2d(x, weight, padding=kernel // 2)
        if self.bias is None:
            return x
        x = F.leaky_relu(x + (self.bias * gain)[:, None, None].to(x.dtype), 0.2)
        return x.clamp(-CLAMP * self.gain, CLAMP * self.gain)


# ---------------------------------------------------------------------------------------------------------- generator


class Mapping(nn.Module):
    """Noise to w: fully connected layers with a hundredth of the learning rate, of the noise at unit variance."""

    average: Tensor

    def __init__(self, config: LafiteGeneratorConfig) -> None:
        super().__init__()
        widths = [config.noise_dim, *[config.w_dim] * config.mapping_layers]
        self.layers = nn.Sequential(
            *(Linear(inputs, outputs, SLOW, active=True) for inputs, outputs in itertools.pairwise(widths))
        )
        self.register_buffer("average", torch.zeros(config.w_dim))

    def forward(self, noise: Tensor) -> Tensor:
        """z (B,noise_dim) -> w (B,w_dim)"""
        w: Tensor = self.layers(noise * torch.rsqrt(noise.square().mean(dim=1, keepdim=True) + 1e-8))
        return w

    @torch.no_grad()
    def track(self, w: Tensor) -> None:
        """Move the average of w, towards which truncation goes, to the mean of w (B,w_dim)."""
        self.average.copy_(torch.lerp(world().mean(w.detach().mean(dim=0)), self.average, 0.995))


class Style(nn.Module):
    """The style of one convolution: of the text by two layers of its own, and w ("structure 2")."""

    def __init__(self, config: LafiteGeneratorConfig, text_dim: int, channels: int) -> None:
        super().__init__()
        self.text1 = Linear(text_dim, (text_dim + config.text_width) // 2, SLOW, active=True)
        self.text2 = Linear((text_dim + config.text_width) // 2, config.text_width, SLOW, active=True)
        self.affine = Linear(config.text_width + config.w_dim, channels, bias=1.0)

    def forward(self, text: Tensor, w: Tensor) -> Tensor:
        """t (B,d), w (B,w_dim) -> (B,channels)"""
        with exactly(w):
            style: Tensor = self.affine(torch.cat((self.text2(self.text1(text)), w), dim=1))
            return style


class StyledConv(nn.Module):
    """A modulated 3x3 convolution with per-pixel noise, bias, leaky ReLU times sqrt(2), and a clamp."""

    noise: Tensor

    def __init__(
        self, config: LafiteGeneratorConfig, text_dim: int, inputs: int, outputs: int, side: int, up: bool
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(side, side))
        self.style = Style(config, text_dim, inputs)
        self.side, self.up = side, up

    def forward(self, x: Tensor, text: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """(B,in,h,h) -> (B,out,side,side) with the noise (B,side*side), or with the module's own."""
        x = modulated_conv(x, self.weight, self.style(text, w), up=self.up)[..., : self.side, : self.side]
        pixels = self.noise if noise is None else noise.view(-1, 1, self.side, self.side)
        x = x + (pixels * self.noise_strength).to(x.dtype) + self.bias[:, None, None].to(x.dtype)
        return (F.leaky_relu(x, 0.2) * _SQRT2).clamp(-CLAMP, CLAMP)


class ToRGB(nn.Module):
    """A modulated 1x1 convolution to the three colours."""

    def __init__(self, config: LafiteGeneratorConfig, text_dim: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.style = Style(config, text_dim, inputs)

    def forward(self, x: Tensor, text: Tensor, w: Tensor) -> Tensor:
        """(B,in,h,h) -> (B,3,h,h)"""
        style = self.style(text, w) / math.sqrt(x.shape[1])
        rgb = modulated_conv(x, self.weight, style, demodulate=False) + self.bias[:, None, None].to(x.dtype)
        return rgb.clamp(-CLAMP, CLAMP)


class SynthesisBlock(nn.Module):
    """The convolutions of one side, two but for the first, and their share of the image.

    The first block, the one without `inputs`, begins with a learned constant.
    """

    def __init__(
        self, config: LafiteGeneratorConfig, text_dim: int, inputs: int | None, outputs: int, side: int
    ) -> None:
        super().__init__()
        sizes = [(outputs, False)] if inputs is None else [(inputs, True), (outputs, False)]
        self.constant = nn.Parameter(torch.randn(outputs, side, side)) if inputs is None else None
        self.convs = nn.ModuleList(StyledConv(config, text_dim, width, outputs, side, up) for width, up in sizes)
        self.to_rgb = ToRGB(config, text_dim, outputs)
        self.side = side

    def forward(
        self, x: Tensor | None, image: Tensor | None, text: Tensor, ws: Tensor, noise: Sequence[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Features (B,in,h,h), the image so far (B,3,h,h) and w (B,convs+1,w_dim): both at the block's side."""
        y: Any = x if self.constant is None else self.constant.repeat(ws.shape[0], 1, 1, 1)
        for number, conv in enumerate(self.convs):
            y = conv(y, text, ws[:, number], None if noise is None else noise[number])
        rgb = self.to_rgb(y, text, ws[:, len(self.convs)]).to(ws.dtype)
        return y, rgb if image is None else up2(image)[..., : self.side, : self.side] + rgb


class Generator(nn.Module):
    """Mapping and synthesis: a learned constant, doubled until it has the image's side."""

    def __init__(self, config: LafiteGeneratorConfig, text_dim: int) -> None:
        super().__init__()
        self.config = config
        self.mapping = Mapping(config)
        sides, channels = config.sides, config.channels
        self.blocks = nn.ModuleList(
            SynthesisBlock(config, text_dim, channels[number - 1] if number else None, channels[number], side)
            for number, side in enumerate(sides)
        )
        self.layers = 2 * len(sides)  # Styles with a w of their own; a toRGB shares that of the next convolution.
        self.noise_sizes = [conv.side**2 for block in self.blocks for conv in block.convs]  # type: ignore[union-attr]

    def styles(
        self,
        noise: Tensor,
        mix: tuple[Tensor, Tensor] | None = None,
        psi: Tensor | float = 1.0,
        cutoff: int | None = None,
    ) -> Tensor:
        """z (B,noise_dim) -> w of every layer (B,layers,w_dim). In training mode the average of w follows.

        Args:
            mix: another z, and from which layer on its w is taken, (B,1) or (1,): style mixing.
            psi: truncation, or that of each image (B,1,1): how far w is from its average; 1 leaves it.
            cutoff: layers that are truncated, from the first; left out, all.
        """
        with exactly(noise):
            w: Tensor = self.mapping(noise)
            if self.training:
                self.mapping.track(w)
            ws = w[:, None].expand(-1, self.layers, -1)
            if mix is not None:
                late = torch.arange(self.layers, device=noise.device) >= mix[1]  # (B or 1, layers)
                ws = torch.where(late[..., None], self.mapping(mix[0])[:, None], ws)
        if isinstance(psi, int | float) and psi == 1:
            return ws
        near = torch.lerp(self.mapping.average, ws, psi)
        return near if cutoff is None else torch.cat((near[:, :cutoff], ws[:, cutoff:]), dim=1)

    def synthesis(self, ws: Tensor, text: Tensor, pixel_noise: Tensor | None = None) -> Tensor:
        """w (B,layers,w_dim) and t (B,d) -> images (B,3,S,S).

        Args:
            pixel_noise: normal numbers for every convolution (B,sum(noise_sizes)); left out, the learned buffers.
        """
        noise = None if pixel_noise is None else torch.split(pixel_noise, self.noise_sizes, dim=1)
        x, image, layer, drawn = None, None, 0, 0
        for block in self.blocks:
            convs = len(block.convs)  # type: ignore[arg-type]
            given = None if noise is None else noise[drawn : drawn + convs]
            x, image = block(x, image, text, ws[:, layer : layer + convs + 1], given)
            layer, drawn = layer + convs, drawn + convs
        return image  # type: ignore[return-value]

    def forward(
        self,
        noise: Tensor,
        text: Tensor,
        clip: FrozenCLIP,
        pixel_noise: Tensor | None = None,
        mix: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """z (B,noise_dim) and t (B,d), of unit length -> images (B,3,S,S), nominally in [-1,1]; no tanh.

        The noise may have one number more in each row: the truncation psi of that image.
        """
        z, psi = noise[:, : self.config.noise_dim], noise[:, self.config.noise_dim :]
        ws = self.styles(z, mix, psi[..., None] if psi.shape[1] else 1.0)
        return self.synthesis(ws, text, pixel_noise)


# ------------------------------------------------------------------------------------------------------ discriminator


class DiscriminatorBlock(nn.Module):
    """A residual block that halves the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = Conv(inputs, inputs, 3)
        self.conv1 = Conv(inputs, outputs, 3, gain=_HALF, down=True)
        self.skip = Conv(inputs, outputs, 1, gain=_HALF, down=True, active=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B,in,H,H) -> (B,out,H//2,H//2)"""
        y: Tensor = self.skip(x) + self.conv1(self.conv0(x))
        return y


def minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """(B,C,H,W) -> (B,C+1,H,W): a channel with the mean deviation within groups of `group` samples, or fewer.

    A group is as large as divides B: samples n, n + B/group, n + 2B/group, ...
    """
    size = next(size for size in range(min(group, len(x)), 0, -1) if len(x) % size == 0)
    deviation = (torch.unflatten(x, 0, (size, -1)).var(dim=0, unbiased=False) + 1e-8).sqrt()  # (B/size, C, H, W)
    channel = deviation.mean(dim=(1, 2, 3)).repeat(size)  # (B,)
    return torch.cat((x, channel[:, None, None, None].expand(-1, 1, *x.shape[2:])), dim=1)


class Discriminator(nn.Module):
    """Pixels to a logit and to features d(x) that are compared with the text vector.

    A logit depends on the other images of its group, see `minibatch_deviation`.
    """

    def __init__(self, config: LafiteDiscriminatorConfig, text_dim: int) -> None:
        super().__init__()
        self.config = config
        channels = config.channels[::-1]
        self.from_rgb = Conv(3, channels[0], 1)
        self.blocks = nn.Sequential(*(DiscriminatorBlock(*pair) for pair in itertools.pairwise(channels)))
        self.conv = Conv(channels[-1] + 1, channels[-1], 3)
        self.hidden = Linear(channels[-1] * config.last_side**2, channels[-1], active=True)
        self.logit = Linear(channels[-1], 1)
        self.features = Linear(channels[-1], text_dim)

    def extract(self, images: Tensor) -> Tensor:
        """(B,3,S,S) -> h (B,channels), what both heads read.

        Several processes that train form groups of the images of all.
        """
        x = self.blocks(self.from_rgb(images)).to(images.dtype)
        if self.training:
            x = world().own(minibatch_deviation(world().gathered(x, pairs=True)), pairs=True)
        else:
            x = minibatch_deviation(x)
        x = self.conv(x)
        h: Tensor = self.hidden(x.flatten(1))
        return h

    def forward(self, images: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,S,S) and t (B,d) -> logits (B,) and features d (B,d)."""
        h = self.extract(images)
        unconditional, features = self.logit(h).flatten().to(text.dtype), self.features(h).to(text.dtype)
        if self.config.unit_features:
            features = F.normalize(features, dim=1)
        match = (features * text).sum(dim=1)
        if self.config.batch_sum:  # the published line: one number for all
            everyone = world().gathered(match, pairs=True) if self.training else match
            match = everyone.sum().expand(len(match))
        return unconditional + match, features


# ------------------------------------------------------------------------------------------------------------- losses


def logistic_real(logits: Tensor) -> Tensor:
    """E softplus(-D), for images to be taken for real. Scalar."""
    return F.softplus(-logits).mean()


def logistic_fake(logits: Tensor) -> Tensor:
    """E softplus(D), for generated images. Scalar."""
    return F.softplus(logits).mean()


def contrastive(vectors: Tensor, text: Tensor, temperature: float, lam: float = 0.0, published: bool = False) -> Tensor:
    """How well each vector is told from the batch's others by its text (B,): the logarithm of a softmax, at most 0.

    Args:
        vectors, text: (B,d), of any length; row i belongs to row i.
        temperature: of the softmax over cosines; 0 gives the cosines themselves.
        lam: 0 compares the vectors with each text, 1 the texts with each vector; between, the weighted mean.
        published: the code's exponential in front of its softmax, and its summand log(temperature).
    """
    cosines = F.normalize(vectors.float(), dim=1) @ F.normalize(text.float(), dim=1).T  # C_ij = cos(vector i, text j)
    if temperature == 0:
        return cosines.diagonal()
    scores = cosines / temperature
    if published:
        scores = scores.exp()
    over_vectors, over_texts = (scores.log_softmax(dim=dim).diagonal() for dim in (0, 1))
    value = (1 - lam) * over_vectors + lam * over_texts
    return value + math.log(temperature) if published else value


def r1(logits: Tensor, images: Tensor) -> Tensor:
    """||grad_x D(x)||^2 (B,), of logits (B,) computed from `images`, which require gradients."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """How far images (B,3,S,S) move with w (B,layers,w_dim): sqrt(mean over layers |grad_w <image, noise/S>|^2) (B,).

    Args:
        noise: normal numbers (B,3,S,S).
    """
    (gradient,) = torch.autograd.grad((images * noise / images.shape[-1]).sum(), ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


# --------------------------------------------------------------------------------------------- text and image vectors


def perturbed(vectors: Tensor, noise: Tensor, level: float) -> Tensor:
    """unit((1 - level) v + level n), n the noise (B,d) at unit length, v (B,d) of unit length.

    Of text vectors with level 0.1 what both networks are given; of image vectors with 0.75 a pseudo text vector.
    """
    return F.normalize((1 - level) * vectors + level * F.normalize(noise, dim=1), dim=1)


def clip_input(images: Tensor, place: Tensor, size: int) -> Tensor:
    """A crop of all images (B,3,S,S), at CLIP's side (B,3,size,size).

    The published code pads images below 224 pixels with white instead of enlarging them; here they are enlarged.

    Args:
        place: three numbers in [0,1): side of the crop, between half of S and S, and its left and top.
    """
    full = images.shape[-1]
    half = full // 2
    side_share, left_share, top_share = place.tolist()
    side = half + int(side_share * (full - half))
    left, top = (int(share * (full - side + 1)) for share in (left_share, top_share))
    return F.interpolate(images[..., top : top + side, left : left + side].float(), size=(size, size), mode="bicubic")


class NoiseMapper(nn.Module):
    """Lafite-NN's m: unit(I + m(I)) is a pseudo text vector, m = mu(I) + exp(sigma(I)) * noise.

    The learned way of the paper; the published code loads it and has its use commented out. Names are its file's.
    """

    def __init__(self, dim: int = 512, hidden: int = 1024) -> None:
        super().__init__()
        widths = (dim, hidden, hidden, hidden, dim)
        for first in (1, 5):  # mu, sigma
            for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=first):
                self.add_module(f"linear{number}", nn.Linear(inputs, outputs))

    def forward(self, vectors: Tensor, noise: Tensor) -> Tensor:
        """I (B,d) of unit length, normal numbers (B,d) -> m (B,d)"""
        return self._layers(vectors, 1) + self._layers(vectors, 5).exp() * noise

    def _layers(self, x: Tensor, first: int) -> Tensor:
        for number in range(first, first + 3):
            x = F.leaky_relu(self.get_submodule(f"linear{number}")(x))
        last: Tensor = self.get_submodule(f"linear{first + 3}")(x)
        return last
