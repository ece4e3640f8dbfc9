"""LAFITE: a logistic loss, two contrastive terms, R1 and the path length (baselines/lafite.py has the formulas).

L_D = E softplus(-D(x,t)) + E softplus(D(G(z,t),t)) - itd E contra(d(x), t)
L_G = E softplus(-D(G(z,t),t)) - itd E contra(d(G(z,t)), t) - itc E contra(CLIP(crop(G(z,t))), t)

R1 is an update of the discriminator of its own every `r1_every` steps, the path length one of the generator every
`path_length_every`; each is multiplied by its interval. t is the text vector with a little noise or, without captions,
the image vector with much of it; every phase has noise of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ratlip_cli.baselines import lafite
from ratlip_cli.distributed import world
from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.losses import clip_similarity
from ratlip_cli.tensor_files import load_into, load_weights
from ratlip_cli.training.objectives.objective import Adam, Autocast, Logs, MicroBatch, Objective, Phase

PATH_LENGTH_DECAY = 0.01
EMA_RAMP = 0.05
"""The EMA's half-life is at most this share of the images seen."""


class Weights(Protocol):
    """What it takes from its own settings, see `LafiteObjectiveConfig`."""

    itd: float
    itc: float
    temperature: float
    lam: float
    double_exponential: bool
    r1_gamma: float
    r1_every: int
    path_length_weight: float
    path_length_every: int
    style_mixing: float
    text_noise: float
    language_free: bool
    mixing: float
    pseudo_noise: float
    pseudo_mapper: str
    ema_half_life: float


class Generated(NamedTuple):
    """Generated images, and what they were made for."""

    images: Tensor  # (B,3,S,S)
    text: Tensor  # t (B,d)


