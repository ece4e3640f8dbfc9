"""Features that are kept where somebody stops the work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ratlip_cli.evaluation.journal import Journal

ROWS = [[torch.randn(2, 3), torch.randn(2, 5)] for _ in range(5)]
"""Features of five batches of two images by two networks."""


def journal(folder: Path, decisive: str = "all that decides") -> Journal:
    return Journal(folder, decisive, (3, 5), piece=4)


def filled(folder: Path) -> Journal:
    one = journal(folder)
    for features in ROWS:
        one.add(features)
    return one


def read(one: Journal) -> list[Tensor]:
    """The features of each network that are kept."""
    return [torch.cat(pieces) for pieces in zip(*one.read(), strict=True)]


def test_whole_pieces_are_kept_to_the_bit(tmp_path: Path) -> None:
    assert filled(tmp_path).kept == 8
    again = journal(tmp_path)
    for kept, made in zip(read(again), zip(*ROWS[:4], strict=True), strict=True):
        assert torch.equal(kept, torch.cat(made))
    assert again.kept == 8
    again.add(ROWS[4])
    again.add(ROWS[0])
    assert again.kept == 12


def test_no_empty_folder_is_left(tmp_path: Path) -> None:
    images = tmp_path / "images" / ".features"
    filled(images).remove()
    assert list(images.parent.iterdir()) == []
    journal(images).remove()
    (images / "other.npy").mkdir(parents=True)
    filled(images).remove()
    assert [path.name for path in images.iterdir()] == ["other.npy"]


def test_other_features_are_not_taken_for_these(tmp_path: Path) -> None:
    filled(tmp_path)
    assert read(journal(tmp_path, "something else")) == []
    assert list(Journal(tmp_path, "all that decides", (3, 5), piece=2).read()) == []


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def change(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-40] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, cut, change])
def test_what_is_damaged_ends_what_is_read(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    filled(tmp_path)
    (file,) = tmp_path.glob("*/1-0000004.npy")
    damage(file)
    again = journal(tmp_path)
    assert [len(rows) for rows in read(again)] == [4, 4]
    assert again.kept == 4


def test_a_piece_is_taken_for_no_other(tmp_path: Path) -> None:
    filled(tmp_path)
    for network in (0, 1):
        (file,) = tmp_path.glob(f"*/{network}-0000004.npy")
        file.replace(file.with_name(f"{network}-0000000.npy"))
    assert read(journal(tmp_path)) == []


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    one = journal(tmp_path / "taken")
    for features in ROWS:
        one.add(features)
    assert one.kept == 0


def test_what_nobody_goes_on_with_is_removed(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "0123456789abcdef.npy").touch()
    journal(tmp_path, "something else")
    assert len(list(tmp_path.iterdir())) == 2
    (unfinished,) = tmp_path.glob("*.unfinished")
    eight_days_ago = time.time() - 8 * 24 * 3600
    os.utime(unfinished, (eight_days_ago, eight_days_ago))
    journal(tmp_path, "something else")
    assert [path.name for path in tmp_path.iterdir()] == ["0123456789abcdef.npy"]
