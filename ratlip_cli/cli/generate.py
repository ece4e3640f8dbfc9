"""`ratlip generate`: prompts to images."""

from __future__ import annotations

import hashlib
import itertools
import json as json_module
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ratlip_cli import __version__, processes
from ratlip_cli.cli import console, signals
from ratlip_cli.cli.devices import Devices, run_again_in
from ratlip_cli.cli.devices import count as count_processes
from ratlip_cli.cli.options import (
    ADVANCED,
    Device,
    Json,
    Model,
    Precision,
    Quiet,
    check_file,
    check_model_name,
    check_new,
    check_no_file,
    choice,
)
from ratlip_cli.errors import UsageError
from ratlip_cli.files import check_out_folder
from ratlip_cli.generation import (
    ANIMATIONS,
    FORMATS,
    FRAMES,
    LIKE_NOISE,
    LIKE_WEIGHT,
    STRIP,
    STRIP_FRAMES,
    InterpolationRequest,
    LikeRequest,
    check_request,
    parse_indices,
)
from ratlip_cli.setting import check_export, is_export

if TYPE_CHECKING:
    from PIL.Image import Image

    from ratlip_cli.outputs import ImageFolder
    from ratlip_cli.samples import ImageModel, Sample

LIKE, BETWEEN = "Like an image", "Interpolation"
FPS, MOST_FPS = 20, 50
"""Frames a second where nobody says how many, and at most: players show no faster GIF."""

GRID_IMAGES = 256
"""At most so many images go into the grid."""
WRITTEN_TOGETHER = 32
"""Images that each of several processes writes before they are told of."""


