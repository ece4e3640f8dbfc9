"""The files that measures of single images leave in run folders, and what says what they are of. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ratlip_cli.experiments.ledger import Entry
from ratlip_cli.file_kinds import tensor_metadata

GRADCAM_FILE, ANGLES_FILE, SWAP_FILE = "gradcam.safetensors", "angles.safetensors", "swap.safetensors"
"""Values (n,) by name; see measures.py."""

GRADCAM_IMAGES, PAIRS = 200, 500
"""Images of the test split; pairs of real and generated images."""

SWAPS, SWAP_NOISE = 64, 4
"""Pairs of captions that differ in the age; noise vectors under each of them, which no other pair has."""

HOW = {
    GRADCAM_FILE: f"version 2 of {GRADCAM_IMAGES} images",  # 1 was at the last block that is read, not the first
    ANGLES_FILE: f"version 1 of {PAIRS} pairs",
    SWAP_FILE: f"version 1 of {SWAPS} pairs, {SWAP_NOISE} noise vectors each",
}
"""How each measure is taken. A change of its code is another version, and what was taken before is taken again."""

_BEFORE = {ANGLES_FILE: "version 1 of 500 pairs"}
"""How files were made that say nothing but the model: those of the first published table."""


def metadata_of(file: str, entry: Entry, classifier: str) -> dict[str, str]:
    """What a measure of a run says of itself: all that decides its values.

    Args:
        classifier: the fingerprint of the attribute classifier that judges, empty where none does.
    """
    return {
        "model": entry.model_fingerprint,
        "data": str(entry.data.get("fingerprint", "")),
        "scored": str(entry.protocol.get("data_fingerprint", "")),
        "classifier": classifier,
        "how": HOW[file],
    }


def is_current(path: Path, entry: Entry, classifier: str | None = None) -> bool:
    """Whether a measure is there and of this model, these data, this way to take it, and this classifier.

    Those of an earlier version do not say which images the run was scored on.

    Args:
        classifier: left out, the one that scored the run, where one did.
    """
    told, file = tensor_metadata(path), path.name
    if set(told) == {"model"} and file in _BEFORE:
        return told["model"] == entry.model_fingerprint and HOW[file] == _BEFORE[file]
    if classifier is None:
        scored = entry.protocol.get("networks", {}).get("attribute classifier", {}).get("fingerprint")
        judged = told.get("classifier", "")
        classifier = scored if scored and judged else judged
    expected = metadata_of(file, entry, classifier)
    return told == {name: value for name, value in expected.items() if name in told or name != "scored"}