class LafiteObjective(Objective):
    """R1 and the path length are computed in float32, outside autocast."""

    fresh_fake = True
    copies_buffers = True

    def __init__(
        self,
        settings: Any,
        weights: Weights,
        generator: lafite.Generator,
        discriminator: lafite.Discriminator,
        clip: FrozenCLIP,
        autocast: Autocast,
    ) -> None:
        self.settings, self.weights = settings, weights
        self.clip = clip
        self.autocast = autocast
        self.plain_generator, self.plain_discriminator = generator, discriminator
        # The regularisers differentiate twice, which compiled networks cannot: they keep the plain ones.
        self.generator = torch.compile(generator) if settings.compile else generator
        self.discriminator = torch.compile(discriminator) if settings.compile else discriminator
        self.path_length_mean = torch.zeros((), device=clip.mean.device)
        used = weights.pseudo_mapper and (weights.language_free or weights.mixing)
        self.mapper = _mapper(weights.pseudo_mapper, clip) if used else None

    # --------------------------------------------------------------------------------------------------- the two halves

    def fake(self, batch: MicroBatch) -> Generated:
        """What the discriminator's half looks at."""
        return self._generated(batch, "d", batch.noise)

    def discriminator_loss(self, batch: MicroBatch, fake: Generated) -> tuple[Tensor, Logs]:
        """L_D."""
        text = fake.text
        with self.autocast():
            logit_fake, _ = self.discriminator(fake.images.detach(), text)
            logit_real, features = self.discriminator(batch.images, text)
        told = self._contrastive(features, text)
        loss = lafite.logistic_fake(logit_fake) + lafite.logistic_real(logit_real) - self.weights.itd * told
        return loss, {"loss_d": loss, "logit_real": logit_real, "logit_fake": logit_fake, "match_real": told}

    def generator_loss(self, batch: MicroBatch, fake: None) -> tuple[Tensor, Logs]:
        """L_G, on images of noise of its own."""
        images, text = self._generated(batch, "g", batch.draws["g_noise"])
        with self.autocast():
            logit_fake, features = self.discriminator(images, text)
            crop = lafite.clip_input(images, batch.draws["crop"][0], self.clip.geometry.image_size)
            seen = self.clip.encode_image(crop)
        told, told_clip = self._contrastive(features, text), self._contrastive(seen, text)
        loss = lafite.logistic_real(logit_fake) - self.weights.itd * told - self.weights.itc * told_clip
        similarity = clip_similarity(seen, torch.where(_captioned(batch.text), batch.text, text))
        return loss, {"loss_g": loss, "clip_similarity": similarity, "match_fake": told, "match_clip": told_clip}

    # ------------------------------------------------------------------------------------------------ lazy regularisers

    def discriminator_phases(self, step: int) -> list[Phase]:
        """L_D, and R1 where it is due."""
        return [self.discriminator_loss, *([self._r1] if _due(step, self.weights.r1_every) else [])]

    def generator_phases(self, step: int) -> list[Phase]:
        """L_G, and the path length where it is due."""
        return [self.generator_loss, *([self._path_length] if _due(step, self.weights.path_length_every) else [])]

    def _r1(self, batch: MicroBatch, fake: Generated) -> tuple[Tensor, Logs]:
        """gamma/2 E ||grad_x D(x,t)||^2, times its interval."""
        images = batch.images.detach().requires_grad_()
        penalty = lafite.r1(self.plain_discriminator(images, self.condition(batch, "r1"))[0], images)
        gamma = self.weights.r1_gamma or usual_r1_gamma(images.shape[-1], self.settings.batch_size)
        return gamma / 2 * penalty.mean() * self.weights.r1_every, {"r1": penalty}

    def _path_length(self, batch: MicroBatch, fake: None) -> tuple[Tensor, Logs]:
        """weight E (length - its running mean)^2 of half the micro-batch, times its interval."""
        half = max(1, len(batch.text) // 2)
        drawn = {name: tensor[:half] for name, tensor in batch.draws.items()}
        mix = (drawn["pl_other"], drawn["pl_cutoff"])
        ws = self.plain_generator.styles(drawn["pl_noise"], mix)
        images = self.plain_generator.synthesis(ws, self.condition(batch, "pl")[:half], drawn["pl_pixels"])
        lengths = lafite.path_lengths(images, ws, drawn["pl_image"])
        self.path_length_mean = torch.lerp(
            self.path_length_mean, world().mean(lengths.detach().mean()), PATH_LENGTH_DECAY
        )
        penalty = (lengths - self.path_length_mean).square().mean()
        loss = self.weights.path_length_weight * penalty * self.weights.path_length_every
        return loss, {"path_length": lengths}

    def state(self) -> dict[str, Any]:
        """The path length's running mean."""
        return {"path_length_mean": self.path_length_mean}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.path_length_mean = state["path_length_mean"].to(self.path_length_mean.device)

    def adam(self, settings: Any) -> tuple[Adam, Adam]:
        """Learning rates and betas corrected for the regularisers' updates beside the others, as in StyleGAN2."""
        intervals = (self.weights.path_length_every, self.weights.r1_every)
        generator, discriminator = (
            Adam(lr * share, (settings.beta1**share, settings.beta2**share))
            for lr, every in zip((settings.lr_g, settings.lr_d), intervals, strict=True)
            for share in (every / (every + 1) if every else 1.0,)
        )
        return generator, discriminator

    def ema_decay(self, decay: float, step: int, images_seen: int) -> float:
        """By a half-life in images, early on a share of the images seen."""
        batch_size: int = self.settings.batch_size
        half_life = min(self.weights.ema_half_life or batch_size * 1e4 / 32, EMA_RAMP * images_seen)
        return float(0.5 ** (batch_size / half_life)) if half_life else 0.0

    # ------------------------------------------------------------------------------------------ text and random numbers

    def condition(self, batch: MicroBatch, phase: str) -> Tensor:
        """t (B,d) of one phase: the caption's T with noise; without one, and for the share `mixing`, the image's."""
        share = 1.0 if self.weights.language_free else self.weights.mixing
        noise = batch.draws[f"{phase}_text"]
        if not share:
            return lafite.perturbed(batch.text, noise, self.weights.text_noise)
        pseudo = self._pseudo_text(batch.images, noise)
        if share == 1:
            return pseudo
        of_image = (batch.draws[f"{phase}_of_image"] < share) | ~_captioned(batch.text)  # (B, 1)
        return torch.where(of_image, pseudo, lafite.perturbed(batch.text, noise, self.weights.text_noise))

    @torch.no_grad()
    def _pseudo_text(self, images: Tensor, noise: Tensor) -> Tensor:
        """What stands for the text of an image (B,d), by its own image vector."""
        with self.autocast():
            vectors = F.normalize(self.clip.encode_image(images).float(), dim=1)
        if self.mapper is not None:
            return F.normalize(vectors + self.mapper(vectors, noise), dim=1)
        return lafite.perturbed(vectors, noise, self.weights.pseudo_noise)

    def draws(self, batch_size: int, rng: torch.Generator) -> dict[str, Tensor]:
        """For each phase the noise of its text, and by what chance an image stands in for it.

        Where it generates also z, per-pixel noise and style mixing.
        """
        config, text_dim = self.plain_generator.config, self.clip.geometry.embed_dim

        def normal(*size: int) -> Tensor:
            return torch.randn(batch_size, *size, generator=rng)

        drawn = {"crop": torch.rand(3, generator=rng).expand(batch_size, -1)}
        drawn["d_of_image"] = torch.rand(batch_size, 1, generator=rng)
        generating = ["d", "g", *(["pl"] if self.weights.path_length_every else [])]
        for phase in (*generating, "r1"):
            drawn[f"{phase}_text"] = normal(text_dim)
        for phase in generating:
            layers = self.plain_generator.layers
            cutoff = torch.randint(1, layers, (1,), generator=rng)
            mixed = torch.rand(1, generator=rng) < self.weights.style_mixing
            drawn[f"{phase}_cutoff"] = torch.where(mixed, cutoff, layers).expand(batch_size, 1)
            drawn[f"{phase}_noise"], drawn[f"{phase}_other"] = normal(config.noise_dim), normal(config.noise_dim)
            drawn[f"{phase}_pixels"] = normal(sum(self.plain_generator.noise_sizes))
        if self.weights.path_length_every:
            drawn["pl_image"] = normal(3, config.image_size, config.image_size)
        for phase in (*generating[1:], "r1"):
            drawn[f"{phase}_of_image"] = torch.rand(batch_size, 1, generator=rng)
        return drawn

    def _generated(self, batch: MicroBatch, phase: str, noise: Tensor) -> Generated:
        mix = (batch.draws[f"{phase}_other"], batch.draws[f"{phase}_cutoff"])
        text = self.condition(batch, phase)
        with self.autocast():
            return Generated(self.generator(noise, text, self.clip, batch.draws[f"{phase}_pixels"], mix), text)

    def _contrastive(self, vectors: Tensor, text: Tensor) -> Tensor:
        weights, (vectors, text) = self.weights, (world().gathered(x, pairs=True) for x in (vectors, text))
        return lafite.contrastive(vectors, text, weights.temperature, weights.lam, weights.double_exponential).mean()


def _captioned(text: Tensor) -> Tensor:
    """Which images (B,1) have a caption: T (B,d) of the others is zero."""
    return text.any(dim=1, keepdim=True)


def usual_r1_gamma(image_size: int, batch_size: int) -> float:
    """StyleGAN2-ADA's weight of R1, where none is set."""
    return 2e-4 * image_size**2 / batch_size


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def mapper_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of Lafite-NN's mapper. Raises WeightsError for a file of anything else."""
    tensors = load_weights(path)
    if "linear1.weight" not in tensors or tensors["linear1.weight"].ndim != 2:
        raise WeightsError(f"{path} has no 'linear1.weight', so it is no mapper of Lafite-NN.")
    return tensors


def _mapper(path: str, clip: FrozenCLIP) -> nn.Module:
    """Lafite-NN's mapper of a file, frozen."""
    tensors = mapper_tensors(Path(path))
    hidden, dim = tensors["linear1.weight"].shape
    if dim != clip.geometry.embed_dim:
        raise UsageError(
            f"pseudo_mapper {path} maps vectors of {dim}; those of the CLIP {clip.spec} have {clip.geometry.embed_dim}."
        )
    mapper = lafite.NoiseMapper(dim, hidden).to(clip.mean.device).eval().requires_grad_(False)
    load_into(mapper, tensors, path)
    return mapper
