"""From a dataset's name, or your own images, to a prepared dataset."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ratlip_cli.data.layout import INFO, DatasetInfo, Json, Problem, Record, existing, read_dataset, write_dataset
from ratlip_cli.data.parallel import usable_cores
from ratlip_cli.data.sources import celeba_tiny, cub, demo, own_images, oxford
from ratlip_cli.errors import DataError, unknown_name
from ratlip_cli.files import cannot_write, locked

OFFICIAL = {dataset.name: dataset for dataset in (cub.DATASET, oxford.DATASET, celeba_tiny.DATASET)}
"""The datasets of the paper, by name."""

KNOWN = (*demo.DATASETS, *OFFICIAL)

IMAGE_SIZE, DEMO_IMAGE_SIZE = 256, 64
DEMO_COUNT = 20_000

DOWNLOADS = "downloads"
"""Folder, beside the prepared datasets, that keeps what was downloaded."""

IMAGES = "images"
"""What a call of Progress counts when it is not the bytes of a file."""

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with what is counted, IMAGES or the name of a file whose bytes arrive; how many are done, or left out; and
how many there are, None where that is not known."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """What a source has, once it is at hand."""

    checksums: Mapping[str, str]  # They tell one state of the source from another.
    total: int | None  # Number of images to expect, where it is known.
    records: Callable[[int], Iterable[Record | Problem]]  # From a number of worker processes.


@dataclass(frozen=True)
class Source:
    """Where records come from, and what dataset.json says of them; see :class:`DatasetInfo` for the shared fields."""

    name: str
    source: str
    licence: str
    options: Mapping[str, Json]
    split_rule: str
    image_size: int
    flip: bool
    material: Callable[[Progress | None], Material]  # Looks at the source, downloading it first where that is needed.
    lasting: bool = False  # Whether it never changes, so that a finished dataset needs no look at it.

    def prepare(
        self, out: Path, workers: int | None = None, strict: bool = False, progress: Progress | None = None
    ) -> DatasetInfo:
        """Write the dataset `out` with :func:`write_dataset`, in `workers` processes or one per core.

        Raises DataError besides where another process is preparing `out`.
        """
        workers = usable_cores() if workers is None else workers
        with _claimed(out):
            found = existing(out, self.source)
            if found is not None and self.lasting and self._describes(found) and not (strict and found.left_out):
                return found
            material = self.material(progress)
            return write_dataset(
                out,
                material.records(workers),
                name=self.name,
                source=self.source,
                licence=self.licence,
                checksums=material.checksums,
                options=self.options,
                split_rule=self.split_rule,
                image_size=self.image_size,
                flip=self.flip,
                workers=workers,
                strict=strict,
                progress=None if progress is None else lambda done: progress(IMAGES, done, material.total),
            )

    def _describes(self, info: DatasetInfo) -> bool:
        """Whether `info` says what this source says, as far as that is known without a look at the material."""
        shared = ("name", "source", "licence", "options", "split_rule", "image_size", "flip")
        return all(getattr(self, field) == getattr(info, field) for field in shared)


def own_source(path: Path, options: own_images.Options, image_size: int = IMAGE_SIZE) -> Source:
    """Return the source that is your own images: a folder, a table that names them, or a shard of WebDataset."""
    return Source(
        name=own_images.name(path),
        source=str(path.resolve()),
        licence=own_images.LICENCE,
        options=asdict(options),
        split_rule=options.split_rule(),
        image_size=image_size,
        flip=True,
        material=lambda _: Material(
            checksums={"files": own_images.fingerprint(path)},
            total=own_images.count(path),
            records=lambda _: own_images.records(path, options),
        ),
    )


def demo_source(name: str, count: int | None = None, seed: int = 0, image_size: int = DEMO_IMAGE_SIZE) -> Source:
    """Return the source that draws `count` (DEMO_COUNT if left out) images of the demo dataset `name`."""
    count = DEMO_COUNT if count is None else count
    return Source(
        name=name,
        source=demo.SOURCE,
        licence=demo.LICENCE,
        options={"count": count, "seed": seed},
        split_rule=demo.SPLIT_RULE,
        image_size=image_size,
        flip=False,  # The captions say which way birds face.
        material=lambda _: Material(
            checksums={}, total=count, records=lambda workers: demo.records(name, count, seed, image_size, workers)
        ),
        lasting=True,
    )


def official_source(
    name: str, downloads: Path, raw: Path | None = None, accepted: bool = False, image_size: int = IMAGE_SIZE
) -> Source:
    """Return the source that is a dataset of the paper.

    Args:
        name: one of OFFICIAL.
        downloads: folder for its archives, where they have to be downloaded.
        raw: folder that holds them already, packed or unpacked; nothing is downloaded then.
        accepted: whether the user accepts its licence; asked for where the licence wants it, before anything is read.
        image_size: side of the images to train on, in pixels.
    """
    dataset = OFFICIAL[name]

    def material(progress: Progress | None) -> Material:
        dataset.check_accepted(accepted)
        places = dataset.downloaded(downloads, progress) if raw is None else dataset.found(raw)
        checksums = dataset.checksums(places)
        return Material(checksums, sum(dataset.counts.values()), lambda _: dataset.counted(places))

    return Source(
        name=dataset.name,
        source=dataset.source,
        licence=dataset.licence,
        options={},
        split_rule=dataset.split_rule,
        image_size=image_size,
        flip=True,
        material=material,
        lasting=raw is None,
    )


def resolve_dataset(
    name_or_path: str,
    data_dir: Path,
    image_size: int,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Return the folder of a prepared dataset, preparing it in `data_dir` first where that is needed.

    A name stands for the dataset of that name in `data_dir`; a prepared folder is taken as it is; your own images are
    prepared under their own name, again when they have changed, with the options of the last time.

    Args:
        name_or_path: what `--dataset` was given.
        data_dir: folder of prepared datasets.
        image_size: side of the images that are wanted, in pixels.
        workers: processes that prepare; one per core if left out.
        progress: called while downloading and preparing.

    Raises UsageError for an unknown name and a licence that must be accepted first; DataError for a folder that is
    missing or without usable images, a dataset that cannot be downloaded, and one that was prepared for smaller
    images.
    """
    path = Path(name_or_path)
    if name_or_path not in KNOWN and path.exists():
        return path if (path / INFO).is_file() else _resolve_own(path, data_dir, image_size, workers, progress)
    out = data_dir / name_or_path
    if (out / INFO).is_file():
        return _large_enough(out, name_or_path, image_size)
    find_named(name_or_path, data_dir, image_size).prepare(out, workers, progress=progress)
    return out


