"""What both analyses take: models and datasets as the caller names them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from torch import nn

from ratlip_cli.device import resolve_device
from ratlip_cli.errors import WeightsError
from ratlip_cli.weights.load import default_model, load_model
from ratlip_cli.weights.model_folder import DISCRIMINATOR_FILE, Model, load_discriminator

logger = logging.getLogger(__name__)


def load_models(models: Iterable[str | Model | None], device: str) -> list[Model]:
    """Load what is named on `device`, None being the default model; a Model stays where it is. All generate in fp32."""
    where = resolve_device(device)
    loaded = [one if isinstance(one, Model) else load_model(one or default_model(), where) for one in models]
    for one in loaded:
        logger.info(about(one))
    return [one.in_precision("fp32") for one in loaded]


def discriminator_of(model: Model) -> nn.Module:
    """The model's discriminator, frozen. Raises WeightsError where it comes without one."""
    if not (model.folder / DISCRIMINATOR_FILE).is_file():
        raise WeightsError(f"model {model.name} comes without its discriminator; use clip instead.")
    return load_discriminator(model).eval().requires_grad_(False)


def about(model: Model) -> str:
    """The model in one line: its name, its fingerprint and where it runs."""
    return f"model {model.name} ({model.fingerprint}) on {model.device}"


def model_record(model: Model) -> dict[str, object]:
    """What the numbers of an analysis say of a model."""
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "clip": model.config.clip,
        "clip_fingerprint": model.clip.fingerprint,
    }


def spread(total: int, count: int) -> list[int]:
    """`count` numbers, or all where there are fewer, evenly spread over 0 ... total - 1."""
    count = min(count, total)
    return [place * total // count for place in range(count)]
