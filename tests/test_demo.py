"""The rendered dataset: the same every time, captioned truly, with masks that lie where the segments are."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratlip_cli.data.layout import DatasetInfo, read_dataset, read_split
from ratlip_cli.data.sources.demo import DATASETS, records, rendered_image
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.demo import birds, faces, flowers
from ratlip_cli.demo.attributes import ATTRIBUTES, FAMILIES, HELD_OUT, PAIRED, SEEN, sample_attributes
from ratlip_cli.demo.captions import CAPTIONS, LONGEST, captions
from ratlip_cli.demo.render import SEGMENTS, render
from ratlip_cli.demo.segments import decode_segments, encode_segments
from ratlip_cli.errors import DataError, UsageError

sys.path.append(str(Path(__file__).parents[1] / "examples" / "demo"))
from ratlip_cli.demo.said import holds, said

MANY = 400


def _pair(family: str, attributes: dict[str, str]) -> tuple[str, str]:
    first, second = PAIRED[family]
    return attributes[first], attributes[second]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_is_a_function_of_its_arguments(family: str) -> None:
    first, again = (rendered_image(family, "train", 3, 7, 76) for _ in range(2))
    assert first.image.tobytes() == again.image.tobytes()
    assert (first.labels == again.labels).all()
    assert first[:2] == again[:2]
    for other in (
        rendered_image(family, "test", 3, 7, 76),
        rendered_image(family, "train", 4, 7, 76),
        rendered_image(family, "train", 3, 8, 76),
    ):
        assert other.image.tobytes() != first.image.tobytes()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [38, 76, 152, 304])
def test_every_size_shows_the_same_image(family: str, size: int) -> None:
    rendered, usual = rendered_image(family, "train", 0, 5, size), rendered_image(family, "train", 0, 5, 76)
    assert rendered.image.size == (size, size)
    assert rendered.image.mode == "RGB"
    assert rendered.labels.shape == (size, size)
    assert rendered[:2] == usual[:2]
    small, reference = (np.asarray(image.resize((19, 19)), dtype=float) for image in (rendered.image, usual.image))
    assert np.abs(small - reference).mean() < 12


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_are_true_different_and_say_nothing_else(family: str) -> None:
    silent = total = 0
    for index in range(MANY):
        rng = random.Random(index)
        attributes = sample_attributes(family, rng)
        written = captions(family, attributes, rng)
        assert len(set(written)) == CAPTIONS
        for caption in written:
            assert len(caption.split()) <= LONGEST
            stated = said(family, caption)
            wrong = {name: value for name, value in stated.items() if not holds(attributes[name], value)}
            assert not wrong, (caption, attributes)
            silent += not stated
            total += 1
    assert silent < 0.05 * total


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_name_every_attribute_and_value(family: str) -> None:
    stated = {name: set() for name in ATTRIBUTES[family]}
    for index in range(MANY):
        rng = random.Random(index)
        for caption in captions(family, sample_attributes(family, rng), rng):
            for name, value in said(family, caption).items():
                stated[name].add(value)
    for name, values in ATTRIBUTES[family].items():
        assert stated[name] >= set(values), name


def test_some_captions_leave_the_body_out() -> None:
    written = [text for index in range(50) for text in rendered_image("bird", "train", 0, index, 38).captions]
    share = np.mean(["body" in said("bird", text) for text in written])
    assert 0.5 < share < 0.9


@pytest.mark.parametrize("family", PAIRED)
def test_held_out_pairs_are_only_in_unseen(family: str) -> None:
    share = len(HELD_OUT[family]) / (len(HELD_OUT[family]) + len(SEEN[family]))
    assert 0.12 < share < 0.18
    rng = random.Random(0)
    seen = {_pair(family, sample_attributes(family, rng)) for _ in range(5000)}
    unseen = {_pair(family, sample_attributes(family, rng, unseen=True)) for _ in range(1000)}
    assert seen == set(SEEN[family])
    assert unseen == set(HELD_OUT[family])
    first, second = (ATTRIBUTES[family][name] for name in PAIRED[family])
    assert {a for a, _ in seen} == set(first), "every colour must still be trained"
    assert {b for _, b in seen} == set(second)


@pytest.mark.parametrize(
    ("family", "pair"), [("bird", ("red", "black")), ("bird", ("blue", "yellow")), ("flower", ("pink", "yellow"))]
)
def test_the_readme_s_examples_are_trained(family: str, pair: tuple[str, str]) -> None:
    assert pair in SEEN[family]


@pytest.mark.parametrize(
    ("family", "attribute", "segment", "colours"),
    [
        ("bird", "body", "body", birds.COLOURS),
        ("bird", "wings", "wings", birds.COLOURS),
        ("bird", "belly", "belly", birds.COLOURS),
        ("flower", "petals", "petals", flowers.PETALS),
        ("flower", "centre", "centre", flowers.CENTRES),
        ("face", "hair", "hair", faces.HAIR),
        ("face", "skin", "skin", faces.SKIN),
    ],
)
def test_a_segment_has_the_colour_that_the_attributes_name(
    family: str, attribute: str, segment: str, colours: dict[str, tuple[int, int, int]]
) -> None:
    """The named colour is the nearest one to the colour of the segment where the light falls on it."""
    names = ATTRIBUTES[family][attribute]
    table = np.array([colours[name] for name in names], dtype=float)
    right = []
    for index in range(60):
        rendered = rendered_image(family, "train", 0, index, 76)
        mask = decode_segments(encode_segments(rendered.labels, SEGMENTS[family]))[segment]
        assert mask.sum() >= 12, "too small to be seen"
        colour = np.percentile(np.asarray(rendered.image)[mask], 65, axis=0)
        nearest = names[int(np.linalg.norm(table - colour, axis=1).argmin())]
        right.append(nearest == rendered.attributes[attribute])
    assert np.mean(right) > 0.9


def test_segments_are_there_when_the_attributes_say_so() -> None:
    for index in range(60):
        rendered = rendered_image("face", "train", 0, index, 76)
        masks = decode_segments(encode_segments(rendered.labels, SEGMENTS["face"]))
        assert masks["glasses"].any() == (rendered.attributes["glasses"] == "yes")
        assert masks["hat"].any() == (rendered.attributes["hat"] != "none")
        assert masks["beard"].any() == (rendered.attributes["beard"] == "yes")
        flower = rendered_image("flower", "train", 0, index, 76)
        leaves = decode_segments(encode_segments(flower.labels, SEGMENTS["flower"]))["leaves"]
        assert leaves.any() == (flower.attributes["leaves"] != "none")


def test_birds_face_where_the_attributes_say() -> None:
    for index in range(60):
        rendered = rendered_image("bird", "train", 0, index, 76)
        masks = decode_segments(encode_segments(rendered.labels, SEGMENTS["bird"]))
        eye, tail = (np.nonzero(masks[segment])[1].mean() for segment in ("eye", "tail"))
        assert ("right" if eye > tail else "left") == rendered.attributes["facing"]


@pytest.mark.parametrize("family", FAMILIES)
def test_objects_stand_out_from_every_background(family: str) -> None:
    """Along the object's edge there is a clear step of colour, whatever is behind it."""
    main = {"bird": "body", "flower": "petals", "face": "hair"}[family]
    for number, scene in enumerate(ATTRIBUTES[family]["background"] * 4):
        rng = random.Random(number)
        attributes = {**sample_attributes(family, rng), "background": scene}
        rendered = render(family, attributes, rng, 76)
        pixels = np.asarray(rendered.image, dtype=float)
        inside = rendered.labels == SEGMENTS[family].index(main) + 1
        around = rendered.labels == 0
        steps = []
        for axis in (0, 1):
            for shift in (2, -2):
                touching = inside & np.roll(around, shift, axis)
                path = np.stack([np.roll(pixels, step * shift // 2, axis) for step in range(3)])
                steps.append(np.ptp(path, axis=0).max(axis=-1)[touching])
        assert np.median(np.concatenate(steps)) > 40, scene


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_segments_come_back_as_they_were(height: int, width: int, count: int, rng: random.Random) -> None:
    labels = np.array([[rng.randint(0, count) for _ in range(width)] for _ in range(height)], dtype=np.uint8)
    names = [f"segment {number}" for number in range(count)]
    masks = decode_segments(encode_segments(labels, names))
    assert list(masks) == names
    for number, name in enumerate(names, start=1):
        assert (masks[name] == (labels == number)).all()


def test_long_runs_of_segments_come_back() -> None:
    labels = np.zeros((100, 100), dtype=np.uint8)
    labels[40:60] = 2
    masks = decode_segments(encode_segments(labels, ["a", "b"]))
    assert not masks["a"].any()
    assert (masks["b"] == (labels == 2)).all()


@pytest.mark.parametrize(
    "damage",
    [
        {"size": [10, 11]},
        {"size": [10**6, 10**6]},
        {"size": "big"},
        {"runs": "!"},
        {"runs": "AAAA"},
        {"runs": "\u00e9"},
        {"names": None},
        {"runs": ""},
    ],
)
def test_damaged_segments_are_refused(damage: dict[str, object]) -> None:
    with pytest.raises(DataError, match="segments cannot be read"):
        decode_segments(encode_segments(np.zeros((10, 10), dtype=np.uint8), ["a"]) | damage)


@pytest.mark.parametrize("name", DATASETS)
def test_records_fill_the_splits(name: str) -> None:
    made = list(records(name, 120, 0, 32))
    assert len(made) == 120
    assert len({(record.split, record.name) for record in made}) == 120
    assert {record.extra["class"] for record in made} == set(DATASETS[name])
    splits = {record.split for record in made}
    assert splits == ({"train", "test"} if name == "demo-faces" else {"train", "test", "unseen"})
    for record in made:
        family = record.extra["class"]
        if family in PAIRED:
            assert (_pair(family, record.extra["attributes"]) in HELD_OUT[family]) == (record.split == "unseen")


def test_workers_change_nothing() -> None:
    alone, together = (list(records("demo", 120, 5, 32, workers)) for workers in (1, 2))
    assert [record.name for record in alone] == [record.name for record in together]
    assert all(
        a.image.tobytes() == b.image.tobytes() and a.extra == b.extra for a, b in zip(alone, together, strict=True)
    )


def test_a_written_dataset_reads_back(tmp_path: Path) -> None:
    info = DatasetInfo(name="demo", source="rendered", licence="MIT", image_size=64, split_rule="as told", flip=False)
    write_dataset(tmp_path / "demo", records("demo", 60, 0, 64), info)
    assert read_dataset(tmp_path / "demo").counts == {"train": 51, "test": 6, "unseen": 3}
    records_by_name = {record.name: record for record in records("demo", 60, 0, 64) if record.split == "test"}
    entries = read_split(tmp_path / "demo", "test")
    assert {entry.file.stem for entry in entries} == set(records_by_name)
    for entry in entries:
        record = records_by_name[entry.file.stem]
        assert entry.captions == record.captions
        assert entry.extra["attributes"] == record.extra["attributes"]
        assert decode_segments(entry.extra["parts"]).keys() == set(SEGMENTS[entry.extra["class"]])


@pytest.mark.parametrize(("count", "size"), [(10, 64), (1000, 16), (1000, 512)])
def test_what_cannot_be_rendered_is_said(count: int, size: int) -> None:
    with pytest.raises(UsageError, match=r"rendered|too few"):
        list(records("demo", count, 0, size))