def generate(
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts, or - to read them from stdin.")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="A text file with a prompt a line.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="Images of each prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Decides the noise vectors; prompts share them.")] = 0,
    indices: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Generate these images k of each prompt instead, such as 7,12-20."),
    ] = None,
    model: Model = None,
    out: Annotated[Path, typer.Option(help="Folder for the images; what it holds is kept.")] = Path("generated"),
    image_format: Annotated[
        str | None, choice(FORMATS, f"What files to write, {FORMATS[0]} if left out.", "format", ["--format"])
    ] = None,
    grid: Annotated[bool, typer.Option(help="Also write one captioned image of all images.")] = True,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Generate like this image: its CLIP vector takes the place of the prompt's, or is mixed with it. "
            "Suits LAFITE; experimental with others.",
            rich_help_panel=LIKE,
        ),
    ] = None,
    like_weight: Annotated[
        float | None,
        typer.Option(
            metavar="W", help=f"Of the image beside a prompt, 0 to 1; {LIKE_WEIGHT} if left out.", rich_help_panel=LIKE
        ),
    ] = None,
    like_noise: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help=f"How much of its vector is noise, 0 to 1; {LIKE_NOISE} if left out. LAFITE learns with 0.1, without "
            "captions with 0.75.",
            rich_help_panel=LIKE,
        ),
    ] = None,
    interpolate: Annotated[
        bool,
        typer.Option(
            "--interpolate",
            help="One image after the other from prompt to prompt, under one noise vector; --out is a file: "
            f"{', '.join(f'.{kind}' for kind in ANIMATIONS)}, or .{STRIP} for a strip.",
            rich_help_panel=BETWEEN,
        ),
    ] = False,
    frames: Annotated[
        int | None,
        typer.Option(help=f"How many, {FRAMES} if left out, {STRIP_FRAMES} of a strip.", rich_help_panel=BETWEEN),
    ] = None,
    loop: Annotated[
        bool, typer.Option("--loop", help="Lead back to the first prompt.", rich_help_panel=BETWEEN)
    ] = False,
    fps: Annotated[int | None, typer.Option(help="Frames a second, 20 if left out.", rich_help_panel=BETWEEN)] = None,
    truncation: Annotated[
        float,
        typer.Option(metavar="PSI", help="How far the noise goes: below 1, less variety.", rich_help_panel=ADVANCED),
    ] = 1.0,
    best_of: Annotated[
        int,
        typer.Option(
            metavar="K",
            help="Generate K times as many; keep those that CLIP finds most like the prompt.",
            rich_help_panel=ADVANCED,
        ),
    ] = 1,
    batch_size: Annotated[
        int | None, typer.Option(help="Images at a time; left out, as suits the model.", rich_help_panel=ADVANCED)
    ] = None,
    device: Device = "auto",
    devices: Devices = None,
    precision: Precision = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate images of prompts. Their paths go to stdout, one a line.

    [bold]Examples[/]

    ratlip generate "a red bird with black wings" -n 8

    ratlip generate "a red bird" --indices 7,12-20

    ratlip generate --prompts birds.txt --model runs/cub --out birds

    ratlip generate --prompts birds.txt --devices all

    echo "a yellow flower" | ratlip generate - --best-of 4 --format webp

    ratlip generate --like photo.png -n 8

    ratlip generate --interpolate "a red bird" "a blue bird" --out birds.gif
    """
    is_first = processes.begin()  # of several processes the first one speaks
    console.set_up(quiet or not is_first)
    if (several := count_processes(devices, device)) > 1:
        run_again_in(several)
        return
    check_no_file(prompts or (), "an image by --like, a file of prompts by --prompts")
    if prompts_file is not None and prompts_file.exists():  # else reading it says so
        check_file(prompts_file)
    texts = _read_prompts(prompts or [], prompts_file)
    is_alone = like is not None and not prompts and prompts_file is None
    like_image = _like(like, like_weight, like_noise, not is_alone)
    texts = [like_image.label] if like_image and is_alone else texts
    chosen = None if indices is None else parse_indices(indices)
    check_request(texts, count, seed, truncation, best_of, batch_size, chosen)
    check_model_name(model)
    if interpolate:
        if processes.are_several():
            raise UsageError("an interpolation is made by one process: leave out --devices and torchrun.")
        if like_image:
            raise UsageError("an interpolation leads from prompt to prompt: leave out --like.")
        if count > 1 or best_of > 1 or len(chosen or ()) > 1:
            raise UsageError("an interpolation has one noise vector: leave out -n and --best-of, and give one index.")
        if image_format is not None or not grid:
            raise UsageError(
                "an interpolation is one file, whose format the name of --out decides, such as --out birds.webp: leave "
                "out --format and --no-grid."
            )
        is_strip = out.suffix.lower() == f".{STRIP}"
        many = frames if frames is not None else STRIP_FRAMES if is_strip else FRAMES
        request = InterpolationRequest(texts, many, loop, seed, chosen[0] if chosen else 0, truncation)
        target = _file_of(out, texts)
        _interpolate(request, target, fps, json, lambda: _load(model, device, precision, batch_size, request.frames))
        return
    if frames is not None or loop or fps is not None:
        raise UsageError("--frames, --loop and --fps belong to an interpolation: add --interpolate.")
    check_out_folder(out)

    from ratlip_cli import outputs, samples

    each = count if chosen is None else len(chosen)
    total = len(texts) * each
    loaded = _load(model, device, precision, batch_size, total * best_of, like_image)
    if processes.are_several():
        from ratlip_cli.distributed import world

        asked = {"seed": seed, "indices or count": indices or count, "best_of": best_of, "truncation": truncation}
        prompts_read = f"of {hashlib.sha256(repr(texts).encode()).hexdigest()[:16]}"  # they may be thousands
        given = {
            "batch_size": batch_size,
            "format": image_format,
            "out": str(out),
            "like": repr(like_image),
            "prompts": prompts_read,
        }
        world().agree({**asked, **given})
    folder = outputs.ImageFolder(out, image_format or FORMATS[0])
    images: list[samples.Sample] = []
    records = []
    kept = f"Images that are finished are kept in {out}."
    with signals.keeping(kept), console.progress("generate", total) as advance:
        at_once = None if processes.are_several() else batch_size
        made = samples.generate(loaded, texts, count, seed, truncation, best_of, at_once, chosen)
        for path, image in _saved(folder, made):
            if not json:
                console.result(path)
            if grid and len(images) < GRID_IMAGES:
                images.append(image)
            records.append({"path": str(path), **image.record()})
            advance()
    if not is_first:
        return
    grid_path = folder.save_grid(images) if grid else None
    if grid and len(records) > GRID_IMAGES:
        console.note(f"the grid shows the first {GRID_IMAGES} of {len(records)} images")
    if json:
        console.result_json(
            {
                "model": loaded.name,
                "fingerprint": loaded.fingerprint,
                "precision": loaded.precision,
                **samples.format_of(loaded.exported_as),
                "images": records,
                "grid": grid_path,
            }
        )
    elif grid_path:
        console.result(grid_path)


def _read_prompts(prompts: list[str], file: Path | None) -> list[str]:
    """The prompts; those of stdin are read by the first of several processes."""
    if not processes.are_several() or "-" not in (*prompts, str(file)):
        return console.read_prompts(prompts, file)
    texts: list[str] = json_module.loads(
        processes.said("prompts", lambda: json_module.dumps(console.read_prompts(prompts, file)))
    )
    return texts


def _saved(folder: ImageFolder, images: Iterator[Sample]) -> Iterator[tuple[Path, Sample]]:
    """Yield each image with its file when that is written; of several processes each writes every so many."""
    if not processes.are_several():
        for image in images:
            yield folder.save(image), image
        return
    from ratlip_cli.distributed import world

    folder.first = int(processes.said("number of the first prompt", lambda: str(folder.first)))
    while together := list(itertools.islice(images, WRITTEN_TOGETHER * processes.size())):
        for image in together[processes.rank() :: processes.size()]:
            folder.write(image)
        world().wait()
        for image in together:
            if world().is_first:
                folder.note(image)
            yield folder.path_of(image), image
    world().leave()


def _file_of(out: Path, prompts: Sequence[str]) -> Path:
    """The file of an interpolation: `out`, or a new GIF in it where it is a folder."""
    from ratlip_cli.animations import check_animation
    from ratlip_cli.outputs import next_number, slug

    if out.is_dir() or not out.suffix:
        check_out_folder(out)
        out = out / f"{next_number(out):04d}_{slug(' to '.join(prompts))}.gif"
    check_animation(out)
    check_new(out)
    return out


def _interpolate(
    request: InterpolationRequest, target: Path, fps: int | None, json: bool, load: Callable[[], ImageModel]
) -> None:
    """Write the frames from prompt to prompt as one file, and show its path or its record."""
    from ratlip_cli import samples
    from ratlip_cli.animations import check_length, save_animation

    if fps is not None and not 1 <= fps <= MOST_FPS:
        raise UsageError(f"--fps is {fps}; it must be 1 to {MOST_FPS}.")
    is_strip = target.suffix.lower() == f".{STRIP}"
    if is_strip and fps is not None:
        raise UsageError(
            "--fps is of moving images: leave it out of a strip, or give an --out that ends in .gif, for example."
        )
    check_length(target, request.frames, fps or FPS)
    loaded = load()
    record = {
        **asdict(request),
        **({} if is_strip else {"fps": fps or FPS}),
        "model": loaded.name,
        "fingerprint": loaded.fingerprint,
        "precision": loaded.precision,
        **samples.format_of(loaded.exported_as),
    }

    def counted(advance: console.Advance) -> Iterator[Image]:
        for frame in samples.interpolate(loaded, request):
            yield frame
            advance()

    with console.progress("interpolate", request.frames, unit="frames") as advance:
        way = [*request.prompts, *(request.prompts[:1] if request.loop else ())]
        save_animation(target, counted(advance), " \N{RIGHTWARDS ARROW} ".join(way), record)
    console.answer(json, {"path": target, **record}, target)


def _like(image: Path | None, weight: float | None, noise: float | None, beside_prompts: bool) -> LikeRequest | None:
    """The image to generate like, if any, alone where there is no prompt."""
    if image is None:
        if weight is not None or noise is not None:
            raise UsageError("--like-weight and --like-noise are of an image: add --like.")
        return None
    if weight is not None and not beside_prompts:
        raise UsageError("--like-weight mixes an image with a prompt: give one.")
    check_file(image, ": the image does not exist")
    default = LIKE_WEIGHT if beside_prompts else 1.0
    return LikeRequest(image, default if weight is None else weight, LIKE_NOISE if noise is None else noise)


def _load(
    model: str | None,
    device: str,
    precision: str,
    batch_size: int | None,
    wanted: int,
    like: LikeRequest | None = None,
) -> ImageModel:
    """Load the model, without torch where it is an exported one; so many images are wanted of it."""
    if model is not None and is_export(model):
        if like is not None:
            raise UsageError(f"{model} is an exported model, which reads no image: --like needs the one it is made of.")
        from ratlip_cli.exported import ExportedModel

        check_export(device, precision)
        exported = ExportedModel(Path(model), -(-wanted // processes.size()), batch_size)
        console.note(f"model {model} ({exported.fingerprint}, {exported.settings.format}) on cpu")
        if not exported.has_similarity:
            console.note(f"{model} has no image encoder, so images get no clip_similarity; export it again for that")
        return _shared(exported, "cpu", batch_size)
    from ratlip_cli.device import keep_freed_memory
    from ratlip_cli.distributed import ANSWER_SECONDS, join, own_device
    from ratlip_cli.sampling import TorchModel, read_square
    from ratlip_cli.weights.load import default_model, load_model

    if like is not None:
        read_square(like.image, 1)  # what is wrong with it is told before a model is loaded

    keep_freed_memory()
    target = own_device(device)
    group, name = join(target, ANSWER_SECONDS), model or default_model()
    loaded = group.in_turn(lambda: load_model(name, target)).in_precision(precision)
    in_all = f", in {group.size} processes" if group.size > 1 else ""
    console.note(f"model {loaded.name} ({loaded.fingerprint}) on {target} in {loaded.precision}{in_all}")
    if like is not None:
        from ratlip_cli.like import LikeModel

        return _shared(LikeModel(loaded, like, batch_size), device, batch_size)
    return _shared(TorchModel(loaded, batch_size), device, batch_size)


def _shared(model: ImageModel, device: str, batch_size: int | None) -> ImageModel:
    """The model; one whose images all processes make where there are several."""
    if not processes.are_several():
        return model
    import torch

    from ratlip_cli.distributed import ANSWER_SECONDS, join, own_device
    from ratlip_cli.sampling import SharedModel

    group = join(own_device(device), ANSWER_SECONDS)
    versions = {"ratlip": __version__, "torch": torch.__version__}
    group.agree({**versions, "model": model.fingerprint, "precision": model.precision})
    return SharedModel(model, group, batch_size)
