"""From a dataset's name, or your own images, to a prepared dataset."""

from __future__ import annotations

import difflib
import json
import logging
import os
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from ratlip_cli.data.caption_length import long_captions
from ratlip_cli.data.layout import INFO, DatasetInfo, Json, Problem, Record, is_dataset, read_dataset
from ratlip_cli.data.parallel import processes
from ratlip_cli.data.request import PrepareRequest, is_stream, missing_dataset, stream_name
from ratlip_cli.data.sources import celeba_tiny, cub, demo, own_images, oxford
from ratlip_cli.data.writer import existing, refusal, write_dataset
from ratlip_cli.errors import DataError, UsageError, keeping
from ratlip_cli.files import locked, write_text, writing
from ratlip_cli.progress import Progress, silent

OFFICIAL = {dataset.name: dataset for dataset in (cub.DATASET, oxford.DATASET, celeba_tiny.DATASET)}
"""The datasets of the paper, by name."""

KNOWN = (*demo.DATASETS, *OFFICIAL)

IMAGE_SIZE, DEMO_IMAGE_SIZE = 256, 64
DEMO_COUNT = 20_000

_SPLITS = "splits"
"""Option in dataset.json of a rendered dataset that has some of its splits alone: which."""

DOWNLOADS = "downloads"
"""Folder, beside the prepared datasets, that keeps what was downloaded."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset."""

    path: Path
    info: DatasetInfo
    before: DatasetInfo | None  # The dataset that was there before: equal to `info` where nothing had to be done.


def prepare(request: PrepareRequest, progress: Progress = silent) -> Prepared:
    """Prepare a dataset, unless it is prepared already, downloading its archives first where that is needed.

    A prepared folder, and the name of one in the data folder whose images are not here, is taken as it is. Raises
    UsageError for an unknown name, an option that does not fit the dataset or with which a prepared folder was not
    made, and a licence that must be accepted first; DataError where another process is preparing the same dataset, the
    folder holds another one or one for smaller images, the images could not be downloaded or none can be used;
    RatlipError where the folder cannot be written.
    """
    if request.name is not None and Path(request.name).name != request.name:
        raise UsageError(f"--name is '{request.name}'; it must be the name of a folder in {request.data_dir}.")
    path = Path(request.dataset)
    if request.dataset not in KNOWN and not path.exists() and is_dataset(request.data_dir / path):
        path = request.data_dir / path
    if is_dataset(path):
        before = _as_asked(path, request)
        return Prepared(path, read_dataset(_completed(path, None, progress)), before)
    prepared = _prepare(request, progress)
    if long := long_captions(prepared.path):
        _log.warning("%d captions are longer than the 77 tokens that CLIP reads; their ends will be cut", long)
    return prepared


def resolve_dataset(
    name_or_path: str,
    data_dir: Path,
    image_size: int,
    progress: Progress = silent,
    split: str | None = None,
    keep_uncaptioned: bool = False,
) -> Path:
    """Return the folder of a prepared dataset, preparing it in `data_dir` first where that is needed.

    A name stands for the dataset of that name in `data_dir`; a prepared folder is taken as it is; your own images are
    prepared under their own name, again when they have changed, with the options of the last time.

    Args:
        image_size: side in pixels of the images that are wanted.
        split: the only one that is wanted, all if left out. Of rendered images no other is prepared, and what is
            missing of a dataset that was prepared so is added.
        keep_uncaptioned: your own images that were not prepared before: keep those that have no caption.

    Raises what `prepare` raises, and DataError for a dataset that was prepared for smaller images or has no such split,
    before anything is prepared.
    """
    path = Path(name_or_path)
    if name_or_path not in KNOWN and path.exists():
        if is_dataset(path):
            return _completed(path, split, progress)
        _check_split(name_or_path, split, own_images.SPLITS)
        return _resolve_own(path, data_dir, image_size, progress, keep_uncaptioned)
    out = data_dir / name_or_path
    if (out / INFO).is_file():
        return _completed(_large_enough(out, image_size), split, progress)
    if (gone := _made_from(path, data_dir)) is not None:
        return _large_enough(gone, image_size)
    if is_stream(name_or_path):
        raise UsageError(
            f"{name_or_path} is read as it streams, which training alone does: make a folder of it by `ratlip "
            "prepare`, and give its name."
        )
    only = None
    if name_or_path in demo.DATASETS:
        _check_split(name_or_path, split, demo.splits(name_or_path))
        only = None if split is None else (split,)
    elif name_or_path in OFFICIAL:
        _check_split(name_or_path, split, OFFICIAL[name_or_path].counts)
    usual = DEMO_IMAGE_SIZE if name_or_path in demo.DATASETS else IMAGE_SIZE
    return _prepared(PrepareRequest(name_or_path, data_dir, image_size=max(image_size, usual), splits=only), progress)


