"""What can be asked of `prepare`. Standard library only: the command line reads it before numpy is imported."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from ratlip_cli.errors import DataError, unknown_name
from ratlip_cli.setting import setting

DATASETS = ("cub", "oxford", "celeba-tiny", "demo", "demo-birds", "demo-flowers", "demo-faces")
"""The datasets that are known by name."""

_INFO = "dataset.json"  # `layout.INFO`; that module imports Pillow.

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
    test_fraction: float | None = _option(None, "Own images: share for the test split; 0.1 if left out.")
    count: int | None = _option(None, "Rendered images: how many; 20000 if left out.")
    seed: int = _option(0, "Decides the test split of own images, and what is rendered; 0 if left out.")
    workers: int | None = _option(None, "Processes; one per core if left out.")
    strict: bool = _option(False, "Stop at the first image that cannot be used.", flag=True)


def prepared_names(data_dir: Path) -> list[str]:
    """Names of the datasets that are prepared in `data_dir`."""
    return sorted(info.parent.name for info in data_dir.glob(f"*/{_INFO}"))


def check_dataset_name(name: str, data_dir: Path) -> None:
    """Raise UsageError or DataError for a dataset that cannot be: it is told before anything is loaded.

    Whether one that may be is there and whole shows when it is opened.
    """
    path = Path(name)
    if name in DATASETS or path.exists() or (data_dir / path.name / _INFO).is_file():
        return
    if len(path.parts) != 1:
        known = ", ".join(DATASETS)
        raise DataError(f"{name} does not exist. Give a folder of images with captions, or one of: {known}.")
    raise unknown_name("dataset or folder", name, {*DATASETS, *prepared_names(data_dir)})
