"""How long commands take from their start to their end, as multiples of `python -c "import torch"` in the same run.

    python tests/benchmarks/start.py                       # all rows: about a minute and a half on two idle cores
    python tests/benchmarks/start.py generate gradcam      # these
    python tests/benchmarks/start.py full-size             # left out of all: it writes 800 MB

Each is a whole command with as little to do as it takes: one image, two scored ones, two of an interpolation; of an
exported model eight. They take turns, once to warm the disk and then `--rounds` times; the best time of each counts.
`share` is of the clock and has the limit; `cpu_share` is of the processor, for a machine that is not free: with
OMP_NUM_THREADS=1, as threads that wait use it too. Prints one JSON object; exits with 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ratlip_cli.environment import cpu_name

ROUNDS = 4
PROMPT = "a red bird"
LIMITS = {
    "help": 0.25,
    "generate": 1.4,
    "own-clip": 1.4,
    "evaluate": 1.4,
    "gradcam": 1.4,
    "latent-viz": 1.4,
    "exported": 0.7,  # one second where `import torch` takes 1.4
    "full-size": None,
}
"""Of each row, None where none is set. own-clip: `generate` with a CLIP in the model folder that is not the bundled
one; full-size: the same at the size of the paper, ViT-B/32 and 256 pixels, weights random."""
BY_DEFAULT = tuple(row for row, limit in LIMITS.items() if limit is not None)
EXPORTS_BY = ("onnx", "onnxscript", "onnxruntime")
"""Packages without which there is no exported model to start."""


def ran(*arguments: str) -> tuple[float, float]:
    """Seconds of a program of this Python: of the clock, and of the processor."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ratlip(*arguments: object) -> tuple[str, ...]:
    return ("-m", "ratlip_cli", *map(str, arguments))


def write_model(size: str, folder: Path) -> None:
    """Write a model with a CLIP of its own, by its size a row of LIMITS."""
    import torch

    from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
    from ratlip_cli.model.generator import Generator
    from ratlip_cli.weights.clip_files import load_clip, save_clip
    from ratlip_cli.weights.load import load_model
    from ratlip_cli.weights.model_folder import create_model_folder, model_config, save_weights

    torch.manual_seed(0)
    if size == "own-clip":  # the bundled one, but with all of the tokenizer's words, which have random vectors
        model = load_model("ratlip-demo")
        assert model.clip.config is not None
        content, weights = dict(model.clip.config), dict(model.clip.model.state_dict())
        del content["vocabulary"]
        text = {**content["model_cfg"]["text_cfg"], "vocab_size": 49_408}
        content["model_cfg"] = {**content["model_cfg"], "text_cfg": text}
        weights["token_embedding.weight"] = 0.02 * torch.randn(49_408, text["width"])
        generator, sizes = model.generator, model.config.generator
    else:
        named = load_clip("ViT-B-32-quickgelu:random")
        import open_clip

        pixels = {"mean": named.mean.flatten().tolist(), "std": named.std.flatten().tolist()}
        content = {"model_cfg": open_clip.get_model_config("ViT-B-32-quickgelu"), "preprocess_cfg": pixels}
        weights, sizes = dict(named.model.state_dict()), GeneratorConfig()
        generator = Generator(sizes, named.geometry)
    save_clip(folder.with_name(f"{folder.name}-clip"), content, weights)
    clip = load_clip(str(folder.with_name(f"{folder.name}-clip")))
    create_model_folder(folder, model_config(sizes, DiscriminatorConfig(), clip), clip)
    save_weights(folder, generator.state_dict())


def command(row: str, folder: Path) -> tuple[str, ...]:
    """The program of a row, with what it needs made in `folder`."""
    out = ("--out", folder / f"{row}-out")
    if row == "help":
        return ratlip("--help")
    if row == "generate":
        return ratlip("generate", PROMPT, "--model", "ratlip-demo", *out)
    if row in ("own-clip", "full-size"):
        ran(__file__, "--write", row, str(folder / row))
        return ratlip("generate", PROMPT, "--model", folder / row, *out)
    if row == "evaluate":
        ran(*ratlip("prepare", "demo-birds", "--count", 40, "--data-dir", folder))
        scored = ("--dataset", folder / "demo-birds", "--limit", 2, "--precision", "fp32")
        return ratlip("evaluate", "ratlip-demo", "--clip-score", *scored)
    if row == "gradcam":
        return ratlip("gradcam", PROMPT, "--model", "ratlip-demo", *out)
    if row == "latent-viz":
        between = ("--from", PROMPT, "--to", "a blue bird", "--steps", 2)
        return ratlip("latent-viz", "ratlip-demo", *between, *out)
    ran(*ratlip("export", "ratlip-demo", "--out", folder / "onnx"))
    return ratlip("generate", PROMPT, "-n", 8, "--model", folder / "onnx", *out)


def measure(rows: list[str], rounds: int) -> dict[str, object]:
    """What is printed."""
    left_out = {}
    missing = [package for package in EXPORTS_BY if importlib.util.find_spec(package) is None]
    if missing and "exported" in rows:
        rows = [row for row in rows if row != "exported"]
        left_out["exported"] = f"not installed: {', '.join(missing)}"
    with tempfile.TemporaryDirectory() as name:
        commands = {"import torch": ("-c", "import torch")}
        commands |= {row: command(row, Path(name)) for row in rows}
        for one in commands.values():
            ran(*one)
        seconds = [{row: ran(*one) for row, one in commands.items()} for _ in range(rounds)]
    best, cpu = ({row: min(one[row][which] for one in seconds) for row in commands} for which in (0, 1))
    measured = {
        row: {
            "seconds": round(best[row], 3),
            "share": round(best[row] / best["import torch"], 3),
            "limit": LIMITS[row],
            "cpu_share": round(cpu[row] / cpu["import torch"], 3),
        }
        for row in rows
    }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told: dict[str, object] = {"cpu": cpu_name(), "cores": cores, "rounds": rounds, "rows": measured}
    told["import_torch"] = round(best["import torch"], 3)
    return told | ({"left_out": left_out} if left_out else {})


def too_slow(told: dict[str, object]) -> list[str]:
    """Rows that passed their limit."""
    rows = told["rows"]
    assert isinstance(rows, dict)
    return [row for row, one in rows.items() if one["limit"] is not None and one["share"] > one["limit"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(LIMITS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--write", nargs=2, metavar=("ROW", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_model(options.write[0], Path(options.write[1]))
        return 0
    if unknown := set(options.rows) - set(LIMITS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    told = measure(options.rows or list(BY_DEFAULT), options.rounds)
    print(json.dumps(told))
    return int(bool(too_slow(told)))


if __name__ == "__main__":
    sys.exit(main())
