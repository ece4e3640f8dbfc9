"""One grid of several models: the same prompts under the same noise, a row for each model and prompt, in 256 colours.

python examples/baselines/grid.py table1.png RATLIP=runs/table1.demo/RATLIP-seed0 GALIP=runs/table1.demo/GALIP-seed0
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ratlip_cli as ratlip
from ratlip_cli.errors import RatlipError
from ratlip_cli.files import whole_file
from ratlip_cli.grids import captioned_grid

PROMPTS = ("a red bird with black wings", "a blue bird with a yellow belly")
IMAGES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--prompt", action="append", help=f"left out: {', '.join(PROMPTS)}")
    parser.add_argument("--scale", type=int, help="pixels that each pixel becomes")
    options = parser.parse_args()
    rows, sizes = [], set()
    for name, equals, folder in (one.partition("=") for one in options.models):
        if not equals:
            parser.error(f"{name} is no NAME=MODEL")
        try:
            model = ratlip.load_model(folder)
        except RatlipError as error:
            parser.error(str(error))
        sizes.add(model.config.generator.image_size)
        if len(sizes) > 1:
            parser.error(f"{folder} generates images of another size than the models before")
        for prompt in options.prompt or PROMPTS:
            rows.append((f"{name}: {prompt}", [one.image for one in model.generate(prompt, IMAGES)]))
    with whole_file(options.out) as partial:
        captioned_grid(rows, options.scale).quantize(256).save(partial, "PNG")


if __name__ == "__main__":
    main()