def _check_split(name: str, split: str | None, splits: Collection[str]) -> None:
    """Raise DataError where `split` is named and none of `splits`."""
    if split is not None and split not in splits:
        near = difflib.get_close_matches(split, splits, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise DataError(f"{name} has no split '{split}'.{hint} It has: {', '.join(sorted(splits))}.")


def _completed(out: Path, split: str | None, progress: Progress) -> Path:
    """Return the dataset `out`, with `split`, or all, added where it is a rendered one of some splits alone."""
    info = read_dataset(out)
    if not is_partial(info) or split in info.counts:
        return out
    _check_split(str(out), split, demo.splits(info.name))
    only = None if split is None else (*info.counts, split)
    options: Any = {name: info.options[name] for name in ("count", "seed")}
    place: Any = {"data_dir": out.parent, "name": out.name, "image_size": info.image_size}
    return _prepared(PrepareRequest(info.name, splits=only, **place, **options), progress)


def is_partial(info: DatasetInfo) -> bool:
    """Whether a dataset has some splits alone of those that its source gives."""
    return info.name in demo.DATASETS and _SPLITS in info.options


def _made_from(path: Path, data_dir: Path) -> Path | None:
    """Return the dataset that was prepared from own images at `path`, which may be there no longer."""
    for info in sorted(data_dir.glob(f"*/{INFO}")):
        with suppress(DataError):  # A damaged one is told where it is asked for.
            if read_dataset(info.parent).source == str(path.resolve()):
                return info.parent
    return None


def default_folder(dataset: str, data_dir: Path) -> Path:
    """Return where a dataset, as `PrepareRequest.dataset` has it, is prepared unless it gets another name."""
    if dataset in KNOWN:
        return data_dir / dataset
    if not Path(dataset).exists() and is_stream(dataset):
        return data_dir / stream_name(dataset)
    return own_folder(Path(dataset), data_dir)


def own_folder(path: Path, data_dir: Path) -> Path:
    """Return where your own images are prepared: under their own name, unless they lie there themselves."""
    name = own_images.name(path)
    if not (data_dir / name / INFO).is_file():
        name = name.encode("utf-8", "surrogateescape").decode(errors="replace").translate(_NO_PATTERN)
    out = data_dir / name
    return out.with_name(f"{out.name}-prepared") if out.resolve() == path.resolve() else out


_NO_PATTERN = str.maketrans("[]:$\ufffd", "()___")
"""What the `datasets` library would take, in the name of a folder, for a pattern, a chain of addresses or a variable,
and bytes that are not UTF-8, with which it does not work."""


_KEPT = "What is prepared so far is kept: run the same again to go on."


_Material: TypeAlias = tuple[Mapping[str, str], int | None, Iterable[Record | Problem], tuple[str, ...]]
"""Checksums, which tell one state of a source from another; the number of images, where it is known; the records; and
what was not looked at, in a line each."""


@dataclass(frozen=True)
class _Source:
    """Where records come from."""

    info: DatasetInfo  # Without checksums.
    material: Callable[[Progress, DatasetInfo | None], _Material]
    """Looks at the source, downloading it first where that is needed; is given what was made of it before."""
    path: Path | None = None  # Where own images lie.
    lasting: bool = False  # Whether it never changes, so that a finished dataset needs no look at it.
    anew: bool = False  # Whether it may change unseen, so that nothing of an interrupted call is used.
    expected: Mapping[str, int] | None = None  # Images of each split, where that is known.


def _prepare(request: PrepareRequest, progress: Progress) -> Prepared:
    """`prepare` for what is not itself a prepared dataset."""
    workers = processes(request.workers)
    source = _source(request)
    out = request.data_dir / request.name if request.name else default_folder(request.dataset, request.data_dir)
    with _claimed(out):
        if source.path is not None:
            _adopt(out, source.path)
        before = existing(out, source.info.source)
        if (
            source.lasting
            and before is not None
            and replace(before, checksums={}, counts={}, left_out=(), notes=()) == source.info
            and not (request.strict and before.left_out)
        ):
            return Prepared(out, before, before)
        with keeping("" if source.anew else _KEPT):
            checksums, total, records, notes = source.material(progress, before)
            info = replace(source.info, checksums=checksums, notes=notes)
            info = write_dataset(
                out,
                records,
                info,
                total=total,
                workers=workers,
                strict=request.strict,
                one_type=source.path is not None,
                part=is_partial(info),
                anew=source.anew,
                keep_uncaptioned=request.keep_uncaptioned,
                expected=source.expected,
                progress=progress,
            )
        return Prepared(out, info, before)


def _source(request: PrepareRequest) -> _Source:
    """Return where the images of `request` come from; raises the error for a name that is not known."""
    name, path = request.dataset, Path(request.dataset)
    rendered, official, own = "rendered images", ", ".join(OFFICIAL), "own images"
    kind = rendered if name in demo.DATASETS else official if name in OFFICIAL else own
    for whose, options in (
        (official, {"--raw": request.raw, "--accept-license": request.accept_license or None}),
        (
            own,
            {
                "--caption-column": request.caption_column,
                "--image-root": request.image_root,
                "--caption": request.caption,
                "--keep-uncaptioned": request.keep_uncaptioned or None,
                "--test-fraction": request.test_fraction,
            },
        ),
        (rendered, {"--count": request.count}),
    ):
        if whose != kind and any(value is not None for value in options.values()):
            verb = "are" if len(options) > 1 else "is"
            *others, last = options
            listed = f"{', '.join(others)} and {last}" if others else last
            raise UsageError(f"{listed} {verb} for {whose}, not for {name}.")
    if kind != own:
        return _rendered(request) if kind == rendered else _official(request)
    if path.exists():
        return _own(request)
    if is_stream(name):
        return _streamed(request)
    raise missing_dataset(name, request.data_dir)


def _own(request: PrepareRequest) -> _Source:
    path = Path(request.dataset)
    fraction = own_images.Options.test_fraction if request.test_fraction is None else request.test_fraction
    root = None if request.image_root is None else str(request.image_root.resolve())
    options = own_images.Options(
        request.caption_column, fraction, request.seed, root, request.caption, request.keep_uncaptioned
    )
    info = DatasetInfo(
        name=own_images.name(path),
        source=str(path.resolve()),
        licence=own_images.LICENCE,
        options=options.stated(),
        split_rule=options.split_rule(),
        image_size=IMAGE_SIZE if request.image_size is None else request.image_size,
    )

    def material(progress: Progress, before: DatasetInfo | None) -> _Material:
        state, passed_over = _state(path, options, before), own_images.passed_over(path, options)
        return state, own_images.count(path, options), own_images.records(path, options), passed_over

    return _Source(info, material, path)


def _streamed(request: PrepareRequest) -> _Source:
    from ratlip_cli.data.stream import StreamedImages, records  # imports torch

    name = request.dataset
    if request.image_root is not None or request.caption is not None:
        raise UsageError(f"--image-root and --caption are for folders and tables, not for {name}.")
    fraction = own_images.Options.test_fraction if request.test_fraction is None else request.test_fraction
    options = own_images.Options(
        request.caption_column, fraction, request.seed, keep_uncaptioned=request.keep_uncaptioned
    )
    size = IMAGE_SIZE if request.image_size is None else request.image_size
    stream = StreamedImages(
        name, size, caption_column=request.caption_column or "", needs_captions=not request.keep_uncaptioned
    )
    info = DatasetInfo(
        name=stream_name(name),
        source=name if "://" in name else str(Path(name).resolve()),
        licence=own_images.LICENCE,
        options=options.stated(),
        split_rule=f"{fraction:g} of the images are test, by name (seed {request.seed})",
        image_size=size,
    )

    def material(progress: Progress, before: DatasetInfo | None) -> _Material:
        return {"shards": stream.state}, len(stream) or None, records(stream, options.rank, fraction), ()

    return _Source(info, material, anew=stream.is_elsewhere)


def _state(path: Path, options: own_images.Options, before: DatasetInfo | None = None) -> Mapping[str, str]:
    """What tells one state of own images from another: "files" where they lie, "content" also after they were moved."""
    files = own_images.fingerprint(path, options)
    if before is not None and before.checksums.get("files") == files:
        return before.checksums
    return {"files": files, "content": own_images.content(path, options)}


def _adopt(out: Path, path: Path) -> None:
    """Note in the dataset `out` that its source is now at `path`: where it was is nothing, and here are its files."""
    if not (out / INFO).is_file():
        return
    before = read_dataset(out)
    if before.source == str(path.resolve()) or Path(before.source).exists():
        return
    options = _options_of(before, path)
    state = _state(path, options, before)
    if state is before.checksums or state["content"] == before.checksums.get("content"):
        info = replace(before, source=str(path.resolve()), options=options.stated(), checksums=state)
        write_text(out / INFO, json.dumps(asdict(info), indent=2, ensure_ascii=False) + "\n")


def _options_of(info: DatasetInfo, path: Path) -> own_images.Options:
    """The options of own images that are at `path` now: their image root may have moved with them."""
    names = [field.name for field in fields(own_images.Options)]
    options: Any = {name: value for name, value in info.options.items() if name in names}
    root = options.get("image_root")
    if root is not None and not Path(root).is_dir():
        options["image_root"] = os.path.normpath(path.resolve() / os.path.relpath(root, info.source))
    return own_images.Options(**options)


def _rendered(request: PrepareRequest) -> _Source:
    name, seed = request.dataset, request.seed
    count = DEMO_COUNT if request.count is None else request.count
    size = DEMO_IMAGE_SIZE if request.image_size is None else request.image_size
    every = demo.splits(name)
    only = [split for split in every if request.splits is None or split in request.splits]
    part: dict[str, Json] = {_SPLITS: only} if len(only) < len(every) else {}
    info = DatasetInfo(
        name=name,
        source=demo.SOURCE,
        licence=demo.LICENCE,
        options={"count": count, "seed": seed, **part},
        split_rule=demo.SPLIT_RULE,
        image_size=size,
        flip=False,  # The captions say which way birds face.
    )

    def material(progress: Progress, before: DatasetInfo | None) -> _Material:
        records = demo.records(name, count, seed, size, processes(request.workers), only)
        return {}, demo.number_of_records(name, count, only), records, ()

    return _Source(info, material, lasting=True)


def _official(request: PrepareRequest) -> _Source:
    dataset = OFFICIAL[request.dataset]
    info = DatasetInfo(
        name=dataset.name,
        source=dataset.source,
        licence=dataset.licence,
        split_rule=dataset.split_rule,
        image_size=IMAGE_SIZE if request.image_size is None else request.image_size,
    )

    def material(progress: Progress, before: DatasetInfo | None) -> _Material:
        dataset.check_accepted(request.accept_license)
        if request.raw is None:
            places = dataset.downloaded(request.data_dir / DOWNLOADS, progress)
        else:
            places = dataset.located(request.raw)
        return dataset.checksums(places), sum(dataset.counts.values()), dataset.records(places), ()

    return _Source(info, material, lasting=request.raw is None, expected=dataset.counts)


def _resolve_own(path: Path, data_dir: Path, image_size: int, progress: Progress, keep_uncaptioned: bool) -> Path:
    request = PrepareRequest(str(path), data_dir, image_size=image_size, keep_uncaptioned=keep_uncaptioned)
    out = own_folder(path, data_dir)
    _adopt(out, path)
    if (out / INFO).is_file():
        before = read_dataset(out)
        if before.source == str(path.resolve()):
            options, is_finished = _options_of(before, path), existing(out, before.source) is not None
            if is_finished and before.checksums.get("files") == own_images.fingerprint(path, options):
                return _large_enough(out, image_size)
            why = "has changed since" if is_finished else "has images that could not be read when"
            _log.warning("%s %s it was prepared in %s; preparing it again", path, why, out)
            root = None if options.image_root is None else Path(options.image_root)
            again: Any = asdict(options) | {"image_root": root}
            request = replace(request, image_size=max(image_size, before.image_size), **again)
    return _prepared(request, progress)


def _prepared(request: PrepareRequest, progress: Progress) -> Path:
    """Prepare a dataset on the way to something else; what is worth knowing of it is logged."""
    prepared = _prepare(request, progress)
    for note in prepared.info.notes:
        _log.info("%s: %s", prepared.info.name, note)
    return prepared.path


def _large_enough(out: Path, image_size: int) -> Path:
    info = read_dataset(out)
    if info.image_size < image_size:
        raise DataError(
            f"{out} was prepared for {info.image_size} pixels, fewer than {image_size}. Prepare it again: "
            f"{_again(out, info, image_size)}"
        )
    return out


def _as_asked(out: Path, request: PrepareRequest) -> DatasetInfo:
    """Return the description of the dataset `out`; raises the error that says how to make it as it is asked for."""
    info = read_dataset(_large_enough(out, request.image_size or 0))
    unlike = [
        f"--{name.replace('_', '-')}"
        for name, usual in _OPTIONS.items()
        if (asked := getattr(request, name)) != getattr(PrepareRequest, name)
        and (str(asked.resolve()) if isinstance(asked, Path) else asked) != info.options.get(name, usual)
    ]
    if unlike:
        raise UsageError(
            f"{out} is prepared already, with another {' and '.join(unlike)}. Such options go with its images: "
            f"{_again(out, info, request.image_size or info.image_size)}"
        )
    if request.strict and info.left_out:
        raise refusal(info.left_out[0])
    return info


_OPTIONS = asdict(own_images.Options()) | {"count": DEMO_COUNT}
"""Options of own and rendered images, with their defaults."""


def _again(out: Path, info: DatasetInfo, image_size: int) -> str:
    """The command that makes the dataset `out` from its source, with its options."""
    dataset = info.name if info.name in KNOWN and info.licence != own_images.LICENCE else info.source
    words = ["ratlip", "prepare", dataset, "--image-size", str(image_size)]
    for name, value in info.options.items():
        if name in _OPTIONS and value not in (None, _OPTIONS[name]):
            words += [f"--{name.replace('_', '-')}", *(() if value is True else (str(value),))]
    if out.parent != PrepareRequest.data_dir:
        words += ["--data-dir", str(out.parent)]
    if out != default_folder(dataset, out.parent):
        words += ["--name", out.name]
    return shlex.join(words)


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Keep other processes from preparing `out`."""
    with ExitStack() as stack:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            free = stack.enter_context(locked(out.with_name(f".{out.name}.lock"), removes=True))
        if not free:
            raise DataError(f"another ratlip is preparing {out} at this moment; wait for it to end, or stop it.")
        yield
