"""Exported models: the same images without this package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ftfy
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import ratlip
from PIL import Image

from ratlip_cli.clip_tokenizer import CLIPTokenizer
from ratlip_cli.data.dataset import CaptionedImages
from ratlip_cli.errors import RatlipError, WeightsError
from ratlip_cli.evaluation.images import Captions, GeneratedImages
from ratlip_cli.exported import OPENAI_MERGES, ExportedModel, read_export
from ratlip_cli.generation import InterpolationRequest
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.generator import Generator
from ratlip_cli.noise import noise_vectors
from ratlip_cli.samples import generate as generate_by
from ratlip_cli.samples import interpolate
from ratlip_cli.sampling import generate
from ratlip_cli.tokenizer import Tokenizer
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.export import export
from ratlip_cli.weights.export.export import export_model
from ratlip_cli.weights.export.scored import load_exported
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import Model, create_model_folder, load_folder, model_config, save_weights

PROMPT = "a red bird with black wings, it isn't blue"


TOKENS = CLIPTokenizer(32)([PROMPT]).numpy()

BOUNDS = {"image_difference": 1e-4, "text_difference": 1e-5, "vector_difference": 1e-5}
"""The random weights of the generator below multiply what comes in."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Random weights on the bundled CLIP, whose vocabulary is trimmed."""
    clip = load_clip("ratlip-demo")
    config = GeneratorConfig(image_size=32, noise_dim=6, hidden_size=4, base_channels=4, bridge_blocks=1)
    torch.manual_seed(0)
    generator = Generator(config, clip.geometry)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("models") / "birds"
    create_model_folder(folder, model_config(config, DiscriminatorConfig(), clip), clip)
    save_weights(folder, generator.state_dict())
    return load_folder(folder)


