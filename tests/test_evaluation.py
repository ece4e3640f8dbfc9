"""Scores: formulas against closed forms and torch-fidelity, images of every kind, and the laws of both protocols."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from conftest import TINY_CLIP
from formula_weights import write_imagenet_inception, write_inception
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F
from torch_fidelity import calculate_metrics
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchvision.models import inception_v3

from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.data.layout import DatasetInfo, Record, split_fingerprint
from ratlip_cli.data.sources.demo import SOURCE
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.errors import DataError, RatlipError, UsageError, WeightsError
from ratlip_cli.evaluation import extract, feature_file, statistics
from ratlip_cli.evaluation.feature_file import FeatureFile, feature_writer, kept_features
from ratlip_cli.evaluation.images import Captions, GeneratedImages, Images, SplitImages, some_images
from ratlip_cli.evaluation.inception import INCEPTION, ImageNetInception, InceptionNetwork, find_weights
from ratlip_cli.evaluation.inputs import Inputs, folder_inputs, model_inputs, open_folder
from ratlip_cli.evaluation.metrics import RANGES
from ratlip_cli.evaluation.networks import ClipNetwork, Networks, load_networks
from ratlip_cli.evaluation.request import METRICS, EvaluationRequest
from ratlip_cli.evaluation.run import Evaluation, _noted, evaluate, score_inputs
from ratlip_cli.evaluation.statistics import (
    Moments,
    candidates,
    clip_scores,
    frechet_distance,
    inside_manifold,
    interval,
    kernel_distance,
    moments,
    ranks_first,
    resamples,
)
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.generator import Generator
from ratlip_cli.pixels import to_uint8
from ratlip_cli.progress import silent
from ratlip_cli.sampling import noise_vectors, sample
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import Model, create_model_folder, load_folder, model_config, save_weights

CPU = torch.device("cpu")


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def feature_files(folder: Path, *sets: NDArray[np.float64]) -> list[FeatureFile]:
    """Each set of features (n,d) as a file, written in uneven batches."""
    files = []
    for number, features in enumerate(sets):
        rows = torch.from_numpy(features.astype(np.float32))
        with feature_writer(folder / f"{number}.npy", *features.shape) as append:
            for batch in torch.split(rows, 7):
                append(batch)
        files.append(FeatureFile(folder / f"{number}.npy"))
    return files


# ---------------------------------------------------------------- formulas


def test_frechet_distance_of_two_gaussians_has_its_closed_form(random: np.random.Generator) -> None:
    d = 12
    basis = np.linalg.qr(random.normal(size=(d, d)))[0]
    first, second = random.uniform(0.1, 4, size=(2, d))  # eigenvalues; both covariances have the same eigenvectors
    means = random.normal(size=(2, d))
    distance = frechet_distance(Moments(means[0], basis * first @ basis.T), Moments(means[1], basis * second @ basis.T))
    closed = np.sum((means[0] - means[1]) ** 2) + np.sum((np.sqrt(first) - np.sqrt(second)) ** 2)
    assert distance == pytest.approx(closed, rel=1e-12)


@pytest.mark.parametrize(("n_first", "n_second", "d"), [(300, 200, 24), (25, 24, 24), (10, 7, 24), (2, 2, 24)])
def test_frechet_distance_stands_where_covariances_are_singular(
    tmp_path: Path, random: np.random.Generator, n_first: int, n_second: int, d: int
) -> None:
    sets = [
        random.normal(size=(n, d)) @ random.normal(size=(d, d)) + shift for n, shift in ((n_first, 0), (n_second, 3))
    ]
    first, second = feature_files(tmp_path, *sets)
    x, y = (file[:].astype(np.float64) for file in (first, second))
    a, b = ((rows - rows.mean(0)) / np.sqrt(len(rows) - 1) for rows in (x, y))
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()  # C = a^T a: the trace needs no d x d matrix
    reference = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * overlap
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(reference, rel=1e-9)


def test_frechet_distance_of_a_set_to_itself_is_nothing(tmp_path: Path, random: np.random.Generator) -> None:
    for count in (12, 700):
        (file,) = feature_files(tmp_path, random.uniform(0, 4, size=(count, 512)))
        assert 0 <= frechet_distance(moments(file), moments(file)) < 1e-9


def test_moments_are_those_of_numpy_however_they_are_cut(
    tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = feature_files(tmp_path, random.normal(size=(50, 6)) + 1000)
    counts = random.integers(0, 4, size=50)
    monkeypatch.setattr(feature_file, "CHUNK", 16)
    for weights in (np.ones(50, dtype=np.int64), counts):
        rows = np.repeat(file[:].astype(np.float64), weights, axis=0)
        result = moments(file, weights)
        assert np.allclose(result.mean, rows.mean(0), rtol=1e-12)
        assert np.allclose(result.covariance, np.cov(rows, rowvar=False), rtol=1e-9)


def test_formulas_are_torch_fidelitys(
    tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = {
        "kid_subsets": statistics.SUBSETS,
        "kid_subset_size": statistics.SUBSET_SIZE,
        "rng_seed": statistics.SEED,
    }
    assert constants.items() <= DEFAULTS.items()
    assert DEFAULTS["prc_neighborhood"] == statistics.NEIGHBOURS
    monkeypatch.setattr(statistics, "SUBSETS", 5)
    monkeypatch.setattr(statistics, "SUBSET_SIZE", 400)
    monkeypatch.setattr(feature_file, "CHUNK", 300)
    sets = random.normal(size=(1100, 16)), 1.1 * random.normal(size=(1300, 16)) + 0.2
    fake, real = feature_files(tmp_path, *sets)
    theirs = [torch.from_numpy(file[:]) for file in (fake, real)]
    their_statistics = [fid_features_to_statistics(rows) for rows in theirs]
    fid = fid_statistics_to_metric(*their_statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(moments(fake), moments(real)) == pytest.approx(fid, rel=1e-5)
    kid = kid_features_to_metric(*theirs, kid_subsets=5, kid_subset_size=400, verbose=False)[KEY_METRIC_KID_MEAN]
    assert kernel_distance(fake, real) == pytest.approx(kid, rel=1e-5)
    prc = prc_features_to_metric(*theirs, verbose=False)
    assert 0 < prc["precision"] < 1
    assert 0 < prc["recall"] < 1
    assert inside_manifold(fake, real).mean() == pytest.approx(prc["precision"], abs=1e-7)
    assert inside_manifold(real, fake).mean() == pytest.approx(prc["recall"], abs=1e-7)


def test_kept_features_are_those_that_were_written_to_the_bit(tmp_path: Path, random: np.random.Generator) -> None:
    path = tmp_path / "kept.npy"

    def write(features: NDArray[np.float64], decisive: str = "these") -> None:
        with feature_writer(path, *features.shape, decisive) as append:
            append(torch.from_numpy(features.astype(np.float32)))

    features = random.normal(size=(9, 4))
    write(features)
    kept = kept_features(path, 9, 4, "these")
    assert kept is not None
    assert np.array_equal(kept[:], features.astype(np.float32))
    assert kept_features(path, 9, 4, "others") is None
    assert kept_features(path, 4, 9, "these") is None
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert kept_features(path, 9, 4, "these") is None, place
    for content in (b"", whole[:-5], whole[:-32], whole + b"0", b"PK\x03\x04" + whole[4:], b"\x80" * len(whole)):
        path.write_bytes(content)
        assert kept_features(path, 9, 4, "these") is None
    for wrong in (np.nan, np.inf):  # with a checksum that is right
        write(np.where(features > 1, wrong, features))
        assert kept_features(path, 9, 4, "these") is None


def test_interval_has_the_width_of_the_standard_error(random: np.random.Generator) -> None:
    values = random.normal(size=400)
    resampled = resamples(400, 400, np.arange(400), paired=True)
    low, high = interval(values.mean(), [np.average(values, weights=counts.fake) for counts in resampled])
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.15)


def test_an_interval_stays_in_the_range_of_its_metric() -> None:
    replicates = [0.9, 0.95, 1.0, 1.0]
    assert interval(0.995, replicates)[1] > 1
    assert interval(0.995, replicates, *RANGES["precision"])[1] == 1
    assert interval(0.01, replicates, *RANGES["fid"])[0] == 0
    assert interval(0.01, replicates, *RANGES.get("kid", ()))[0] < 0


def test_fakes_of_a_scene_come_and_go_together() -> None:
    scenes = np.array([0, 0, 1, 1, 1, 2])
    for counts in resamples(20, 3, scenes, paired=True):
        assert counts.real.sum() == 3
        assert np.array_equal(counts.fake, counts.real[scenes])
    unpaired = resamples(20, 3, scenes, paired=False)
    assert any(not np.array_equal(counts.fake, counts.real[scenes]) for counts in unpaired)


def test_resamples_without_enough_fakes_are_drawn_again(tmp_path: Path) -> None:
    """Of six images one or two have captions: most resamples of six have fewer than two of theirs."""
    for scenes in (np.array([4]), np.array([1, 4])):
        drawn = list(resamples(40, 6, scenes, paired=True))
        assert min(counts.fake.sum() for counts in drawn) == len(scenes)
        assert {counts.real.sum() for counts in drawn} == {6}
    (features,) = feature_files(tmp_path, np.eye(3))
    with pytest.raises(DataError, match="a covariance of 1 image is none"):
        moments(features, np.array([0, 1, 0]))


def test_the_kernel_distance_of_whole_sets_is_computed_once(
    tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, smaller = feature_files(tmp_path, *(random.normal(size=(n, 4)) for n in (9, 9, 8)))
    made: list[int] = []
    once = statistics._discrepancy
    monkeypatch.setattr(statistics, "_discrepancy", lambda x, y: made.append(len(x)) or once(x, y))
    alone = kernel_distance(first, second)
    assert made == [9]
    monkeypatch.setattr(statistics, "SUBSET_SIZE", 8)
    assert kernel_distance(first, smaller) != alone
    assert made[1:] == [8] * statistics.SUBSETS


# ---------------------------------------------------------------- networks


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inception(tmp_path_factory.mktemp("weights") / "inception.pth")


@pytest.fixture(scope="session")
def two_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Eight and nine images of 40 x 30 pixels: the first ones darker."""
    random = np.random.default_rng(5)
    folders = tmp_path_factory.mktemp("dark"), tmp_path_factory.mktemp("light")
    for folder, count, light in zip(folders, (8, 9), (0, 60), strict=True):
        for number in range(count):
            slope = np.linspace(0, 1, 40)[None, :, None] * random.uniform(0, 150, 3) + light
            noise = random.normal(0, 12, size=(30, 40, 3))
            Image.fromarray((slope + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return folders


def folder_request(folders: tuple[Path, Path], inception_file: Path, *metrics: str) -> EvaluationRequest:
    return EvaluationRequest(
        images=folders[0],
        reference=folders[1],
        metrics=metrics,
        inception_weights=inception_file,
        batch_size=5,
        device="cpu",
    )


@pytest.fixture(scope="session")
def by_inception(inception_file: Path, two_folders: tuple[Path, Path]) -> Evaluation:
    """The two folders by the standard protocol."""
    return evaluate(folder_request(two_folders, inception_file, "fid", "kid", "precision-recall"))


@pytest.mark.slow
def test_two_folders_score_as_torch_fidelity_says(
    by_inception: Evaluation, inception_file: Path, two_folders: tuple[Path, Path]
) -> None:
    theirs = calculate_metrics(
        input1=str(two_folders[0]),
        input2=str(two_folders[1]),
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=8,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_file),
        cuda=False,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    ours = {name: score.value for name, score in by_inception.metrics.items()}
    assert set(ours) == {"fid", "kid", "precision", "recall"}
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert ours["precision"] == theirs["precision"]
    assert ours["recall"] == theirs["recall"]


def test_too_few_images_are_said_beside_the_number(by_inception: Evaluation) -> None:
    assert "8 images, fewer than the 2049" in str(by_inception.metrics["fid"].note)
    assert "8 images instead of 1000" in str(by_inception.metrics["kid"].note)
    assert (by_inception.metrics["fid"].n_fake, by_inception.metrics["fid"].n_real) == (8, 9)


def test_features_are_not_kept_where_nobody_may_write(
    two_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a `.features` that is somebody else's, in a folder that all may write."""
    kept = two_folders[1] / ".features"
    kept.mkdir(exist_ok=True)
    monkeypatch.setattr(extract.os, "access", lambda path, *_, **__: path != kept)
    before = sorted(kept.iterdir())
    request = EvaluationRequest(
        images=two_folders[0],
        reference=two_folders[1],
        metrics=("kid",),
        features="clip",
        clip="ratlip-demo",
        device="cpu",
    )
    (score,) = evaluate(request).metrics.values()
    assert score.value is not None
    assert sorted(kept.iterdir()) == before


@pytest.mark.slow
def test_real_features_are_kept_and_damaged_ones_made_again(
    by_inception: Evaluation,
    inception_file: Path,
    two_folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (kept,) = (two_folders[1] / ".features").glob("*.npy")
    batches = []
    monkeypatch.setattr(
        InceptionNetwork,
        "__call__",
        lambda network, images: batches.append(len(images)) or torch.ones(len(images), 2048),
    )
    request = folder_request(two_folders, inception_file, "fid")
    evaluate(request)
    assert sum(batches) == 8
    content = kept.read_bytes()
    for damaged in (
        content[:-32],  # as an earlier version wrote it
        content[:4000] + np.full(4, np.nan, "<f4").tobytes() + content[4016:],
        content[:4000] + b"\1" + content[4001:],
    ):
        kept.write_bytes(damaged)
        batches.clear()
        caplog.clear()
        with caplog.at_level("INFO", logger="ratlip_cli"):
            evaluate(request)
        assert sum(batches) == 8 + 9
        assert f"{kept} does not hold" in caplog.text
    kept.write_bytes(content)


@pytest.mark.slow
def test_released_inception_is_torchvisions_with_the_shift(tmp_path: Path) -> None:
    file = write_imagenet_inception(tmp_path / "imagenet.pth")
    levels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = inception_v3(weights=None, init_weights=False, transform_input=True).eval()
    plain.load_state_dict(torch.load(file, weights_only=True))
    plain.fc = torch.nn.Identity()
    with torch.inference_mode():  # transform_input is the same shift, for inputs that ImageNet's mean normalised
        expected = plain(F.interpolate(levels / 255, size=(299, 299), mode="bilinear"))
    features = ImageNetInception(file, CPU)(levels)
    assert features.shape == (2, 2048)
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_wrong_weights_are_named(inception_file: Path, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(2)}, tmp_path / "other.pth")
    for network in (InceptionNetwork, ImageNetInception):
        with pytest.raises(WeightsError, match=r"other\.pth does not hold the weights of"):
            network(tmp_path / "other.pth", CPU)
    with pytest.raises(WeightsError, match="does not exist"):
        InceptionNetwork(tmp_path / "none.pth", CPU)


def test_weights_are_found_where_other_programs_keep_them_or_the_error_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    nowhere = INCEPTION._replace(url="http://127.0.0.1:9/weights-inception-2015-12-05-6726825d.pth")
    with pytest.raises(WeightsError, match=r"--inception-weights FILE.*--features clip"):
        find_weights(nowhere)
    for name in (INCEPTION.other_names[0], "weights-inception-2015-12-05-6726825d.pth"):
        (tmp_path / "checkpoints" / name).touch()
        assert find_weights(nowhere) == tmp_path / "checkpoints" / name
    assert find_weights(nowhere, tmp_path / "own.pth") == tmp_path / "own.pth"


@pytest.fixture(scope="session")
def clip(tiny_clip: Path) -> FrozenCLIP:
    return load_clip(str(tiny_clip))


@pytest.fixture
def levels() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_clip_maps_pixels_once_or_as_the_released_code(clip: FrozenCLIP, levels: torch.Tensor) -> None:
    pixels = levels / 255
    once = F.interpolate(pixels, size=(32, 32), mode="bicubic", antialias=True, align_corners=False)
    twice = (F.interpolate(pixels, size=(32, 32), mode="nearest") + 1) / 2
    theirs = open_clip.CLIP(**TINY_CLIP).eval()
    theirs.load_state_dict(clip.model.state_dict())
    for released, prepared in ((False, once), (True, twice)):
        expected = theirs.encode_image((prepared - clip.mean) / clip.std)
        features = ClipNetwork(clip, "tiny", released)(levels)
        assert torch.allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_clip_score_is_the_mean_cosine(
    clip: FrozenCLIP, levels: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_file, "CHUNK", 2)
    captions = Captions.of_folder([["a cat", "a dog"], ["a bird"], ["a fish"]])
    vectors = ClipNetwork(clip, "tiny")(levels)
    text = captions.vectors(clip)
    (images,) = feature_files(tmp_path, vectors.numpy())
    cosines = F.normalize(vectors, dim=1) @ F.normalize(clip.encode_text(captions.texts), dim=1).T
    own = cosines[[0, 0, 1, 2], [0, 1, 2, 3]]
    for released, each in ((False, 100 * own.clamp(min=0)), (True, own)):
        expected = [each[:2].mean().item(), each[2].item(), each[3].item()]
        assert clip_scores(images, captions, text, released) == pytest.approx(expected, abs=1e-5)


def test_r_precision_ranks_a_caption_among_a_hundred_of_other_images(clip: FrozenCLIP, tmp_path: Path) -> None:
    names = [f"a thing called {number}" for number in range(150)]
    captions = Captions.of_folder([[name, "the same for all"] for name in names])
    among = candidates(captions, 6)
    assert len(among) == len(set(among)) == 100
    assert among[-1] == 6
    assert 7 not in among
    assert np.array_equal(among, candidates(captions, 6))
    assert all(captions.texts[number] != "the same for all" for number in candidates(captions, 7)[:-1])
    few = Captions.of_folder([[name] for name in names[:3]])
    text = few.vectors(clip)
    (images,) = feature_files(tmp_path, text[[0, 2, 2]].numpy())  # vectors of the first, third and third caption
    assert ranks_first(images, few, text) == ([1.0, 0.0, 1.0], 3)
    with pytest.raises(DataError, match="different captions"):
        candidates(Captions.of_folder([["a"], ["a"]]), 0)


# ---------------------------------------------------------------- images of a model, images of a folder


@pytest.fixture(scope="module")
def dataset_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training and seven test images of 32 pixels, three captions each."""
    random = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("data") / "noise"
    records = [
        Record(
            name=f"{split}{number}",
            split=split,
            captions=tuple(f"{word} {number}" for word in ("a", "every", "birds")),
            image=Image.fromarray(random.integers(0, 256, size=(40, 38, 3), dtype=np.uint8)),
        )
        for split, count in (("train", 2), ("test", 7))
        for number in range(count)
    ]
    description = {"name": "noise", "source": "made by the tests", "licence": "CC0", "split_rule": "by name"}
    write_dataset(folder, records, DatasetInfo(**description, image_size=32))
    return folder


@pytest.fixture(scope="module")
def dataset(dataset_path: Path) -> CaptionedImages:
    return CaptionedImages(dataset_path, "test", 32)


@pytest.fixture(scope="module")
def model_folder(clip: FrozenCLIP, dataset_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights that names its own CLIP for its scores, as the bundled one does."""
    sizes = GeneratorConfig(
        image_size=32, noise_dim=6, hidden_size=4, base_channels=4, bridge_channels=8, bridge_blocks=1
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generator(sizes, clip.geometry)
        for parameter in generator.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("model") / "random"
    config = model_config(sizes, DiscriminatorConfig(), clip, {"dataset": str(dataset_path)}, features="clip")
    create_model_folder(folder, config, clip)
    save_weights(folder, generator.state_dict())
    return folder


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Model:
    return load_folder(model_folder, name="random")


def evaluated(model: Model, dataset: CaptionedImages, request: EvaluationRequest) -> Evaluation:
    return score_inputs(model_inputs(model, dataset, request), request, load_networks(request, CPU, model))


def test_an_image_for_every_caption_from_the_noise_vector_of_its_number(model: Model, dataset: CaptionedImages) -> None:
    captions = Captions.of_split(dataset, per_image=2)
    assert captions.first == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19]
    assert captions.scenes[captions.first].tolist() == [image for image in range(7) for _ in range(2)]
    levels = torch.cat(list(GeneratedImages(model, captions, seed=4).batches(5)))
    noise = noise_vectors(4, [10], model.config.generator.noise_dim)
    text = captions.vectors(model.clip)[[10]]  # a caption encoded alone differs in its last bits
    assert levels.shape == (14, 3, 32, 32)
    assert levels.dtype == torch.uint8
    alone = sample(model, noise, text)
    assert torch.equal(levels[7], to_uint8(alone)[0])
    with torch.no_grad():
        trained = model.generator(noise, text, model.clip)
    assert (alone - trained.clamp(-1, 1)).abs().max() <= 1e-5 * trained.abs().max()


def test_a_fake_stays_with_its_real_image_where_others_have_no_caption(model: Model, dataset_path: Path) -> None:
    """The intervals resample both together."""
    some = CaptionedImages(dataset_path, "test", 32)
    was = list(enumerate(some.entries))
    some.entries[2] = replace(some.entries[2], captions=())
    some.captions = [text for entry in some.entries for text in entry.captions]
    request = EvaluationRequest(metrics=("fid",), captions_per_image=1)
    assert model_inputs(model, some, request).scenes.tolist() == [0, 1, 3, 4, 5, 6]
    limited = model_inputs(model, some, replace(request, limit=5))
    numbers = some_images(7, 5)
    assert numbers[limited.scenes].tolist() == [number for number in numbers if number != 2]
    some.entries[:] = [replace(entry, captions=entry.captions if number == 2 else ()) for number, entry in was]
    some.captions = list(was[2][1].captions)
    some.uncaptioned = 6
    assert 2 not in some_images(7, 1)
    with pytest.raises(DataError, match=r"none of the 1 images of the split test of .* has a caption: raise --limit"):
        model_inputs(model, some, replace(request, limit=1))


def test_a_limit_takes_images_of_the_whole(model: Model, dataset: CaptionedImages) -> None:
    assert set(some_images(100, 10)) < set(some_images(100, 11))
    assert len(some_images(7, 3)) == 3
    request = EvaluationRequest(metrics=METRICS, captions_per_image=2)
    whole = model_inputs(model, dataset, request)
    limited = model_inputs(model, dataset, replace(request, limit=5))
    numbers = some_images(7, 5)
    assert whole.captions is not None
    assert limited.captions is not None
    assert whole.real is not None
    assert limited.real is not None
    kept = np.flatnonzero(np.isin(whole.scenes, numbers))
    for some, every, rows in ((limited.fake, whole.fake, kept), (limited.real, whole.real, numbers)):
        assert torch.equal(torch.cat(list(some.batches(4))), torch.cat(list(every.batches(4)))[rows])
        assert some.fingerprint != every.fingerprint
    assert limited.scenes.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    number = limited.captions.first[0]
    assert candidates(limited.captions, number).tolist() == candidates(whole.captions, number).tolist()
    result = score_inputs(limited, request, load_networks(request, CPU, model))
    assert {score.n_fake for score in result.metrics.values()} == {10}
    assert (result.limit, result.captions_per_image) == (5, 2)


def test_only_captions_that_are_scored_are_encoded(model: Model, dataset: CaptionedImages) -> None:
    used = Captions.of_split(dataset, 1, competing=False)
    vectors = used.vectors(model.clip)
    assert torch.isfinite(vectors).all(dim=1).nonzero().flatten().tolist() == used.first
    torch.testing.assert_close(vectors[used.first], Captions.of_split(dataset, 1).vectors(model.clip)[used.first])
    again = Captions.of_split(dataset, 1, competing=False)
    assert torch.equal(again.vectors(model.clip)[used.first], vectors[used.first])  # kept beside the data
    for metrics, encoded in ((("clip-score",), 7), (("clip-score", "r-precision"), 21)):
        inputs = model_inputs(model, dataset, EvaluationRequest(metrics=metrics, captions_per_image=1))
        assert inputs.captions is not None
        assert len(inputs.captions.encoded) == encoded


def test_how_many_captions_where_nobody_says(model: Model, dataset: CaptionedImages) -> None:
    rendered = CaptionedImages(dataset.path, dataset.split, dataset.image_size)
    rendered.info = replace(rendered.info, source=SOURCE)
    for split, asked, used in ((dataset, None, 10), (rendered, None, 1), (rendered, 2, 2)):
        inputs = model_inputs(model, split, EvaluationRequest(captions_per_image=asked))
        assert inputs.captions_per_image == used
        assert len(inputs.fake) == 7 * min(used, 3)


def test_real_images_are_centre_crops(dataset: CaptionedImages) -> None:
    (levels,) = SplitImages(dataset).batches(100)
    with Image.open(dataset.entries[2].file) as stored:
        left, upper = (stored.width - 32) // 2, (stored.height - 32) // 2
        expected = np.asarray(stored.crop((left, upper, left + 32, upper + 32)))
    assert np.array_equal(levels[2].permute(1, 2, 0).numpy(), expected)


def test_scores_depend_on_no_batch_size_and_on_every_run_alike(model: Model, dataset: CaptionedImages) -> None:
    request = EvaluationRequest(metrics=METRICS, captions_per_image=3)
    first, again = evaluated(model, dataset, request), evaluated(model, dataset, request)
    assert {name: score.value for name, score in first.metrics.items()} == {
        name: score.value for name, score in again.metrics.items()
    }
    assert set(first.metrics) == {"fid_clip", "kid_clip", "precision_clip", "recall_clip", "clip_score", "r_precision"}
    for batch_size in (1, 4):
        other = evaluated(model, dataset, replace(request, batch_size=batch_size))
        assert other.fingerprint == first.fingerprint == again.fingerprint
        for name, score in other.metrics.items():
            assert score.value == pytest.approx(first.metrics[name].value, rel=1e-4, abs=1e-7)


def test_generated_images_depend_on_no_batch_size() -> None:
    """To the bit; `sample` in batches of one changes the last bits of a small model's, and so some levels."""
    demo = load_model("ratlip-demo")
    captions = Captions.of_folder([[f"a {colour} bird"] for colour in ("red", "blue", "yellow", "black")] * 8)
    made = {
        size: torch.cat(list(GeneratedImages(demo, captions, 0, size).batches(size or 16))) for size in (None, 1, 5)
    }
    assert torch.equal(made[1], made[None])
    assert torch.equal(made[5], made[None])


def test_counts_and_notes_stand_beside_the_numbers(model: Model, dataset: CaptionedImages) -> None:
    metrics = evaluated(model, dataset, EvaluationRequest(metrics=METRICS, captions_per_image=2)).metrics
    assert {(metrics[name].n_real, metrics[name].n_fake) for name in ("fid_clip", "kid_clip")} == {(7, 14)}
    assert (metrics["clip_score"].n_real, metrics["clip_score"].n_fake) == (None, 14)
    assert "7 images, fewer than the 17" in str(metrics["fid_clip"].note)
    assert "among 19 captions instead of 100" in str(metrics["r_precision"].note)
    assert {score.features for score in metrics.values()} == {"CLIP of random"}


def test_the_fingerprint_changes_with_all_that_decides_the_score(
    model: Model, dataset: CaptionedImages, tiny_dataset: Path
) -> None:
    request = EvaluationRequest(captions_per_image=1)
    other_model = replace(model, fingerprint="another")
    fingerprints = [
        evaluated(*arguments).fingerprint
        for arguments in (
            (model, dataset, request),
            (model, dataset, replace(request, seed=1)),
            (model, dataset, replace(request, captions_per_image=2)),
            (model, dataset, replace(request, metrics=("clip-score",))),
            (model, CaptionedImages(tiny_dataset, "test", 32), request),
            (model, CaptionedImages(dataset.path, "train", 32), request),
            (other_model, dataset, request),
        )
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert evaluated(model, dataset, replace(request, bootstrap=40)).fingerprint == fingerprints[0]


def test_whose_the_captions_are_decides_r_precision_alone(model: Model, dataset: CaptionedImages) -> None:
    """Captions of one image do not compete with one another."""

    def fingerprint(*metrics: str, moved: int) -> str:
        request = EvaluationRequest(metrics=metrics, captions_per_image=1)
        inputs = model_inputs(model, dataset, request)
        assert inputs.captions is not None
        inputs.captions.scenes[1] += moved
        return score_inputs(inputs, request, load_networks(request, model.device, model)).fingerprint

    assert fingerprint("r-precision", moved=0) != fingerprint("r-precision", moved=1)
    assert fingerprint("clip-score", moved=0) == fingerprint("clip-score", moved=1)


def test_captions_are_encoded_where_something_uses_their_vectors(
    model: Model, dataset: CaptionedImages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = EvaluationRequest(model=model, dataset=dataset.path, metrics=("fid",), captions_per_image=1, bootstrap=40)
    encoded: list[str] = []
    vectors = Captions.vectors
    monkeypatch.setattr(Captions, "vectors", lambda own, *more: encoded.append("vectors") or vectors(own, *more))
    monkeypatch.setattr("ratlip_cli.evaluation.run.SOON", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr(GeneratedImages, "of_vectors", False)  # as of AttnGAN, which reads words
        with caplog.at_level("INFO"):
            evaluate(request)
    assert encoded == []
    assert any("fid_clip of 40 resamples: about " in record.message for record in caplog.records)
    evaluate(request)
    assert encoded != []


def test_what_a_text_encoder_of_the_models_own_cuts_is_said(model: Model, dataset: CaptionedImages) -> None:
    inputs = model_inputs(model, dataset, EvaluationRequest(captions_per_image=1))
    damsm = SimpleNamespace(context_length=18, overlong=lambda captions: [0, 2])
    said = "2 of 7 captions are longer than the 18 words that the model's text encoder reads, and their ends are cut"
    assert _noted(inputs, [damsm]).notes == (f"{said}: shorten them",)


@pytest.mark.slow
def test_intervals_hold_the_value(model: Model, dataset: CaptionedImages) -> None:
    evaluation = evaluated(model, dataset, EvaluationRequest(metrics=METRICS, captions_per_image=2, bootstrap=40))
    for name, score in evaluation.metrics.items():
        assert score.interval is not None
        low, high = score.interval
        assert low <= score.value <= high
        assert low < high or name in ("precision_clip", "recall_clip", "r_precision")
        assert score.value != 0 or name != "clip_score"
    assert evaluation.record()["bootstrap"] == 40


def test_the_clip_that_scores(model: Model, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(
        "ratlip_cli.evaluation.networks.load_clip", lambda spec, device: loaded.append(spec) or model.clip
    )
    by_clip = EvaluationRequest(metrics=("clip-score",), features="clip")
    by_inception = replace(by_clip, features="inception")
    assert load_networks(by_clip, CPU, model).clips[0].clip is model.clip
    assert loaded == []
    load_networks(by_inception, CPU, model)  # no ViT-B/32, and none of its own named: OpenAI's is taken
    load_networks(replace(by_clip, clip="this", clip_score_clip="that"), CPU, model)
    assert loaded == ["ViT-B-32-quickgelu:openai", "this", "that"]
    monkeypatch.setattr("ratlip_cli.evaluation.networks.VIT_B_32", model.clip.geometry)
    assert load_networks(by_inception, CPU, model).clips[0].clip is model.clip
    assert len(loaded) == 3


def test_a_second_clip_has_scores_of_its_own(model: Model, dataset: CaptionedImages, tiny_clip: Path) -> None:
    request = EvaluationRequest(
        metrics=("clip-score", "r-precision"), captions_per_image=1, features="clip", clip_score_clip=str(tiny_clip)
    )
    evaluation = evaluated(model, dataset, request)
    first, second = evaluation.score("clip_score"), evaluation.score("second_clip_score")
    assert list(evaluation.metrics) == ["clip_score", second.name, "r_precision", f"r_precision_{tiny_clip}"]
    assert (first.name, second.name) == ("clip_score", f"clip_score_{tiny_clip}")
    assert first.value == second.value  # the same CLIP by another name


def test_released_scores_are_named_so(model: Model, dataset: CaptionedImages) -> None:
    request = EvaluationRequest(metrics=("clip-score",), protocol="released", captions_per_image=1)
    evaluation = evaluated(model, dataset, request)
    score = evaluation.score("clip_score")
    assert (list(evaluation.metrics), score.name) == (["clip_score_released"], "clip_score_released")
    assert -1 <= score.value <= 1
    assert "released" in score.features


def test_one_call_scores_a_model_by_name_or_loaded(model: Model, model_folder: Path, dataset_path: Path) -> None:
    request = EvaluationRequest(model=model, metrics=("fid",), captions_per_image=1, device="cpu")
    loaded, named = evaluate(request), evaluate(replace(request, model=model_folder, dataset=dataset_path))
    assert (loaded.source["model"], named.source["model"]) == ("random", str(model_folder))
    assert loaded.source["dataset"] == named.source["dataset"] == str(dataset_path)
    score = loaded.score("fid")
    assert (score.name, score.value) == ("fid_clip", named.score("fid").value)
    assert repr(loaded) == f"Evaluation(fid_clip={score.value:.4f}, fingerprint='{loaded.fingerprint}')"
    record = json.loads(json.dumps(loaded.record()))
    assert list(record)[:4] == ["model", "model_fingerprint", "dataset", "split"]
    assert (record["device"], record["metrics"]["fid_clip"]["value"]) == ("cpu", score.value)
    assert "kid" not in {score.key for score in loaded.metrics.values()}
    with pytest.raises(KeyError):
        loaded.score("kid")


def test_a_dataset_that_only_has_the_name_of_a_models_own_is_said(model: Model, dataset_path: Path) -> None:
    def notes(fingerprint: str, **more: Any) -> list[str]:
        training = {"dataset": str(dataset_path), "dataset_fingerprint": fingerprint}
        trained = replace(model, config=replace(model.config, training=training))
        request = EvaluationRequest(model=trained, metrics=("fid",), captions_per_image=1, device="cpu", **more)
        return [note for note in evaluate(request).notes if "has the name of the dataset" in note]

    assert len(notes("0" * 64)) == 1
    assert notes(split_fingerprint(dataset_path, "train")) == notes("0" * 64, dataset=dataset_path) == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"metrics": ("fid", "kid"), "clip_score_clip": "x"}, "--clip-score-clip goes with --clip-score or"),
        ({"protocol": "released", "features": "clip"}, "--protocol released has an Inception of its own"),
        ({"metrics": ("fid",), "features": "inception", "clip": "x"}, "--score-clip scores nothing here"),
    ],
)
def test_what_would_do_nothing_is_refused(asked: dict[str, Any], said: str, inception_file: Path) -> None:
    with pytest.raises(UsageError, match=said):
        load_networks(EvaluationRequest(inception_weights=inception_file, **asked), CPU)


def test_a_broken_generator_is_named(model: Model, dataset: CaptionedImages, clip: FrozenCLIP) -> None:
    broken = Generator(model.config.generator, clip.geometry).eval().requires_grad_(False)
    broken.to_rgb.weight.data.fill_(float("nan"))
    with pytest.raises(RatlipError, match="model random generates pixels that are not numbers"):
        evaluated(replace(model, generator=broken), dataset, EvaluationRequest(captions_per_image=1))


def captioned_folder(folder: Path, captions: Sequence[str], side: int = 16) -> Path:
    """Images x0.png, x1.png ... with a caption file each."""
    random = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for number, caption in enumerate(captions):
        levels = random.integers(0, 256, size=(side, side, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"x{number}.png")
        (folder / f"x{number}.txt").write_text(caption, encoding="utf-8")
    return folder


def opened(folder: Path, captioned: bool, captions_per_image: int = 1) -> tuple[Images, Captions | None]:
    """The images of a folder and their captions, whatever is said about them."""
    request = EvaluationRequest(images=folder, captions_per_image=captions_per_image)
    images, captions, _ = open_folder(folder, request, captioned)
    return images, captions


def test_folders_of_every_kind_are_read(tmp_path: Path, dataset_path: Path) -> None:
    folder = captioned_folder(tmp_path / "own", ["a\nb", "c", "d"])
    images, captions = opened(folder, True)
    assert (len(images), images.size) == (3, (16, 16))
    assert captions is not None
    assert [captions.texts[number] for number in captions.first] == ["a", "c", "d"]
    with Image.open(folder / "x1.png") as image:
        assert np.array_equal(next(images.batches(2))[1].permute(1, 2, 0).numpy(), np.asarray(image))
    for file in folder.glob("*.txt"):
        file.unlink()
    assert opened(folder, False)[1] is None
    images, captions = opened(dataset_path, True, 2)
    assert (len(images), images.size) == (7, (32, 32))
    assert captions is not None
    assert [list(numbers) for numbers in captions.of_image[:2]] == [[0, 1], [2, 3]]
    (folder / "images.jsonl").write_text(
        "".join(json.dumps({"file_name": f"x{number}.png", "prompt": f"p{number}"}) + "\n" for number in range(2))
    )
    Image.new("RGB", (90, 20)).save(folder / "0000_grid.png")
    images, captions = opened(folder, True, 10)
    assert len(next(images.batches(9))) == 2
    assert captions is not None
    assert captions.texts == ["p0", "p1"]
    lines = [
        {"file_name": "x0.png", "prompt": "p0", "model": "one", "fingerprint": "1" * 16},
        {
            "file_name": "x1.png",
            "prompt": "like a.png",
            "like": "photos/a.png",
            "model": "two",
            "fingerprint": "2" * 16,
        },
    ]
    (folder / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, captions, notes = open_folder(folder, EvaluationRequest(images=folder), True)
    assert captions is None  # what stands for a prompt beside an image is none
    assert f"the images are of 2 models: one ({'1' * 16}) and two ({'2' * 16})" in notes


def test_images_of_a_folder_change_its_fingerprint(tmp_path: Path) -> None:
    folder = captioned_folder(tmp_path / "own", ["a", "b"])
    before = opened(folder, False)[0].fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert opened(tmp_path / "copy", False)[0].fingerprint == before
    shutil.copyfile(folder / "x0.png", folder / "x1.png")
    assert opened(folder, False)[0].fingerprint != before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "x1.png").write_bytes(b"\x89PNG cut"), r"x1\.png: not an image"),
        (lambda folder: Image.new("RGB", (17, 16)).save(folder / "x2.png"), r"x2\.png has 17 x 16 .* x0\.png 16 x 16"),
        (lambda folder: (folder / "x1.png").unlink(), r"x1\.txt is the caption of no image"),
        (lambda folder: (folder / "x1.txt").unlink(), r"x1\.png: it has no caption: x1\.txt is missing"),
        (lambda folder: (folder / "x1.txt").write_text(" \n"), r"x1\.png: its caption is empty"),
        (
            lambda folder: (folder / "metadata.csv").write_text("file_name,text\nx0.png,a\n"),
            r"x1\.png: .* does not name it",
        ),
        (lambda folder: [file.unlink() for file in folder.glob("*")], r"own holds no images"),
        (lambda folder: shutil.rmtree(folder), r"own does not exist"),
        (
            lambda folder: (folder / "images.jsonl").write_text('{"file_name": "/x.png", "prompt": "a"}'),
            "images.jsonl is",
        ),
        (lambda folder: (folder / "images.jsonl").write_text("[" * 100_000), "images.jsonl is"),
        (
            lambda folder: (folder / "images.jsonl").write_text('{"file_name": "x9.png", "prompt": "a"}'),
            r"x9\.png is named in images\.jsonl, but is not there\. .* remove its line",
        ),
    ],
)
def test_bad_folders_are_named(tmp_path: Path, clip: FrozenCLIP, damage: Callable[[Path], object], said: str) -> None:
    folder = captioned_folder(tmp_path / "own", ["a", "b", "c"])
    damage(folder)
    networks = Networks(None, (ClipNetwork(clip, "tiny"),), CPU)
    request = EvaluationRequest(images=folder, metrics=("clip-score",))

    def score() -> Evaluation:
        return score_inputs(folder_inputs(folder, request, silent), request, networks)

    with pytest.raises(DataError, match=said):
        score()


def test_too_few_or_missing_is_said(tmp_path: Path, clip: FrozenCLIP) -> None:
    one, _ = opened(captioned_folder(tmp_path / "one", ["a"]), False)
    three, _ = opened(captioned_folder(tmp_path / "three", "abc"), False)
    network = ClipNetwork(clip, "tiny")
    for fake, real, metric, said in (
        (one, three, "fid", "too few generated images: 1; fid take at least 2"),
        (three, one, "fid", "too few real images: 1"),
        (three, three, "precision-recall", "take at least 4"),
        (three, None, "kid", "give a --reference or --dataset"),
    ):
        inputs = Inputs(fake, real, None, False, {})
        with pytest.raises(DataError, match=said):
            score_inputs(inputs, EvaluationRequest(metrics=(metric,)), Networks(network, (), CPU))
    request, networks = EvaluationRequest(metrics=("clip-score",)), Networks(None, (network,), CPU)
    with pytest.raises(DataError, match="need captions"):
        score_inputs(Inputs(three, None, None, False, {}), request, networks)
    same = Inputs(three, None, Captions.of_folder([["a"]] * 3), False, {})
    with pytest.raises(DataError, match="different captions"):
        score_inputs(same, EvaluationRequest(metrics=("r-precision",)), networks)


def test_as_many_captions_are_counted_as_images_have(tmp_path: Path) -> None:
    for captions, counted in ((["a", "b"], 1), (["a\nb", "c"], 2)):
        folder = captioned_folder(tmp_path / str(counted), captions)
        assert folder_inputs(folder, EvaluationRequest(metrics=("clip-score",)), silent).captions_per_image == counted


def images_of(folder: Path, request: EvaluationRequest) -> torch.Tensor:
    return next(open_folder(folder, request, False)[0].batches(100))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x1.jfif", "JPEG"),
        ("x1.JPE", "JPEG"),
        ("x1.apng", "PNG"),
        ("x1.PNG_2", "PNG"),
        ("x1", "PNG"),
        ("x1.jpg", "PNG"),
        ("deeper/x1.bin", "WEBP"),
        ("x1.pgm", "PPM"),
    ],
)
def test_images_are_told_by_their_content(tmp_path: Path, name: str, kind: str) -> None:
    folder = captioned_folder(tmp_path / "own", ["a", "b", "c"])
    (folder / "x1.png").unlink()
    (folder / "x1.txt").unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    Image.new("RGB", (16, 16), "red").save(folder / name, format=kind)
    images, _, notes = open_folder(folder, EvaluationRequest(images=folder), False)
    assert len(images) == 3
    assert notes == []
    red = torch.tensor([255.0, 0, 0])[:, None, None]
    assert any((image - red).abs().max() < 8 for image in next(images.batches(9)))


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    folder = captioned_folder(tmp_path / "own", ["a", "b"])
    for name in ("a.html", "readme", ".x9.png", *(f"{number}.md" for number in range(5))):
        (folder / name).write_text("text", encoding="utf-8")
    images, _, notes = open_folder(folder, EvaluationRequest(images=folder), False)
    assert len(images) == 2
    kinds = "5 .md (0.md, 1.md, 2.md, ...), 1 hidden (.x9.png), 1 .html (a.html), 1 others"
    assert notes == [f"passed over in {folder}, no images: {kinds}"]
    listed = {"file_name": "x0.png", "prompt": "a"}
    (folder / "images.jsonl").write_text(json.dumps(listed) + "\n", encoding="utf-8")
    Image.new("RGB", (90, 20)).save(folder / "0000_grid.png")
    images, _, notes = open_folder(folder, EvaluationRequest(images=folder), True)
    assert len(images) == 1
    assert notes == [f"passed over in {folder}, not named in images.jsonl: 1 .png (x1.png)"]


