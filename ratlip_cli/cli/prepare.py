"""`ratlip prepare`: captioned images to a dataset."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import Json, Quiet, complete_dataset, with_options
from ratlip_cli.data.request import DATASETS, PrepareRequest
from ratlip_cli.errors import DataError, UsageError
from ratlip_cli.setting import settings_of

SHOWN = 10
"""Images left out that are named on the terminal; dataset.json names all."""


@with_options(settings_of(PrepareRequest).values())
def prepare(
    typed: dict[str, Any],
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH",
            help=f"{', '.join(DATASETS)}, or your own images.",
            autocompletion=complete_dataset,
        ),
    ],
    check: Annotated[bool, typer.Option("--check", help="Verify a prepared dataset, image by image.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Get captioned images ready for training. The prepared folder goes to stdout.

    Own images are a folder of x.jpg with x.txt (a caption a line) or with a table that names them: metadata.jsonl or
    .csv, or any .csv, .tsv, .txt, .jsonl, .json (COCO) or .parquet of names and captions. Or a table, a .zip, a
    WebDataset shard or a folder of those; a pattern of shards or Parquet files, or hf://owner/name. Run again, it goes
    on where it stopped.

    [bold]Examples[/]

    ratlip prepare oxford

    ratlip prepare cub --raw ~/Downloads

    ratlip prepare ~/my-images --image-size 128 --test-fraction 0.2

    ratlip prepare toys --caption "a photo of {folder}"

    ratlip prepare my-images --keep-uncaptioned

    ratlip prepare 'cc3m/{00000..00331}.tar' --caption-column caption

    ratlip prepare data/my-images --check
    """
    console.set_up(quiet)
    request = PrepareRequest(dataset, **typed)
    if check:
        others = [name for name, value in typed.items() if value and name not in ("data_dir", "name", "workers")]
        if unread := [f"--{name.replace('_', '-')}" for name in others]:
            raise UsageError(f"--check reads what is prepared as it is: leave out {' and '.join(unread)}.")
        _check(request, json)
        return
    from ratlip_cli.data import prepare as data

    with console.bars() as progress:
        prepared = data.prepare(request, progress)
    if prepared.info == prepared.before:
        console.note(f"{prepared.path} is prepared already; nothing to do")
    elif prepared.before is not None and data.is_partial(prepared.before) and not data.is_partial(prepared.info):
        console.note(f"{prepared.path} had some splits alone ({', '.join(prepared.before.counts)}); it is whole now")
    elif prepared.before is not None:
        console.note(f"{prepared.path} was prepared from other images or options; it has been replaced")
    info = prepared.info
    splits = ", ".join(f"{count} {split}" for split, count in info.counts.items())
    console.note(f"{info.name}: images for {info.image_size} pixels: {splits}")
    for problem in info.left_out[:SHOWN]:
        console.note(f"left out: {problem.name}: {problem.reason}")
    if len(info.left_out) > SHOWN:
        console.note(f"left out: {len(info.left_out) - SHOWN} more; dataset.json names all")
    for line in info.notes:
        console.note(line)
    console.answer(json, {"path": prepared.path, **asdict(info)}, prepared.path)


def _check(request: PrepareRequest, json: bool) -> None:
    from ratlip_cli.data.layout import INFO, check_dataset, read_dataset
    from ratlip_cli.data.parallel import processes
    from ratlip_cli.data.prepare import default_folder

    path = Path(request.dataset)
    if request.name is not None:
        path = request.data_dir / request.name
    elif not (path / INFO).is_file():
        path = default_folder(request.dataset, request.data_dir)
    total = sum(read_dataset(path).counts.values())
    with console.bars() as progress:
        problems = check_dataset(path, processes(request.workers), progress)
    if json:
        console.result_json({"path": path, "problems": [asdict(problem) for problem in problems]})
    for problem in problems[:SHOWN]:
        console.note(f"{problem.name}: {problem.reason}")
    if problems:
        raise DataError(f"{path} has {len(problems)} damaged or stray files. Remove it and prepare it again.")
    if not json:
        console.result(path)
    console.note(f"all {total} images are as {path / INFO} says")
