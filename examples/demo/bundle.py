"""Put a trained model into the package as `ratlip-demo`, in float16.

    python examples/demo/bundle.py runs/demo-ratlip-1

Its CLIP must be the one that the package holds already.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ratlip_cli.weights.clip_files import BUNDLED
from ratlip_cli.weights.load import find_model
from ratlip_cli.weights.model_folder import (
    CLIP_FOLDER,
    load_model_clip,
    read_model_config,
    save_half,
    write_model_config,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder or run")
    parser.add_argument("--out", type=Path, default=BUNDLED["ratlip-demo"].parent)
    args = parser.parse_args()
    source = find_model(args.model)
    config = replace(read_model_config(source), clip=CLIP_FOLDER)
    load_model_clip(args.out, config, "cpu")  # raises where it is another CLIP
    save_half(source, args.out)
    write_model_config(args.out, config)
    files = [path for path in args.out.rglob("*") if path.is_file()]
    print(f"{args.out}: {sum(path.stat().st_size for path in files) / 1e6:.1f} MB in {len(files)} files")


if __name__ == "__main__":
    main()
