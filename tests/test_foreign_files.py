"""Model files that are hostile, damaged or of another kind: one line, nothing built, executed or fetched."""

from __future__ import annotations

import copy
import functools
import io
import json
import logging
import os
import pickle
import re
import shlex
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import open_clip
import pytest
import torch
from command_line import ratlip
from conftest import PREPROCESS, TINY_CLIP
from torch import nn

from ratlip_cli.errors import RatlipError, UsageError, WeightsError
from ratlip_cli.json_files import DEEPEST, read_json
from ratlip_cli.model.clip import FrozenCLIP
from ratlip_cli.model.config import DiscriminatorConfig, GeneratorConfig
from ratlip_cli.model.discriminator import Discriminator
from ratlip_cli.model.generator import Generator
from ratlip_cli.pickle_nesting import DEEPEST as DEEPEST_TUPLES
from ratlip_cli.pickle_nesting import check_nesting
from ratlip_cli.tensor_files import load_pickled, load_tensors, load_weights, save_tensors
from ratlip_cli.training.checkpoint import read_checkpoint
from ratlip_cli.weights import clip_files, hub
from ratlip_cli.weights.card import model_card, write_card
from ratlip_cli.weights.clip_files import clip_architecture, load_clip
from ratlip_cli.weights.hub import is_hub_name, push
from ratlip_cli.weights.load import locate_model
from ratlip_cli.weights.model_folder import (
    CARD_FILE,
    CONFIG_FILE,
    ModelConfig,
    clip_spec,
    create_model_folder,
    load_discriminator,
    load_folder,
    model_config,
    read_model_config,
    save_weights,
)

NAN, INFINITE = float("nan"), float("inf")
NOT_SIZES = (True, -1, 1.5, 64.0, NAN, INFINITE, 1e300, 10**5, 10**7, 2**63, "64", "\x1b[31m", [64], {"a": 1})
"""What may stand in a file where a whole number belongs."""

TRAINING = {
    "dataset": "birds",
    "data": {"name": "birds", "source": "s", "licence": "CC0", "images": 3, "captions": 4},
    "prompts": ["a bird"],
    "settings": {"steps": 3, "epochs": None},
}


