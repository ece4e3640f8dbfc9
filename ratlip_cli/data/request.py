"""What can be asked of `prepare`. Standard library only: the command line reads it before numpy is imported."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from ratlip_cli.errors import DataError, RatlipError, UsageError, unknown_name
from ratlip_cli.setting import MOST_COUNT, setting

DATASETS = ("cub", "oxford", "celeba-tiny", "demo", "demo-birds", "demo-flowers", "demo-faces")
"""The datasets that are known by name."""

_INFO = "dataset.json"  # `layout.INFO`; that module imports Pillow.

OPTIONS = "Options"
_option = functools.partial(setting, group=OPTIONS)


HUB = "hf://"
"""How the name of a data set of the Hub begins, which is read as it streams."""


STREAMED = (".tar", ".tar.gz", ".tgz", ".parquet")
"""How the files end that can be read so."""


def is_stream(name: str) -> bool:
    """Whether a dataset is read as it streams: an address, a pattern of files, or a folder that img2dataset wrote."""
    path = Path(name)
    if path.exists():
        return path.is_dir() and not (path / _INFO).exists() and any(_stems(path)) and bool(shards_of(path))
    return "://" in name or re.search(rf"[*{{].*({'|'.join(map(re.escape, STREAMED))})$", name.lower()) is not None


def shards_of(folder: Path) -> list[Path]:
    """The shards in a folder as img2dataset writes them: its .tar files, or its Parquet files.

    A Parquet file beside a .tar, or beside a folder of image files, has no images.
    """
    alone = [folder / f"{stem}.parquet" for stem in _stems(folder) if not (folder / stem).exists()]
    return sorted(folder.glob("*.tar")) or [table for table in alone if table.is_file()]


def _stems(folder: Path) -> list[str]:
    """The names under which img2dataset wrote into a folder, of which it leaves statistics."""
    return [stats.name.removesuffix("_stats.json") for stats in sorted(folder.glob("*_stats.json"))]


def stream_name(name: str) -> str:
    """What a stream is called in the name of a run: the last part of its address that is no pattern."""
    if name.startswith(HUB):
        return name.removeprefix(HUB).split("@")[0].split("/")[1]
    plain = [part for part in Path(name).resolve().parts if not re.search(r"[*{:]", part)]
    return plain[-1] if plain else "stream"


_PATTERN = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def expanded(pattern: str) -> list[str]:
    """The names that a pattern stands for: {00000..01242} counts, and {a,b} names each.

    Raises UsageError where they are more than MOST_COUNT.
    """
    sizes = [
        len(names.split(",")) if names else max(int(last) - int(first) + 1, 0)
        for first, last, names in _PATTERN.findall(pattern)
    ]
    if math.prod(sizes) > MOST_COUNT:
        raise UsageError(f"{pattern} stands for {math.prod(sizes)} names; it must be at most {MOST_COUNT}.")
    found = _PATTERN.search(pattern)
    if found is None:
        return [pattern]
    first, last, names = found.groups()
    parts = names.split(",") if names else [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    return [name for part in parts for name in expanded(pattern[: found.start()] + part + pattern[found.end() :])]


@dataclass(frozen=True)
class PrepareRequest:
    """What to prepare, and how. None is the default of the source; an option of another source is a UsageError."""

    dataset: str  # One of DATASETS, or the path of your own images.
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
    keep_uncaptioned: bool = _option(
        False, "Own images: keep those that have no caption, for `train --variant lafite --language-free`.", flag=True
    )
    test_fraction: float | None = _option(None, "Own images: share for the test split; 0.1 if left out.")
    count: int | None = _option(None, "Rendered images: how many; 20000 if left out.")
    seed: int = _option(0, "Decides the test split of own images, and what is rendered; 0 if left out.")
    workers: int | None = _option(None, "Processes; one per core if left out.")
    strict: bool = _option(False, "Stop at the first image that cannot be used.", flag=True)
    splits: tuple[str, ...] | None = None
    """Rendered images: the only splits to prepare, which a later request completes; all if left out."""

    def __post_init__(self) -> None:
        check_not_empty(self.dataset)


def prepared_names(data_dir: Path) -> list[str]:
    """Names of the datasets that are prepared in `data_dir`."""
    return sorted(info.parent.name for info in data_dir.glob(f"*/{_INFO}"))


def check_dataset_name(name: str, data_dir: Path) -> None:
    """Raise UsageError or DataError for a dataset that cannot be: so it is told before anything is loaded.

    It can be where it is known, prepared under this name or from this path, or a path that is there; whether it is
    whole shows when it is opened. So it is with one that is read as it streams.
    """
    check_not_empty(name)
    path = Path(name)
    if is_stream(name) or name in DATASETS or path.exists() or (data_dir / name / _INFO).is_file():
        return
    if str(path.resolve()) not in _sources(data_dir):
        raise missing_dataset(name, data_dir)


def check_not_empty(name: str) -> None:
    """Raise UsageError where the name of a dataset is none, as of a variable that is not set: a path would be here."""
    if not name.strip():
        raise UsageError("the name of the dataset is empty: give a name or a folder, or leave it out.")


def missing_dataset(name: str, data_dir: Path) -> RatlipError:
    """The error for a dataset that is not there: DataError for a path, UsageError with the nearest for a name."""
    here = f"Paths begin at {Path.cwd()}, and prepared datasets are in {data_dir.absolute()}"
    here += ": give the path of one that is elsewhere."
    if len(Path(name).parts) != 1:
        known = ", ".join(DATASETS)
        return DataError(f"{name} does not exist. Give a folder of images with captions, or one of: {known}. {here}")
    return UsageError(f"{unknown_name('dataset or folder', name, {*DATASETS, *prepared_names(data_dir)})} {here}")


def _sources(data_dir: Path) -> set[str]:
    """Where the images of prepared datasets came from; what is damaged says so when it is opened."""
    sources = set()
    for name in prepared_names(data_dir):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            sources.add(str(json.loads((data_dir / name / _INFO).read_bytes())["source"]))
    return sources
