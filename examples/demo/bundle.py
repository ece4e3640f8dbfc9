"""Put a trained model and its CLIP into the package as `ratlip-demo`, in float16, and record what made them.

    python examples/demo/bundle.py runs/demo-ratlip --clip runs/demo-clip --second-clip runs/demo-clip-2

Both CLIPs are runs of `train_clip.py`; the second one goes into `examples/demo/second-clip`. What was there is replaced
when all of the new model is written.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

from history import HISTORY_FILE, here, write_history

from ratlip_cli.files import whole_folder
from ratlip_cli.tensor_files import load_tensors_and_metadata
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


def clip_record(run: Path) -> dict[str, object]:
    """What made the CLIP of a run of `train_clip.py`, with its fingerprint."""
    record = json.loads((run / HISTORY_FILE).read_text(encoding="utf-8"))["clip"]
    return record | {"fingerprint": load_clip(str(run / CLIP_FOLDER)).fingerprint}


def generator_record(run: Path, source: Path, config: ModelConfig) -> dict[str, object]:
    """What made the model `source` of a run of `ratlip train`; the seconds are those of its steps."""
    _, metadata = load_tensors_and_metadata(file_of(source, GENERATOR_FILE))
    settings = config.training["settings"]
    records = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    steps = [record for record in records if record["step"] <= int(metadata["step"])]
    where = here(run)
    return {
        **{name: where[name] for name in ("commit", "machine", "torch")},
        "bundled": where["began"],
        "seconds": round(sum(settings["batch_size"] / record["images_per_second"] for record in steps)),
        "steps": int(metadata["step"]),
        "dataset_fingerprint": config.training["dataset_fingerprint"],
        "settings": settings,
    }


def put(folder: Path, target: Path) -> None:
    """Put a finished folder in the place of `target`."""
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run of `ratlip train`")
    parser.add_argument("--clip", type=Path, required=True, help="run of its CLIP")
    parser.add_argument("--second-clip", type=Path, help="run of a CLIP that no training saw")
    parser.add_argument("--out", type=Path, default=BUNDLED["ratlip-demo"].parent)
    parser.add_argument("--examples", type=Path, default=Path(__file__).parent, help="where the records go")
    args = parser.parse_args()
    source = find_model(str(args.run))
    config = replace(read_model_config(source), clip=CLIP_FOLDER)
    history = {"clip": clip_record(args.clip), "generator": generator_record(args.run, source, config)}
    if history["clip"]["fingerprint"] != config.clip_fingerprint:
        parser.error(f"{args.run} was trained with another CLIP than {args.clip} holds: name the run of its CLIP.")
    if args.second_clip:
        history["second-clip"] = clip_record(args.second_clip)
    made = args.out.with_name("model.new")
    with whole_folder(made) as partial:
        shutil.copytree(args.clip / CLIP_FOLDER, partial / CLIP_FOLDER)
        save_half(source, partial)
        write_model_config(partial, config)
    history["generator"]["fingerprint"] = fingerprint_of(made)
    put(made, args.out)
    if args.second_clip:
        with whole_folder(args.examples / "second-clip.new") as partial:
            shutil.copytree(args.second_clip / CLIP_FOLDER, partial, dirs_exist_ok=True)
        put(args.examples / "second-clip.new", args.examples / "second-clip")
    write_history(args.examples / HISTORY_FILE, history)
    files = [path for path in args.out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    print(f"{args.out}: step {history['generator']['steps']:,}, {size:.1f} MB in {len(files)} files")


if __name__ == "__main__":
    main()
