"""Put a trained model and its CLIP into the package as `ratlip-demo`, in float16, and record what made them.

    python examples/demo/bundle.py runs/demo-ratlip --clip runs/demo-clip --second-clip runs/demo-clip-2

Both CLIPs are runs of `train_clip.py`; the second one goes into `examples/demo/second-clip`. All three runs must be
done. What was there is replaced when all of the new folder is written; interrupted, the command is given again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import script
from history import HISTORY_FILE, clip_record, here, write_history

from ratlip_cli.errors import UsageError
from ratlip_cli.files import whole_folder
from ratlip_cli.tensor_files import load_tensors_and_metadata
from ratlip_cli.training.run_folder import ENVIRONMENT_FILE
from ratlip_cli.training.runs import runs_in
from ratlip_cli.weights.clip_files import BUNDLED, load_clip
from ratlip_cli.weights.load import find_model
from ratlip_cli.weights.model_folder import (
    CLIP_FOLDER,
    GENERATOR_FILE,
    ModelConfig,
    file_of,
    fingerprint_of,
    read_model_config,
    save_half,
    write_model_config,
)


def record_of_clip(run: Path) -> dict[str, Any]:
    """What made the CLIP of a run of `train_clip.py`, with its fingerprint."""
    return clip_record(run) | {"fingerprint": load_clip(str(run / CLIP_FOLDER)).fingerprint}


def generator_record(run: Path, source: Path, config: ModelConfig) -> dict[str, Any]:
    """What made the model `source` of a run of `ratlip train`; the seconds are those of its steps."""
    _, metadata = load_tensors_and_metadata(file_of(source, GENERATOR_FILE))
    settings = config.training["settings"]
    trained = json.loads((run / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
    records = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    steps = [record for record in records if record["step"] <= int(metadata["step"])]
    return {
        **{name: trained[name] for name in ("commit", "machine")},
        "torch": trained["packages"]["torch"],
        "bundled": here(run)["began"],
        "seconds": round(sum(settings["batch_size"] / record["images_per_second"] for record in steps)),
        "steps": int(metadata["step"]),
        "dataset_fingerprint": config.training["dataset_fingerprint"],
        "settings": settings,
    }


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a folder to fill, which then takes the place of `target`; what an interrupted one left is tidied first."""
    new, old = (target.with_name(f"{target.name}.{which}") for which in ("new", "old"))
    if old.exists() and not target.exists():
        old.rename(target)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    with whole_folder(new) as partial:
        yield partial
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run of `ratlip train`")
    parser.add_argument("--clip", type=Path, required=True, help="run of its CLIP")
    parser.add_argument("--second-clip", type=Path, help="run of a CLIP that no training saw")
    parser.add_argument("--out", type=Path, default=BUNDLED["ratlip-demo"].parent)
    parser.add_argument("--examples", type=Path, default=Path(__file__).parent, help="where the records go")
    args = parser.parse_args()
    source = find_model(str(args.run))
    if [run.state for run in runs_in(args.run)] != ["finished"]:
        raise UsageError(f"{args.run} is no finished run: `ratlip runs {args.run}` says how far it is.")
    config = replace(read_model_config(source), clip=CLIP_FOLDER)
    history = {"clip": record_of_clip(args.clip), "generator": generator_record(args.run, source, config)}
    if history["clip"]["fingerprint"] != config.clip_fingerprint:
        raise UsageError(f"{args.run} was trained with another CLIP than {args.clip} holds: name the run of its CLIP.")
    second = args.examples / "second-clip"
    if args.second_clip:
        history["second-clip"] = record_of_clip(args.second_clip)
    other = args.second_clip / CLIP_FOLDER if args.second_clip else second
    if other.is_dir() and load_clip(str(other)).fingerprint == config.clip_fingerprint:
        raise UsageError(f"{other} is the CLIP of {args.run}: give a --second-clip that its training has not seen.")
    with replacing(args.out) as partial:
        shutil.copytree(args.clip / CLIP_FOLDER, partial / CLIP_FOLDER)
        save_half(source, partial)
        write_model_config(partial, config)
    history["generator"]["fingerprint"] = fingerprint_of(args.out)
    if args.second_clip:
        with replacing(second) as partial:
            shutil.copytree(args.second_clip / CLIP_FOLDER, partial, dirs_exist_ok=True)
    write_history(args.examples / HISTORY_FILE, history)
    files = [path for path in args.out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    print(f"{args.out}: step {history['generator']['steps']:,}, {size:.1f} MB in {len(files)} files")


if __name__ == "__main__":
    script.run(main)
