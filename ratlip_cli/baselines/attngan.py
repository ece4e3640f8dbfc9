"""AttnGAN: Xu et al., "AttnGAN: Fine-Grained Text to Image Generation with Attentional GANs", 2018.

Three stages generate images of three sizes. The first starts from noise and sentence; each further one attends to the
words at every position. A discriminator of each size judges its image with the sentence and without.

Notation: B batch, L words, d sentence's and w words' channels, S image side, H side of a stage's features,
gf and df base channels of generator and discriminators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn import functional as F

if TYPE_CHECKING:
    from ratlip_cli.families.attngan import AttnGANConfig

SMALLEST_NORM = 1e-8
"""Below the product of two vectors' norms in a cosine."""


class Condition(NamedTuple):
    """What the networks read of captions."""

    sentence: Tensor
    """Sentence vectors (B,d)."""
    words: Tensor
    """Word vectors (B,L,w); those behind a caption's end are never read."""
    real: Tensor
    """Which words are the caption's (B,L): 1, and 0 for padding; between two captions how much a word is there."""


def pack(condition: Condition) -> Tensor:
    """Sentence, words and mask as one tensor (B,1+L,1+max(d,w)).

    Of axis 2, number 0 is 1 for the sentence and for real words and 0 for padding; the vector follows, filled up with
    zeros. Of axis 1, the sentence comes first.
    """
    sentence, words, real = condition
    width = max(sentence.shape[1], words.shape[2])
    sentences = F.pad(sentence, (0, width - sentence.shape[1]))[:, None]
    vectors = torch.cat((sentences, F.pad(words, (0, width - words.shape[2]))), dim=1)
    there = F.pad(real.to(words.dtype), (1, 0), value=1.0)
    return torch.cat((there[:, :, None], vectors), dim=2)


def unpack(packed: Tensor, text_dim: int, word_dim: int) -> Condition:
    """The way back, from (B,1+L,1+max(d,w))."""
    return Condition(packed[:, 0, 1 : 1 + text_dim], packed[:, 1:, 1 : 1 + word_dim], packed[:, 1:, 0].detach())


def between(start: Tensor, end: Tensor, share: float) -> Tensor:
    """From one packed caption to another of its shape: `start` at share 0, `end` at 1.

    Sentences, and words at the same place of both captions, go straight over. A word where the other caption has ended
    stays as it is, and comes or goes by how much it is there: `WordAttention` takes exp(its logit) times that.
    """
    mixed = torch.lerp(start, end, share)
    there = start[..., :1], end[..., :1]
    mixed = torch.where(there[0] < there[1], end, torch.where(there[0] > there[1], start, mixed))
    return torch.cat((torch.lerp(*there, share), mixed[..., 1:]), dim=-1)


class Stages(NamedTuple):
    """All that a generator makes of noise and captions."""

    images: tuple[Tensor, ...]
    """An image of each stage (B,3,S,S) in [-1,1], the smallest first."""
    attention: tuple[Tensor, ...]
    """Of each stage but the first, how much every position of the one before attends to each word (B,L,H,H)."""
    mu: Tensor
    """Mean of the augmented condition (B,condition_dim)."""
    logvar: Tensor
    """Logarithm of its variance (B,condition_dim)."""


class Generator(nn.Module):
    """Noise and captions to images.

    Args:
        config: the sizes.
        text_dim, word_dim: channels of the sentence and of the words.
    """

    def __init__(self, config: AttnGANConfig, text_dim: int, word_dim: int) -> None:
        super().__init__()
        self.config, self.text_dim, self.word_dim = config, text_dim, word_dim
        gf, sizes = config.base_channels, config.sizes
        self.augmentation = ConditioningAugmentation(text_dim, config.condition_dim)
        self.first = FirstStage(config.noise_dim, gf, sizes[0])
        self.further = nn.ModuleList(
            FurtherStage(gf, word_dim, config.residual_blocks, size, config.published_mask) for size in sizes[1:]
        )
        self.to_rgb = nn.ModuleList(nn.Conv2d(gf, 3, 3, padding=1, bias=False) for _ in config.image_sizes)
        self.apply(_initialise)

    def forward(self, noise: Tensor, text: Tensor, clip: object = None) -> Tensor:
        """Generate one image (B,3,S,S) in [-1,1] per row of noise (B,noise_dim) and of packed captions."""
        return self.stages(noise, text).images[-1]

    def stages(self, noise: Tensor, text: Tensor) -> Stages:
        """Images of all sizes, and what they came from.

        Args:
            noise: (B,z_dim+condition_dim); the last condition_dim numbers are the draw of the augmentation.
            text: what `pack` made of the captions.
        """
        sentence, words, real = unpack(text, self.text_dim, self.word_dim)
        z, eps = noise[:, : self.config.z_dim], noise[:, self.config.z_dim :]
        c, mu, logvar = self.augmentation(sentence, eps)
        h = self.first(torch.cat((c, z), dim=1))  # (B, gf, base, base)
        features, attention = [h], []
        for stage in self.further:
            h, attended = stage(h, words, real)  # (B, gf, 2H, 2H)
            features.append(h)
            attention.append(attended)
        shown = features[-len(self.to_rgb) :]
        images = tuple(torch.tanh(to_rgb(h)) for to_rgb, h in zip(self.to_rgb, shown, strict=True))
        return Stages(images, tuple(attention), mu, logvar)


