"""Every family that can be trained keeps the same laws and is used alike, one from a file outside the package too."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import make_dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import toy_family
from command_line import ratlip
from torch import nn

import ratlip_cli
from ratlip_cli import fast
from ratlip_cli.data.dataset import Batch, CaptionedImages
from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.evaluation.images import Captions, GeneratedImages
from ratlip_cli.explain.gradcam.gradcam import gradcam, make_target, resolve_layer, scores_of
from ratlip_cli.families import FAMILIES, family_of
from ratlip_cli.families.damsm import OnDamsm
from ratlip_cli.model.config import VARIANTS, GeneratorConfig
from ratlip_cli.sampling import generate
from ratlip_cli.setting import Value, setting, settings_of
from ratlip_cli.summary import count_parameters
from ratlip_cli.training import settings as settings_module
from ratlip_cli.training.session import TrainingSession
from ratlip_cli.training.settings import TrainSettings, resolve_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.export.export import _Encoding, _Generating
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import Model, model_config


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    toy_family.register()
    yield
    del FAMILIES["toy"]


@pytest.fixture(scope="module")
def toy_settings(tiny_settings: TrainSettings) -> TrainSettings:
    return tiny_settings.replaced(variant="toy", image_size=32, noise_dim=6, toy_width=12, toy_channels=3, lr_d=1e-2)


@pytest.fixture(scope="module")
def run(toy_settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps."""
    folder = tmp_path_factory.mktemp("toy") / "run"
    list(open_session(toy_settings.replaced(out=str(folder), sample_every=3)).run())
    return folder


