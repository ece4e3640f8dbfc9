"""Models that travel: model folders as they are stored, model cards, and the way from a run to another machine."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from command_line import ratlip
from hub_connection import Connect
from hub_server import WRITE_TOKEN, serve
from PIL import Image

from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.publish import Publication, publish
from ratlip_cli.sampling import noise_vectors, sample
from ratlip_cli.tensor_files import load_tensors, save_tensors
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.start import open_session
from ratlip_cli.weights.card import read_scores, write_card
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import (
    CARD_FILE,
    CONFIG_FILE,
    DISCRIMINATOR_FILE,
    GENERATOR_FILE,
    SAMPLES_FILE,
    fingerprint_of,
    load_discriminator,
    load_folder,
    read_model_config,
    save_half,
)

SMALL = (
    *("--image-size", 32, "--generator-channels", 4, "--discriminator-channels", 2, "--batch-size", 2),
    *("--hidden-size", 4, "--noise-dim", 8, "--workers", 0, "--device", "cpu", "--quiet"),
)


@pytest.fixture(scope="module")
def run(tiny_clip: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that saved samples."""
    folder = tmp_path_factory.mktemp("runs") / "colours"
    arguments = ("--steps", 2, "--sample-every", 1, "--out", folder)
    answer = ratlip("train", "--dataset", tiny_dataset, "--clip", tiny_clip, *SMALL, *arguments)
    assert answer.code == 0, answer.err
    return folder


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A copy of its model folder, to spoil."""
    return shutil.copytree(run / "model", tmp_path / "model")


def edit_config(folder: Path, **changes: object) -> None:
    content = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(content | changes))


def test_a_run_keeps_a_whole_model_folder(run: Path) -> None:
    names = {path.name for path in (run / "model").iterdir()}
    assert names == {
        "config.json",
        "generator.safetensors",
        "discriminator.safetensors",
        "clip",
        "README.md",
        "samples.png",
    }
    config = json.loads((run / "model" / CONFIG_FILE).read_text())
    assert {"format_version", "library_version", "clip", "clip_fingerprint", "generator", "training"} <= set(config)
    assert config["training"]["data"]["licence"] == "CC0"
    assert config["training"]["settings"]["lr_d"] == 4e-4
    assert not any("visual" in name for name in load_tensors(run / "model" / GENERATOR_FILE))
    assert fingerprint_of(run / "model") in (run / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 99}, "has format version 99, this ratlip .* reads 1; install"),
        ({"colour": "red"}, r"unknown keys \['colour'\]"),
        (
            {"generator": {"variant": "ratlip", "colour": "red"}},
            r"unknown keys \['colour'\], missing keys .*'noise_dim'",
        ),
        ({"generator": "ratlip"}, "does not describe a ratlip model"),
        ({"library": "diffusers"}, "does not describe a ratlip model"),
        ({"clip_fingerprint": "0" * 16}, "other weights, so other images"),
    ],
)
def test_a_config_that_does_not_fit_is_named(folder: Path, changes: dict[str, object], words: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(WeightsError, match=words):
        load_folder(folder)


def test_tensors_that_do_not_fit_are_named(folder: Path) -> None:
    tensors = load_tensors(folder / GENERATOR_FILE)
    tensors["to_rgb.bias"] = torch.zeros(4)
    tensors["extra"] = tensors.pop("fuse.bias")
    save_tensors(folder / GENERATOR_FILE, tensors)
    with pytest.raises(
        WeightsError, match=r"missing: fuse.bias; not of this model: extra; .*to_rgb.bias \(4,\) instead"
    ):
        load_folder(folder)


def test_half_precision_takes_half_the_space_and_generates_the_same(folder: Path, tmp_path: Path) -> None:
    half = shutil.copytree(folder, tmp_path / "half")
    save_half(folder, half)
    for name in (GENERATOR_FILE, DISCRIMINATOR_FILE):
        assert (half / name).stat().st_size < 0.6 * (folder / name).stat().st_size
    stored = load_tensors(half / GENERATOR_FILE)
    assert {tensor.dtype for tensor in stored.values() if tensor.ndim >= 2} == {torch.float16}
    assert stored["bridge.blocks.0.conv2.norm.running_var"].dtype == torch.float32
    whole, halved = load_folder(folder), load_folder(half)
    assert halved.fingerprint == fingerprint_of(half) != whole.fingerprint
    noise, text = noise_vectors(0, range(2), 8), whole.clip.encode_text(["a red image"]).expand(2, -1)
    assert torch.allclose(sample(whole, noise, text), sample(halved, noise, text), atol=5e-3)
    assert load_discriminator(halved).state_dict().keys() == load_discriminator(whole).state_dict().keys()


def test_values_beyond_half_precision_are_kept(folder: Path, tmp_path: Path) -> None:
    tensors = load_tensors(folder / GENERATOR_FILE)
    tensors["to_rgb.weight"][0, 0, 0, 0] = 1e5
    save_tensors(folder / GENERATOR_FILE, tensors)
    (folder / DISCRIMINATOR_FILE).unlink()
    save_half(folder, tmp_path / "half")
    assert torch.equal(load_tensors(tmp_path / "half" / GENERATOR_FILE)["to_rgb.weight"], tensors["to_rgb.weight"])
    assert not (tmp_path / "half" / DISCRIMINATOR_FILE).exists()


def test_from_a_run_to_another_machine(run: Path, connect: Connect, tmp_path: Path) -> None:
    """Pushed, pulled by name with its fingerprint, and generating the same images; its records name the commit."""
    prompt = ("a red image", "-n", 2, "--device", "cpu", "--no-grid", "--quiet")
    here = ratlip("generate", *prompt, "--model", run, "--out", tmp_path / "here")
    assert here.code == 0, here.err
    with serve() as hub:
        connect(hub, WRITE_TOKEN)
        pushed = ratlip("push", run, "me/colours", "--license", "cc0-1.0", "--json", "--quiet")
        assert pushed.code == 0, pushed.err
        told = json.loads(pushed.out)
        assert told["fingerprint"] == load_model(str(run)).fingerprint

        connect(hub, cache="another-machine")
        pulled = ratlip("pull", "me/colours", "--fingerprint", told["fingerprint"], "--json", "--quiet")
        assert pulled.code == 0, pulled.err
        assert json.loads(pulled.out)["model"] == told["model"]
        wrong = ratlip("pull", "me/colours", "--fingerprint", "0" * 16, "--quiet")
        assert (wrong.code, wrong.out) == (1, "")
        assert "it is another model" in wrong.err
        there = ratlip("generate", *prompt, "--model", "me/colours", "--out", tmp_path / "there")
        assert there.code == 0, there.err
    for line in here.out.splitlines():
        with Image.open(line) as one, Image.open(tmp_path / "there" / Path(line).name) as other:
            assert one.tobytes() == other.tobytes()
            assert other.text["model"] == told["model"]
            assert other.text["fingerprint"] == told["fingerprint"]


def metadata(card: str) -> dict[str, object]:
    found = re.match(r"---\n(.*?)\n---\n", card, flags=re.DOTALL)
    assert found
    return yaml.safe_load(found[1])


def write_scores(path: Path, fingerprint: str) -> Path:
    """As `ratlip evaluate --out` writes them."""
    fid = {"value": 12.34567, "interval": None, "features": "inception", "n_real": 10, "n_fake": 20, "note": None}
    what = {"model": "runs/x", "model_fingerprint": fingerprint, "dataset": "data/colours", "split": "test"}
    path.write_text(json.dumps({**what, "protocol": "standard", "fingerprint": "f" * 16, "metrics": {"fid": fid}}))
    return path


def test_samples_of_the_card_are_timed_from_their_beginning(run: Path) -> None:
    told: list[tuple[int, int | None]] = []
    publish(Publication(str(run), "me/colours", dry_run=True), lambda _, done, total, __: told.append((done, total)))
    assert told[0] == (0, len(told) - 1)
    assert told[-1] == (len(told) - 1, len(told) - 1)


def test_a_dry_run_shows_files_and_card_and_asks_nobody(run: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores.json", fingerprint_of(run / "model"))
    answer = ratlip("push", run, "me/colours", "--dry-run", "--scores", scores, "--json", "--quiet")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert {"config.json", "generator.safetensors", "README.md", "samples.png"} <= set(told["files"])
    assert told["model"] is None
    data = metadata(told["card"])
    assert data["license"] == "cc0-1.0"
    assert (data["library_name"], data["pipeline_tag"]) == ("ratlip", "text-to-image")
    assert {"gan", "clip", "ratlip"} <= set(data["tags"])
    result = data["model-index"][0]["results"][0]
    assert result["metrics"][0]["value"] == 12.3457
    assert result["dataset"]["name"] == "colours"
    for words in (
        *("CC0", "lr d | 0.0004", "12.3457", "f" * 16, "samples.png", "ratlip generate", "## Limits"),
        f"ratlip pull me/colours --fingerprint {told['fingerprint']}",
    ):
        assert words in told["card"]
    assert str(run.parent) not in told["card"]


def test_that_a_run_is_not_finished_is_told(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "model")
    file = tmp_path / "model" / "generator.safetensors"
    save_tensors(file, load_tensors(file), {"step": "1"})
    answer = ratlip("push", tmp_path / "model", "me/colours", "--dry-run")
    assert answer.code == 0, answer.err
    steps = json.loads((file.parent / CONFIG_FILE).read_text())["training"]["settings"]["steps"]
    assert f"was trained for 1 of its {steps} steps" in answer.err
    assert "was trained for" not in ratlip("push", run, "me/colours", "--dry-run").err


def test_what_goes_up_names_no_folder_of_this_machine(run: Path, tmp_path: Path, connect: Connect) -> None:
    """In no file, the text chunks of its PNG among them, which are not compressed; nor where scores were made there."""
    run = Path(shutil.copytree(run, tmp_path / "copies" / "run"))
    scores = write_scores(run / "scores.json", fingerprint_of(run / "model"))
    content = json.loads(scores.read_text())
    own, second = (
        {"value": 1.0, "features": f"CLIP {of}"} for of in (f"of {run}", f"ViT-B-32-quickgelu:{run.parent}/w.pt")
    )
    content["metrics"] = {"fid_clip": own, f"clip_score_ViT-B-32-quickgelu:{run.parent}/w.pt": second}
    scores.write_text(json.dumps(content))
    with serve() as hub:
        connect(hub, WRITE_TOKEN)
        pushed = ratlip("push", run, "me/colours", "--half", "--prompt", "a blue image", "--json", "--quiet")
        assert pushed.code == 0, pushed.err
        files = {name: hub.file("me/colours", name) for name in json.loads(pushed.out)["files"]}
    assert [name for name, content in files.items() if str(run.parent).encode() in content] == []
    card = files["README.md"].decode()
    assert "| fid_clip | 1.0000 | its own CLIP |" in card
    assert "| clip_score_ViT-B-32-quickgelu:w.pt | 1.0000 | CLIP ViT-B-32-quickgelu:w.pt |" in card
    assert Image.open(io.BytesIO(files[SAMPLES_FILE])).text["model"] == "me/colours"
    assert json.loads(files[CONFIG_FILE])["training"]["dataset"] == "colours"
    assert len(files[GENERATOR_FILE]) < 0.6 * (run / "model" / GENERATOR_FILE).stat().st_size


def test_a_card_of_a_branch_names_the_branch(run: Path) -> None:
    card = publish(Publication(str(run), "me/colours", revision="v2", dry_run=True)).card
    assert "ratlip pull me/colours@v2 --fingerprint" in card
    assert 'load_model("me/colours@v2")' in card
    assert "# colours\n" in card


@pytest.mark.parametrize(("licence", "near"), [("MIT", "mit"), ("CC BY 4.0", "cc-by-4.0"), ("-", "other")])
def test_a_licence_that_the_hub_does_not_take_is_told_before(run: Path, licence: str, near: str) -> None:
    with pytest.raises(UsageError, match=rf"--license is '{licence}'; .*'{near}'\?"):
        publish(Publication(str(run), "me/colours", licence=licence, dry_run=True))


def test_a_model_that_changes_while_its_card_is_made_is_not_published(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))

    def trained_on(*arguments: object) -> None:
        file = run / "model" / GENERATOR_FILE
        save_tensors(file, {name: tensor + 1 for name, tensor in load_tensors(file).items()})

    monkeypatch.setattr("ratlip_cli.publish._save_samples", trained_on)
    with pytest.raises(WeightsError, match="got other weights while its card was made"):
        publish(Publication(str(run), "me/colours", prompts=["a"], dry_run=True))


def card_on(clip: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The card of the run's model, were it trained on that CLIP."""
    model = load_model(str(run))
    named = replace(model, config=replace(model.config, clip=clip))
    monkeypatch.setattr("ratlip_cli.publish.load_model", lambda name: named)
    return publish(Publication(str(run), "me/colours", dry_run=True)).card


