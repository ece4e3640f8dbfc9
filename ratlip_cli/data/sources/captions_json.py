"""Captions in one JSON file: COCO's captions_*.json, Karpathy's dataset_*.json, a list of rows, names with captions.

{"images": [{"id": 1, "file_name": "x.jpg"}], "annotations": [{"image_id": 1, "caption": "..."}]}
{"images": [{"filename": "x.jpg", "sentences": [{"raw": "..."}]}]}
[{"image": "x.jpg", "caption": "..."}]
{"x.jpg": ["...", "..."]}
"""

from __future__ import annotations

import codecs
import mmap
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ratlip_cli.data.archives import Member
from ratlip_cli.data.layout import Problem
from ratlip_cli.data.sources import tables
from ratlip_cli.data.sources.tables import Row
from ratlip_cli.data.sources.texts import decoded, encoding_of
from ratlip_cli.errors import DataError

SUFFIXES = (".json",)

_HEAD = 4096

_BEGINNING = re.compile(rb'\s*(?:\{\s*"(?:images|annotations|info|licenses|type|dataset)"|\[\s*\{)')
_WORDS = re.compile(rb'"(?:captions?|sentences|text)"')
_NAMES = re.compile(rb'\s*\{\s*"[^"]+\.(?:jpe?g|png|webp|gif|bmp)"\s*:\s*[\["]', re.IGNORECASE)


def is_captions(file: Member) -> bool:
    """Whether the JSON `file` is, by its beginning and its words, one of captions; COCO's boxes are not."""
    if isinstance(file.content, bytes):
        return _is_captions(file.content)
    try:
        with file.content.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return _is_captions(mapped)
    except (OSError, ValueError):  # It cannot be read, or is empty.
        return False


def _is_captions(content: bytes | mmap.mmap) -> bool:
    encoding = encoding_of(content[:_HEAD])
    if encoding == "utf-8-sig":
        start = len(codecs.BOM_UTF8) if content[:3] == codecs.BOM_UTF8 else 0
        of_names = _NAMES.match(content, start) is not None
        return of_names or (_BEGINNING.match(content, start) is not None and _WORDS.search(content) is not None)
    return _is_captions(content[:].decode(encoding, "replace").encode())


def rows(file: Member, caption_column: str | None = None) -> Iterator[Row | Problem]:
    """Yield the images of `file` with their captions, and a Problem for what cannot be used.

    Raises DataError where it cannot be read.
    """
    name = file.name.rsplit("/", 1)[-1]
    try:
        content = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
        value = tables.json_value(decoded(content, name))
    except OSError as error:
        raise DataError(f"cannot read {file.name}: {error.strerror}") from error
    except ValueError as error:
        yield Problem(name, str(error))
        return
    if isinstance(value, list):
        listed = value
    elif not isinstance(value, dict):
        listed = []
    elif isinstance(value.get("annotations"), list) and isinstance(value.get("images"), list):
        yield from _coco(value["images"], value["annotations"], name)
        return
    elif isinstance(value.get("images"), list):
        listed = [_with_sentences(image) for image in value["images"]]
    else:
        listed = [{"file_name": key, "captions": captions} for key, captions in value.items()]
    if not listed:
        yield Problem(name, "it holds no images and captions as COCO, Karpathy or a list of rows has them")
    for item in listed:
        if isinstance(item, dict):
            yield tables.row_of(item, name, caption_column)
        else:
            yield Problem(name, "an item of it is not a JSON object")


def _coco(images: list[Any], annotations: list[Any], name: str) -> Iterator[Row | Problem]:
    captions: dict[object, list[str]] = {}
    for item in annotations:
        if not isinstance(item, dict) or not isinstance(item.get("image_id"), (int, str)):
            yield Problem(name, "an annotation of it names no image_id")
        elif not isinstance(item.get("caption"), str):
            yield Problem(name, "an annotation of it has no caption")
        else:
            captions.setdefault(item["image_id"], []).append(item["caption"])
    for image in images:
        if not isinstance(image, dict) or not isinstance(image.get("id"), (int, str)):
            yield Problem(name, "an image of it has no id")
            continue
        found = captions.pop(image["id"], None)
        row = tables.row_of({"file_name": image.get("file_name"), "captions": found}, name, None)
        if isinstance(row, Row) and row.why:
            row = row._replace(why=f"{row.why}: no annotation of {name} is of it")
        yield row
    for number in captions:
        yield Problem(name, f"the captions of image_id {number} belong to no image of it")


def _with_sentences(image: Any) -> Any:
    """An image of Karpathy's files as a row; anything else as it is."""
    if not isinstance(image, dict) or not isinstance(image.get("sentences"), list):
        return image
    texts = [item.get("raw") if isinstance(item, Mapping) else item for item in image["sentences"]]
    folder, file_name = image.get("filepath"), image.get("filename")
    if isinstance(folder, str) and isinstance(file_name, str):
        file_name = f"{folder}/{file_name}"
    return {"file_name": file_name, "captions": texts}
