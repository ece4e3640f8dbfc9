"""`ratlip info`: the architecture of a model, module by module."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import Json, ModelNoun, check_model_name, choice, complete_model, noun
from ratlip_cli.errors import UsageError
from ratlip_cli.families import FAMILIES, family_of
from ratlip_cli.setting import DEFAULT_CLIP

CLIP = DEFAULT_CLIP.partition(":")[0]
"""That of a new model, where none is named."""


def info(
    model_name: ModelNoun = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Describe this model (folder, run or owner/name) instead of a new one.", autocompletion=complete_model
        ),
    ] = None,
    variant: Annotated[
        str | None, choice(tuple(FAMILIES), "The architecture of a new one, ratlip if left out.", "variant")
    ] = None,
    hidden_size: Annotated[
        int | None, typer.Option(help="Hidden units D of the LSTM; left out, as the variant has it.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the image in pixels, 32 to 512; left out, as the variant has it.")
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(help=f"CLIP NAME of open_clip, or a CLIP folder, {CLIP} if left out; no weights are needed."),
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Parameters for all hidden sizes of the paper's ablation.")
    ] = False,
    words: Annotated[
        bool, typer.Option("--words", help="List the words that the model knows, by default the one that generates.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a model as a table: shapes, parameters trained and frozen, memory, arithmetic for one image.

    [bold]Examples[/]

    ratlip info --variant galip

    ratlip info runs/cub-ratlip-1

    ratlip info --table

    ratlip info ratlip-demo --words
    """
    model = noun("model", model_name, model)
    check_model_name(model)
    sizes = {"hidden_size": hidden_size, "image_size": image_size}
    new = {"variant": variant, **sizes, "clip": clip}
    given = [f"--{name.replace('_', '-')}" for name, value in new.items() if value is not None]
    if given and (model is not None or words):
        of = "a model is named" if model is not None else "--words is of a model"
        raise UsageError(f"{' and '.join(given)}: only of a new model, and {of}.")
    if words and table:
        raise UsageError("--words and --table are two answers: leave out one.")
    if table and (hidden_size, variant) != (None, None):
        raise UsageError(
            "--table has every variant of the paper and every hidden size: leave out --variant and --hidden-size."
        )
    if words:
        _list_words(model, json)
        return
    from ratlip_cli.summary import CLIP_BLK, gflop_per_image, summarise
    from ratlip_cli.weights.clip_files import check_clip, clip_architecture
    from ratlip_cli.weights.load import locate_model
    from ratlip_cli.weights.model_folder import CLIP_FOLDER, clip_spec, fingerprint_of, read_model_config

    family = family_of(variant or "ratlip")
    generator, discriminator = family.configs({name: size for name, size in sizes.items() if size is not None})
    described: dict[str, Any] = {}
    if model is not None:
        name, folder = locate_model(model)
        config = read_model_config(folder)
        generator, discriminator = config.generator, config.discriminator
        clip = clip_spec(folder, config)
        described = {
            "model": name,
            "fingerprint": fingerprint_of(folder),
            "clip": config.clip,
            "clip_fingerprint": config.clip_fingerprint,
            "training": dict(config.training),
        }
    else:
        clip = clip or CLIP
        if ":" in clip:
            check_clip(clip)
    architecture = clip_architecture(clip)
    if table:
        _show_table(architecture, generator, discriminator, json)
        return
    modules = summarise(generator, discriminator, architecture)
    trained = sum(one.trained for one in modules)
    gflop = gflop_per_image(modules)
    if json:
        counted = {
            "generator": asdict(generator),
            "discriminator": asdict(discriminator),
            "geometry": asdict(architecture.geometry),
            "modules": [asdict(one) for one in modules],
            "parameters_trained": trained,
            "gflop_per_image": gflop,
        }
        console.result_json(described | counted)
        return
    for key, value in described.items():
        if key != "training":
            console.result(f"{key}: {value}")
    rows = [
        (
            one.name,
            "x".join(map(str, one.shape)) or "1",
            f"{one.trained:,}",
            f"{one.frozen:,}",
            f"{(one.trained + one.frozen) * 4 / 2**20:.1f}",
            f"{one.flops / 1e9:.2f}",
        )
        for one in modules
    ]
    on = "its own CLIP" if model is not None and config.clip == CLIP_FOLDER else f"CLIP {clip}"
    title = f"{generator.variant}, {generator.image_size} pixels, on {on}"
    console.result_table(title, ("module", "output", "trained", "frozen", "MiB (float32)", "GFLOP/image"), rows)
    console.result(f"trained parameters: {trained:,}; one image of a prompt: {gflop:.1f} GFLOP")
    if CLIP_BLK in {one.name for one in modules}:
        console.result(f"{CLIP_BLK} and the CLIP image encoder share their weights.")


def _list_words(model: str | None, json: bool) -> None:
    from ratlip_cli.weights.load import default_model, load_model

    loaded = load_model(model or default_model())
    if model is None:
        console.note(f"model {loaded.name} ({loaded.fingerprint})")
    known = loaded.text_encoder.known_words()
    if known is None:
        console.note(f"{loaded.name} reads any word: the vocabulary of its CLIP is whole.")
    if json:
        console.result_json({"model": loaded.name, "fingerprint": loaded.fingerprint, "words": known})
    elif known:
        if any(word.endswith("-") for word in known):
            console.note("a word in '-' is a piece that begins words; what ends them is listed too, like a word")
        console.result("\n".join(known))


def _show_table(architecture: Any, generator: Any, discriminator: Any, json: bool) -> None:
    from ratlip_cli.summary import discriminator_parameters, paper_table

    rows = paper_table(generator, discriminator, architecture)
    _, unused = discriminator_parameters(discriminator, architecture.geometry)
    if json:
        table = [asdict(row) for row in rows]
        console.result_json({"table": table, "unit": "parameters", "discriminator_unused_shortcuts": unused})
        return
    console.result_table(
        "Parameters: generator with CLIP-BLK (GPs), and with FE extractor and referee (TPs)",
        ("variant", "hidden size", "generator", "/ 2^20", "with discriminator", "/ 2^20"),
        [
            (
                row.variant,
                row.hidden_size or "-",
                f"{row.generator:,}",
                f"{row.generator / 2**20:.2f}",
                f"{row.with_discriminator:,}",
                f"{row.with_discriminator / 2**20:.2f}",
            )
            for row in rows
        ],
    )
    console.result(
        "The paper's table is of ratlip-released on ViT-B/32. What is counted with the discriminator includes "
        f"{unused:,} parameters of shortcuts that the published code never uses and ratlip does not have."
    )
