"""The frozen CLIP against open_clip's own model, its sources, and the laws it must keep."""

from __future__ import annotations

import copy
import inspect
import json
import random
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from command_line import ratlip
from conftest import PREPROCESS, TINY_CLIP
from explain_model import clip_of_grid, model_of
from safetensors.torch import load_file, save_file

from ratlip_cli.demo.attributes import FAMILIES, sample_attributes
from ratlip_cli.demo.captions import caption as render_caption
from ratlip_cli.errors import UsageError, WeightsError
from ratlip_cli.evaluation.networks import ClipNetwork
from ratlip_cli.fast import Swap, clip_for
from ratlip_cli.fast.clip import FastQuickGELU
from ratlip_cli.model.clip import FrozenCLIP, overlong
from ratlip_cli.model.towers import CLIP
from ratlip_cli.weights import clip_files
from ratlip_cli.weights.clip_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    clip_architecture,
    load_clip,
    public_name,
    save_clip,
)
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import fingerprint_of

ALL = frozenset(Swap)
EXAMPLES = Path(__file__).parents[1] / "examples"
CAPTIONS = ["a red bird with black wings", "a yellow flower"]


def clip_of(**vision: object) -> tuple[FrozenCLIP, open_clip.CLIP]:
    """A CLIP of random weights with other vision sizes, and a copy of open_clip's model as it was."""
    config = copy.deepcopy(TINY_CLIP)
    config["vision_cfg"].update(vision)
    torch.manual_seed(1)
    model = open_clip.CLIP(**config)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    towers = CLIP(config)
    towers.load_state_dict(model.state_dict())
    clip = FrozenCLIP(towers, tokenizer, "test", PREPROCESS["mean"], PREPROCESS["std"])
    return clip_for(clip, ALL), model.eval()


