"""A family from one file outside the package goes through everything that the package does with models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import make_dataclass
from pathlib import Path

import pytest
import torch
import toy_family
from command_line import ratlip
from torch import nn

from ratlip_cli import fast
from ratlip_cli.data.dataset import training_batches
from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.families import FAMILIES, family_of
from ratlip_cli.model.config import VARIANTS, GeneratorConfig
from ratlip_cli.setting import setting, settings_of
from ratlip_cli.training import settings as settings_module
from ratlip_cli.training.settings import TrainSettings, resolve_settings
from ratlip_cli.training.start import open_session
from ratlip_cli.weights.load import load_model


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


def test_it_goes_on_as_if_it_had_never_stopped(toy_settings: TrainSettings, run: Path, tmp_path: Path) -> None:
    half = toy_settings.replaced(out=str(tmp_path / "half"))
    stopped = open_session(half)
    for _ in zip(range(3), stopped.run(lambda: stopped.trainer.steps_done == 3), strict=False):
        pass
    resumed = open_session(half.replaced(resume=half.out))
    list(resumed.run())
    assert resumed.trainer.steps_done == 6
    expected, ours = (load_model(str(path)).generator.state_dict() for path in (run, tmp_path / "half"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())


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


def test_a_step_that_is_not_finite_leaves_everything_as_it_was(toy_settings: TrainSettings, tmp_path: Path) -> None:
    session = open_session(toy_settings.replaced(out=str(tmp_path / "run"), save_every=100))
    trainer, batches = session.trainer, training_batches(session.dataset, 4, 0, 0)

    def everything() -> list[torch.Tensor]:
        states = [value for one in (trainer.optimizer_g, trainer.optimizer_d) for value in one.state.values()]
        networks = [*trainer.generator.state_dict().values(), *trainer.discriminator.state_dict().values()]
        return [tensor.clone() for tensor in (*networks, *(each for state in states for each in state.values()))]

    for _ in range(3):
        before, colour = everything(), trainer.objective.colour
        broken = next(batches)
        monstrous = broken._replace(images=torch.full_like(broken.images, float("inf")))
        assert trainer.train_step(monstrous).skipped
        assert trainer.objective.colour == colour
        assert all(torch.equal(one, other) for one, other in zip(before, everything(), strict=True))
        assert not trainer.train_step(broken).skipped
    batches.close()


def test_it_generates(run: Path, tmp_path: Path) -> None:
    answer = ratlip("generate", "a red image", "-n", 3, "--model", run, "--out", tmp_path / "out", "--quiet")
    assert answer.code == 0, answer.err
    assert len(list((tmp_path / "out").glob("*_a-red-image_*.png"))) == 3


def test_it_is_evaluated(run: Path) -> None:
    answer = ratlip(
        *("evaluate", "--model", run, "--features", "clip", "--fid", "--clip-score", "--captions-per-image", 1),
        *("--device", "cpu", "--json", "--quiet"),
    )
    assert answer.code == 0, answer.err
    assert {"fid_clip", "clip_score"} <= json.loads(answer.out)["metrics"].keys()


def test_it_is_exported(run: Path, tmp_path: Path) -> None:
    answer = ratlip("export", run, "--out", tmp_path / "exported", "--format", "torch-export", "--quiet")
    assert answer.code == 0, answer.err
    assert (tmp_path / "exported" / "generator.pt2").is_file()


def test_it_would_be_pushed(run: Path) -> None:
    answer = ratlip("push", run, "me/toy", "--dry-run", "--json", "--quiet")
    assert answer.code == 0, answer.err
    assert "a toy of two layers" in json.loads(answer.out)["card"]


@pytest.mark.parametrize("target", ["clip", "discriminator"])
def test_it_is_explained(run: Path, tmp_path: Path, target: str) -> None:
    answer = ratlip(
        *("gradcam", "a red image", "--model", run, "--target", target, "--words"),
        *("--device", "cpu", "--out", tmp_path, "--json", "--quiet"),
    )
    assert answer.code == 0, answer.err
    content = json.loads(answer.out)
    assert content["target"] == target
    assert any(file.endswith(".png") and Path(file).is_file() for file in content["files"])


@pytest.mark.parametrize("space", ["clip", "discriminator"])
def test_its_latent_view(run: Path, tmp_path: Path, space: str) -> None:
    answer = ratlip(
        *("latent-viz", "--model", run, "--space", space, "--caption", "a red image", "--caption", "a blue image"),
        *("--count", 3, "--device", "cpu", "--out", tmp_path, "--json", "--quiet"),
    )
    assert answer.code == 0, answer.err


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
