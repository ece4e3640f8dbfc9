"""What both analyses take: models and datasets as the caller names them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ratlip_cli.data.prepare import IMAGES, resolve_dataset
from ratlip_cli.device import resolve_device
from ratlip_cli.errors import WeightsError
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.progress import Progress
from ratlip_cli.weights.load import default_model, load_model
from ratlip_cli.weights.model_folder import DISCRIMINATOR_FILE, Model, load_discriminator


def load_models(models: Iterable[str | Model | None], device: str) -> list[Model]:
    """Load what is named on `device`, None being the default model; a Model stays as and where it is."""
    where = resolve_device(device)
    return [one if isinstance(one, Model) else load_model(one or default_model(), where) for one in models]


def discriminator_of(model: Model) -> Discriminator:
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


def prepared(dataset: str, data_dir: Path, image_size: int, progress: Progress) -> Path:
    """The folder of a prepared dataset; it is prepared first where that is needed."""

    def with_unit(what: str, done: int, total: int | None, unit: str = "") -> None:
        progress(what, done, total, unit or ("images" if what == IMAGES else "bytes"))

    return resolve_dataset(dataset, data_dir, image_size, progress=with_unit)


def spread(total: int, count: int) -> list[int]:
    """`count` numbers, or all where there are fewer, evenly spread over 0 ... total - 1."""
    count = min(count, total)
    return [place * total // count for place in range(count)]
