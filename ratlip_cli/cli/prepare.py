"""`ratlip prepare`: captioned images to a dataset."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import Json, Quiet
from ratlip_cli.errors import DataError

SHOWN = 10
"""Images left out that are named on the terminal; dataset.json names all."""


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
        int | None, typer.Option(help="Side of the images to train on; 256, and 64 for rendered ones, if left out.")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Own images: the captions' column; captions, caption or text if left out.")
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Own images: share for the test split; 0.1 if left out.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="Rendered images: how many; 20000 if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the test split of own images, and what is rendered.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; one per core if left out.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be used.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Verify a prepared dataset, image by image.")] = False,
    json: Json = False,
    quiet: Quiet = False,
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
    from ratlip_cli.data import prepare as data

    if check:
        _check(dataset, data_dir, workers, json)
        return
    request = data.PrepareRequest(
        dataset=dataset,
        data_dir=data_dir,
        name=name,
        image_size=image_size,
        raw=raw,
        accept_license=accept_license,
        caption_column=caption_column,
        test_fraction=test_fraction,
        count=count,
        seed=seed,
        workers=workers,
        strict=strict,
    )
    with console.bars() as progress:
        prepared = data.prepare(request, progress)
    if prepared.info == prepared.before:
        console.note(f"{prepared.path} is prepared already; nothing to do")
    elif prepared.before is not None:
        console.note(f"{prepared.path} was prepared from other images or options; it has been replaced")
    info = prepared.info
    splits = ", ".join(f"{count} {split}" for split, count in info.counts.items())
    console.note(f"{info.name}: images for {info.image_size} pixels: {splits}")
    for problem in info.left_out[:SHOWN]:
        console.note(f"left out: {problem.name}: {problem.reason}")
    if len(info.left_out) > SHOWN:
        console.note(f"left out: {len(info.left_out) - SHOWN} more; dataset.json names all")
    console.answer(json, {"path": prepared.path, **asdict(info)}, prepared.path)


def _check(dataset: str, data_dir: Path, workers: int | None, json: bool) -> None:
    from ratlip_cli.data.layout import INFO, check_dataset, read_dataset
    from ratlip_cli.data.parallel import processes

    path = Path(dataset) if (Path(dataset) / INFO).is_file() else data_dir / dataset
    total = sum(read_dataset(path).counts.values())
    with console.bars() as progress:
        problems = check_dataset(path, processes(workers), progress)
    if json:
        console.result_json({"path": path, "problems": [asdict(problem) for problem in problems]})
    for problem in problems[:SHOWN]:
        console.note(f"{problem.name}: {problem.reason}")
    if problems:
        raise DataError(f"{path} has {len(problems)} damaged or stray files. Remove it and prepare it again.")
    if not json:
        console.result(path)
    console.note(f"all {total} images are as {path / INFO} says")