def test_it_trains_and_writes_what_every_run_writes(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {"loss_d", "loss_g", "logit_real", "logit_fake", "lr_g", "skipped"} <= lines[0].keys()
    assert "penalty_norm" not in lines[0]
    assert (run / "samples" / "step_00000006.png").is_file()
    config = json.loads((run / "model" / "config.json").read_text())
    assert {"drift", "colour_drift"} <= lines[1].keys()
    assert "drift" not in lines[0], "every other step"
    assert config["training"]["settings"]["toy_drift"] == 0.1
    assert config["generator"] == {"variant": "toy", "image_size": 32, "noise_dim": 6, "toy_width": 12}
    repeated = (run / "config.toml").read_text()
    assert "toy_width = 12" in repeated
    assert "[objective]" in repeated
    assert "penalty_weight" not in repeated, "the family does not read it"
    assert "a toy of two layers" in (run / "model" / "README.md").read_text()


def test_another_architecture_is_told_by_its_setting(toy_settings: TrainSettings, run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    with pytest.raises(WeightsError, match=r"toy_width = 12, not 20: resume with --toy-width 12"):
        open_session(toy_settings.replaced(toy_width=20, resume=str(copied), steps=9))


def test_its_settings_come_from_files_and_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "toy.toml"
    file.write_text("variant = 'toy'\n[model]\ntoy_width = 5\n")
    assert resolve_settings({"dataset": "demo"}, str(file)).model["toy_width"] == 5, "sizes of the preset do not matter"
    file.write_text("variant = 'galip'\n[model]\ntoy_width = 5\n")
    with pytest.raises(UsageError, match="variant galip has no setting 'toy_width'"):
        resolve_settings({}, str(file))
    assert "toy_width" in resolve_settings({"variant": "toy"}, str(file)).model
    with pytest.raises(UsageError, match="variant toy has no setting 'hidden_size'"):
        resolve_settings({"variant": "toy", "hidden_size": 5})
    with pytest.raises(UsageError, match="variant galip has no setting 'toy_width'"):
        resolve_settings({"variant": "galip", "toy_width": 5})


def test_its_papers_settings_lie_over_a_preset_and_under_what_is_asked_for(tmp_path: Path) -> None:
    of_preset = resolve_settings({"dataset": "demo"})
    ours = resolve_settings({"dataset": "demo", "variant": "toy"})
    assert (ours.lr_g, ours.batch_size) == (2e-3, 6)
    assert ours.lr_d == of_preset.lr_d
    assert resolve_settings({"dataset": "elsewhere", "variant": "toy"}).lr_g == 2e-3
    assert resolve_settings({"dataset": "demo", "variant": "toy"}, "small").lr_g == 2e-3
    file = tmp_path / "toy.toml"
    file.write_text("variant = 'toy'\nlr_g = 0.5\ntoy_drift = 3.0\n[objective]\ntoy_colour = 2\n")
    asked = resolve_settings({"dataset": "demo", "batch_size": 4}, str(file))
    assert (asked.lr_g, asked.batch_size, asked.objective) == (0.5, 4, {"toy_drift": 3.0, "toy_colour": 2})
    assert asked.objective_weights() == toy_family.ToyWeights(3.0, 2)
    assert asked.replaced(variant="galip").objective == {}
    with pytest.raises(UsageError, match="variant galip has no setting 'toy_drift'"):
        resolve_settings({"variant": "galip", "toy_drift": 1.0})
    with pytest.raises(UsageError, match="variant toy has no setting 'penalty_weight'"):
        resolve_settings({"variant": "toy", "penalty_weight": 1.0})
    for variant in ("attngan", "lafite", "ratgan-released"):
        with pytest.raises(UsageError, match=f"variant {variant} has no setting 'final_similarity_weight'"):
            resolve_settings({"variant": variant, "final_similarity_weight": 1.0})
    for content, message in (
        ("objective = 3", "'objective' must be a table"),
        ("[objective]\ntoy_drit = 1.0", r"unknown setting 'objective.toy_drit'. Did you mean 'toy_drift'"),
        ("toy_drift = 1.0\n[objective]\ntoy_drift = 1.0", "stands in 'objective' and beside it"),
    ):
        file.write_text(content)
        with pytest.raises(UsageError, match=message):
            resolve_settings({"variant": "toy"}, str(file))


def test_a_preset_may_say_more_for_a_variant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    preset = "variant = 'ratlip'\nlr_g = 1e-3\nlr_d = 1e-3\n[for.toy]\nlr_d = 5e-3\ntoy_width = 7\ntoy_drift = 0.0\n"
    (tmp_path / "demo.toml").write_text(preset)
    monkeypatch.setattr(settings_module, "PRESETS", tmp_path)
    ours = resolve_settings({"dataset": "demo", "variant": "toy"})
    assert (ours.lr_g, ours.lr_d, ours.model["toy_width"], ours.objective["toy_drift"]) == (2e-3, 5e-3, 7, 0.0)
    assert resolve_settings({"dataset": "demo"}).lr_d == 1e-3


_LAFITE: dict[str, Value] = {
    **{"noise_dim": 6, "w_dim": 5, "mapping_layers": 2, "text_width": 7, "channel_base": 256, "channel_max": 8},
    **{"r1_every": 2, "path_length_every": 2},
}
TINY: dict[str, dict[str, Value]] = {
    **{name: {} for name in VARIANTS},
    "toy": {"noise_dim": 6, "toy_width": 12, "toy_channels": 3, "lr_d": 1e-2},
    "dfgan": {"generator_channels": 2},
    "ratgan": {"generator_channels": 2, "diversity_weight": 0.5},
    "attngan": {"z_dim": 5, "condition_dim": 3, "generator_channels": 2, "discriminator_channels": 1},
    "lafite": _LAFITE,
    "lafite-released": _LAFITE,
}
"""Small sizes of each family that can be trained, beside those of `tiny_settings`."""
PAPERS = ("toy", "dfgan", "ratgan", "attngan", "lafite")
"""Those that no other tests use like any model."""
CPU = torch.device("cpu")
CAPTIONS = ("a red image", "all of it is blue and green and blue", "grey")


class Trained(NamedTuple):
    """A finished run of six steps."""

    settings: TrainSettings
    folder: Path
    session: TrainingSession


@pytest.fixture(scope="module")
def trained(
    request: pytest.FixtureRequest, tiny_settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """Of the family that the test's parameter names."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    settings = tiny_settings.replaced(variant=request.param, image_size=32, **TINY[request.param])
    session = open_session(settings.replaced(out=str(folder), sample_every=3))
    list(session.run())
    return Trained(settings, folder, session)


SLOW = ("rat", "galip", "ratlip-released", "lafite-released")
"""Those whose networks and objective are others' with a switch."""
all_families = pytest.mark.parametrize(
    "trained", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TINY], indirect=True
)
papers = pytest.mark.parametrize("trained", PAPERS, indirect=True)


def test_no_family_that_can_be_trained_is_left_out() -> None:
    assert set(TINY) == {name for name, family in FAMILIES.items() if not isinstance(family, OnDamsm)}


@all_families
def test_training_changes_all_but_the_clip(trained: Trained) -> None:
    trainer, before = trained.session.trainer, load_clip(trained.settings.clip)
    for name, tensor in trainer.clip.state_dict().items():
        assert torch.equal(tensor, before.state_dict()[name])
    fresh = Trainer(trained.settings, before, trainer.rows, 10, torch.device("cpu"))
    for network, new in ((trainer.generator, fresh.generator), (trainer.discriminator, fresh.discriminator)):
        same = [name for name, weight in network.named_parameters() if torch.equal(weight, new.get_parameter(name))]
        assert len(same) < 0.1 * len(list(network.parameters())), same


@all_families
def test_a_run_goes_on_as_if_it_had_never_stopped(trained: Trained, tmp_path: Path) -> None:
    """To the bit, in all that a checkpoint keeps: networks, EMA, optimisers, and what the objective remembers."""
    half = trained.settings.replaced(out=str(tmp_path / "half"))
    stopped = open_session(half)
    for _ in zip(range(3), stopped.run(lambda: stopped.trainer.steps_done == 3), strict=False):
        pass
    resumed = open_session(half.replaced(resume=half.out))
    list(resumed.run())
    assert resumed.trainer.steps_done == 6
    one, other = (run / "checkpoints" / "step_00000006" for run in (trained.folder, tmp_path / "half"))
    kept = {file.name for file in one.iterdir()}
    assert {"generator.safetensors", "discriminator.safetensors", "state.pt"} <= kept
    for name in kept - {"checkpoint.json"}:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@all_families
def test_a_step_that_is_not_finite_leaves_everything_as_it_was(trained: Trained, tmp_path: Path) -> None:
    trainer = open_session(trained.settings.replaced(out=str(tmp_path / "run"), steps=9)).trainer

    def everything() -> bytes:
        content = io.BytesIO()
        networks = [network.state_dict() for network in (trainer.generator, trainer.discriminator, trainer.ema)]
        torch.save((networks, {**trainer.state(), "not_finite_in_a_row": 0}), content)
        return content.getvalue()

    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    broken = images.clone()
    broken[0, 0, 0, 0] = torch.inf
    for _ in range(2):  # regularisers are due in one of both
        assert not trainer.train_step(Batch(images, torch.arange(4))).skipped
        before = everything()
        assert trainer.train_step(Batch(broken, torch.arange(4))).skipped
        assert everything() == before


@all_families
def test_a_micro_batch_moves_all_running_statistics_of_the_generator_once(trained: Trained) -> None:
    trainer = Trainer(
        trained.settings.replaced(grad_accum=2), load_clip(trained.settings.clip), trained.session.trainer.rows, 4, CPU
    )
    trainer.train_step(Batch(torch.rand(4, 3, 32, 32) * 2 - 1, torch.arange(4)))
    moved = {
        name: int(tensor) for name, tensor in trainer.generator.named_buffers() if name.endswith("batches_tracked")
    }
    assert set(moved.values()) <= {2}, moved
    assert bool(moved) == any(isinstance(module, nn.BatchNorm2d) for module in trainer.generator.modules())


@all_families
def test_an_image_depends_on_its_own_noise_and_caption_alone(trained: Trained) -> None:
    model = load_model(str(trained.folder))
    torch.manual_seed(0)
    for parameter in model.generator.parameters():  # after six steps a caption hardly matters yet
        parameter.data += torch.randn_like(parameter) * (parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5)
    noise, text = torch.randn(3, model.config.generator.noise_dim), model.encode(CAPTIONS)
    with torch.no_grad():
        images = model.generator(noise, text, model.clip)
        of_captions = (model.generator(noise, text.roll(1, 0), model.clip) - images).abs().max()
        of_noise = (model.generator(noise.roll(1, 0), text, model.clip) - images).abs().max()
        for row in range(3):
            alone = model.generator(noise[row : row + 1], model.encode(CAPTIONS[row : row + 1]), model.clip)
            apart = (alone[0] - images[row]).abs().max()
            assert apart < 0.01 * min(of_captions, of_noise), "rounding alone"
    assert apart < 1e-3


@all_families
def test_the_same_image_for_the_same_seed_and_index(trained: Trained) -> None:
    """Alone or among others, to the bit on a CPU."""
    model = ratlip_cli.load_model(str(trained.folder))
    three = [np.asarray(one.image) for one in model.generate(CAPTIONS[0], n=3, seed=5)]
    (alone,) = model.generate(CAPTIONS[0], seed=5, indices=[2])
    among = model.generate(CAPTIONS, n=3, seed=5)
    assert np.array_equal(np.asarray(alone.image), three[2])
    assert np.array_equal(np.asarray(among[2].image), three[2])
    assert not np.array_equal(three[1], three[2])


@papers
def test_settings_of_speed_are_taken(trained: Trained, tmp_path: Path) -> None:
    """Micro-batches, a start from a model, and bf16."""
    for name, more in {
        "micro": {"grad_accum": 2, "init_from": str(trained.folder)},
        "bf16": {"precision": "bf16"},
    }.items():
        session = open_session(trained.settings.replaced(out=str(tmp_path / name), steps=1, **more))
        (record,) = session.run()
        assert not record.skipped, name


@papers
def test_it_is_generated_and_evaluated(trained: Trained, tmp_path: Path) -> None:
    model = ("--model", trained.folder, "--quiet")
    answer = ratlip("generate", "a red image", "-n", 3, *model, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert len(list((tmp_path / "out").glob("*_a-red-image_*.png"))) == 3
    scores = ("--features", "clip", "--fid", "--clip-score", "--captions-per-image", 1, "--device", "cpu", "--json")
    answer = ratlip("evaluate", *model, *scores)
    assert answer.code == 0, answer.err
    assert {"fid_clip", "clip_score"} <= json.loads(answer.out)["metrics"].keys()


@all_families
def test_what_is_evaluated_is_what_is_generated(trained: Trained) -> None:
    """Image k of a split's captions is image k of that caption as a prompt, to a level of rounding."""
    model = load_model(str(trained.folder))
    torch.manual_seed(0)
    for parameter in model.generator.parameters():  # after six steps a caption hardly matters yet
        parameter.data += torch.randn_like(parameter) * (parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5)
    captions = Captions.of_split(CaptionedImages(Path(trained.settings.dataset), "test", 32), 2)
    fakes = GeneratedImages(model, captions, seed=5)
    (scored,) = fakes.batches(len(fakes))
    for number, caption in enumerate(captions.texts):
        (made,) = generate(model, [caption], seed=5, indices=[number])
        shown = torch.from_numpy(np.array(made.image)).permute(2, 0, 1)
        assert (shown.int() - scored[number].int()).abs().max() <= 1, caption
    assert (scored[0].int() - scored[1].int()).abs().max() > 20, "images are of one colour"


def test_images_of_a_condition_of_their_own_are_not_taken_for_those_of_raw_vectors(
    tiny_settings: TrainSettings,
) -> None:
    """What half an evaluation left behind while LAFITE was given raw vectors is not gone on with; all else is."""
    clip = load_clip("ratlip-demo")
    captions = Captions.of_folder([["a red image"]])
    for name, differs in {"lafite": True, "attngan": False, "dfgan": False, "galip": False}.items():
        settings = tiny_settings.replaced(variant=name, **TINY[name])
        model = Model("m", Path(), model_config(*settings.configs(), clip), nn.Identity(), clip, "weights")
        before = hashlib.sha256("\0".join(["weights", captions.fingerprint, "3"]).encode()).hexdigest()
        assert (GeneratedImages(model, captions, 3).fingerprint != before) == differs, name


@papers
def test_what_would_be_exported_is_the_model(trained: Trained) -> None:
    """Token ids become what the exported generator takes, and that the images of the family's condition."""
    model = load_model(str(trained.folder))
    text, noise = _Encoding(model)(model.clip.tokenizer(CAPTIONS)), torch.randn(3, model.config.generator.noise_dim)
    with torch.no_grad():
        expected = model.generator(noise, model.encode(CAPTIONS), model.clip).clamp(-1, 1)
        torch.testing.assert_close(_Generating(model).eval()(noise, text), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@papers
def test_it_is_exported(trained: Trained, tmp_path: Path) -> None:
    answer = ratlip("export", trained.folder, "--out", tmp_path / "out", "--format", "torch-export", "--quiet")
    assert answer.code == 0, answer.err
    model = load_model(str(trained.folder))
    tokens, noise = model.clip.tokenizer(CAPTIONS), torch.randn(3, model.config.generator.noise_dim)
    text = torch.export.load(tmp_path / "out" / "text_encoder.pt2").module()(tokens)
    generator = torch.export.load(tmp_path / "out" / "generator.pt2").module()
    with torch.no_grad():
        expected = model.generator(noise, model.encode(CAPTIONS), model.clip).clamp(-1, 1)
        torch.testing.assert_close(generator(noise, text), expected, atol=1e-4, rtol=1e-4)
    example = [sys.executable, tmp_path / "out" / "example.py", CAPTIONS[0], "2"]
    subprocess.run(example, cwd=tmp_path, check=True, timeout=300)
    assert {file.name for file in tmp_path.glob("*.png")} == {"0.png", "1.png"}


@papers
def test_it_would_be_pushed(trained: Trained) -> None:
    answer = ratlip("push", trained.folder, "me/toy", "--dry-run", "--json", "--quiet")
    assert answer.code == 0, answer.err
    assert trained.settings.family.about in json.loads(answer.out)["card"]


@papers
def test_it_is_explained(trained: Trained, tmp_path: Path) -> None:
    answer = ratlip(
        *("gradcam", "a red image", "--model", trained.folder, "--target", "discriminator", "--words"),
        *("--device", "cpu", "--out", tmp_path, "--json", "--quiet"),
    )
    assert answer.code == 0, answer.err
    content = json.loads(answer.out)
    named = "the largest images' discriminator" if trained.settings.variant == "attngan" else "the discriminator"
    assert content["unit"] == f"logit of {named}"
    assert any(file.endswith(".png") and Path(file).is_file() for file in content["files"])


@all_families
def test_a_map_does_not_depend_on_the_other_images(trained: Trained) -> None:
    """Nor does a score, of the whole prompt or of words that are left out."""
    model = load_model(str(trained.folder))
    target = make_target("discriminator", model)
    layer = resolve_layer(target, None)
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    text, without = (target.encode([caption] * 8) for caption in ("a red image", "an image"))
    together = gradcam(target, images, text, layer)
    scores = scores_of(target, images, text[:1])
    torch.testing.assert_close(together.scores, scores, rtol=1e-4, atol=1e-5)
    left_out = gradcam(target, images, text, layer, without)
    for row in (0, 5):
        of_row = slice(row, row + 1)
        alone = gradcam(target, images[of_row], text[of_row], layer)
        torch.testing.assert_close(together.scores[of_row], alone.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.cells[of_row], alone.cells, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(scores[of_row], scores_of(target, images[of_row], text[:1]), rtol=1e-4, atol=1e-5)
        words = gradcam(target, images[of_row], text[of_row], layer, without[of_row])
        torch.testing.assert_close(left_out.scores[of_row], words.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(left_out.cells[of_row], words.cells, rtol=1e-3, atol=1e-5)
    assert (together.scores[0] - together.scores[5]).abs() > 1e-6, "another image, another score"


@papers
def test_its_latent_view(trained: Trained, tmp_path: Path) -> None:
    answer = ratlip(
        *("latent-viz", "--model", trained.folder, "--space", "discriminator", "--caption", "a red image"),
        *("--caption", "a blue image", "--count", 3, "--device", "cpu", "--out", tmp_path, "--json", "--quiet"),
    )
    assert answer.code == 0, answer.err


@papers
def test_info_lists_every_parameter_once(trained: Trained) -> None:
    answer = ratlip("info", "--model", trained.folder, "--json")
    assert answer.code == 0, answer.err
    listed = json.loads(answer.out)["modules"]
    networks = (trained.session.trainer.generator, trained.session.trainer.discriminator)
    assert sum(module["trained"] for module in listed) == sum(map(count_parameters, networks))


@pytest.mark.parametrize(("variant", "shares"), [("galip", True), ("toy", False)])
def test_info_tells_of_shared_weights_where_they_are(tiny_clip: Path, variant: str, shares: bool) -> None:
    answer = ratlip("info", "--variant", variant, "--image-size", 32, "--clip", tiny_clip)
    assert answer.code == 0, answer.err
    assert ("CLIP-BLK and the CLIP image encoder share their weights." in answer.out) == shares


def test_its_modules_are_listed(run: Path) -> None:
    answer = ratlip("info", "--model", run, "--json")
    assert answer.code == 0, answer.err
    names = [module["name"] for module in json.loads(answer.out)["modules"]]
    assert names == [
        "CLIP text encoder",
        "generator hidden",
        "generator to_rgb",
        "discriminator conv",
        "discriminator logit",
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_papers_variants_are_families(name: str) -> None:
    family = family_of(name)
    generator, _ = family.configs({"hidden_size": 8, "generator_channels": 16, "discriminator_channels": 4})
    assert generator == GeneratorConfig(variant=name, hidden_size=8, base_channels=16)
    assert {"image_size", "noise_dim", "hidden_size", "pixel_stem"} <= family.sizes.keys()


def test_an_unknown_family_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'galip'"):
        family_of("galipp")


def test_swaps_leave_a_family_of_its_own_alone() -> None:
    """A residual reads its input after the activation: in place, it would read something else."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.conv = nn.LeakyReLU(0.2), nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = 2 * x
            return h + self.conv(self.act(h))

    network, x = Residual(), torch.randn(1, 3, 4, 4)
    before = network(x)
    fast.for_training(network, nn.Identity(), frozenset(fast.Swap))
    torch.testing.assert_close(network(x), before)


def test_a_config_may_have_types_that_are_not_postponed() -> None:
    config = make_dataclass("Config", [("size", int, setting(3, "A size.")), ("on", bool, setting(True, "A switch."))])
    assert [one.kind for one in settings_of(config).values()] == [int, bool]