@pytest.fixture(scope="module")
def made(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of random weights."""
    folder = tmp_path_factory.mktemp("models") / "made"
    clip = load_clip(str(tiny_clip))
    generator = GeneratorConfig(
        image_size=32, noise_dim=8, hidden_size=4, base_channels=4, bridge_channels=8, bridge_blocks=1
    )
    discriminator = DiscriminatorConfig(base_channels=2)
    create_model_folder(folder, model_config(generator, discriminator, clip, TRAINING), clip)
    networks = Generator(generator, clip.geometry), Discriminator(discriminator, clip.geometry)
    save_weights(folder, *(network.state_dict() for network in networks))
    return folder


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to spoil."""
    return shutil.copytree(made, tmp_path / "spoiled")


def values(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in the content of a JSON file."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from values(value, (*path, key))


def mutated(content: Any) -> Iterator[str]:
    """The content with each value dropped, and with each of NOT_SIZES in its place."""
    for *path, last in values(content):
        for value in (None, *NOT_SIZES, "DROP"):
            copied = copy.deepcopy(content)
            inner = copied
            for key in path:
                inner = inner[key]
            inner[last] = value
            if value == "DROP":
                del inner[last]
            yield json.dumps(copied)


def assert_one_line(error: RatlipError) -> None:
    assert str(error).isprintable(), str(error)
    assert len(str(error)) < 700
    assert "weights_only" not in str(error)


def change(file: Path, path: tuple[Any, ...], value: object) -> None:
    """Put `value` at `path` in a JSON file."""
    content = json.loads(file.read_text())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file.write_text(json.dumps(content))


def test_every_value_of_a_config_is_checked(model: Path) -> None:
    """Whatever stands in config.json, it is a model whose card can be written, or one line."""
    file = model / CONFIG_FILE
    for text in mutated(json.loads(file.read_text())):
        file.write_text(text)
        try:
            config = read_model_config(model)
        except WeightsError as error:
            assert_one_line(error)
        else:
            assert {type(size) for size in vars(config.generator).values()} == {int, str}
            assert model_card(config, "0" * 16)


def test_every_value_of_a_clip_is_checked(tiny_clip: Path, tmp_path: Path) -> None:
    """Whatever stands in open_clip_config.json, it is a CLIP of sizes that take no time, or one line."""
    file = tmp_path / clip_files.CONFIG_FILE
    content = json.loads((tiny_clip / clip_files.CONFIG_FILE).read_text())
    vocabulary = {"vocabulary": [-1, 3]}
    for text in (*mutated(content | vocabulary), *mutated(vocabulary), "null", "[]", "{"):
        file.write_text(text)
        try:
            clip_architecture(str(tmp_path))
        except WeightsError as error:
            assert_one_line(error)


@pytest.mark.parametrize(
    "path",
    [
        ("generator", "bridge_blocks"),
        ("generator", "noise_dim"),
        ("discriminator", "base_channels"),
    ],
)
def test_sizes_are_compared_with_the_tensors_before_they_are_allocated(
    model: Path, monkeypatch: pytest.MonkeyPatch, path: tuple[str, str]
) -> None:
    loaded = load_folder(model)
    change(model / CONFIG_FILE, path, 64)
    monkeypatch.setattr(nn.Module, "to_empty", None)
    monkeypatch.setattr(nn.Module, "load_state_dict", None)
    monkeypatch.setattr("ratlip_cli.weights.model_folder.load_model_clip", lambda *_: loaded.clip)
    changed = replace(loaded, config=read_model_config(model))
    use = (
        functools.partial(load_folder, model)
        if path[0] == "generator"
        else functools.partial(load_discriminator, changed)
    )
    with pytest.raises(WeightsError, match="does not fit the model's architecture"):
        use()


def test_sizes_of_a_clip_are_compared_with_the_tensors_before_they_are_allocated(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(model / "clip" / clip_files.CONFIG_FILE, ("model_cfg", "vision_cfg", "layers"), 9)
    built: list[FrozenCLIP] = []
    original = clip_files.build_clip

    def watched(config: Any, spec: str) -> Any:
        built.append(original(config, spec))
        return built[-1]

    monkeypatch.setattr(clip_files, "build_clip", watched)
    with pytest.raises(WeightsError, match=r"does not fit.*missing: visual"):
        load_clip(str(model / "clip"))
    (clip,) = built
    assert all(tensor.is_meta for tensor in clip.model.state_dict().values())


@pytest.mark.parametrize(
    ("tower", "key", "value"),
    [
        ("vision_cfg", "timm_model_name", "hf-hub:other/weights"),
        ("vision_cfg", "timm_model_name", "local-dir:/etc"),
        ("vision_cfg", "timm_model_pretrained", True),
        ("vision_cfg", "pos_embed_type", "sin_cos_2d"),
        ("vision_cfg", "pool_type", "avg"),
        ("text_cfg", "hf_model_name", "other/weights"),
        ("text_cfg", "hf_tokenizer_name", "/etc"),
        ("text_cfg", "tokenizer_kwargs", {"trust_remote_code": True}),
        ("text_cfg", "vocab_size", 100),
    ],
)
def test_a_clip_folder_names_nothing(model: Path, tower: str, key: str, value: object) -> None:
    file = model / "clip" / clip_files.CONFIG_FILE
    change(file, ("model_cfg", tower, key), value)
    for use in (load_clip, clip_architecture):
        with pytest.raises(WeightsError, match=key) as caught:
            use(str(model / "clip"))
        assert_one_line(caught.value)


FOREIGN_CLIPS = ("/etc", "../../clip", ".", "", "ViT-B-32:/home/me/my.pt", "ViT-B-32", "random", "hf-hub:a/b", "me/x")


def test_a_downloaded_model_names_no_file_of_this_machine(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_model_config(made)
    for name in FOREIGN_CLIPS:
        assert clip_spec(made, replace(config, clip=name)) == name  # one's own folder says what it likes
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(made.parent))
    for name in FOREIGN_CLIPS:
        with pytest.raises(WeightsError, match="neither a CLIP of open_clip") as caught:
            clip_spec(made, replace(config, clip=name))
        assert_one_line(caught.value)
    assert clip_spec(made, config) == str(made / "clip")
    for name in ("ViT-B-32-quickgelu:openai", "ratlip-demo"):
        assert clip_spec(made, replace(config, clip=name)) == name
    assert clip_spec(made, replace(config, clip="ViT-B-32-quickgelu")) == "ViT-B-32-quickgelu:openai"  # of early models


@pytest.mark.parametrize(
    "revision", ["", "..", "../x", "x/..", "a/../b", "/x", "x/", "x//y", ".x", "x.lock", "é", "x?y"]
)
def test_what_cannot_be_a_revision_is_no_name(revision: str) -> None:
    assert not is_hub_name(f"me/birds@{revision}")
    with pytest.raises(UsageError, match="cannot be the name of a branch"):
        push({}, "me/birds", revision=revision)
    with pytest.raises(WeightsError, match="use owner/name"):
        hub.download(f"me/birds@{revision}")


@pytest.mark.parametrize("name", ["../birds", "me/..", "./birds", "me/.", "é/birds", "me/birds\n", "a--b/c", "a/b/c"])
def test_what_cannot_be_a_repository_is_no_name(name: str) -> None:
    assert not is_hub_name(name)


def test_names_of_the_hub() -> None:
    for name in ("me/birds", "me/birds-1.0_x", "me/birds@main", "me/birds@v1.2", "me/b@refs/pr/1", f"a/b@{'0' * 40}"):
        assert is_hub_name(name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "nested deeper"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), "nested deeper"),
        ('{"a": ' + "9" * 30 + "}", "beyond 64 bits"),
        ('{"a": NaN}', "not a finite number"),
        ('{"a": 1e999}', "not a finite number"),
        (r'{"a": "\ud800"}', "half of a surrogate pair"),
        (r'{"\udfff": 1}', "half of a surrogate pair"),
        ("{", "Expecting"),
    ],
)
def test_json_of_others_is_read_with_suspicion(tmp_path: Path, content: str, words: str) -> None:
    """In every file of a model and of a checkpoint."""
    readers: dict[str, Callable[[Path], object]] = {
        CONFIG_FILE: read_model_config,
        clip_files.CONFIG_FILE: lambda folder: clip_architecture(str(folder)),
        "checkpoint.json": read_checkpoint,
    }
    for name, read in readers.items():
        file = tmp_path / Path(name).stem / name
        file.parent.mkdir()
        file.write_text(content)
        with pytest.raises(ValueError, match=words):
            read_json(file)
        with pytest.raises(WeightsError, match=words) as caught:
            read(file.parent)
        assert_one_line(caught.value)