@pytest.fixture(scope="module")
def exported(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    answer = ratlip("export", model.folder, "--out", folder, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["fingerprint"] == model.fingerprint
    assert all(told[name] <= bound for name, bound in BOUNDS.items()), told
    return folder


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def of_any_format(
    request: pytest.FixtureRequest, model: Model, exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An exported model of each format that `generate` and `evaluate` take."""
    if request.param == "onnx":
        return exported
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("exported") / "openvino"
    answer = ratlip("export", model.folder, "--out", folder, "--format", "openvino", "--quiet")
    assert answer.code == 0, answer.err
    return folder


def format_of(exported: Path) -> str:
    """What export.json says."""
    return str(json.loads((exported / "export.json").read_text(encoding="utf-8"))["format"])


def generated(model: Model, noise: np.ndarray, prompt: str) -> np.ndarray:
    text = model.clip.encode_text([prompt]).expand(len(noise), -1)
    with torch.no_grad():
        images: np.ndarray = model.generator(torch.from_numpy(noise), text, model.clip).clamp(-1, 1).numpy()
    return images


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnxruntime_generates_the_same(model: Model, exported: Path, batch: int) -> None:
    encoder, generator = (
        onnxruntime.InferenceSession(exported / f"{name}.onnx") for name in ("text_encoder", "generator")
    )
    merges = (exported / "merges.txt").read_text(encoding="utf-8").splitlines()
    tokens = Tokenizer(merges, model.clip.context_length)([PROMPT] * batch)
    (text,) = encoder.run(["text"], {"tokens": tokens})
    assert np.abs(text - model.clip.encode_text([PROMPT]).numpy()).max() <= 1e-3
    noise = np.random.default_rng(batch).standard_normal((batch, 6), dtype=np.float32)
    (images,) = generator.run(["images"], {"noise": noise, "text": text})
    expected = generated(model, noise, PROMPT)
    assert expected.std() > 0.05
    assert np.abs(images - expected).max() <= 1e-3


@pytest.mark.slow
def test_the_files_say_which_model_and_nothing_of_this_machine(model: Model, exported: Path) -> None:
    for name in ("generator.onnx", "text_encoder.onnx", "image_encoder.onnx"):
        loaded = onnx.load(exported / name)
        assert {item.key: item.value for item in loaded.metadata_props}["fingerprint"] == model.fingerprint
        assert b".py" not in (exported / name).read_bytes()
    assert json.loads((exported / "export.json").read_text())["clip_fingerprint"] == model.clip.fingerprint


@pytest.mark.slow
def test_nothing_is_written_into_images_piece_by_piece(exported: Path) -> None:
    """What adds in place in Python would be a ScatterND a piece, which takes most of the time of an image."""
    operators = {node.op_type for node in onnx.load(exported / "generator.onnx").graph.node}
    assert {"Conv", "ConvTranspose"} <= operators
    assert not {operator for operator in operators if operator.startswith("Scatter")}


def run_example(folder: Path, tmp_path: Path) -> set[str]:
    """Run the example of a copy elsewhere, in a process of its own. Returns the packages it loaded."""
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['example.py', {PROMPT!r}, '2']\n"
        f"sys.path.insert(0, {str(copy)!r})\n"
        f"runpy.run_path({str(copy / 'example.py')!r})\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split())


@pytest.mark.slow
def test_the_example_needs_nothing_else(model: Model, exported: Path, tmp_path: Path) -> None:
    loaded = run_example(exported, tmp_path)
    assert {"onnxruntime", "numpy", "PIL"} <= loaded
    assert not loaded & {"torch", "open_clip", "ratlip_cli", "ftfy", "regex", "onnx"}
    noise = np.random.default_rng(0).standard_normal((2, 6), dtype=np.float32)
    for number, image in enumerate(generated(model, noise, PROMPT)):
        with Image.open(tmp_path / f"{number}.png") as sample:
            pixels = (image.transpose(1, 2, 0) + 1) * 127.5
            assert np.abs(np.asarray(sample) - pixels).max() <= 0.75
    assert len((exported / "example.py").read_text().splitlines()) <= 25


@pytest.mark.slow
def test_torch_export_generates_the_same(model: Model, tmp_path: Path) -> None:
    result = export_model(model, tmp_path / "torch", "torch-export")
    assert result.image_difference <= 1e-4
    loaded = run_example(tmp_path / "torch", tmp_path)
    assert not loaded & {"open_clip", "ratlip_cli", "ftfy"}
    noise = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).numpy()
    for number, image in enumerate(generated(model, noise, PROMPT)):
        with Image.open(tmp_path / f"{number}.png") as sample:
            pixels = (image.transpose(1, 2, 0) + 1) * 127.5
            assert np.abs(np.asarray(sample) - pixels).max() <= 0.75
    assert str(Path(export.__file__).parent).encode() not in (tmp_path / "torch" / "generator.pt2").read_bytes()


def test_what_differs_is_not_written(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_traced", lambda *arguments: None)
    monkeypatch.setattr(export, "_save_archive", lambda program, path, *names: path.touch())
    monkeypatch.setattr(export, "_run_archive", lambda folder, name, inputs: torch.zeros(1))
    with pytest.raises(RatlipError, match=r"the exported images differ by .*: nothing is written"):
        export_model(model, tmp_path / "out", "torch-export")
    assert list(tmp_path.iterdir()) == []


def test_bad_input(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    for arguments, code, words in (
        (["--format", "onxx", "--out", tmp_path / "out"], 2, "Did you mean 'onnx'"),
        (["--out", tmp_path], 2, "exists; choose another --out"),
        (["--out", tmp_path / "out"], 1, "needs the package onnxscript: pip install 'ratlip[export]'"),
    ):
        answer = ratlip("export", model.folder, *arguments, "--quiet")
        assert (answer.code, answer.out) == (code, "")
        assert words in answer.err
    assert load_model(str(model.folder)).fingerprint == model.fingerprint


@pytest.mark.slow
def test_an_exported_model_generates_as_the_model(model: Model, of_any_format: Path, tmp_path: Path) -> None:
    """The same files, records, numbers and grid; less than a pixel in a thousand differs, by one level."""
    asked = ("generate", PROMPT, "a yellow flower", "--seed", 3, "--truncation", 0.8, "--json")
    told, images = {}, {}
    used = {"model": None, "exported": format_of(of_any_format)}
    for name, folder in (("model", model.folder), ("exported", of_any_format)):
        for how, more in (
            ("count", ("-n", 5)),
            ("best", ("-n", 2, "--best-of", 3)),
            ("indices", ("--indices", "7,2-3")),
        ):
            out = tmp_path / name / how
            answer = ratlip(*asked, *more, "--model", folder, "--out", out)
            assert answer.code == 0, answer.err
            told[name, how] = json.loads(answer.out)
            images[name, how] = [np.asarray(Image.open(one["path"])).astype(int) for one in told[name, how]["images"]]
            with Image.open(told[name, how]["grid"]) as grid:
                assert grid.text["fingerprint"] == model.fingerprint
                assert grid.text.get("model_format") == used[name]
            lines = [json.loads(line) for line in (out / "images.jsonl").read_text().splitlines()]
            assert [line["clip_similarity"] for line in lines] == [
                one["clip_similarity"] for one in told[name, how]["images"]
            ]
            assert {line.get("model_format") for line in (*lines, told[name, how])} == {used[name]}
    assert told["exported", "count"]["fingerprint"] == model.fingerprint
    assert told["exported", "count"]["model"] == str(of_any_format)
    pairs = []
    for how in ("count", "best", "indices"):
        for ours, theirs in zip(told["exported", how]["images"], told["model", how]["images"], strict=True):
            assert Path(ours["path"]).name == Path(theirs["path"]).name
            assert ours["clip_similarity"] == pytest.approx(theirs["clip_similarity"], abs=1.1e-4)
            assert ours.pop("model_format") == used["exported"]
            assert "model_format" not in theirs
            assert {**ours, "path": "", "model": "", "clip_similarity": 0} == {
                **theirs,
                "path": "",
                "model": "",
                "clip_similarity": 0,
            }
        pairs += zip(images["exported", how], images["model", how], strict=True)
    differences = np.abs(np.stack([ours - theirs for ours, theirs in pairs]))
    assert np.stack([theirs for _, theirs in pairs]).std() > 5
    assert differences.max() <= 1
    assert (differences > 0).mean() < 1e-3


@pytest.mark.slow
def test_an_exported_image_depends_on_its_noise_and_prompt_alone(exported: Path) -> None:
    """To the bit: not on what else is generated, nor on how many threads an image has."""
    noise = noise_vectors(0, range(6), 6)
    alone = ExportedModel(exported)
    expected = [alone.images(one[None], [alone.encoded(PROMPT)])[0][0].tobytes() for one in noise]
    assert len(set(expected)) == 6
    for model in (ExportedModel(exported, at_once=6, threads=3), ExportedModel(exported, threads=2)):
        assert [image.tobytes() for image in model.images(noise, [model.encoded(PROMPT)] * 6)[0]] == expected
    in_batches = ExportedModel(exported, batch_size=4).generated(noise, alone.encode_tokens(TOKENS).repeat(6, axis=0))
    np.testing.assert_allclose(
        in_batches, alone.generated(noise, alone.encode_tokens(TOKENS).repeat(6, axis=0)), atol=1e-5
    )


@pytest.mark.slow
def test_an_exported_model_generates_without_torch(exported: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from ratlip_cli.cli.app import app\n"
        f"app(['generate', 'un p\u00e1jaro', '-n', '2', '--model', {str(exported)!r}, '--out', {str(tmp_path)!r}],"
        " standalone_mode=False)\n"
        "print(sorted({'torch', 'open_clip', 'onnx', 'scipy'} & sys.modules.keys()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    assert answer.stdout.splitlines()[-1] == "[]"
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "prompt", [PROMPT, '~ "quoted" <b> {x} \\ `y` 100%', "a &amp; b", "un pájaro", "ruÃ­do \u201cx\u201d"]
)
def test_exported_models_read_prompts_as_models_do(model: Model, exported: Path, prompt: str) -> None:
    text = ExportedModel(exported).encode_tokens(model.clip.tokenizer([prompt]).numpy())
    np.testing.assert_allclose(text, model.clip.encode_text([prompt]).numpy(), atol=1e-4)
    if prompt.isascii() and "&" not in prompt:
        assert ftfy.fix_text(prompt) == prompt
    for words, overlong in ((prompt, False), ((prompt + " bird") * 20, True)):
        cut = ["its end may be cut" in line for line in ExportedModel(exported).about(words)]
        assert model.clip.is_overlong(words) == any(cut) == overlong


@pytest.mark.slow
def test_what_an_exported_model_cannot_read_is_said_as_models_do(model: Model, exported: Path, tmp_path: Path) -> None:
    asked = ("generate", "a red house, sea", PROMPT, "a red bird", "bird " * 80, "-n", 2)
    said = {}
    for folder in (model.folder, exported):
        answer = ratlip(*asked, "--model", folder, "--out", tmp_path / folder.name)
        lines = [line for line in answer.err.splitlines() if line.startswith("warning: ")]
        said[folder] = [
            line.replace(str(folder), "MODEL").replace(" of the model that was exported", "") for line in lines
        ]
    assert said[exported] == said[model.folder]
    assert [line.split(": ")[1] for line in said[exported]] == ["prompt 1", "prompt 2", "prompt 4"]
    assert "MODEL knows neither 'house' nor 'sea': `ratlip info MODEL --words` lists" in said[exported][0]


@pytest.mark.slow
def test_an_exported_model_is_scored(model: Model, of_any_format: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = shutil.copytree(tiny_dataset, tmp_path / "data")
    run = ("evaluate", "--dataset", dataset, "--fid", "--clip-score", "--features", "clip", "--json")
    told = {}
    for name, folder in (("model", model.folder), ("exported", of_any_format)):
        answer = ratlip(*run, "--model", folder)
        assert answer.code == 0, answer.err
        told[name] = json.loads(answer.out)
    assert told["exported"]["model_format"] == format_of(of_any_format)
    assert "model_format" not in told["model"]
    assert told["exported"]["precision"] == told["model"]["precision"] == "fp32"
    assert told["exported"]["model_fingerprint"] == told["model"]["model_fingerprint"] == model.fingerprint
    assert told["exported"]["fingerprint"] != told["model"]["fingerprint"]
    captions = Captions.of_split(CaptionedImages(dataset, "test", 32), 1)
    images = {one.exported_as: GeneratedImages(one, captions, 0) for one in (model, load_exported(of_any_format))}
    assert images[format_of(of_any_format)].fingerprint != images[None].fingerprint, (
        "their features are not kept for one another"
    )
    ours, theirs = told["exported"]["metrics"], told["model"]["metrics"]
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name]["value"] == pytest.approx(theirs[name]["value"], rel=1e-3)
    assert (
        ratlip(*run, "--model", of_any_format).out.split("seconds")[0]
        == json.dumps(told["exported"], indent=2).split("seconds")[0]
    )


@pytest.mark.slow
def test_what_an_exported_model_cannot_do_is_said(exported: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    for arguments, code, words in (
        (["generate", "a", "--model", exported, "--device", "cuda"], 2, "computes on the CPU, not on cuda"),
        (["evaluate", exported, "--dataset", tiny_dataset, "--device", "mps"], 2, "computes on the CPU, not on mps"),
        (["generate", "a", "--model", exported, "--precision", "bf16"], 2, "as it was exported, not in bf16"),
        (["evaluate", exported, "--dataset", tiny_dataset, "--precision", "bf16"], 2, "exported, not in bf16"),
        (["gradcam", "a", "--model", exported], 1, "is an exported model, which generates and is evaluated alone"),
        (["latent-viz", exported], 1, "name the model that was exported"),
        (["info", exported], 1, "is an exported model"),
        (["export", exported, "--out", tmp_path / "again"], 1, "is an exported model"),
        (["push", exported, "me/birds"], 1, "is an exported model"),
        (["train", tiny_dataset, "--init-from", exported, "--out", tmp_path / "run"], 1, "is an exported model"),
    ):
        answer = ratlip(*arguments, *([] if arguments[0] == "info" else ["--quiet"]))
        assert (answer.code, len(answer.err.splitlines())) == (code, 1), answer.err
        assert words in answer.err, arguments


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"noise_dim": -5}, "'noise_dim' must be 1 to 1048576, not -5"),
        ({"context_length": 0}, "'context_length' must be 1 to 1048576, not 0"),
        ({"image_size": 10**15}, "'image_size' must be 1 to 1048576"),
        ({"vocabulary": [[1]]}, "'vocabulary' must be a list of whole numbers"),
        ({"vocabulary": [0, True]}, "'vocabulary' must be a list of whole numbers"),
        ({"vocabulary": "words"}, "'vocabulary' must be a list or null"),
    ],
)
def test_values_of_an_export_that_cannot_be_are_named(wrong: dict[str, object], words: str, tmp_path: Path) -> None:
    sizes = {"image_size": 32, "noise_dim": 6, "context_length": 16, "vocabulary": [-1, 320]}
    names = {"library": "ratlip", "library_version": "1", "format": "onnx", "fingerprint": "f", "clip_fingerprint": "c"}
    (tmp_path / "export.json").write_text(json.dumps({**names, **sizes}))
    assert read_export(tmp_path).vocabulary == [-1, 320]
    (tmp_path / "export.json").write_text(json.dumps({**names, **sizes, **wrong}))
    with pytest.raises(WeightsError, match=words):
        read_export(tmp_path)


@pytest.mark.slow
def test_damaged_exports_are_named(model: Model, exported: Path, tmp_path: Path) -> None:
    def changed(**settings: object) -> bytes:
        return json.dumps(json.loads((exported / "export.json").read_text()) | settings).encode()

    whole, merges = ((exported / name).read_bytes() for name in ("generator.onnx", "merges.txt"))
    for number, (name, content, words) in enumerate(
        [
            ("generator.onnx", whole[: len(whole) // 2], "generator.onnx is damaged: export the model again"),
            ("generator.onnx", b"", "generator.onnx is damaged"),
            ("generator.onnx", whole.replace(b"noise", b"n\xffise"), "generator.onnx is damaged"),
            ("generator.onnx", None, "generator.onnx does not exist"),
            ("text_encoder.onnx", whole, "text_encoder.onnx is of another model"),
            ("merges.txt", b"\xff\xfe", "merges.txt is not what `ratlip export` wrote: export the model again"),
            ("merges.txt", merges[: len(merges) // 2], "merges.txt is not what `ratlip export` wrote"),
            ("merges.txt", merges.replace(b"i n\n", b"n i\n"), "merges.txt is not what `ratlip export` wrote"),
            ("merges.txt", None, "merges.txt cannot be read"),
            ("export.json", b"{", "is not what `ratlip export` writes"),
            ("export.json", b"[]", "is not an object"),
            ("export.json", changed(noise_dim="6"), "'noise_dim' must be a whole number"),
            ("export.json", changed(noise_dim=7), "generator.onnx is of another model"),
            ("export.json", changed(fingerprint="0" * 16), "is of another model than export.json"),
            ("export.json", changed(format="tflite"), "has format 'tflite'"),
            ("export.json", changed(format="torch-export"), "holds PyTorch archives"),
        ]
    ):
        folder = shutil.copytree(exported, tmp_path / str(number))
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        answer = ratlip("generate", "a", "--model", folder, "--out", tmp_path / "out", "--quiet")
        assert (answer.code, answer.out, len(answer.err.splitlines())) == (1, "", 1), answer.err
        assert words in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_export_without_an_image_encoder_generates(model: Model, exported: Path, tmp_path: Path) -> None:
    """As versions before this one wrote them."""
    folder = shutil.copytree(exported, tmp_path / "early")
    (folder / "image_encoder.onnx").unlink()
    settings = json.loads((folder / "export.json").read_text())
    assert settings.pop("merges_sha256") == OPENAI_MERGES
    del settings["model"], settings["vocabulary"]
    (folder / "export.json").write_text(json.dumps(settings))
    answer = ratlip("generate", PROMPT, "--model", folder, "--out", tmp_path / "out", "--json")
    assert answer.code == 0
    assert "images get no clip_similarity; export it again for that" in answer.err
    (image,) = json.loads(answer.out)["images"]
    assert image["clip_similarity"] is None
    best = ratlip("generate", PROMPT, "--best-of", 2, "--model", folder, "--out", tmp_path / "out", "--quiet")
    assert (best.code, "without CLIP's image encoder" in best.err) == (2, True)
    scored = ratlip("evaluate", folder, "--dataset", tmp_path, "--quiet")
    assert (scored.code, "exported by an earlier ratlip" in scored.err) == (1, True)
    merges = (folder / "merges.txt").read_bytes()
    (folder / "merges.txt").write_bytes(merges[: len(merges) // 2])
    cut = ratlip("generate", PROMPT, "--model", folder, "--out", tmp_path / "out", "--quiet")
    assert (cut.code, "merges.txt is not what `ratlip export` wrote" in cut.err) == (1, True)


@pytest.mark.slow
def test_an_exported_generator_that_makes_nan_is_reported(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "broken")
    network = onnx.load(folder / "generator.onnx")
    for tensor in network.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 4:
            values = np.full(tensor.dims, np.nan, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(network, folder / "generator.onnx")
    answer = ratlip("generate", "a", "--model", folder, "--out", tmp_path / "out", "--quiet")
    assert (answer.code, "generates pixels that are not numbers" in answer.err) == (1, True)


@pytest.mark.slow
def test_openvino_generates_the_same(model: Model, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    result = export_model(model, tmp_path / "openvino", "openvino")
    assert all(getattr(result, name) <= bound for name, bound in BOUNDS.items()), result
    loaded = run_example(tmp_path / "openvino", tmp_path)
    assert {"openvino", "numpy", "PIL"} <= loaded
    assert not loaded & {"torch", "open_clip", "ratlip_cli", "onnxruntime"}
    exported = ExportedModel(tmp_path / "openvino", at_once=6, threads=2)
    noise = noise_vectors(0, range(6), 6)
    expected = list(generate(model, [PROMPT], count=6))
    together, similarities = exported.images(noise, [exported.encoded(PROMPT)] * 6)
    alone = ExportedModel(tmp_path / "openvino")
    assert [image.tobytes() for image in together] == [
        alone.images(one[None], [alone.encoded(PROMPT)])[0][0].tobytes() for one in noise
    ]
    for ours, similarity, theirs in zip(together, similarities, expected, strict=True):
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs.image)).max() <= 1
        assert similarity == pytest.approx(theirs.clip_similarity, abs=1e-4)
    (tmp_path / "openvino" / "generator.xml").write_text("<net>")
    answer = ratlip("generate", "a", "--model", tmp_path / "openvino", "--out", tmp_path / "out", "--quiet")
    assert (answer.code, "generator.xml is damaged" in answer.err) == (1, True)


@pytest.mark.slow
def test_an_interpolation_begins_and_ends_at_plain_images(exported: Path) -> None:
    one, prompts = ExportedModel(exported), ("a red bird", "a blue bird")
    frames = [image.tobytes() for image in interpolate(one, InterpolationRequest(prompts, 3, seed=2, index=1))]
    plain = [made.image.tobytes() for made in generate_by(one, prompts, seed=2, indices=[1])]
    assert [frames[0], frames[2]] == plain
    assert len(set(frames)) == 3
