"""`ratlip env`: what a report of a fault should say of the machine."""

from __future__ import annotations

from pathlib import Path

from ratlip_cli.cli import console
from ratlip_cli.cli.options import DataDir, Json, Quiet


def env(
    data_dir: DataDir = "data",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show versions, devices, threads, caches and datasets, to be put into a report of a fault. No token is shown.

    [bold]Examples[/]

    ratlip env

    ratlip env --json > env.json
    """
    console.set_up(quiet)
    from ratlip_cli.environment import describe

    described = describe(Path(data_dir))
    if json:
        console.result_json(described)
        return
    datasets = described["data_dir"]["datasets"]
    rows = [
        ("ratlip", f"{described['ratlip']}, in {described['installed_in']}"),
        ("Python", described["python"]),
        ("platform", described["platform"]),
        *((name, version or "not installed") for name, version in described["packages"].items()),
        *((f"device {one['device']}", one["name"]) for one in described["devices"]),
        ("threads", f"{described['threads']['torch']} of PyTorch, {described['threads']['cores']} cores"),
        ("encodings", ", ".join(f"{name}: {value}" for name, value in described["encodings"].items())),
        *((f"cache: {one['cache']}", _size(one)) for one in described["caches"]),
        ("data folder", f"{described['data_dir']['folder']}: {', '.join(datasets) or 'no prepared dataset'}"),
        *described["variables"].items(),
    ]
    for name, value in rows:
        console.result(f"{name}: {value}")


def _size(cache: dict[str, object]) -> str:
    folders = cache["folders"]
    where = ", ".join(folders) if isinstance(folders, list) else ""
    return f"{int(str(cache['bytes'])) / 2**20:,.1f} MiB{' in ' if where else ''}{where}"