def test_captions_of_absent_images_are_passed_over_and_named(tmp_path: Path) -> None:
    folder = captioned_folder(tmp_path / "own", ["a", "b"])
    (folder / "x0.txt").rename(folder / "x0.TXT")
    (folder / "x1.txt").rename(folder / "x1.png.txt")
    request = EvaluationRequest(images=folder)
    images, captions, notes = open_folder(folder, request, True)
    assert (len(images), notes) == (2, [])
    assert captions is not None
    assert captions.texts == ["a", "b"]
    for file in ("x0.TXT", "x1.png.txt"):
        (folder / file).unlink()
    rows = [f"{name}.png,caption of {name}" for name in ("x0", "x1", "x2", "another")]
    for table in ("metadata.csv", "captions.csv"):
        (folder / table).write_text("\n".join(["file_name,caption", *rows]))
        images, captions, notes = open_folder(folder, request, True)
        assert len(images) == 2
        assert captions is not None
        assert captions.texts == ["caption of x0", "caption of x1"]
        assert "and 1 more" in notes[-1]
        assert "the image does not exist" in notes[-1]
        (folder / table).unlink()


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    elsewhere = captioned_folder(tmp_path / "elsewhere", ["a", "b"])
    folder = captioned_folder(tmp_path / "own", ["a"])
    (folder / "link").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere)
    (folder / "round").symlink_to(folder)
    (folder / "broken.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "pipe")  # whoever opens it waits for ever
    images, _, notes = open_folder(folder, EvaluationRequest(images=folder), False)
    assert len(images) == 3
    assert notes == [f"passed over in {folder}, no images: 1 .png (broken.png), 1 without an ending (pipe)"]


def save_as(kind: str) -> Callable[[Path], object]:
    def save(folder: Path) -> None:
        with Image.open(folder / "x1.png") as image:
            image.load()
        image.save(folder / "x1.png", format=kind)

    return save


@pytest.mark.parametrize(
    ("disturb", "said"),
    [
        (lambda folder: shutil.copyfile(folder / "x0.png", folder / "x1.png"), "1 of 3 images of .* are copies"),
        (save_as("JPEG"), r"generated images: 1 JPEG, 2 lossless; real images: 3 lossless"),
        (save_as("WEBP"), r"generated images: 1 WebP, 2 lossless; real images: 3 lossless"),
        (
            lambda folder: shutil.copyfile(folder / "../real/x0.png", folder / "x2.png"),
            "1 of 3 gene.* among",
        ),
        (
            lambda folder: shutil.copytree(folder / "../real", folder, dirs_exist_ok=True),
            "the real images themse",
        ),
    ],
)
def test_what_makes_a_distance_less_than_it_seems_is_noted(
    tmp_path: Path, disturb: Callable[[Path], object], said: str
) -> None:
    captioned_folder(tmp_path / "real", "abc")
    folder = captioned_folder(tmp_path / "own", "abc")
    for file in folder.glob("*.png"):
        with Image.open(file) as image:
            image.rotate(90).save(file)
    request = EvaluationRequest(images=folder, reference=tmp_path / "real", metrics=("fid",))
    assert folder_inputs(folder, request, silent).notes == ()
    disturb(folder)
    (note,) = folder_inputs(folder, request, silent).notes
    assert re.search(said, note)


def test_resize_brings_folders_of_several_sizes_to_one(tmp_path: Path, tiny_dataset: Path) -> None:
    folder = captioned_folder(tmp_path / "own", "abc")
    Image.new("RGB", (60, 30), "red").save(folder / "x1.png")
    real = captioned_folder(tmp_path / "real", "def", side=24)
    request = EvaluationRequest(images=folder, reference=real, metrics=("fid",))
    with pytest.raises(DataError, match=r"x1\.png has 60 x 30 .*--resize 16"):
        images_of(folder, request)
    with pytest.raises(DataError, match="--resize 16 brings them to one size"):
        folder_inputs(folder, request, silent)
    to_20 = replace(request, resize=20)
    inputs = folder_inputs(folder, to_20, silent)
    assert inputs.real is not None
    assert inputs.fake.size == inputs.real.size == (20, 20)
    assert inputs.notes == (f"2 of 3 images of {folder} are enlarged",)
    assert inputs.source["resize"] == "shorter side to 20, then the centre"
    levels = images_of(folder, to_20)
    assert levels.shape == (3, 3, 20, 20)
    assert levels[1].flatten(1).unique(dim=1).flatten().tolist() == [255, 0, 0]
    same = captioned_folder(tmp_path / "same", "abc", side=20)
    assert torch.equal(images_of(same, to_20), images_of(same, request))
    assert open_folder(same, to_20, False)[0].fingerprint != open_folder(same, request, False)[0].fingerprint
    against = folder_inputs(folder, replace(to_20, reference=None, dataset=tiny_dataset), silent)
    assert against.real is not None
    assert against.real.size == (20, 20)
    whole, cropped = (f"shorter side to {side}, then the centre" for side in (20, 24))
    assert against.source["resize"] == f"{whole}; real images: {cropped}"
    assert f"({whole}) are framed otherwise than the real ones ({cropped})" in against.notes[-1]
    assert against.captions_per_image == 0


def test_a_prepared_dataset_is_warned_of_as_a_folder_is(tmp_path: Path, tiny_dataset: Path, model: Model) -> None:
    folder = tmp_path / "JPEG"
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64), ("red", "blue")[number]).save(folder / f"x{number}.jpg")
    enlarged, formats = f"2 of 2 images of {tiny_dataset} are enlarged", "file formats differ (generated images: 2 "
    for images, reference in ((folder, tiny_dataset), (tiny_dataset, folder)):
        request = EvaluationRequest(images=images, reference=reference, metrics=("fid",), resize=64)
        notes = folder_inputs(images, request, silent).notes
        assert enlarged in notes
        assert any(note.startswith(formats) for note in notes)
        assert enlarged not in folder_inputs(images, replace(request, resize=32), silent).notes
    larger = CaptionedImages(tiny_dataset, "test", 64)
    assert enlarged in model_inputs(model, larger, EvaluationRequest(metrics=("fid",))).notes


