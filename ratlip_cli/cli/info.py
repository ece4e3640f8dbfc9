"""`ratlip info`: the architecture of a model, part by one."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from ratlip_cli.cli import console


def info(
    model: Annotated[
        str | None, typer.Option(help="Describe this model (folder, run or owner/name) instead of a new one.")
    ] = None,
    variant: Annotated[str, typer.Option(help="ratlip, rat, galip or ratlip-released.")] = "ratlip",
    hidden_size: Annotated[int, typer.Option(help="Hidden units D of the LSTM.")] = 64,
    image_size: Annotated[int, typer.Option(help="Side of the image in pixels, 32 to 512.")] = 256,
    clip: Annotated[
        str, typer.Option(help="CLIP NAME of open_clip, or a CLIP folder; no weights are needed.")
    ] = "ViT-B-32-quickgelu",
    table: Annotated[
        bool, typer.Option("--table", help="Parameters for all hidden sizes of the paper's ablation.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a model as a table: shapes, parameters trained and frozen, memory, arithmetic for one image.

    [bold]Examples[/]

    ratlip info --variant galip

    ratlip info --model runs/cub-ratlip-1

    ratlip info --table
    """
    from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
    from ratlip_cli.summary import summarise
    from ratlip_cli.weights.clip_files import clip_architecture
    from ratlip_cli.weights.load import locate_model
    from ratlip_cli.weights.model_folder import clip_spec, fingerprint_of, read_model_config

    generator = GeneratorConfig(variant=variant, hidden_size=hidden_size, image_size=image_size)
    discriminator = DiscriminatorConfig()
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
    architecture = clip_architecture(clip)
    if table:
        _show_table(architecture, generator, json)
        return
    modules = summarise(generator, discriminator, architecture)
    trained = sum(one.trained for one in modules)
    gflops = sum(one.flops for one in modules if one.generates and one.name != "CLIP text encoder") / 1e9
    if json:
        console.result_json(
            described
            | {
                "generator": asdict(generator),
                "discriminator": asdict(discriminator),
                "geometry": asdict(architecture.geometry),
                "modules": [asdict(one) for one in modules],
                "parameters_trained": trained,
                "gflop_per_image": gflops,
            }
        )
        return
    for key, value in described.items():
        if key != "training":
            console.result(f"{key}: {value}")
    rows = [
        (
            one.name,
            "x".join(map(str, one.shape)),
            f"{one.trained:,}",
            f"{one.frozen:,}",
            f"{(one.trained + one.frozen) * 4 / 2**20:.1f}",
            f"{one.flops / 1e9:.2f}",
        )
        for one in modules
    ]
    title = f"{generator.variant}, {generator.image_size} pixels, on CLIP {clip}"
    console.result_table(title, ("module", "output", "trained", "frozen", "MiB (float32)", "GFLOP/image"), rows)
    console.result(f"trained parameters: {trained:,}; one image of a prompt: {gflops:.1f} GFLOP")
    console.result("CLIP-BLK and the CLIP image encoder share their weights.")


def _show_table(architecture: Any, generator: Any, json: bool) -> None:
    from ratlip_cli.model.config import DiscriminatorConfig
    from ratlip_cli.summary import PAPER_HIDDEN_SIZES, discriminator_parameters, parameter_counts

    used, unused = discriminator_parameters(DiscriminatorConfig(), architecture.geometry)
    rows: list[dict[str, Any]] = []
    for variant, hidden_sizes in (
        ("ratlip-released", PAPER_HIDDEN_SIZES),
        ("ratlip", PAPER_HIDDEN_SIZES),
        ("rat", PAPER_HIDDEN_SIZES),
        ("galip", (0,)),
    ):
        for hidden_size in hidden_sizes:
            config = replace(generator, variant=variant, hidden_size=hidden_size or generator.hidden_size)
            total = sum(parameter_counts(config, architecture))
            rows.append(
                {
                    "variant": variant,
                    "hidden_size": hidden_size or None,
                    "generator": total,
                    "with_discriminator": total + used + unused,
                }
            )
    if json:
        console.result_json({"table": rows, "unit": "parameters", "discriminator_unused_shortcuts": unused})
        return
    console.result_table(
        "Parameters: generator with CLIP-BLK (GPs), and with FE extractor and referee (TPs)",
        ("variant", "hidden size", "generator", "/ 2^20", "with discriminator", "/ 2^20"),
        [
            (
                row["variant"],
                row["hidden_size"] or "-",
                f"{row['generator']:,}",
                f"{row['generator'] / 2**20:.2f}",
                f"{row['with_discriminator']:,}",
                f"{row['with_discriminator'] / 2**20:.2f}",
            )
            for row in rows
        ],
    )
    console.result(
        "The paper's table was counted on ratlip-released; its discriminator count includes "
        f"{unused:,} parameters of shortcuts that the published code never uses and ratlip does not have."
    )