@pytest.mark.parametrize(
    "vision", [{}, {"patch_size": 4, "layers": 6}, {"image_size": 56, "layers": 12}, {"image_size": 37}]
)
def test_vectors_equal_open_clip(vision: dict[str, int]) -> None:
    clip, model = clip_of(**vision)
    size, grid = clip.geometry.image_size, clip.geometry.grid
    images = torch.rand(2, 3, size, size) * 2 - 1
    torch.testing.assert_close(clip.encode_image(images), model.encode_image(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(clip.encode_text(CAPTIONS), model.encode_text(clip.tokenizer(CAPTIONS)))
    features = clip.features(images)
    torch.testing.assert_close(features.embedding, model.encode_image(images), rtol=1e-5, atol=1e-5)
    assert features.patches.shape == (2, 3, clip.geometry.width, grid, grid)
    assert clip.model.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("pool", [{}, {"pool_type": "eos", "eos_id": 49407}])
def test_words_are_open_clips_hidden_states(pool: dict[str, object]) -> None:
    """Its tokens after the final layer norm; the end says which of them are real."""
    if pool and "eos_id" not in inspect.signature(open_clip.CLIPTextCfg).parameters:
        pytest.skip("this open_clip knows one end of a text alone")
    torch.manual_seed(1)
    config = {**TINY_CLIP, "text_cfg": {**TINY_CLIP["text_cfg"], **pool}}
    model = open_clip.CLIP(**config).eval()
    towers = CLIP(config)
    towers.load_state_dict(model.state_dict())
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    clip = clip_for(FrozenCLIP(towers, tokenizer, "test", PREPROCESS["mean"], PREPROCESS["std"]), ALL)
    tokens = tokenizer([*CAPTIONS, ""])
    hidden: list[torch.Tensor] = []
    model.ln_final.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    expected = model.encode_text(tokens)
    words = clip.encode_words(tokens)
    torch.testing.assert_close(words.hidden, hidden[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(words.text, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(CLIP.encode_text(clip.model, tokens), words.text)
    torch.testing.assert_close(clip.encode_tokens(tokens), expected, rtol=1e-5, atol=1e-5)
    assert words.end.tolist() == [(row != 0).sum().item() - 1 for row in tokens]
    assert clip.geometry.text_width == words.hidden.shape[2] == 16
    assert not words.hidden.requires_grad


def test_gradients_equal_open_clip() -> None:
    clip, model = clip_of(layers=6)
    images = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    text = torch.randn(2, clip.geometry.embed_dim)
    (gradient,) = torch.autograd.grad((clip.encode_image(images) * text).sum(), images)
    (expected,) = torch.autograd.grad((model.encode_image(images) * text).sum(), images)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_features_are_the_patch_tokens_after_the_named_blocks() -> None:
    clip, model = clip_of(layers=6)
    tokens: list[torch.Tensor] = []
    for block in model.visual.transformer.resblocks:
        block.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    images = torch.rand(1, 3, 32, 32)
    model.encode_image(images)
    patches = clip.features(images).patches
    for position, block in enumerate(clip.geometry.feature_blocks):
        torch.testing.assert_close(patches[0, position].flatten(1).T, tokens[block][0, 1:])


def test_clip_blk_without_prompts_is_the_vision_transformer() -> None:
    """Given the patch convolution's own output and no prompts, CLIP-BLK ends where open_clip's blocks end."""
    clip, model = clip_of()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    last: list[torch.Tensor] = []
    model.visual.transformer.resblocks[-1].register_forward_hook(lambda module, inputs, output: last.append(output))
    out = clip.clip_blk(model.visual.conv1(images), torch.empty(2, 0, clip.geometry.width))
    model.encode_image(images)
    torch.testing.assert_close(out.flatten(2).transpose(1, 2), last[0][:, 1:], rtol=1e-5, atol=1e-5)


def test_each_prompt_is_read_by_its_block_alone() -> None:
    clip, _ = clip_of(layers=6)
    lengths: list[int] = []
    for block in clip.visual.transformer.resblocks:
        block.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    feature = torch.randn(1, 32, 4, 4)
    prompts = torch.randn(1, clip.geometry.prompts, 32)
    out = clip.clip_blk(feature, prompts)
    assert lengths == [17, 18, 18, 18, 18, 17]  # class token, 16 patches, and a prompt in blocks 1 ... 4
    assert not torch.allclose(out, clip.clip_blk(feature, prompts + 1))


def test_gradients_reach_the_pixels_and_only_them() -> None:
    clip, _ = clip_of()
    images = torch.rand(1, 3, 48, 48, requires_grad=True)
    features = clip.features(images)
    (features.patches.sum() + features.embedding.sum()).backward()
    assert images.grad is not None
    assert (images.grad != 0).float().mean() > 0.99
    assert all(parameter.grad is None for parameter in clip.parameters())


def test_pixels_are_normalised_once() -> None:
    clip, model = clip_of()
    clip.mean.copy_(torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))
    clip.std.copy_(torch.tensor([0.5, 0.25, 1.0]).view(1, 3, 1, 1))
    vector = clip.encode_image(torch.zeros(1, 3, 64, 64))  # mid grey, whatever the size
    normalised = torch.tensor([0.4 / 0.5, 0.3 / 0.25, 0.2]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    torch.testing.assert_close(vector, model.encode_image(normalised), rtol=1e-5, atol=1e-5)


def test_a_trimmed_vocabulary_is_exact_for_its_words(tmp_path: Path) -> None:
    clip, model = clip_of()
    tokens = clip.tokenizer(CAPTIONS)
    vocabulary = [-1, *sorted(set(tokens.flatten().tolist()))]
    weights = dict(model.state_dict())
    rows = weights["token_embedding.weight"]
    weights["token_embedding.weight"] = torch.cat((torch.full((1, 16), 0.01), rows[vocabulary[1:]]))
    config = copy.deepcopy(TINY_CLIP)
    config["text_cfg"]["vocab_size"] = len(vocabulary)
    save_clip(tmp_path, {"model_cfg": config, "preprocess_cfg": PREPROCESS, "vocabulary": vocabulary}, weights)
    trimmed = load_clip(str(tmp_path))
    torch.testing.assert_close(trimmed.encode_text(CAPTIONS), clip.encode_text(CAPTIONS))
    unknown = trimmed.encode_text(["a purple bird with black wings", "a violet bird with black wings"])
    torch.testing.assert_close(unknown[0], unknown[1])  # both colours fall back to the one row for unknown words
    assert not torch.allclose(unknown[0], trimmed.encode_text(CAPTIONS)[0])
    assert trimmed.fingerprint != clip.fingerprint


def test_words_that_a_trimmed_vocabulary_lacks_are_named() -> None:
    demo = load_clip("ratlip-demo")
    known = demo.known_words()
    assert known is not None
    assert known == sorted(known)
    assert {"bird", "red", "wings", "tann-"} <= set(known)
    assert not {",", "<end_of_text>", "bird</w>"} & set(known)
    assert demo.unknown_words("A HOUSE by the sea, a red bird; a house!") == ["house", "by", "sea"]
    assert demo.unknown_words("a tanned bird - &quot;red&quot; ;") == [], "signs are no words"
    rng = random.Random(0)
    rendered = [render_caption(family, sample_attributes(family, rng), rng) for family in FAMILIES for _ in range(50)]
    for caption in (*rendered, " ".join(word for word in known if word[-1] != "-")):
        assert demo.unknown_words(caption) == []
    answer = ratlip("info", "ratlip-demo", "--words")
    assert answer.out.splitlines() == known
    assert "a word in '-' is a piece that begins words" in answer.err
    whole, _ = clip_of()
    assert whole.known_words() is None
    assert whole.unknown_words("a house by the sea") == []


@pytest.mark.slow
def test_sources_give_the_same_clip(tmp_path: Path) -> None:
    """By name with random weights, from a safetensors file, from a PyTorch file, and from a folder."""
    name = "ViT-S-32-alt"
    by_name = load_clip(f"{name}:random")
    assert load_clip(f"{name}:random").fingerprint == by_name.fingerprint
    state = by_name.model.state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    torch.save({"state_dict": {**state, "input_resolution": torch.tensor(224)}}, tmp_path / "weights.pt")
    for file in ("weights.safetensors", "weights.pt"):
        clip = load_clip(f"{name}:{tmp_path / file}")
        assert clip.fingerprint == by_name.fingerprint
        assert clip.config is not None
    save_clip(tmp_path / "folder", clip.config, clip.model.state_dict())
    assert load_clip(str(tmp_path / "folder")).fingerprint == by_name.fingerprint


def test_clips_of_the_same_weights_that_compute_something_else_are_told_apart(tiny_clip: Path, tmp_path: Path) -> None:
    """Kept text vectors and scores are those of activation, heads and end of text too; names of models stay."""
    changes: dict[str, dict[str, object]] = {
        "as it is": {},
        "quick": {"quick_gelu": True},
        "text heads": {"text_cfg": {"heads": 4}},
        "image heads": {"vision_cfg": {"head_width": 8}},
        "end": {"text_cfg": {"pool_type": "eos", "eos_id": 267}},
    }
    clips = []
    for name, change in changes.items():
        shutil.copytree(tiny_clip, tmp_path / name)
        config = json.loads((tiny_clip / CONFIG_FILE).read_text())
        for key, value in change.items():
            own = config["model_cfg"]
            own[key] = {**own[key], **value} if isinstance(value, dict) else value
        (tmp_path / name / CONFIG_FILE).write_text(json.dumps(config))
        clips.append(load_clip(str(tmp_path / name)))
    assert len({clip.fingerprint for clip in clips}) == 1
    assert len({clip.computes for clip in clips}) == len(clips)
    assert clips[0].computes == load_clip(str(tiny_clip)).computes
    assert ClipNetwork(clips[1], "quick").fingerprint == clips[1].computes
    for clip in (load_clip("ratlip-demo"), load_clip(str(EXAMPLES / "demo" / "second-clip"))):
        assert clip.computes == clip.fingerprint, "published scores name it so"


def test_files_of_openai_need_the_name_with_quick_gelu(tmp_path: Path) -> None:
    torch.save({"input_resolution": torch.tensor(224)}, tmp_path / "ViT-B-32.pt")
    with pytest.raises(UsageError, match=r"trained with QuickGELU: use ViT-B-32-quickgelu:.*ViT-B-32\.pt\."):
        load_clip(f"ViT-B-32:{tmp_path / 'ViT-B-32.pt'}")
    with pytest.raises(WeightsError, match="does not fit"):  # there is nothing else in it
        load_clip(f"ViT-B-32-quickgelu:{tmp_path / 'ViT-B-32.pt'}")


def test_half_precision_files_load_as_float32(tiny_clip: Path, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in load_file(tiny_clip / WEIGHTS_FILE).items()}
    save_file(half, tmp_path / WEIGHTS_FILE)
    (tmp_path / CONFIG_FILE).write_text((tiny_clip / CONFIG_FILE).read_text())
    clip = load_clip(str(tmp_path))
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.float32}


def test_the_architecture_needs_no_weights(tiny_clip: Path) -> None:
    assert clip_architecture(str(tiny_clip)).geometry == load_clip(str(tiny_clip)).geometry
    for name, width, grid, layers, embed_dim in [
        ("ViT-B-32-quickgelu", 768, 7, 12, 512),
        ("ViT-B-16", 768, 14, 12, 512),
        ("ViT-L-14", 1024, 16, 24, 768),
    ]:
        geometry = clip_architecture(name).geometry
        assert (geometry.width, geometry.grid, geometry.layers, geometry.embed_dim) == (width, grid, layers, embed_dim)
        assert geometry.image_size == 224


@pytest.mark.parametrize(
    ("spec", "wanted"), [("ViT-B-32-quickgelu", "openai"), ("ViT-B-32:laion2b_e16", "laion2b_e16")]
)
def test_a_clip_is_called_by_name_and_tag(spec: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a model on it is to name it, so that others find it. Nothing is downloaded here."""
    sizes, asked = open_clip.get_model_config(spec.partition(":")[0]), []
    sizes["vision_cfg"] |= {"layers": 2, "width": 64}
    sizes["text_cfg"] |= {"layers": 1, "width": 64}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: sizes)
    monkeypatch.setattr(clip_files, "_created", lambda *named: asked.append(named) or open_clip.CLIP(**sizes))
    name = f"{spec.partition(':')[0]}:{wanted}"
    assert load_clip(spec).spec == name
    assert asked == [(spec.partition(":")[0], wanted)]
    assert public_name(spec) == name


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("ViT-B-33", UsageError, "Did you mean 'ViT-B-32'"),
        ("ViT-B-32-quickgelu:openia", UsageError, "Did you mean 'openai'"),
        ("ViT-B-32:openai", UsageError, "use ViT-B-32-quickgelu:openai"),
        ("RN50-quickgelu:random", WeightsError, "no vision transformer"),
        ("no/such/folder", WeightsError, "does not exist"),
        ("ViT-S-32-alt:/no/such.safetensors", WeightsError, "does not exist"),
    ],
)
def test_bad_specs_are_answered_in_one_line(spec: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        load_clip(spec)
    assert "\n" not in str(caught.value)


def test_bad_folders_are_answered_in_one_line(tiny_clip: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_clip / CONFIG_FILE).read_text())
    weights = (tiny_clip / WEIGHTS_FILE).read_bytes()
    wide = copy.deepcopy(config)
    wide["model_cfg"]["vision_cfg"]["width"] = 48
    cases = [
        (None, weights, "no readable"),
        ("{", weights, "does not describe"),
        ('{"model_cfg": {}}', weights, "does not describe"),
        (json.dumps(config), weights[:1000], "damaged or cut short"),
        (json.dumps(config), None, "does not exist"),
        (json.dumps(wide), weights, "of another shape"),
    ]
    for number, (text, data, words) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        if text is not None:
            (folder / CONFIG_FILE).write_text(text)
        if data is not None:
            (folder / WEIGHTS_FILE).write_bytes(data)
        with pytest.raises(WeightsError, match=words):
            load_clip(str(folder))


def test_quick_gelu_is_open_clips() -> None:
    blocks = clip_for(clip_architecture("ViT-B-32-quickgelu"), ALL).visual.transformer.resblocks
    assert all(isinstance(block.mlp.gelu, FastQuickGELU) for block in blocks)
    exact = clip_for(clip_architecture("ViT-B-32"), ALL).visual.transformer.resblocks
    assert not any(isinstance(block.mlp.gelu, FastQuickGELU) for block in exact)
    x = torch.linspace(-12, 12, 1001, dtype=torch.float64, requires_grad=True)
    ours, theirs = FastQuickGELU()(x), open_clip.transformer.QuickGELU()(x)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)))


def test_captions_are_overlong_by_a_tokenizers_own_filling() -> None:
    def tokenizer(texts: list[str], length: int) -> torch.Tensor:
        """As one that fills up with 1, a token a word."""
        rows = [[0, *range(3, 3 + len(text.split())), 2, *[1] * length][:length] for text in texts]
        return torch.tensor(rows)

    captions = ["a " * 40, "incomprehensibilities " * 5, "a " * 6]
    assert overlong(captions, tokenizer, 8) == [0]
    assert overlong(captions, tokenizer, 6) == [0, 1, 2]


@pytest.mark.parametrize("other", [{"quick_gelu": True}, {"vision_cfg": {"head_width": 16}}])
def test_a_clip_of_the_same_weights_that_computes_something_else_is_refused(
    other: dict[str, object], tmp_path: Path
) -> None:
    folder = model_of(tmp_path / "model", clip_of_grid(tmp_path / "clip", grid=4))
    assert load_model(str(folder)).fingerprint == fingerprint_of(folder)
    file = folder / "clip" / "open_clip_config.json"
    config = json.loads(file.read_text())
    for name, value in other.items():
        if isinstance(value, dict):
            config["model_cfg"][name] |= {"head_width": config["model_cfg"][name]["head_width"] * 2}
        else:
            config["model_cfg"][name] = value
    file.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="of another activation, other heads or another end of text"):
        load_model(str(folder))
    content = json.loads((folder / "config.json").read_text())
    before = fingerprint_of(folder)
    (folder / "config.json").write_text(
        json.dumps(content | {"clip_computes": load_clip(str(folder / "clip")).computes})
    )
    assert fingerprint_of(folder) != before  # so that it is no way round
    del content["clip_computes"]
    (folder / "config.json").write_text(json.dumps(content))
    assert load_model(str(folder)).fingerprint != ""  # of an earlier version nobody knows
