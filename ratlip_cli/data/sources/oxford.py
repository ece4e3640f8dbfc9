"""Oxford 102 Flowers: 8,189 images of 102 kinds, with the captions of Reed et al."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from ratlip_cli.data.archives import members
from ratlip_cli.data.download import RemoteFile, google_drive
from ratlip_cli.data.layout import Problem, Record
from ratlip_cli.data.sources import reed
from ratlip_cli.data.sources.official import Official, Piece, Places, missing
from ratlip_cli.errors import DataError, one_line

PAGE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"


def _of_page(name: str, md5: str) -> RemoteFile:
    return RemoteFile(name, (f"{PAGE}{name}", f"https://thor.robots.ox.ac.uk/flowers/102/{name}"), PAGE, md5)


IMAGES = _of_page("102flowers.tgz", "52808999861908f626f3c1f4e79d11fa")
LABELS = _of_page("imagelabels.mat", "e0620be6f572b9609742df49c70aed4d")
CAPTIONS = RemoteFile(
    name="cvpr2016_flowers.tar.gz",
    addresses=google_drive("0B0ywwgffWnLLcms2WWJQRFNSWXM", "0-Av8zFbeDDvNcF1sSjDR32w"),
    page=reed.PAGE,
)

LARGEST_LABELS = 2**16
"""Bytes of imagelabels.mat, which has a few hundred: what it may unpack to stays harmless."""

_IMAGE = re.compile(r"(?:^|/)jpg/(image_(\d{5})\.jpg)$")
_LABELS = re.compile(r"(?:^|/)imagelabels\.mat$")


def class_names() -> list[str]:
    """Return the 102 names of the classes, in the order of their labels, as the dataset's page lists them."""
    return files(__package__).joinpath("oxford_classes.txt").read_text(encoding="utf-8").splitlines()


def records(places: Places) -> Iterator[Record | Problem]:
    """Yield the flowers in the order of their archive, see :class:`Official`."""
    labels = read_labels(places[LABELS.name])
    captions = reed.read_reed(places[CAPTIONS.name])
    yield from captions.problems
    names = class_names()
    present = set()
    for member in members(places[IMAGES.name], _IMAGE):
        if isinstance(member, Problem):
            yield member
            continue
        match = _IMAGE.search(member.name)
        path, number = match.groups() if match else ("", "0")
        present.add(path)
        if not 1 <= int(number) <= len(labels):
            yield Problem(path, "it has no label in imagelabels.mat")
            continue
        label = labels[int(number) - 1]
        yield captions.record(member, path, f"class_{label:05d}", names[label - 1])
    yield from missing((f"image_{number:05d}.jpg" for number in range(1, len(labels) + 1)), present)


def read_labels(place: Path) -> list[int]:
    """Return the class, 1 to 102, of each image in the order of their numbers; raises DataError where it cannot."""
    from scipy.io import loadmat  # takes long to import, and all commands that read a dataset import this module

    for member in members(place, _LABELS):
        if isinstance(member, Problem):
            raise DataError(f"{place}: {member.name}: {member.reason}")
        content = member.read()
        try:
            if len(content) > LARGEST_LABELS:
                raise ValueError(f"{len(content)} bytes")
            labels = [int(label) for label in loadmat(io.BytesIO(content), variable_names=["labels"])["labels"].flat]
            if not all(1 <= label <= len(class_names()) for label in labels):
                raise ValueError("labels beyond 102")
        except Exception as error:  # scipy meets damaged files with exceptions of every kind.
            raise DataError(
                f"{place}: imagelabels.mat is damaged ({one_line(error)}). Get it again from {PAGE}"
            ) from error
        return labels
    raise DataError(f"{place} holds no imagelabels.mat. Get it from {PAGE}")


DATASET = Official(
    name="oxford",
    source=f"Oxford 102 Flowers, {PAGE}; captions of Reed et al., {reed.PAGE}",
    licence="research",
    split_rule="by class, after trainvalclasses.txt and testclasses.txt of Reed et al.: 82 kinds train, 20 test",
    pieces=(Piece(IMAGES, _IMAGE), Piece(LABELS, _LABELS), Piece(CAPTIONS, reed.INSIDE)),
    counts={"train": 7_034, "test": 1_155},
    records=records,
)