@pytest.mark.parametrize("step", [True, 1.5, -1, "3", None, [3], 2**70])
def test_a_step_is_a_whole_number(tmp_path: Path, step: object) -> None:
    content = {"format": 1, "step": step, "architecture": {}, "clip": "", "dataset": ""}
    (tmp_path / "checkpoint.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"no whole checkpoint"):
        read_checkpoint(tmp_path)


TAR = b"model.pth".ljust(257, b"\0") + b"ustar\0" + bytes(300)
KINDS = [
    (b"<!DOCTYPE html><html>sign in</html>", "a web page"),
    (b"\n <html>", "a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    (b"\x1f\x8b\x08" + bytes(20), "a gzip archive: unpack it"),
    (TAR, "a tar archive: unpack it"),
    (b"PK\x05\x06" + bytes(18), "a zip archive: unpack it"),
    (b"", "an empty file"),
    (bytes(4000), "a file of zeros"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
]


@pytest.mark.parametrize(("content", "words"), KINDS)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "state.pth"])
def test_other_files_are_told_by_their_first_bytes(tmp_path: Path, content: bytes, words: str, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    told = ratlip("convert", file, "--out", tmp_path / "out", "--quiet")
    assert (told.code, told.out) == (1, "")
    assert words in told.err
    for read in (load_weights, load_tensors, load_pickled):
        with pytest.raises(WeightsError, match=words) as caught:
            read(file)
        assert_one_line(caught.value)
    with pytest.raises(WeightsError, match=words):
        locate_model(str(file))


def test_weights_are_read_by_what_they_are_and_not_by_their_ending(tmp_path: Path) -> None:
    weights = {"a.weight": torch.arange(4.0)}
    save_tensors(tmp_path / "a.pt", weights)
    torch.save(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for file in tmp_path.iterdir():
        assert torch.equal(load_weights(file)["a.weight"], weights["a.weight"])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_training_checkpoints_of_open_clip_are_weights(tmp_path: Path, prefix: str) -> None:
    state = {f"{prefix}visual.proj": torch.ones(2), f"{prefix}logit_scale": torch.ones(())}
    torch.save({"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"state": {}}}, tmp_path / "epoch_3.pt")
    assert set(load_weights(tmp_path / "epoch_3.pt")) == {"visual.proj", "logit_scale"}


@pytest.mark.parametrize(
    "content",
    [
        {1: torch.ones(1)},
        {("a", "b"): torch.ones(1)},
        {"a": torch.ones(1), b"b": torch.ones(1)},
        {"a": 1},
        {"a": torch.ones(2, dtype=torch.complex64)},
        {"a": torch.ones(2, 2).to_sparse()},
        {"a": torch.ones(1).expand(10**6, 10**6)},
        {"\x1b[31m": {}},
        [torch.ones(1)],
        {},
    ],
)
def test_what_is_no_named_tensors(tmp_path: Path, content: object) -> None:
    for wrapped in (content, {"state_dict": content}):
        torch.save(wrapped, tmp_path / "a.pt")
        with pytest.raises(WeightsError) as caught:
            load_weights(tmp_path / "a.pt")
        assert_one_line(caught.value)
    for wrapped in (
        {"netG": content},
        {"model": {"netG": {"a": torch.ones(1)}, "netD": {"a": torch.ones(1)}, "netC": content}},
    ):
        torch.save(wrapped, tmp_path / "a.pth")
        answer = ratlip("convert", tmp_path / "a.pth", "--out", tmp_path / "out", "--quiet")
        assert (answer.code, answer.out) == (1, "")
        assert_one_line(RatlipError(answer.err.strip()))


def script(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """A TorchScript archive, as OpenAI's CLIPs are, of modules with these parameters."""
    root = nn.Module()
    for name, tensor in state.items():
        *parents, last = name.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        module.register_buffer(last, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is old
        torch.jit.save(torch.jit.script(root), path)
    return path


def test_torchscript_archives_are_read_as_tensors(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {key: tensor.half() for key, tensor in load_tensors(tiny_clip / clip_files.WEIGHTS_FILE).items()}
    state |= {"input_resolution": torch.tensor(224), "visual.transposed": torch.arange(6.0).reshape(2, 3).T}
    file = script(tmp_path / "ViT.pt", state)
    monkeypatch.setattr(torch.jit, "load", None)
    read = load_weights(file)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], tensor) for key, tensor in state.items())


class Executes:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.target}'",)


def rewritten(path: Path, members: dict[str, bytes]) -> Path:
    """The archive with other contents of some members."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in content.items():
            archive.writestr(name, members.get(name.partition("/")[2], old))
    return path


def test_a_torchscript_archive_executes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    for content in (
        pickle.dumps(Executes(target)),
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"cposix\nsystem\n(S'true'\ntR.",
    ):
        file = rewritten(script(tmp_path / "a.pt", {"w": torch.ones(1)}), {"data.pkl": content})
        with pytest.raises(WeightsError, match="holds more than tensors and was refused, nothing in it executed"):
            load_weights(file)
    assert not target.exists()


def test_a_torchscript_archive_takes_no_more_memory_than_its_file(tmp_path: Path) -> None:
    file = script(tmp_path / "a.pt", {"w": torch.ones(4)})
    with zipfile.ZipFile(file) as archive:
        data = archive.read("a/data.pkl")
    size = b"(K\x04t"
    assert data.count(size) == 1
    for spoiled in (data.replace(size, b"(J\xff\xff\xff\x7ft"), data[:-20], b"\x80\x02r\xff\xff\xff\xff."):
        with pytest.raises(WeightsError, match="cannot be read as a PyTorch file") as caught:
            load_weights(rewritten(file, {"data.pkl": spoiled}))
        assert_one_line(caught.value)


def nested_key(depth: int) -> bytes:
    """A pickle of a dictionary whose key is a tuple in tuples; Python's own pickler cannot write it."""
    return b"\x80\x02})" + b"\x85" * depth + b"Ns."


def of_torch(path: Path, content: bytes) -> Path:
    torch.save({"w": torch.ones(1)}, path)
    return rewritten(path, {"data.pkl": content})


def of_old_torch(path: Path, content: bytes) -> Path:
    torch.save({"w": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    old = path.read_bytes()
    ends = [position + 1 for position, byte in enumerate(old) if byte == ord(".")]
    path.write_bytes(old[: next(end for end in ends if old[:end].endswith(b"u."))] + content)
    return path


@pytest.mark.parametrize("made", ["zip", "old", "script", "first of old"])
def test_a_key_of_tuples_without_end_does_not_end_the_process(tmp_path: Path, made: str) -> None:
    """hash() of tuples so deep takes the stack that the operating system gives, whatever Python's own limit is."""
    file, content = tmp_path / "a.pt", nested_key(200_000)
    if made == "first of old":
        file.write_bytes(content)
    elif made == "script":
        rewritten(script(file, {"w": torch.ones(1)}), {"data.pkl": content})
    else:
        (of_torch if made == "zip" else of_old_torch)(file, content)
    with pytest.raises(WeightsError, match="it nests tuples without end") as caught:
        load_weights(file)
    assert_one_line(caught.value)


def test_nesting_is_counted_as_pickles_build_it() -> None:
    """Through the memo, marks, calls and copies; what only changes a list or dictionary nests nothing."""
    for one in (
        nested_key(DEEPEST_TUPLES - 1),
        pickle.dumps([[{(1, 2): "a"}] * 3] * 2000, 2),
        pickle.dumps([[index] for index in range(5000)], 0),
        b"\x80\x02](0.",
    ):
        check_nesting(io.BytesIO(one))
    through_memo = b"".join(b"q\x00h\x00\x85" for _ in range(DEEPEST_TUPLES + 1))
    for one in (
        nested_key(DEEPEST_TUPLES + 1),
        b")" + b"2\x86" * (DEEPEST_TUPLES + 1) + b".",
        b")" + through_memo + b".",
        b"(" * (DEEPEST_TUPLES + 2) + b"t" * (DEEPEST_TUPLES + 2) + b".",
        b"(" * (DEEPEST_TUPLES + 2) + b"l" * (DEEPEST_TUPLES + 2) + b".",
        b")" + b"}R" * (DEEPEST_TUPLES + 1) + b".",
    ):
        with pytest.raises(ValueError, match="without end"):
            check_nesting(io.BytesIO(one))


def test_other_folders_and_files_name_the_next_command(made: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "[a] run"
    shutil.copytree(made, run / "model")
    (run / "config.toml").touch()
    (run / "checkpoints").mkdir()
    (run / "samples.png").write_bytes(b"\x89PNG")
    alone = shutil.copy(made / "generator.safetensors", tmp_path)
    torch.save({"model": {}}, tmp_path / "state.pth")
    (tmp_path / "images").mkdir()
    for path, words in (
        (tmp_path / "runs", f"is a folder of runs: name one of them: {run}."),
        (run / "checkpoints", f"is part of a model: name the whole, --model {run}."),
        (run / "samples.png", f"--model {run}."),
        (run / "model" / "generator.safetensors", f"--model {run / 'model'}."),
        (run / "model" / CONFIG_FILE, f"--model {run / 'model'}."),
        (alone, "holds weights alone: --model takes the folder with config.json"),
        (tmp_path / "state.pth", f"`ratlip convert {tmp_path / 'state.pth'} --out FOLDER`"),
        (script(tmp_path / "ViT.pt", {"w": torch.ones(1)}), f"--clip ViT-B-32-quickgelu:{tmp_path / 'ViT.pt'}"),
        (tiny_dataset, f"`ratlip train --dataset {tiny_dataset}`"),
        (made / "clip", "--model"),
        (tmp_path / "images", "is neither a model folder nor a run folder"),
    ):
        with pytest.raises(WeightsError) as caught:
            locate_model(str(path))
        assert words in str(caught.value)
        assert str(caught.value).startswith(str(path))


def test_a_misspelled_path_is_said_before_the_hub(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made, tmp_path / "runs" / "birds-1" / "model")
    shutil.copytree(made, tmp_path / "models" / "birds")
    monkeypatch.chdir(tmp_path)

    def offline(name: str) -> Path:
        raise WeightsError("the Hugging Face Hub cannot be reached.")

    monkeypatch.setattr(hub, "download", offline)
    for spec, near in (("run/birds-1", "runs/birds-1"), ("modles/birds", "models/birds")):
        with pytest.raises(
            WeightsError,
            match=f"no folder {spec} here; did you mean {near}.*On the Hugging Face Hub.*cannot be reached",
        ):
            locate_model(spec)
    with pytest.raises(UsageError, match=r"unknown model 'runs/birds-9'.*Did you mean 'runs/birds-1'"):
        locate_model("runs/birds-9")
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(UsageError, match=r"unknown model 'runs/birds-1'.*No run is here yet"):
        locate_model("runs/birds-1")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, "of timm") for name in ("ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "PE-Core-B-16", "EVA02-B-16")),
        *((name, "of timm") for name in ("convnext_base", "MobileCLIP-S1", "ViTamin-S", "nllb-clip-base-siglip")),
        *((name, "of transformers") for name in ("roberta-ViT-B-32", "mt5-base-ViT-B-32", "xlm-roberta-base-ViT-B-32")),
        *((name, "does not read its class token") for name in ("coca_ViT-B-32", "ViT-L-14-CLIPA")),
        *((name, "cannot be used") for name in ("coca_base", "coca_roberta-ViT-B-32", "RN50")),
    ],
)
def test_names_of_open_clip_that_cannot_be_used_say_why(name: str, words: str) -> None:
    if name not in open_clip.list_models():
        pytest.skip("another version of open_clip")
    for use, spec in ((clip_architecture, name), (load_clip, f"{name}:random"), (load_clip, f"{name}:/no/such.pt")):
        with pytest.raises(WeightsError, match=words) as caught:
            use(spec)
        assert_one_line(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ViT-B/32", "'ViT-B-32'"),
        ("vit-b-16", "'ViT-B-16'"),
        ("hf-hub:laion/x", "NAME:PRETRAINED"),
        (__file__, "is a file; say of"),
    ],
)
def test_other_spellings_of_a_clip(spec: str, words: str) -> None:
    with pytest.raises(RatlipError, match=re.escape(words)):
        clip_architecture(spec)


def test_what_open_clip_logs_is_no_line_of_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        logging.error("Failed to download weights")
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "create_model", fails)
    with pytest.raises(WeightsError, match=r"could not be downloaded.*has --clip: ViT-B-32-quickgelu:PATH\.$"):
        load_clip("ViT-B-32-quickgelu:openai")
    assert caplog.records == []


HOSTILE = 'a "bird" $(touch x) `id` \\ ! [b](http://x) <img src=x> | **x** _x_\nnew'


def test_what_a_model_says_is_no_markup(made: Path) -> None:
    config = read_model_config(made)
    data = dict.fromkeys(("name", "source", "licence"), HOSTILE)
    hostile = ModelConfig(
        **{**vars(config), "training": {"data": data, "prompts": [HOSTILE], "settings": {HOSTILE: HOSTILE}}}
    )
    card = model_card(hostile, "0" * 16, step=HOSTILE)
    prompt = " ".join(HOSTILE.split())
    shell = next(line for line in card.splitlines() if line.startswith("ratlip generate"))
    assert shlex.split(shell)[2] == prompt
    code = next(line for line in card.splitlines() if line.startswith("for sample in"))
    assert json.loads(code[len("for sample in model.generate(") : -len(", n=8):")]) == prompt
    table = card[card.index("## Data") : card.index("## Scores")]
    for markup in ("[b]", "<img", "`id`", "**x**", " _x_", "](", "\nnew"):
        assert not re.search(rf"(?<!\\){re.escape(markup)}", table)
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in table.splitlines() if line.startswith("| "))


def test_cards_say_where_ratlip_comes_from_and_what_data_are_called_now(model: Path) -> None:
    change(model / CONFIG_FILE, ("training", "data", "source"), "drawn by ratlip (ratlip_cli/data/drawn)")
    write_card(model)
    card = (model / CARD_FILE).read_text()
    assert "rendered by ratlip (ratlip_cli/demo)" in card
    assert "pip install ratlip" not in card  # which no registry has


def test_info_names_no_path_of_this_machine(made: Path) -> None:
    answer = ratlip("info", "--model", made)
    assert answer.code == 0
    assert "ratlip, 32 pixels, on its own CLIP" in answer.out
    assert str(made / "clip") not in answer.out


def test_a_clip_folder_of_open_clip_still_loads(tmp_path: Path) -> None:
    """With what open_clip writes besides: keys that are null, and how images are resized."""
    config = copy.deepcopy(TINY_CLIP)
    config["vision_cfg"] |= {"timm_model_name": None, "mlp_ratio": 4, "ls_init_value": None}
    config["text_cfg"] |= {"hf_model_name": None}
    with torch.random.fork_rng():
        weights = open_clip.CLIP(**TINY_CLIP).state_dict()
    content = {"model_cfg": config, "preprocess_cfg": PREPROCESS | {"interpolation": "bicubic"}, "vocabulary": None}
    clip_files.save_clip(tmp_path, content, weights)
    assert load_clip(str(tmp_path)).geometry == clip_architecture(str(tmp_path)).geometry


@pytest.mark.parametrize(
    "vocabulary",
    [[], [-1], [3, 49407], [-1, 3], [-1, -1, 49407], [-1, 10**9], [-1, 1.0, 49407], "a", [3, 49407, -1]],
)
def test_a_vocabulary_has_a_row_for_every_token_and_the_end_last(model: Path, vocabulary: object) -> None:
    change(model / "clip" / clip_files.CONFIG_FILE, ("vocabulary",), vocabulary)
    with pytest.raises(WeightsError, match="'vocabulary' must"):
        load_clip(str(model / "clip"))


def test_the_end_of_a_text_is_found_in_a_vocabulary(model: Path) -> None:
    """A place that no token has would give all captions one vector."""
    file = model / "clip" / clip_files.CONFIG_FILE
    change(file, ("vocabulary",), [-1, 3, 49406, 49407])
    change(file, ("model_cfg", "text_cfg", "pool_type"), "eos")
    change(file, ("model_cfg", "text_cfg", "eos_id"), 49407)
    with pytest.raises(WeightsError, match=r"eos_id is 49407, but 'vocabulary' has 49407, the end, at 3"):
        load_clip(str(model / "clip"))


@pytest.mark.parametrize("start", [b"\x80\x02", b"PK", b"(\xb5", b"BZ", b"\x80\x00"])
def test_a_safetensors_file_may_begin_with_any_length(tmp_path: Path, start: bytes) -> None:
    """Its first bytes are the length of its header; some lengths read as the beginning of other files."""
    file, wanted = tmp_path / "x.safetensors", int.from_bytes(start, "little")
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header += b" " * (wanted - len(header))
    file.write_bytes(wanted.to_bytes(8, "little") + header + torch.ones(1).numpy().tobytes())
    assert load_tensors(file)["x"].item() == 1
    assert load_weights(file)["x"].item() == 1
