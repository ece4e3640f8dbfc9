"""Interpolations: frames from prompt to prompt under one noise vector, and the files that hold them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ratlip
from explain_model import clip_of_grid, model_of, model_of_variant
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ratlip_cli.animations import enlarged, save_animation
from ratlip_cli.errors import UsageError
from ratlip_cli.exported import ExportedModel
from ratlip_cli.generation import InterpolationRequest
from ratlip_cli.pixels import to_images
from ratlip_cli.samples import interpolate
from ratlip_cli.sampling import TorchModel, generate, noise_vectors, sample
from ratlip_cli.weights.model_folder import Model, load_folder

PROMPTS = ("a red bird", "a blue bird at sunset", "a rose")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("interpolation")
    return load_folder(model_of(folder / "model", clip_of_grid(folder / "clip", grid=4)))


def plain(model: Model, seed: int = 5, index: int = 2) -> list[bytes]:
    """What `generate` makes of the prompts."""
    return [one.image.tobytes() for one in generate(model, PROMPTS, seed=seed, indices=[index])]


def frames(model: Model, count: int, loop: bool = False) -> list[bytes]:
    request = InterpolationRequest(PROMPTS, count, loop, seed=5, index=2)
    return [image.tobytes() for image in interpolate(TorchModel(model), request)]


@given(st.integers(2, 9), st.integers(0, 300), st.booleans())
def test_each_prompt_has_a_frame_of_its_own(prompts: int, more: int, loop: bool) -> None:
    request = InterpolationRequest([f"prompt {n}" for n in range(prompts)], prompts + more, loop)
    places = request.places()
    assert len(places) == request.frames
    # Position along the way: whole numbers are prompts; the steps are nearly even and always go on.
    at = [start + share for start, _, share in places]
    assert all(0 <= share <= 1 for *_, share in places)
    assert np.all(np.diff(at) > 0)
    assert set(range(prompts)) <= set(at)
    assert at[0] == 0
    if loop:  # the frame after the last would be the first
        assert places[-1][1] == 0
        assert at[-1] < prompts
    else:
        assert at[-1] == prompts - 1


def test_prompts_stand_where_generate_has_them(model: Model) -> None:
    red, blue, rose = plain(model)
    made = frames(model, 7)
    assert len(made) == len(set(made)) == 7
    assert (made[0], made[3], made[6]) == (red, blue, rose)
    around = frames(model, 9, loop=True)
    assert (around[0], around[3], around[6]) == (red, blue, rose)
    assert len(set(around)) == 9


def test_a_loop_closes_as_a_way_to_the_first_prompt_ends(model: Model) -> None:
    back = InterpolationRequest((*PROMPTS, PROMPTS[0]), 10, seed=5, index=2)
    whole = [image.tobytes() for image in interpolate(TorchModel(model), back)]
    assert whole[0] == whole[9]
    assert whole[:9] == frames(model, 9, loop=True)


def test_text_goes_straight_under_one_noise_vector(model: Model) -> None:
    start, end = (model.encode([prompt]) for prompt in PROMPTS[:2])
    image = sample(model, noise_vectors(5, [2], 6), (start + end) / 2)
    expected = ((image[0].permute(1, 2, 0) + 1) * 127.5).numpy()
    middle = np.frombuffer(frames(model, 5)[1], np.uint8).reshape(expected.shape)
    assert np.abs(middle - expected).max() <= 0.51  # half a level, and float32's rounding of (start + end) / 2


@pytest.mark.parametrize(
    ("prompts", "loop"),
    [(("a red dog", "a red cat", "a rose"), False), (("cat", "a rose", "dog"), True)],
)
def test_prompts_that_are_read_as_the_same_are_refused_before_anything_is_generated(
    prompts: tuple[str, ...], loop: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled model knows neither of the words."""
    monkeypatch.setattr(TorchModel, "images", None)
    given = (*prompts, *(["--loop"] if loop else []), "--model", "ratlip-demo", "--out", tmp_path / "x.gif")
    answer = ratlip("generate", "--interpolate", *given)
    assert (answer.code, "' as the same, between which" in answer.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_an_exported_model_tells_what_it_reads_as_the_same() -> None:
    one, other = np.float32([[0.1, 3.0]]), np.float32([[0.1, 3.5]])
    exported = object.__new__(ExportedModel)  # whose file is not needed for that
    assert exported.reads_alike(one, one.copy())
    assert not exported.reads_alike(one, other)


def test_an_exported_model_has_its_own_plain_images_at_the_ends(model: Model) -> None:
    """The same law, without onnxruntime: what it takes between two prompts."""
    start, end = np.float32([[0.1, 3.0]]), np.float32([[-0.7, 1 / 3]])
    between = ExportedModel.between
    assert np.array_equal(between(start, end, 0.0), start)
    assert np.array_equal(between(start, end, 1.0), end)
    np.testing.assert_allclose(between(start, end, 0.25), 0.75 * start + 0.25 * end, rtol=1e-6)


@pytest.fixture(scope="module")
def attngan(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """One that reads the words of a prompt."""
    sizes = {"base_size": 8, "generator_channels": 4, "discriminator_channels": 2, "residual_blocks": 0}
    return load_folder(model_of_variant(tmp_path_factory.mktemp("words") / "model", model.clip, "attngan", sizes))


def test_words_come_and_go_between_prompts(attngan: Model, tmp_path: Path) -> None:
    """As in latent-viz, and to the bit where the prompts stand."""
    made = frames(attngan, 7)
    assert [made[0], made[3], made[6]] == plain(attngan)
    assert len(set(made)) == 7
    start, end = attngan.encode(PROMPTS[:1]), attngan.encode(PROMPTS[1:2])
    noise = noise_vectors(5, [2], attngan.config.generator.noise_dim)
    third = sample(attngan, noise, attngan.family.between(start, end, 1 / 3))
    assert made[1] == to_images(third)[0].tobytes()
    assert made[1] != to_images(sample(attngan, noise, torch.lerp(start, end, 1 / 3)))[0].tobytes()
    given = ("--frames", 3, "--model", attngan.folder, "--out", tmp_path / "x.gif")
    answer = ratlip("generate", "--interpolate", *PROMPTS, *given)
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_words_of_an_exported_model_come_and_go_alike(attngan: Model, share: float) -> None:
    start, end = (attngan.encode([prompt]) for prompt in PROMPTS[:2])
    mixed = ExportedModel.between(start.numpy(), end.numpy(), share)
    torch.testing.assert_close(torch.from_numpy(mixed), attngan.family.between(start, end, share))


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "mp4"])
def test_the_command_writes_a_file_that_knows_how_it_was_made(model: Model, kind: str, tmp_path: Path) -> None:
    if kind == "mp4":
        pytest.importorskip("av")
    target = tmp_path / f"way.{kind}"
    given = ("--frames", 5, "--seed", 5, "--indices", 2, "--model", model.folder, "--out", target, "--json")
    moves = () if kind == "png" else ("--fps", 10)
    answer = ratlip("generate", "--interpolate", *PROMPTS, *moves, *given)
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told.pop("path") == str(target)
    assert told["prompts"] == list(PROMPTS)
    assert (told["fingerprint"], told["seed"], told["index"]) == (model.fingerprint, 5, 2)
    assert told.get("fps") == (10 if moves else None)
    red = Image.frombytes("RGB", (32, 32), plain(model)[0])
    if kind == "mp4":
        import av

        with av.open(str(target)) as video:
            assert json.loads(video.metadata["comment"]) == told
            assert video.streams.video[0].average_rate == 10
            shown = [frame.to_image() for frame in video.decode(video=0)]
        assert len(shown) == 5
        difference = np.asarray(shown[0].resize((32, 32))).astype(float) - np.asarray(red)
        assert np.abs(difference).mean() < 20  # colours at half the resolution, and H.264
        return
    with Image.open(target) as image:
        if kind == "png":
            assert {name: str(value) for name, value in told.items()} == image.text
            assert image.width > 5 * 128
            return
        assert image.n_frames == 5
        assert image.info["loop"] == 0
        about = image.info["comment"] if kind == "gif" else image.getexif()[270]
        assert json.loads(about) == told
        first = image.convert("RGB").resize((32, 32), Image.Resampling.BOX)
        assert np.abs(np.asarray(first).astype(float) - np.asarray(red)).mean() < 12
        image.seek(3)
        image.load()
        assert image.info["duration"] == 100


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_long_prompts_fit_into_the_metadata(tmp_path: Path, kind: str) -> None:
    shown, record = [Image.new("RGB", (32, 32), name) for name in ("red", "blue")], {"prompts": "ü" * 80_000}
    save_animation(tmp_path / f"x.{kind}", shown, "a way", record)
    with Image.open(tmp_path / f"x.{kind}") as image:
        about = image.text if kind == "png" else image.info["comment"] if kind == "gif" else image.getexif()[270]
    assert (about if kind == "png" else json.loads(about)) == record


