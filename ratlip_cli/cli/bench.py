"""`ratlip bench`: how fast a model generates and trains on this machine."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from ratlip_cli.cli import console
from ratlip_cli.cli.options import (
    Device,
    Json,
    Model,
    ModelNoun,
    Precision,
    Quiet,
    check_model_name,
    complete_dataset,
    noun,
)
from ratlip_cli.errors import UsageError
from ratlip_cli.setting import Value, check_count
from ratlip_cli.threads import MOST_THREADS


def bench(
    model_name: ModelNoun = None,
    model: Model = None,
    device: Device = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images at a time; left out, as `generate` does, 8 with --train, 16 with --compare."),
    ] = None,
    precision: Precision = "auto",
    train: Annotated[
        bool, typer.Option("--train", help="Also measure training steps of a model of these sizes.")
    ] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Compare PyTorch, ratlip, onnxruntime and OpenVINO on this CPU, idle and with one of its cores busy.",
        ),
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="With --compare: threads of the CPU; one a core if left out.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET",
            help="Measure only how fast the images of this dataset or stream are read.",
            autocompletion=complete_dataset,
        ),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="With --data: side of the images; 256 if left out.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="With --data: processes that read, 0 for this one; 2 if left out.")
    ] = None,
    caption_column: Annotated[str | None, typer.Option(help="With --data: the captions' column of a stream.")] = None,
    split: Annotated[
        str | None, typer.Option(help="With --data: the split of a stream of the Hub; train if left out.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure images a second, latency, memory and, with --train, steps a second. Leave the machine alone meanwhile.

    With --data, how fast training images are read instead.

    [bold]Examples[/]

    ratlip bench

    ratlip bench runs/cub-ratlip-1 --device cuda --batch-size 64 --precision bf16

    ratlip bench --train --batch-size 24 --json

    ratlip bench --compare runs/cub-ratlip-1

    ratlip bench --data 'cc12m/{00000..01242}.tar' --workers 8
    """
    console.set_up(quiet)
    check_count("--batch-size", batch_size, least=2 if train else 1)
    check_count("--threads", threads, most=MOST_THREADS)
    if threads is not None and not compare:
        raise UsageError("--threads goes with --compare.")
    if compare and (train or precision == "bf16" or device not in ("auto", "cpu")):
        raise UsageError("--compare is of float32 sampling on the CPU: leave out --train, --precision and --device.")
    model = noun("model", model_name, model)
    if data is not None and (train or compare or model is not None or precision != "auto" or device != "auto"):
        raise UsageError(
            "--data measures only how images are read: leave out the model, --train, --compare, "
            "--precision and --device."
        )
    reading: dict[str, Value | None] = {
        "image_size": image_size,
        "workers": workers,
        "caption_column": caption_column,
        "split": split,
    }
    given: dict[str, Value] = {name: value for name, value in reading.items() if value is not None}
    if data is not None:
        data_dir = os.environ.get("RATLIP_DATA") or "data"
        _bench_data({**given, "dataset": data, "data_dir": data_dir, "batch_size": batch_size or 32}, json)
        return
    if given:
        named = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{named}: only with --data, which measures how images are read.")
    check_model_name(model)
    if compare:
        _compare(model, batch_size or 16, threads, json)
        return

    from ratlip_cli.device import keep_freed_memory, resolve_device
    from ratlip_cli.environment import machine
    from ratlip_cli.training.benchmark import measure
    from ratlip_cli.training.settings import resolve_settings
    from ratlip_cli.weights.load import default_model, load_model

    keep_freed_memory()
    target = resolve_device(device)
    spec = model or default_model()
    loaded = load_model(spec, target).in_precision(precision)
    console.note(f"model {spec} ({loaded.fingerprint}) on {target} in {loaded.precision}")
    settings = resolve_settings({"init_from": spec, "batch_size": batch_size or 8}) if train else None
    measured = measure(loaded, batch_size, settings)
    if json:
        told = {"model": loaded.name, "fingerprint": loaded.fingerprint, "machine": machine(target)}
        console.result_json({**told, **asdict(measured)})
        return
    sampling, training = measured.sampling, measured.training
    rows = [
        ("one image", f"{1000 * sampling.latency_seconds:.1f} ms"),
        (f"images a second, {sampling.batch_size} at a time", f"{sampling.images_per_second:.2f}"),
        ("arithmetic of an image", f"{sampling.gflop_per_image:.2f} GFLOP"),
        ("share of the matrix-product rate", f"{sampling.share_of_matrix_rate:.0%}"),
    ]
    if training:
        rows += [
            (f"training steps a second, batch {training.batch_size}", f"{training.steps_per_second:.3f}"),
            ("arithmetic of a step", f"{training.gflop_per_step:.0f} GFLOP"),
            ("share of the matrix-product rate", f"{training.share_of_matrix_rate:.0%}"),
            *((f"an epoch of {name}", f"{minutes:.0f} min") for name, minutes in training.epoch_minutes.items()),
        ]
    rates = {measured.precision.partition("-")[0]: measured.matrix_gflops}
    if training:
        rates[training.precision] = training.matrix_gflops
    rows += [
        *(("matrix products", f"{rate:.0f} GFLOP/s, {precision}") for precision, rate in rates.items()),
        ("peak memory", f"{measured.peak_memory_mib:.0f} MiB"),
    ]
    console.result_table(machine(target), ("", "measured"), rows)


