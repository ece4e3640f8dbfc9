"""`ratlip prepare`: captioned images to a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ratlip_cli.cli import console
from ratlip_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from ratlip_cli.data.layout import DatasetInfo
    from ratlip_cli.data.prepare import Source

SHOWN = 10
"""Images left out that are named on the terminal; dataset.json names all."""

MEGABYTE = 1_000_000


def prepare(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH",
            help="cub, oxford, celeba-tiny, demo, demo-birds, demo-flowers, demo-faces, or your own images.",
        ),
    ],
    data_dir: Annotated[
        Path, typer.Option(envvar="RATLIP_DATA", help="Folder that holds prepared datasets by name.")
    ] = Path("data"),
    name: Annotated[str | None, typer.Option(help="Name in the data folder; the folder's own if left out.")] = None,
    raw: Annotated[
        Path | None,
        typer.Option(help="cub, oxford, celeba-tiny: folder that has the archives, or what is in them; no download."),
    ] = None,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="celeba-tiny: you accept its licence, which the command prints.")
    ] = False,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the images to train on; 256, and 64 for drawn ones, if left out.")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Own images: the captions' column; captions, caption or text if left out.")
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Own images: share for the test split; 0.1 if left out.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="Drawn images: how many; 20000 if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the test split of own images, and what is drawn.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; one per core if left out.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be used.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Verify a prepared dataset, image by image.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress.")] = False,
) -> None:
    """Get captioned images ready for training. The prepared folder goes to stdout.

    Own images are a folder of x.jpg with x.txt (a caption a line) or with a metadata.jsonl or metadata.csv, a .csv or
    .jsonl that names images, or a WebDataset shard or folder of shards. Run again, it goes on where it stopped.

    [bold]Examples[/]

    ratlip prepare oxford

    ratlip prepare cub --raw ~/Downloads

    ratlip prepare ~/my-images --image-size 128 --test-fraction 0.2

    ratlip prepare data/my-images --check
    """
    console.set_up(quiet)
    from ratlip_cli.data.layout import INFO, read_dataset

    if workers is not None and workers < 0:
        raise UsageError(f"--workers is {workers}; it must not be negative.")
    if name is not None and Path(name).name != name:
        raise UsageError(f"--name is '{name}'; it must be the name of a folder in {data_dir}.")
    folder = Path(dataset)
    is_prepared = (folder / INFO).is_file()
    if check:
        _check(folder if is_prepared else data_dir / dataset, workers, json)
        return
    if is_prepared:
        console.note(f"{folder} is a prepared dataset already; nothing to do")
        _show(folder, read_dataset(folder), json)
        return
    official = _Official(raw, accept_license)
    source, out = _source(dataset, data_dir, image_size, official, caption_column, test_fraction, count, seed)
    out = out.with_name(name) if name else out
    before = read_dataset(out) if (out / INFO).is_file() else None
    with preparation_progress() as progress:
        info = source.prepare(out, workers, strict, progress)
    if info == before:
        console.note(f"{out} is prepared already; nothing to do")
    elif before is not None:
        console.note(f"{out} was prepared from other images or options; it has been replaced")
    _show(out, info, json)


@contextmanager
def preparation_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """Yield what `resolve_dataset` and `Source.prepare` call while they work; a bar appears when they do."""
    with ExitStack() as stack:
        advance: console.Advance | None = None
        current, shown = "", 0

        def progress(counted: str, done: int, total: int | None) -> None:
            from ratlip_cli.data.prepare import IMAGES

            nonlocal advance, current, shown
            if counted != IMAGES:
                done, total = done // MEGABYTE, None if total is None else total // MEGABYTE
            if advance is None or counted != current:
                stack.close()
                bar = (
                    console.progress("prepare", total)
                    if counted == IMAGES
                    else console.progress(f"download {counted}", total, done, unit="MB")
                )
                advance = stack.enter_context(bar)
                current, shown = counted, 0 if counted == IMAGES else done
            if done != shown:
                advance(done - shown)
                shown = done

        yield progress


class _Official(NamedTuple):
    """The options of the paper's datasets."""

    raw: Path | None
    accept_license: bool


def _source(
    dataset: str,
    data_dir: Path,
    image_size: int | None,
    official: _Official,
    caption_column: str | None,
    test_fraction: float | None,
    count: int | None,
    seed: int,
) -> tuple[Source, Path]:
    """Return what to prepare, and where; raises UsageError for options that belong to another source."""
    from ratlip_cli.data import prepare as data
    from ratlip_cli.data.sources import demo, own_images

    if dataset not in data.OFFICIAL and official != (None, False):
        raise UsageError(f"--raw and --accept-license are for {', '.join(data.OFFICIAL)}.")
    if dataset in demo.DATASETS:
        if caption_column is not None or test_fraction is not None:
            raise UsageError(f"--caption-column and --test-fraction are for own images; {dataset} is drawn.")
        size = data.DEMO_IMAGE_SIZE if image_size is None else image_size
        drawn = data.demo_source(dataset, count, seed, size)
        return drawn, data_dir / dataset
    if count is not None:
        raise UsageError(f"--count is for drawn images, not for {dataset}.")
    if dataset in data.OFFICIAL:
        if caption_column is not None or test_fraction is not None:
            raise UsageError(f"--caption-column and --test-fraction are for own images, not for {dataset}.")
        size = data.IMAGE_SIZE if image_size is None else image_size
        downloads = data_dir / data.DOWNLOADS
        return data.official_source(dataset, downloads, official.raw, official.accept_license, size), data_dir / dataset
    path = Path(dataset)
    if not path.exists():
        return data.find_named(dataset, data_dir), data_dir / dataset
    defaults = own_images.Options()
    fraction = defaults.test_fraction if test_fraction is None else test_fraction
    options = own_images.Options(caption_column, fraction, seed)
    size = data.IMAGE_SIZE if image_size is None else image_size
    return data.own_source(path, options, size), data.own_folder(path, data_dir)


def _show(path: Path, info: DatasetInfo, json: bool) -> None:
    splits = ", ".join(f"{count} {split}" for split, count in info.counts.items())
    console.note(f"{info.name}: images for {info.image_size} pixels: {splits}")
    for problem in info.left_out[:SHOWN]:
        console.note(f"left out: {problem.name}: {problem.reason}")
    if len(info.left_out) > SHOWN:
        console.note(f"left out: {len(info.left_out) - SHOWN} more; dataset.json names all")
    if json:
        console.result_json({"path": path, **asdict(info)})
    else:
        console.result(path)


def _check(path: Path, workers: int | None, json: bool) -> None:
    from ratlip_cli.data.layout import check_dataset, read_dataset
    from ratlip_cli.data.parallel import usable_cores
    from ratlip_cli.data.prepare import IMAGES

    total = sum(read_dataset(path).counts.values())
    with preparation_progress() as progress:
        workers = usable_cores() if workers is None else workers
        problems = check_dataset(path, workers, lambda done: progress(IMAGES, done, total))
    if json:
        console.result_json({"path": path, "problems": [asdict(problem) for problem in problems]})
    for problem in problems[:SHOWN]:
        console.note(f"{problem.name}: {problem.reason}")
    if problems:
        raise DataError(f"{path} has {len(problems)} damaged or stray files. Remove it and prepare it again.")
    if not json:
        console.result(path)
    console.note(f"all {total} images are as {path / 'dataset.json'} says")
