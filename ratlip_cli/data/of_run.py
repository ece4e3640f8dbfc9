"""Which prepared dataset a run was trained on, and where it is now. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratlip_cli.errors import DataError
from ratlip_cli.files import write_text

DATA_FILE = "data.json"  # In a run folder: where the prepared dataset was, and what it was.


def note_dataset(run: Path, dataset: Path, fingerprint: str) -> None:
    """Note in a run folder where its prepared dataset is, from the root and from the run, and what it is.

    Raises RatlipError where the run folder cannot be written.
    """
    place = dataset.resolve()
    places = [str(place)]
    if place.drive == run.resolve().drive:
        places.append(Path(os.path.relpath(place, run.resolve())).as_posix())
    write_text(run / DATA_FILE, json.dumps({"places": places, "fingerprint": fingerprint}, indent=2) + "\n")


def noted_places(run: Path) -> tuple[list[Path], str]:
    """Where the dataset of a run may be by what `note_dataset` noted, and its fingerprint; nothing of an older run."""
    try:
        noted = json.loads((run / DATA_FILE).read_text(encoding="utf-8"))
        places = [Path(os.path.normpath(run.resolve() / str(place))) for place in noted["places"]]
        return list(dict.fromkeys(places)), str(noted["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return [], ""


def dataset_of_run(run: Path) -> Path | None:
    """The prepared dataset that a run was trained on, wherever run and dataset went together; None if it is not there.

    It is the one whose captions, names and sizes of images are the same.
    """
    from ratlip_cli.data.layout import split_fingerprint  # imports Pillow

    places, fingerprint = noted_places(run)
    for place in places:
        try:
            if split_fingerprint(place, "train") == fingerprint:
                return place
        except DataError:
            continue
    return None


def unlike_trained_on(dataset: Path, training: Mapping[str, Any]) -> str | None:
    """A line where a dataset that was found by its name is not what a model was trained on; None where it is.

    None too where nobody knows, since the model does not say it or the dataset has no training split, and for rendered
    images, of which every version has others under one name, and those of a test split are never in the training split.

    Args:
        training: what the model's config.json says of its training.
    """
    from ratlip_cli.data.layout import read_dataset, split_fingerprint  # imports Pillow
    from ratlip_cli.data.sources.demo import SOURCE as RENDERED

    expected = training.get("dataset_fingerprint")
    with contextlib.suppress(DataError):
        if not expected or read_dataset(dataset).source == RENDERED:
            return None
        if split_fingerprint(dataset, "train") != expected:
            return (
                f"{dataset} has the name of the dataset that the model was trained on, and other images or captions: "
                "some of them it may have learned from; say by --dataset which one is meant"
            )
    return None


def dataset_of_model(model: Path) -> Path | None:
    """`dataset_of_run` of the run that a model folder lies in: as its model, its best one or one of its checkpoints.

    The path begins at the working directory where the dataset is below it, as users name it.
    """
    run = next((folder for folder in model.resolve().parents[:2] if (folder / DATA_FILE).is_file()), None)
    dataset = None if run is None else dataset_of_run(run)
    if dataset is None or not dataset.is_relative_to(Path.cwd()):
        return dataset
    return dataset.relative_to(Path.cwd())