def test_an_unused_reference_changes_no_fingerprint(tmp_path: Path, clip: FrozenCLIP) -> None:
    folder = captioned_folder(tmp_path / "own", "abc")
    request = EvaluationRequest(images=folder, metrics=("clip-score",))
    network = ClipNetwork(clip, "tiny")
    alone, beside = (
        score_inputs(folder_inputs(folder, one, silent), one, Networks(None, (network,), CPU)).fingerprint
        for one in (request, replace(request, reference=folder))
    )
    assert alone == beside


def test_captions_that_clip_cannot_tell_apart_are_counted(
    tmp_path: Path, clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    beginning = "a bird " * 9
    folder = captioned_folder(tmp_path / "own", [*(f"{beginning} {number}" for number in range(4)), "a fish"])
    request = EvaluationRequest(images=folder, metrics=("r-precision",), clip="tiny")
    monkeypatch.setattr("ratlip_cli.evaluation.networks.load_clip", lambda spec, device: clip)
    evaluation = evaluate(request)
    (note,) = evaluation.notes
    assert note.startswith("4 of 5 captions are longer than the 16 tokens that CLIP reads")
    assert "4 of 5 captions have the text vector of one in other words" in str(evaluation.score("r_precision").note)
    assert json.loads(json.dumps(evaluation.record()))["notes"] == [note]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_score_of_values_that_are_not_finite_is_an_error(
    tmp_path: Path, clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    folder = captioned_folder(tmp_path / "own", "abcd")
    network = ClipNetwork(clip, "tiny")
    request = EvaluationRequest(images=folder, reference=folder, metrics=METRICS)
    inputs = folder_inputs(folder, request, silent)
    with monkeypatch.context() as patch:
        patch.setattr(ClipNetwork, "__call__", lambda network, images: torch.full((len(images), 16), wrong))
        with pytest.raises(WeightsError, match="CLIP tiny makes features that are not numbers of the real images"):
            score_inputs(inputs, request, Networks(network, (network,), CPU))
    assert not list(folder.rglob("*.npy"))
    for name in ("frechet_distance", "kernel_distance"):
        with monkeypatch.context() as patch:
            patch.setattr(f"ratlip_cli.evaluation.metrics.{name}", lambda *arguments: wrong)
            with pytest.raises(RatlipError, match="_clip is not a number"):
                score_inputs(inputs, request, Networks(network, (network,), CPU))


def test_formulas_do_not_hide_what_is_no_number(tmp_path: Path) -> None:
    assert np.isnan(frechet_distance(Moments(np.full(2, np.nan), np.eye(2)), Moments(np.zeros(2), np.eye(2))))
    (large,) = feature_files(tmp_path, np.random.default_rng(0).normal(size=(6, 3)) * 1e30)
    with pytest.raises(RatlipError, match="too large"):
        inside_manifold(large, large)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"resize": 0, "images": Path("x")}, "resize is 0"),
        ({"resize": 64}, "--resize goes with --images"),
        ({"metrics": ("fdi",)}, "Did you mean 'fid'"),
        ({"protocol": "standart"}, "Did you mean 'standard'"),
        ({"captions_per_image": 0}, "captions per image is 0"),
        ({"bootstrap": 5}, "at least 40"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"features": "inceptoin"}, "Known: clip, inception"),
        ({"reference": Path("real")}, "--reference goes with --images"),
        ({"images": Path("x"), "model": "ratlip-demo"}, "--images takes no --model"),
        ({"images": Path("x"), "reference": Path("y"), "dataset": "cub"}, "either --reference or --dataset"),
    ],
)
def test_wrong_requests_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        EvaluationRequest(**wrong)  # type: ignore[arg-type]
