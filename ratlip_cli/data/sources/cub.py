"""Caltech-UCSD Birds-200-2011: 11,788 birds of 200 species, cut out by their boxes, with the captions of Reed et al."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from ratlip_cli.data.archives import members
from ratlip_cli.data.download import RemoteFile, google_drive
from ratlip_cli.data.layout import Problem, Record
from ratlip_cli.data.sources import reed
from ratlip_cli.data.sources.official import Official, Piece, Places, missing, texts

IMAGES = RemoteFile(
    name="CUB_200_2011.tgz",
    addresses=(
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        *google_drive("1hbzc_P1FuxMkcabkgn9ZKinBwW683j45"),
    ),
    page="https://data.caltech.edu/records/65de6-vp158",
    md5="97eceeb196236b17998738112f37df78",
)
CAPTIONS = RemoteFile(
    name="cvpr2016_cub.tar.gz",
    addresses=google_drive("0B0ywwgffWnLLZW9uVHNjb2JmNlE", "0-8y2UVmBHAlG26HafWYNoFQ"),
    page=reed.PAGE,
)

_IMAGE = re.compile(r"(?:^|/)images/(\d{3}\.[^/]+/[^/]+\.jpg)$")
_PATHS, _BOXES = "images.txt", "bounding_boxes.txt"


def crop(x: float, y: float, width: float, height: float) -> tuple[int, int, int, int]:
    """Return the square (left, upper, right, lower) round a bird's box, in pixels; it may reach over the image.

    Its half side is three quarters of the box's longer side, rounded down, as in StackGAN and its successors.
    """
    radius = int(0.75 * max(width, height))
    column, row = int((2 * x + width) / 2), int((2 * y + height) / 2)
    return column - radius, row - radius, column + radius, row + radius


def records(places: Places) -> Iterator[Record | Problem]:
    """Yield the birds in the order of their archive, see :class:`Official`."""
    archive = places[IMAGES.name]
    boxes, problems = _boxes(places)
    yield from problems
    captions = reed.read_reed(places[CAPTIONS.name])
    yield from captions.problems
    present = set()
    for member in members(archive, _IMAGE):
        if isinstance(member, Problem):
            yield member
            continue
        path = member.name.split("images/")[-1]
        present.add(path)
        species = path.split("/")[0]
        if path in boxes:
            yield captions.record(member, path, species, species.split(".", 1)[1].replace("_", " "), boxes[path])
        else:
            yield Problem(path, f"it has no box in {_BOXES}")
    yield from missing(boxes, present)


def _boxes(places: Places) -> tuple[dict[str, tuple[int, int, int, int]], list[Problem]]:
    """Return the crop of each image by its path, and the lines that cannot be used."""
    path_lines, box_lines = texts(places[IMAGES.name], _PATHS, _BOXES)
    boxes, problems = {}, []
    paths = dict(line.split() for line in path_lines if len(line.split()) == 2)
    for number, line in enumerate(box_lines, start=1):
        image_id, *values = line.split() or [""]
        try:
            x, y, width, height = map(float, values)
            if image_id not in paths or not math.isfinite(x + y + width + height):
                raise ValueError
            boxes[paths[image_id]] = crop(x, y, width, height)
        except (ValueError, OverflowError):
            problems.append(Problem(f"{_BOXES}, line {number}", "not the number of an image and its box"))
    return boxes, problems


DATASET = Official(
    name="cub",
    source="Caltech-UCSD Birds-200-2011, https://data.caltech.edu/records/65de6-vp158; captions of Reed et al., "
    f"{reed.PAGE}",
    licence="non-commercial research and educational use",
    split_rule="by class, after trainvalclasses.txt and testclasses.txt of Reed et al.: 150 species train, 50 test",
    pieces=(
        Piece(IMAGES, re.compile(rf"{_IMAGE.pattern}|(?:^|/)(?:images|bounding_boxes)\.txt$")),
        Piece(CAPTIONS, reed.INSIDE),
    ),
    counts={"train": 8_855, "test": 2_933},
    records=records,
)