class ConditioningAugmentation(nn.Module):
    """c = mu(s) + eps exp(logvar(s)/2): captions' neighbourhood instead of points (StackGAN, Zhang et al. 2017)."""

    def __init__(self, text_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(text_dim, 4 * condition_dim)

    def forward(self, sentence: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """s (B,d) and eps (B,condition_dim) -> c, mu, logvar, each (B,condition_dim)"""
        mu, logvar = F.glu(self.linear(sentence), dim=1).chunk(2, dim=1)
        return mu + eps * torch.exp(logvar / 2), mu, logvar


class FirstStage(nn.Module):
    """F_0: from a vector to 4x4, and up to the first stage's side."""

    def __init__(self, in_features: int, gf: int, size: int) -> None:
        super().__init__()
        channels = gf * size // 4
        self.linear = nn.Linear(in_features, 2 * channels * 4 * 4, bias=False)
        self.norm = nn.BatchNorm1d(2 * channels * 4 * 4)
        doublings = size.bit_length() - 3
        self.blocks = nn.ModuleList(UpBlock(channels >> i, channels >> i + 1, 8 << i) for i in range(doublings))

    def forward(self, condition: Tensor) -> Tensor:
        """[c;z] (B,condition_dim+z_dim) -> (B,gf,size,size)"""
        h = torch.unflatten(F.glu(self.norm(self.linear(condition)), dim=1), 1, (-1, 4, 4))  # (B, gf size/4, 4, 4)
        for block in self.blocks:
            h = block(h)
        return h


class FurtherStage(nn.Module):
    """F_i: words come in by attention, residual blocks join them, and the side doubles."""

    def __init__(self, gf: int, word_dim: int, residual_blocks: int, size: int, published_mask: bool) -> None:
        super().__init__()
        self.attention = WordAttention(gf, word_dim, published_mask)
        self.residual = nn.ModuleList(ResidualBlock(2 * gf) for _ in range(residual_blocks))
        self.up = UpBlock(2 * gf, gf, size)

    def forward(self, h: Tensor, words: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """h (B,gf,H,H), words (B,L,w) and their mask (B,L) -> (B,gf,size,size), and the attention (B,L,H,H)"""
        context, attention = self.attention(h, words, real)
        x = torch.cat((h, context), dim=1)  # (B, 2gf, H, H)
        for block in self.residual:
            x = block(x)
        return self.up(x), attention


class WordAttention(nn.Module):
    """F^attn: at every position a mean of the projected words, weighted by how well they go with the feature there.

    With `published_mask` it errs as the published code does: position q of caption b, as row r = b H H + q of the whole
    batch, is masked as caption r mod B is. Then padding gets weight, and images depend on the batch.
    """

    def __init__(self, channels: int, word_dim: int, published_mask: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(word_dim, channels, bias=False)
        self.published_mask = published_mask

    def forward(self, h: Tensor, words: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """h (B,C,H,W), words (B,L,w) and their mask (B,L) -> the context (B,C,H,W) and the attention (B,L,H,W)"""
        u = self.project(words)  # (B, L, C)
        logits = h.flatten(2).transpose(1, 2) @ u.transpose(1, 2)  # (B, HW, L)
        read = real.to(logits.dtype)[:, None].expand(-1, logits.shape[1], -1)  # (B, HW, L)
        if self.published_mask:
            read = read.transpose(0, 1).reshape(read.shape)  # row r of all: real[r mod B]
        weights = (logits + read.log()).softmax(dim=2)
        context = (weights @ u).transpose(1, 2)  # (B, C, HW)
        return context.unflatten(2, h.shape[2:]), weights.transpose(1, 2).unflatten(2, h.shape[2:])


class ResidualBlock(nn.Module):
    """x + BN(Conv3(GLU(BN(Conv3(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(2 * channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> the same"""
        h = F.glu(self.norm1(self.conv1(x)), dim=1)
        result: Tensor = x + self.norm2(self.conv2(h))
        return result


class UpBlock(nn.Module):
    """Nearest enlargement, then GLU(BN(Conv3(x)))."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(in_channels, 2 * out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B,in,H,W) -> (B,out,size,size)"""
        x = F.interpolate(x, size=(self.size, self.size), mode="nearest")
        return F.glu(self.norm(self.conv(x)), dim=1)


class Logits(NamedTuple):
    """What a discriminator says of images, high for real ones."""

    conditional: Tensor
    """Logits (B,) of the image with its sentence."""
    unconditional: Tensor | None
    """Logits (B,) of the image alone, where the discriminator gives them."""


class Discriminators(nn.Module):
    """A discriminator of each size that the generator shows.

    Args:
        df: their base channels.
        text_dim: channels of the sentence.
        sizes: sides of the images, the smallest first.
        unconditional: whether they judge images without the sentence too.
    """

    def __init__(self, df: int, text_dim: int, sizes: Sequence[int], unconditional: bool = True) -> None:
        super().__init__()
        self.text_dim, self.sizes = text_dim, tuple(sizes)
        self.nets = nn.ModuleList(Discriminator(df, text_dim, size, unconditional) for size in sizes)
        self.apply(_initialise)

    def forward(self, images: Sequence[Tensor], text: Tensor) -> list[Logits]:
        """Images of every size, the smallest first, and packed captions -> the logits of every size."""
        sentence = self.sentence(text)
        return [net(image, sentence) for net, image in zip(self.nets, images, strict=True)]

    def sentence(self, text: Tensor) -> Tensor:
        """Of packed captions what is read here (B,d)."""
        return text[:, 0, 1 : 1 + self.text_dim]

    def views(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B,3,S,S) in every size; bilinear with antialiasing, as PIL reduces."""
        return tuple(
            images
            if images.shape[-1] == size
            else F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
            for size in self.sizes
        )


class Discriminator(nn.Module):
    """Halves an image down to 4x4, to 7x7 where the side is no power of two, and judges it there.

    Every image ends in 8 df channels: smaller ones than 64 start with more than df, larger ones narrow again.
    """

    def __init__(self, df: int, text_dim: int, size: int, unconditional: bool) -> None:
        super().__init__()
        halvings = size.bit_length() - 3
        widths = [df << max(4 - halvings, 0) + i for i in range(halvings)]
        channels, code, side = [3, *widths], 8 * df, size >> halvings
        down = [ConvBlock(channels[i], channels[i + 1], down=True, norm=i > 0) for i in range(halvings)]
        narrow = [ConvBlock(2 * c, c, down=False) for c in reversed(widths[3:-1])]
        self.blocks = nn.Sequential(*down, *narrow)
        self.joint = ConvBlock(code + text_dim, code, down=False)
        self.conditional = nn.Conv2d(code, 1, side)
        self.unconditional = nn.Conv2d(code, 1, side) if unconditional else None

    def forward(self, images: Tensor, sentence: Tensor) -> Logits:
        """(B,3,size,size) in [-1,1] and (B,d) -> logits"""
        code = self.blocks(images)
        return Logits(self.match(code, sentence), self.alone(code))

    def match(self, code: Tensor, sentence: Tensor) -> Tensor:
        """The output of `blocks` (B,8df,4,4) and sentences (B,d) -> conditional logits (B,)"""
        tiled = sentence[:, :, None, None].expand(-1, -1, *code.shape[2:])
        logits: Tensor = self.conditional(self.joint(torch.cat((code, tiled), dim=1)))
        return logits.flatten()

    def alone(self, code: Tensor) -> Tensor | None:
        """The output of `blocks` (B,8df,4,4) -> unconditional logits (B,), where it gives them"""
        return None if self.unconditional is None else self.unconditional(code).flatten()


class ConvBlock(nn.Module):
    """LReLU(BN(Conv(x))): 4x4 of stride 2, or 3x3."""

    def __init__(self, in_channels: int, out_channels: int, down: bool, norm: bool = True) -> None:
        super().__init__()
        kernel, stride = (4, 2) if down else (3, 1)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B,in,H,W) -> (B,out,H/2,W/2), or (B,out,H,W)"""
        return F.leaky_relu(self.norm(self.conv(x)), 0.2)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.orthogonal_(module.weight)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)


def bce_real(logits: Tensor) -> Tensor:
    """-E log sigmoid(logits). Scalar."""
    return F.softplus(-logits.float()).mean()


def bce_fake(logits: Tensor) -> Tensor:
    """-E log(1 - sigmoid(logits)). Scalar."""
    return F.softplus(logits.float()).mean()


def discriminator_loss(real: Logits, fake: Logits, wrong: Tensor) -> Tensor:
    """L_D of one size from the logits of real and generated images and of real ones with other captions. Scalar."""
    if real.unconditional is None or fake.unconditional is None:
        return bce_real(real.conditional) + (bce_fake(fake.conditional) + bce_fake(wrong)) / 2
    as_real = bce_real(real.unconditional) + bce_real(real.conditional)
    as_fake = bce_fake(fake.unconditional) + bce_fake(fake.conditional) + bce_fake(wrong)
    return as_real / 2 + as_fake / 3


def adversarial_loss(fakes: Sequence[Logits]) -> Tensor:
    """What the generator's loss has of the discriminators, summed over the sizes. Scalar."""
    logits = [one for fake in fakes for one in fake if one is not None]
    return torch.stack([bce_real(one) for one in logits]).sum()


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)), mean over captions and numbers (B,condition_dim). Scalar."""
    mu, logvar = mu.float(), logvar.float()
    return -0.5 * (1 + logvar - mu**2 - logvar.exp()).mean()


def contrast(relevance: Tensor, same: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross entropies of the right caption for each image, and of the right image for each caption. Two scalars.

    Args:
        relevance: how well image k (row) goes with caption i (column) (B,B); k and k belong together.
        same: which pairs (B,B) are of one class or caption, and so no mistakes; the diagonal is right in any case.
    """
    relevance = relevance.float()
    right = torch.arange(len(relevance), device=relevance.device)
    if same is not None:
        relevance = relevance.masked_fill(same & (right[:, None] != right), -torch.inf)
    return F.cross_entropy(relevance, right), F.cross_entropy(relevance.T, right)


def same_captions(sentences: Tensor) -> Tensor:
    """Which of the sentence vectors (B,d) are of the same caption (B,B), up to rounding."""
    distances = vector_norm(sentences[:, None] - sentences, dim=2)
    same: Tensor = distances <= 1e-4 * vector_norm(sentences, dim=1)
    return same


def same_classes(classes: Tensor) -> Tensor:
    """Which of the numbers of classes (B,) are of the same class (B,B); -1 is of none."""
    same: Tensor = (classes[:, None] == classes) & (classes >= 0)
    return same


def sentence_relevance(codes: Tensor, sentences: Tensor, gamma3: float = 10.0) -> Tensor:
    """gamma3 times the cosines (B,B) of image vectors (B,d), in rows, and sentence vectors (B,d), in columns."""
    codes, sentences = codes.float(), sentences.float()
    norms: Tensor = vector_norm(codes, dim=1)[:, None] * vector_norm(sentences, dim=1)
    return gamma3 * (codes @ sentences.T) / norms.clamp_min(SMALLEST_NORM)


def word_contexts(words: Tensor, regions: Tensor, gamma1: float = 4.0) -> tuple[Tensor, Tensor]:
    """DAMSM's attention of one caption's words on images: what each word finds there.

    Args:
        words: (T,w), real ones alone.
        regions: of images (B,R,w).

    Returns:
        Contexts (B,T,w), and the attention (B,T,R), which sums to 1 over the regions.
    """
    similarity = (regions @ words.T).softmax(dim=2)  # (B, R, T), over the words
    attention = (gamma1 * similarity).softmax(dim=1).transpose(1, 2)  # (B, T, R), over the regions
    return attention @ regions, attention


def word_relevance(
    words: Sequence[Tensor], regions: Tensor, gamma1: float = 4.0, gamma2: float = 5.0, gamma3: float = 10.0
) -> Tensor:
    """gamma3 R(k,i) (B,B) of images k, in rows, and captions i, in columns.

    R(k,i) is the logarithm of the sum over the words t of exp(gamma2 cos(c_t, e_t)). The published code has no
    1/gamma2 in front of it, although the paper writes a power of that.

    Args:
        words: word vectors e (T,w) of each caption, real ones alone.
        regions: region vectors v of each image (B,R,w).
    """
    columns = []
    for e in words:
        c, _ = word_contexts(e, regions, gamma1)  # (B, T, w)
        norms = vector_norm(c, dim=2) * vector_norm(e, dim=1)
        cosines = (c * e).sum(dim=2) / norms.clamp_min(SMALLEST_NORM)  # (B, T)
        columns.append(torch.logsumexp(gamma2 * cosines, dim=1))
    return gamma3 * torch.stack(columns, dim=1)
