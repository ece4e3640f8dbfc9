"""From a dataset's name, or a folder of your own images, to a prepared dataset."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ratlip_cli.data.layout import INFO, DatasetInfo, Json, Problem, Record, read_dataset, write_dataset
from ratlip_cli.data.parallel import usable_cores
from ratlip_cli.data.sources import demo, own_images
from ratlip_cli.errors import DataError, unknown_name

COMING = ("cub", "oxford", "celeba-tiny")
"""Datasets of the paper, which this version cannot fetch yet."""

KNOWN = (*demo.DATASETS, *COMING)

IMAGE_SIZE, DEMO_IMAGE_SIZE = 256, 64
DEMO_COUNT = 20_000

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of pictures done, or left out, and the number that there are."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Records and all that dataset.json says of them; see :class:`DatasetInfo` for the fields that are there too."""

    name: str
    source: str
    licence: str
    checksums: Mapping[str, str]
    options: Mapping[str, Json]
    split_rule: str
    image_size: int
    flip: bool
    total: int  # Number of pictures to expect.
    records: Callable[[int], Iterable[Record | Problem]]  # From a number of worker processes.

    def prepare(
        self, out: Path, workers: int | None = None, strict: bool = False, progress: Progress | None = None
    ) -> DatasetInfo:
        """Write the dataset `out` with :func:`write_dataset`, in `workers` processes or one per core."""
        workers = usable_cores() if workers is None else workers
        return write_dataset(
            out,
            self.records(workers),
            name=self.name,
            source=self.source,
            licence=self.licence,
            checksums=self.checksums,
            options=self.options,
            split_rule=self.split_rule,
            image_size=self.image_size,
            flip=self.flip,
            workers=workers,
            strict=strict,
            progress=None if progress is None else lambda done: progress(done, self.total),
        )


def own_source(folder: Path, options: own_images.Options, image_size: int = IMAGE_SIZE) -> Source:
    """Return the source that is a folder of your own images. Raises DataError where it cannot be read."""
    return Source(
        name=folder.resolve().name,
        source=str(folder.resolve()),
        licence=own_images.LICENCE,
        checksums={"folder": own_images.fingerprint(folder)},
        options=asdict(options),
        split_rule=options.split_rule(),
        image_size=image_size,
        flip=True,
        total=own_images.count(folder),
        records=lambda _: own_images.records(folder, options),
    )


def demo_source(name: str, count: int | None = None, seed: int = 0, image_size: int = DEMO_IMAGE_SIZE) -> Source:
    """Return the source that draws `count` (DEMO_COUNT if left out) pictures of the demo dataset `name`."""
    count = DEMO_COUNT if count is None else count
    return Source(
        name=name,
        source=demo.SOURCE,
        licence=demo.LICENCE,
        checksums={},
        options={"count": count, "seed": seed},
        split_rule=demo.SPLIT_RULE,
        image_size=image_size,
        flip=False,  # The captions say which way birds face.
        total=count,
        records=lambda workers: demo.records(name, count, seed, image_size, workers),
    )


def resolve_dataset(
    name_or_path: str,
    data_dir: Path,
    image_size: int,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Return the folder of a prepared dataset, preparing it in `data_dir` first where that is needed.

    A name stands for the dataset of that name in `data_dir`; a prepared folder is taken as it is; a folder of your own
    images is prepared under its own name, again when it has changed, with the options of the last time.

    Args:
        name_or_path: what `--dataset` was given.
        data_dir: folder of prepared datasets.
        image_size: side of the pictures that are wanted, in pixels.
        workers: processes that prepare; one per core if left out.
        progress: called while preparing.

    Raises UsageError for an unknown name; DataError for a folder that is missing or without usable pictures, a dataset
    that this version cannot fetch, and one that was prepared for smaller pictures.
    """
    path = Path(name_or_path)
    if name_or_path not in KNOWN and path.exists():
        return path if (path / INFO).is_file() else _resolve_own(path, data_dir, image_size, workers, progress)
    out = data_dir / name_or_path
    if (out / INFO).is_file():
        return _large_enough(out, name_or_path, image_size)
    find_named(name_or_path, data_dir, max(image_size, DEMO_IMAGE_SIZE)).prepare(out, workers, progress=progress)
    return out


def find_named(name: str, data_dir: Path, image_size: int = DEMO_IMAGE_SIZE) -> Source:
    """Return the source of a dataset that is known by `name`; raises the error for one that is not, or not yet."""
    if name in demo.DATASETS:
        return demo_source(name, image_size=image_size)
    if name in COMING:
        raise DataError(f"this version cannot fetch '{name}' yet; use 'demo' or a folder of pictures with captions.")
    if len(Path(name).parts) != 1:
        raise DataError(
            f"{name} does not exist. Give a folder of pictures with captions, or one of: {', '.join(KNOWN)}."
        )
    raise unknown_name("dataset or folder", name, {*KNOWN, *(info.parent.name for info in data_dir.glob(f"*/{INFO}"))})


def own_folder(folder: Path, data_dir: Path) -> Path:
    """Return where a folder of your own images is prepared: under its own name, unless it lies there itself."""
    out = data_dir / folder.resolve().name
    return out.with_name(f"{out.name}-prepared") if out.resolve() == folder.resolve() else out


def _resolve_own(folder: Path, data_dir: Path, image_size: int, workers: int | None, progress: Progress | None) -> Path:
    out = own_folder(folder, data_dir)
    source = own_source(folder, own_images.Options(), image_size)
    if (out / INFO).is_file():
        found = read_dataset(out)
        if found.source == source.source:
            if found.checksums == source.checksums:
                return _large_enough(out, str(folder), image_size)
            _log.warning("%s has changed since it was prepared in %s; preparing it again", folder, out)
            options: Any = found.options
            source = own_source(folder, own_images.Options(**options), max(image_size, found.image_size))
    source.prepare(out, workers, progress=progress)
    return out


def _large_enough(out: Path, what: str, image_size: int) -> Path:
    found = read_dataset(out).image_size
    if found < image_size:
        again = f"ratlip prepare {what} --image-size {image_size}"
        raise DataError(f"{out} was prepared for {found} pixels, fewer than {image_size}. Prepare it again: {again}")
    return out