@pytest.mark.parametrize("fps", [20, 24, 30, 40, 50])
@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_a_file_has_as_many_frames_a_second_as_its_record_says(tmp_path: Path, kind: str, fps: int) -> None:
    """A GIF counts in hundredths of a second, of which 1 is shown as 10 by most players."""
    shown = [Image.new("RGB", (32, 32), (4 * number, 0, 0)) for number in range(60)]
    save_animation(tmp_path / f"x.{kind}", shown, "a way", {"fps": fps})
    with Image.open(tmp_path / f"x.{kind}") as image:
        delays = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            delays.append(image.info["duration"])
    assert len(delays) == 60
    assert sum(delays) == pytest.approx(60_000 / fps, abs=5)
    assert min(delays) >= 20
    assert max(delays) - min(delays) <= 10


def test_into_a_folder_and_never_over_a_file(model: Model, tmp_path: Path) -> None:
    given = ("--interpolate", "a red bird", "a rose", "--frames", 3, "--model", model.folder)
    for number in range(2):
        answer = ratlip("generate", *given, "--out", tmp_path / "out")
        assert Path(answer.out.strip()).name == f"000{number}_a-red-bird-to-a-rose.gif", answer.err
    assert ratlip("generate", *given, "--out", answer.out.strip()).code == 2