@pytest.mark.parametrize(
    ("clip", "told"),
    [
        ("ViT-B-32-quickgelu", "ViT-B-32-quickgelu:openai"),
        ("ratlip-demo", "ratlip-demo"),
        ("clip", "in the folder clip/"),
    ],
)
def test_a_clip_is_published_by_its_whole_name(
    clip: str, told: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"| CLIP | {told} |" in card_on(clip, run, monkeypatch)


@pytest.mark.parametrize(
    "clip", ["ViT-B-32-quickgelu:random", "xlm-roberta-base-ViT-B-32:/home/alice/x.pt", "/home/alice/x.pt"]
)
def test_a_model_on_a_clip_that_nobody_has_is_not_published(
    clip: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match=r"which nobody could download: train on one of open_clip") as caught:
        card_on(clip, run, monkeypatch)
    assert "alice" not in str(caught.value)


@pytest.mark.parametrize("mapper", ["/home/alice/secret/mapper.pth", r"C:\Users\alice\secret\mapper.pth"])
def test_no_setting_that_is_a_path_goes_up(
    tiny_settings: TrainSettings, mapper: str, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the card nor in config.json, whether this version recorded it or one that kept whole paths."""
    monkeypatch.chdir(tmp_path)
    settings = tiny_settings.replaced(variant="lafite", noise_dim=6, channel_base=256, channel_max=8, steps=1)
    list(open_session(settings.replaced(out="run")).run())
    asked = settings.replaced(pseudo_mapper=mapper)
    assert asked.recorded["pseudo_mapper"] == "mapper.pth"
    training = dict(read_model_config(Path("run/model")).training)
    training["settings"] = {**training["settings"], "pseudo_mapper": mapper}
    shards = "secret/shards/{000..099}.tar"
    training |= {"dataset": shards, "data": {**training["data"], "name": shards, "source": shards}}
    edit_config(Path("run/model"), training=training)
    with serve() as hub:
        connect(hub, WRITE_TOKEN)
        assert ratlip("push", "run", "me/colours", "--quiet").code == 0
        for file in (CONFIG_FILE, CARD_FILE):
            told = hub.file("me/colours", file).decode()
            assert "secret" not in told
            assert "alice" not in told
            assert "mapper.pth" in told
            assert "{000..099}.tar" in told


def test_a_licence_against_redistribution_keeps_images_out(folder: Path) -> None:
    training = dict(read_model_config(folder).training)
    training["data"] = {**training["data"], "name": "celeba-tiny", "licence": "non-commercial, no redistribution"}
    edit_config(folder, training=training)
    answer = ratlip("push", folder, "me/faces", "--dry-run", "--prompt", "a face", "--json", "--quiet")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert "samples.png" not in told["files"]
    assert "samples.png" not in told["card"]
    assert "allows no redistribution" in told["card"]
    assert metadata(told["card"])["license"] == "other"
    assert metadata(told["card"])["license_name"] == "non-commercial-no-redistribution"


@pytest.mark.parametrize("key", ["images", "pictures"])
def test_a_card_tells_how_many_images_whatever_the_version_called_them(folder: Path, key: str) -> None:
    edit_config(folder, training={"data": {"name": "colours", key: 17000}})
    write_card(folder)
    assert "| name | colours |\n| images | 17000 |\n" in (folder / CARD_FILE).read_text()


def test_the_code_on_a_card_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_card(folder)
    assert "ratlip pull" not in (folder / CARD_FILE).read_text()  # which takes names of the Hub alone
    code = re.search(r"```python\n(.*?)```", (folder / CARD_FILE).read_text(), flags=re.DOTALL)
    assert code
    monkeypatch.chdir(tmp_path)
    exec(code[1].replace("FOLDER", str(folder)), {})
    assert {path.name for path in tmp_path.glob("*.png")} == {f"{index}.png" for index in range(8)}


def test_scores_of_another_model_are_not_told(run: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores.json", "0" * 16)
    asked = ratlip("push", run, "me/colours", "--dry-run", "--scores", scores, "--quiet")
    assert (asked.code, asked.out) == (1, "")
    assert "score it again" in asked.err
    write_scores(run / "scores.json", "0" * 16)
    found = ratlip("push", run, "me/colours", "--dry-run")
    assert found.code == 0
    assert "they are left out" in found.err
    assert "Not scored yet" in found.out


def test_scores_of_whole_weights_are_told_as_such_of_half(run: Path, tmp_path: Path) -> None:
    whole = fingerprint_of(run / "model")
    scores = write_scores(tmp_path / "scores.json", whole)
    told = f"They are of the weights before they were stored as float16 (fingerprint {whole})."
    for half in (True, False):
        card = publish(Publication(str(run), "me/colours", scores=scores, half=half, dry_run=True)).card
        assert (told in card) == half
        assert "12.3457" in card


@pytest.mark.parametrize("content", ["", "[]", '{"metrics": {}}', '{"model_fingerprint": 1, "metrics": 2}'])
def test_a_file_that_holds_no_scores(tmp_path: Path, content: str) -> None:
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(UsageError, match=r"does not hold the scores of a model"):
        read_scores(tmp_path / "scores.json")


def test_training_starts_from_a_model(run: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    """The first generator is the model's own; its sizes and CLIP need not be typed."""
    small = ("--batch-size", 2, "--workers", 0, "--sample-every", 0, "--device", "cpu", "--quiet", "--lr-g", 1e-30)
    answer = ratlip(
        *("train", "--dataset", tiny_dataset, "--init-from", run, *small, "--steps", 1, "--out", tmp_path / "more")
    )
    assert answer.code == 0, answer.err
    before, after = (load_tensors(folder / "model" / GENERATOR_FILE) for folder in (run, tmp_path / "more"))
    assert all(torch.allclose(before[name], after[name]) for name in before if before[name].ndim >= 2)
    misfit = ratlip(
        *("train", "--dataset", tiny_dataset, "--init-from", run, *small, "--variant", "galip"),
        *("--steps", 1, "--out", tmp_path / "other"),
    )
    assert misfit.code == 1
    assert "has variant = ratlip, this run galip" in misfit.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pull", "birds"], 2, "use owner/name or owner/name@revision"),
        (["push", "/no/such/run", "me/birds"], 2, "unknown model"),
        (["push", ".", "birds"], 2, "use owner/name"),
        (["push", "."], 2, "Missing argument"),
    ],
)
def test_bad_input(arguments: list[str], code: int, words: str) -> None:
    answer = ratlip(*arguments)
    assert (answer.code, answer.out) == (code, "")
    assert words in answer.err