def find_named(name: str, data_dir: Path, image_size: int = 0) -> Source:
    """Return the source of the dataset `name`, for `image_size` pixels or its usual size, whichever is larger.

    Raises the error for a name that is not known.
    """
    if name in demo.DATASETS:
        return demo_source(name, image_size=max(image_size, DEMO_IMAGE_SIZE))
    if name in OFFICIAL:
        return official_source(name, data_dir / DOWNLOADS, image_size=max(image_size, IMAGE_SIZE))
    if len(Path(name).parts) != 1:
        raise DataError(f"{name} does not exist. Give a folder of images with captions, or one of: {', '.join(KNOWN)}.")
    raise unknown_name("dataset or folder", name, {*KNOWN, *(info.parent.name for info in data_dir.glob(f"*/{INFO}"))})


def own_folder(path: Path, data_dir: Path) -> Path:
    """Return where your own images are prepared: under their own name, unless they lie there themselves."""
    out = data_dir / own_images.name(path)
    return out.with_name(f"{out.name}-prepared") if out.resolve() == path.resolve() else out


def _resolve_own(path: Path, data_dir: Path, image_size: int, workers: int | None, progress: Progress | None) -> Path:
    out = own_folder(path, data_dir)
    source = own_source(path, own_images.Options(), image_size)
    if (out / INFO).is_file():
        found = read_dataset(out)
        if found.source == source.source:
            if found.checksums == source.material(None).checksums:
                return _large_enough(out, str(path), image_size)
            _log.warning("%s has changed since it was prepared in %s; preparing it again", path, out)
            options: Any = found.options
            source = own_source(path, own_images.Options(**options), max(image_size, found.image_size))
    source.prepare(out, workers, progress=progress)
    return out


def _large_enough(out: Path, what: str, image_size: int) -> Path:
    found = read_dataset(out).image_size
    if found < image_size:
        again = f"ratlip prepare {what} --image-size {image_size}"
        raise DataError(f"{out} was prepared for {found} pixels, fewer than {image_size}. Prepare it again: {again}")
    return out


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Keep other processes from preparing `out`."""
    with ExitStack() as stack:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            free = stack.enter_context(locked(out.with_name(f".{out.name}.lock")))
        except OSError as error:
            raise cannot_write(out, error) from error
        if not free:
            raise DataError(f"another ratlip is preparing {out} at this moment; wait for it to end, or stop it.")
        yield
