"""What can be asked of `prepare`. Standard library only: the command line reads it before numpy is imported."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from ratlip_cli.setting import setting

OPTIONS = "Options"
_option = functools.partial(setting, group=OPTIONS)


@dataclass(frozen=True)
class PrepareRequest:
    """What to prepare, and how. None is the default of the source; an option of another source is a UsageError."""

    dataset: str  # One of KNOWN, or the path of your own images.
    data_dir: Path = setting(
        Path("data"), "Folder that holds prepared datasets by name.", group=OPTIONS, envvar="RATLIP_DATA"
    )
    name: str | None = _option(None, "Name in the data folder; the folder's own if left out.")
    image_size: int | None = _option(
        None, "Side of the images to train on; 256, and 64 for rendered ones, if left out."
    )
    raw: Path | None = setting(
        None,
        "cub, oxford, celeba-tiny: folder that has the archives, or what is in them; no download.",
        group=OPTIONS,
    )
    accept_license: bool = _option(False, "celeba-tiny: you accept its licence, which the command prints.", flag=True)
    caption_column: str | None = _option(
        None, "Own images: the captions' column; captions, caption or text if left out."
    )
    image_root: Path | None = setting(
        None, "Own images: folder at which the names in a table begin; its own if left out.", group=OPTIONS
    )
    caption: str | None = _option(None, 'Own images: caption of those that have none, such as "a photo of {folder}".')
    test_fraction: float | None = _option(None, "Own images: share for the test split; 0.1 if left out.")
    count: int | None = _option(None, "Rendered images: how many; 20000 if left out.")
    seed: int = _option(0, "Decides the test split of own images, and what is rendered; 0 if left out.")
    workers: int | None = _option(None, "Processes; one per core if left out.")
    strict: bool = _option(False, "Stop at the first image that cannot be used.", flag=True)