def test_a_strip_has_eight_and_an_animation_sixty_frames() -> None:
    with pytest.raises(UsageError, match=r"--frames is 1; it must be 2"):
        InterpolationRequest(PROMPTS[:2], 1)
    assert InterpolationRequest(PROMPTS[:2]).frames == 60


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a bird", "--interpolate"), "needs two prompts or more"),
        (("a bird", "a rose", "--interpolate", "-n", 2), "one noise vector"),
        (("a bird", "a rose", "--interpolate", "--indices", "1,2"), "one noise vector"),
        (("a bird", "a rose", "--interpolate", "--out", "x.avi"), "unknown format 'avi'"),
        (("a bird", "a rose", "--interpolate", "--format", "webp"), "out --format and --no-grid"),
        (("a bird", "a rose", "--interpolate", "--no-grid"), "out --format and --no-grid"),
        (("a bird", "a rose", "--interpolate", "--fps", 0), "--fps is 0; it must be 1 to 50"),
        (("a bird", "a rose", "--interpolate", "--fps", 9, "--out", "x.png"), "leave it out of a strip"),
        (("a bird", "a rose", "--interpolate", "--fps", 1, "--frames", 656, "--out", "x.gif"), "at most 655 seconds"),
        (("a bird", "a rose", "--frames", 9), "add --interpolate"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_loaded(
    arguments: tuple[object, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ratlip_cli.weights.load.load_model", None)
    answer = ratlip("generate", *arguments)
    assert (answer.code, says in answer.err) == (2, True), answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    answer = ratlip("generate", "--interpolate", "a bird", "a rose", "--out", tmp_path / "x.mp4")
    assert (answer.code, 'pip install "ratlip[video]"' in answer.err) == (1, True)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> object:
        yield Image.new("RGB", (32, 32))
        raise KeyboardInterrupt

    for kind in ("gif", "webp", "png", *(["mp4"] if importlib.util.find_spec("av") else [])):
        with pytest.raises(KeyboardInterrupt):
            save_animation(tmp_path / f"x.{kind}", broken(), "a way", {"fps": 20})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_what_a_gif_cannot_show_that_long_is_one_line(tmp_path: Path) -> None:
    """Pillow makes one frame of those that look the same."""
    with pytest.raises(UsageError, match="at most 655 seconds"):
        save_animation(tmp_path / "x.gif", [Image.new("RGB", (256, 256))] * 700, "a way", {"fps": 1})
    assert list(tmp_path.iterdir()) == []
    save_animation(tmp_path / "x.gif", [Image.new("RGB", (256, 256))] * 600, "a way", {"fps": 1})
    assert Image.open(tmp_path / "x.gif").info["duration"] == 600_000


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_what_is_too_large_for_memory_is_told_at_the_first_frame(model: Model, kind: str, tmp_path: Path) -> None:
    given = ("--interpolate", *PROMPTS, "--frames", 3600, "--model", model.folder, "--out", tmp_path / f"x.{kind}")
    answer = ratlip("generate", *given)
    told = f"3,600 frames of 256 x 256 pixels are too many for a .{kind}, made in memory: give at most 1,525"
    assert (answer.code, told in answer.err, ".mp4" in answer.err) == (2, True, True), answer.err
    assert list(tmp_path.iterdir()) == []


def test_small_frames_are_enlarged_by_whole_factors() -> None:
    pixels = torch.randint(0, 256, (33, 33, 3), dtype=torch.uint8).numpy()
    (larger,) = enlarged([Image.fromarray(pixels)])
    scale = larger.width // 33
    assert larger.width == 33 * scale
    assert larger.width % 2 == 0
    assert np.array_equal(np.asarray(larger)[::scale, ::scale], pixels)