def _compare(model: str | None, count: int, threads: int | None, json: bool) -> None:
    from ratlip_cli.cli.waiting import users_environment
    from ratlip_cli.device import keep_freed_memory
    from ratlip_cli.environment import cpu_name
    from ratlip_cli.threads import available_threads
    from ratlip_cli.training.comparison import compare, shared_cores
    from ratlip_cli.weights.load import default_model, load_model

    keep_freed_memory()
    loaded = load_model(model or default_model())
    used = threads or available_threads()
    cores = shared_cores(used)
    console.note(f"model {loaded.name} ({loaded.fingerprint}) on cpu")
    contenders = []
    with console.progress("compare", 5, unit="libraries") as advance:
        for contender in compare(loaded, count, used, users_environment()):
            if contender.missing is not None:
                console.note(f"{contender.name} is not measured: {contender.missing}")
            contenders.append(contender)
            advance()
    if json:
        told = {"model": loaded.name, "fingerprint": loaded.fingerprint, "cpu": cpu_name(), "cores": cores}
        measured = {"threads": used, "images": count, "contenders": [asdict(one) for one in contenders]}
        console.result_json({**told, **measured})
        return
    rows = []
    for one in contenders:
        times = (one.one_idle, one.several_idle, one.one_busy, one.several_busy)
        shown = ["not there" if time is None else f"{1000 * time:.1f} ms" for time in times]
        rows.append((one.name, *shown, "-" if one.difference is None else f"{one.difference:.1e}"))
    images = ("1 image", f"{count} images")
    columns = ("", *(f"{what}, {state}" for state in ("idle", "a core busy") for what in images), "differs by")
    where = f" on cores {', '.join(map(str, cores))}" if cores else ""
    console.result_table(f"{cpu_name()}, {used} thread{'s' if used > 1 else ''}{where}", columns, rows)


def _bench_data(typed: dict[str, Value], json: bool) -> None:
    from ratlip_cli.training.settings import TrainSettings, check_beginning

    settings = TrainSettings.of(**typed)
    check_beginning(settings)
    from ratlip_cli.training.benchmark import measure_loading

    measured = measure_loading(settings)
    if json:
        console.result_json(asdict(measured))
        return
    rate = measured.loader_images_per_second
    rows = [
        ("images a second", f"{rate:.1f}"),
        ("images a second of each worker", f"{rate / max(measured.workers, 1):.1f}"),
        ("workers", f"{measured.workers}"),
    ]
    console.result_table(f"reading {measured.dataset} at {settings.image_size} pixels", ("", "measured"), rows)
