"""AttnGAN: the published code's values through the importer, the laws of its mask, and its losses."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ratlip
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ratlip_cli.baselines.attngan import (
    Condition,
    Discriminators,
    Generator,
    Logits,
    Stages,
    WordAttention,
    adversarial_loss,
    contrast,
    discriminator_loss,
    kl_divergence,
    pack,
    same_captions,
    sentence_relevance,
    unpack,
    word_contexts,
    word_relevance,
)
from ratlip_cli.data.dataset import Batch
from ratlip_cli.data.layout import DatasetInfo, Record
from ratlip_cli.data.writer import write_dataset
from ratlip_cli.errors import UsageError
from ratlip_cli.exported import ExportedModel
from ratlip_cli.families.attngan import AttnGAN, AttnGANConfig, AttnGANDiscriminatorConfig, ReleasedAttnGAN
from ratlip_cli.generation import InterpolationRequest
from ratlip_cli.model.config import ClipGeometry
from ratlip_cli.planned import planned
from ratlip_cli.samples import interpolate
from ratlip_cli.sampling import TorchModel, sample
from ratlip_cli.summary import count_parameters
from ratlip_cli.tensor_files import check_fit, load_into
from ratlip_cli.training.settings import TrainSettings
from ratlip_cli.training.start import open_session
from ratlip_cli.training.trainer import Trainer
from ratlip_cli.weights.clip_files import load_clip
from ratlip_cli.weights.export.export import export_model
from ratlip_cli.weights.export.scored import load_exported
from ratlip_cli.weights.load import load_model
from ratlip_cli.weights.model_folder import read_model_config
from ratlip_cli.weights.released.attngan import (
    discriminator_names,
    export_attngan,
    generator_names,
    import_attngan,
    is_attngan,
)
from ratlip_cli.weights.released.checkpoint import ReleasedCheckpoint

FOLDER = Path(__file__).parent / "reference" / "baselines" / "attngan"
RELATIVE, RELATIVE_OF_GRADIENTS = 2e-4, 1e-3
TEXT = 32  # Channels of the reference's sentences and words.
Nets = dict[str, dict[str, Tensor]]


def normal(name: str, shape: list[int]) -> Tensor:
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return torch.from_numpy(np.asarray(drawn, dtype=np.float32))


def formula(name: str, shape: list[int]) -> Tensor:
    """The weights that the reference values were made with."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    n = normal(name, shape)
    if len(shape) >= 2:
        return n * (1.4 / np.sqrt(np.prod(shape[1:])).astype(np.float32))
    if name.endswith("running_var"):
        return 1 + 0.1 * n.abs()
    return (1 if name.endswith(".weight") else 0) + 0.1 * n


VIT_B_32 = ClipGeometry(width=768, grid=7, layers=12, embed_dim=512, image_size=224, text_width=512)


@functools.cache
def keys(kind: str) -> dict[str, dict[str, list[int]]]:
    return json.loads((FOLDER / "keys.json").read_text())[kind]


@functools.cache
def published() -> Nets:
    """The small networks as the published code saves them."""
    return {
        net: {name: formula(f"{net}.{name}", shape) for name, shape in keys("small")[net].items()}
        for net in ("netG", "netD0", "netD1", "netD2")
    }


@functools.cache
def checkpoint() -> ReleasedCheckpoint:
    nets = published()
    return import_attngan(nets["netG"], [nets[f"netD{i}"] for i in range(3)])


@functools.cache
def values() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "attngan_seed0.npz") as file:
        return dict(file)


def value(name: str) -> Tensor:
    return torch.from_numpy(values()[name])


def new_generator(published_mask: bool = False) -> Generator:
    read = checkpoint()
    config = type(read.generator_config)(**{**vars(read.generator_config), "published_mask": published_mask})
    generator = Generator(config, TEXT, TEXT)
    load_into(generator, read.generator, "netG")
    return generator


def new_discriminators() -> Discriminators:
    read = checkpoint()
    config = read.discriminator_config
    discriminators = Discriminators(config.base_channels, TEXT, config.image_sizes)
    assert read.discriminator is not None
    load_into(discriminators, read.discriminator, "netD")
    return discriminators


def condition() -> Condition:
    return Condition(value("sent"), value("words").transpose(1, 2), ~value("mask"))


def noise() -> Tensor:
    return torch.cat((value("noise"), value("eps")), dim=1)


def assert_close(actual: Tensor, name: str, relative: float = RELATIVE) -> None:
    expected = values()[name]
    difference = np.abs(actual.detach().numpy() - expected).max()
    assert difference <= relative * np.abs(expected).max(), name


def assert_stages(stages: Stages, name: str) -> None:
    for image, size in zip(stages.images, (64, 128, 256), strict=True):
        assert_close(image[:, :, :: size // 32, :: size // 32], f"{name}_img{size}_sub")
        assert_close(image.mean(dim=(1, 2, 3)), f"{name}_img{size}_mean")
        assert_close(image.std(dim=(1, 2, 3)), f"{name}_img{size}_std")
    for attention, size in zip(stages.attention, (64, 128), strict=True):
        assert_close(attention[:, :, :: size // 8, :: size // 8], f"{name}_att{size}_sub")


@torch.no_grad()
def test_generated_images_and_attention() -> None:
    generator = new_generator().eval()
    stages = generator.stages(noise(), pack(condition()))
    assert_close(stages.mu, "mu")
    assert_close(stages.logvar, "logvar")
    assert_close(kl_divergence(stages.mu, stages.logvar), "kl_loss")
    assert_stages(stages, "eval_single")
    unmasked = condition()._replace(real=torch.ones_like(condition().real))
    assert_stages(new_generator().train().stages(noise(), pack(unmasked)), "train_nomask")


@torch.no_grad()
def test_the_published_mask() -> None:
    assert_stages(new_generator(published_mask=True).eval().stages(noise(), pack(condition())), "eval_batch3")
    generator = new_generator(published_mask=True).train()
    assert_stages(generator.stages(noise(), pack(condition())), "train_batch3")
    assert_close(generator.first.norm.running_mean, "train_running_mean_h_net1_fc")
    assert_close(generator.first.norm.running_var, "train_running_var_h_net1_fc")


@pytest.mark.parametrize(("kind", "wrong"), [("single", False), ("batch3", True)])
def test_attention(kind: str, wrong: bool) -> None:
    attention = WordAttention(8, TEXT, published_mask=wrong)
    weight = 1.4 * normal("att.conv_context.weight", [8, 32, 1, 1]) / 32**0.5
    load_into(attention, {"project.weight": weight[:, :, 0, 0]}, "att")
    context, weights = attention(value("att_query"), condition().words, condition().real)
    assert_close(context, f"att_context_{kind}")
    assert_close(weights, f"att_map_{kind}")


def real_images() -> list[Tensor]:
    return [
        value(f"real{size}_base").repeat_interleave(size // 16, 2).repeat_interleave(size // 16, 3)
        for size in (64, 128, 256)
    ]


@torch.no_grad()
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_discriminators(mode: str) -> None:
    sentence = value("sent")
    for net, image, size in zip(new_discriminators().nets, real_images(), (64, 128, 256), strict=True):
        net.train(mode == "train")
        code = net.blocks(image)
        assert_close(code[:, ::8], f"d{size}_{mode}_feat")
        assert_close(net.alone(code).sigmoid(), f"d{size}_{mode}_uncond")
        assert_close(net.match(code, sentence).sigmoid(), f"d{size}_{mode}_cond")
        assert_close(net.match(code[:-1], sentence[1:]).sigmoid(), f"d{size}_{mode}_wrong")


@functools.cache
def batch3() -> tuple[Tensor, ...]:
    """The published code's images in training."""
    with torch.no_grad():
        return new_generator(published_mask=True).train().stages(noise(), pack(condition())).images


def assert_gradients(module: torch.nn.Module, names: dict[str, str], prefix: str, net: str, expected: str) -> None:
    """Norms in the order of the published state dict; -1 for a parameter that gets no gradient."""
    own = {theirs: prefix + ours for ours, theirs in names.items()}
    norms = []
    for name in keys("small")[net]:
        layer, _, leaf = name.rpartition(".")
        if leaf in ("weight", "bias"):
            gradient = module.get_parameter(f"{own[layer]}.{leaf}").grad
            norms.append(torch.tensor(-1.0) if gradient is None else gradient.norm())
    assert_close(torch.stack(norms), expected, RELATIVE_OF_GRADIENTS)


def test_the_discriminators_loss() -> None:
    discriminators, sentence = new_discriminators().train(), value("sent")
    for number, (net, real, fake) in enumerate(zip(discriminators.nets, real_images(), batch3(), strict=True)):
        size = 64 << number
        real_code, fake_code = net.blocks(real), net.blocks(fake)
        loss = discriminator_loss(
            Logits(net.match(real_code, sentence), net.alone(real_code)),
            Logits(net.match(fake_code, sentence), net.alone(fake_code)),
            net.match(real_code[:-1], sentence[1:]),
        )
        assert_close(loss, f"d{size}_train_errD")
        loss.backward()
        names = discriminator_names(size, True)
        assert_gradients(
            discriminators, names, f"nets.{number}.", f"netD{number}", f"d{size}_train_errD_param_grad_norm"
        )


def same_class() -> Tensor:
    return value("class_ids")[:, None] == value("class_ids")


def real_words() -> list[Tensor]:
    return [words[:length] for words, length in zip(condition().words, values()["cap_lens"], strict=True)]


@pytest.mark.parametrize("kind", ["ids", "noids"])
def test_damsm_losses(kind: str) -> None:
    same = same_class() if kind == "ids" else None
    regions = 0.3 * value("regions").flatten(2).transpose(1, 2)
    w0, w1 = contrast(word_relevance(real_words(), regions), same)
    s0, s1 = contrast(sentence_relevance(value("cnn_code"), value("sent")), same)
    for loss, name in ((w0, "w0"), (w1, "w1"), (s0, "s0"), (s1, "s1")):
        assert_close(loss, f"damsm_{kind}_{name}")


def test_damsm_attention() -> None:
    regions = 0.3 * value("regions").flatten(2).transpose(1, 2)
    _, attention = word_contexts(real_words()[0], regions)
    assert_close(attention[:1].unflatten(2, (17, 17)), "damsm_att0")
    pairs = zip(condition().words, regions, strict=True)
    contexts = [word_contexts(words[:5], one[None])[0][0].T for words, one in pairs]
    assert_close(torch.stack(contexts), "func_attention_context")


def test_the_generators_loss() -> None:
    """With the reference's stand-in for DAMSM's image encoder."""
    generator, discriminators = new_generator(published_mask=True).train(), new_discriminators().train()
    stages = generator.stages(noise(), pack(condition()))
    image = stages.images[-1]
    regions = F.adaptive_avg_pool2d(image, 17).flatten(2).transpose(1, 2) @ normal("image_proj.region", [32, 3]).T
    codes = image.mean(dim=(2, 3)) @ normal("image_proj.code", [32, 3]).T
    w0, w1 = contrast(word_relevance(real_words(), regions), same_class())
    s0, s1 = contrast(sentence_relevance(codes, value("sent")), same_class())
    kl = kl_divergence(stages.mu, stages.logvar)
    loss = adversarial_loss(discriminators(stages.images, pack(condition()))) + 5 * (w0 + w1 + s0 + s1) + kl
    assert_close(kl, "errG_kl")
    assert_close(loss, "errG_total")
    loss.backward()
    assert_gradients(generator, generator_names(generator.config), "", "netG", "errG_param_grad_norm")


def test_the_loss_of_attn_dcgan() -> None:
    """BCE(real) + (BCE(fake) + BCE(wrong))/2, of conditional probabilities alone."""
    real, fake, wrong = torch.randn(3, 4).unbind()
    one, zero = torch.ones(4), torch.zeros(4)
    bce = F.binary_cross_entropy
    expected = bce(real.sigmoid(), one) + (bce(fake.sigmoid(), zero) + bce(wrong.sigmoid(), zero)) / 2
    torch.testing.assert_close(discriminator_loss(Logits(real, None), Logits(fake, None), wrong), expected)
    torch.testing.assert_close(adversarial_loss([Logits(fake, None)]), bce(fake.sigmoid(), one))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("kind", ["bird_AttnGAN2", "coco_AttnGAN2", "bird_AttnDCGAN2"])
def test_published_names_and_sizes(kind: str, prefix: str) -> None:
    """Files of 2018 have no counters; those of several GPUs a prefix. The way back gives the same names and shapes."""
    shapes = keys(kind)
    nets = {
        net: {
            prefix + name: torch.empty(shape, device="meta")
            for name, shape in shapes[net].items()
            if not name.endswith("num_batches_tracked")
        }
        for net in shapes
    }
    discriminators = [nets[f"netD{number}"] for number in range(len(nets) - 1)]
    if not prefix:
        assert is_attngan(nets["netG"])
        assert not is_attngan(discriminators[0])
    read = import_attngan(nets["netG"], discriminators)
    config = read.generator_config
    wide = kind.startswith("coco")
    assert (config.base_channels, read.discriminator_config.base_channels) == ((48, 96) if wide else (32, 64))
    assert config.residual_blocks == {"bird_AttnGAN2": 2, "coco_AttnGAN2": 3, "bird_AttnDCGAN2": 0}[kind]
    assert (config.image_size, config.z_dim, config.condition_dim) == (256, 100, 100)
    assert (config.text_dim, config.word_dim, config.published_mask) == (256, 256, False)
    family, geometry = ReleasedAttnGAN(), VIT_B_32
    with planned():
        generator = family.generator(config, geometry)
        discriminator = family.discriminator(read.discriminator_config, geometry)
    assert read.discriminator is not None
    check_fit(generator, read.generator, "netG")
    check_fit(discriminator, read.discriminator, "netD")
    counts = keys("parameter_counts")[kind]
    assert count_parameters(generator) == counts["netG"]
    assert [count_parameters(net) for net in discriminator.nets] == [counts[f"netD{i}"] for i in range(len(nets) - 1)]
    back = export_attngan(config, read.generator, read.discriminator)
    assert {net: {name: list(t.shape) for name, t in tensors.items()} for net, tensors in back.items()} == shapes


def test_the_way_back_gives_the_same_tensors() -> None:
    read = checkpoint()
    back = export_attngan(read.generator_config, read.generator, read.discriminator)
    assert back.keys() == published().keys()
    for net, tensors in published().items():
        assert back[net].keys() == tensors.keys()
        assert all(torch.equal(back[net][name], tensor) for name, tensor in tensors.items())
    assert export_attngan(read.generator_config, read.generator).keys() == {"netG"}


def test_files_that_are_not_attngans() -> None:
    nets = published()
    with pytest.raises(ValueError, match=r"unknown tensor extra\.weight"):
        import_attngan(nets["netG"] | {"extra.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="2 discriminators for images of 3 sizes"):
        import_attngan(nets["netG"], [nets["netD0"], nets["netD1"]])
    with pytest.raises(UsageError, match=r"stages of 64, 128 and 256 pixels; this model has \(16, 32, 64\)"):
        export_attngan(AttnGANConfig(image_size=64), {})


@pytest.mark.parametrize("gf", [16, 32])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_parameters_on_a_clip(gf: int, stages: int) -> None:
    size = 32 << stages
    with planned():
        generator = AttnGAN().generator(AttnGANConfig(image_size=size, base_size=64, base_channels=gf), VIT_B_32)
    for df in (16, 32, 64):
        if (name := f"clip512_branch{stages}_gf{gf}_df{df}") not in keys("parameter_counts"):
            continue
        config = AttnGANDiscriminatorConfig(image_size=size, base_size=64, base_channels=df)
        with planned():
            discriminator = AttnGAN().discriminator(config, VIT_B_32)
        counts = keys("parameter_counts")[name]
        assert count_parameters(generator) == counts["netG"]
        assert [count_parameters(net) for net in discriminator.nets] == counts["netsD"]


def tiny(**sizes: int | bool) -> Generator:
    torch.manual_seed(0)
    config = AttnGANConfig(**{"image_size": 32, "z_dim": 5, "condition_dim": 3, "base_channels": 4, **sizes})
    return Generator(config, 6, 4).eval()


def captions(lengths: list[int], longest: int, seed: int = 1) -> Condition:
    """Sentences and words of which rows of equal number are equal, padded to `longest` with other words."""
    rows = [torch.Generator().manual_seed(seed + row) for row in range(len(lengths))]
    sentences = torch.stack([torch.randn(6, generator=row) for row in rows])
    words = torch.stack([torch.randn(longest, 4, generator=row) for row in rows])
    return Condition(sentences, words, torch.arange(longest) < torch.tensor(lengths)[:, None])


def test_packing_goes_both_ways() -> None:
    for text_dim in (6, 3):
        given = captions([1, 4], 5)._replace(sentence=torch.randn(2, text_dim))
        packed = pack(given)
        assert packed.shape == (2, 6, 1 + max(text_dim, 4))
        assert all(torch.equal(a, b) for a, b in zip(unpack(packed, text_dim, 4), given, strict=True))


def test_an_image_does_not_depend_on_its_batch() -> None:
    """Nor on the other captions, how far words are padded, or what the padding is; with the published mask it does."""
    generator, z = tiny(), torch.randn(3, 8)
    given = captions([2, 5, 3], 5)
    together = generator.stages(z, pack(given))
    for row in range(3):
        alone = Condition(*(tensor[row : row + 1] for tensor in given))
        padded = Condition(
            alone.sentence,
            torch.cat((alone.words, 50 * torch.randn(1, 4, 4)), dim=1),
            torch.cat((alone.real, torch.zeros(1, 4, dtype=torch.bool)), dim=1),
        )
        for condition in (alone, padded):
            stages = generator.stages(z[row : row + 1], pack(condition))
            torch.testing.assert_close(stages.images[-1], together.images[-1][row : row + 1], rtol=1e-4, atol=1e-5)
            length = given.words.shape[1]
            torch.testing.assert_close(stages.attention[0][:, :length], together.attention[0][row : row + 1])
    erring = tiny(published_mask=True)
    apart = erring(z[:1], pack(Condition(*(tensor[:1] for tensor in given)))) - erring(z, pack(given))[:1]
    assert apart.abs().max() > 1e-3


def test_padding_gets_no_attention_and_no_gradient() -> None:
    packed = pack(captions([2, 5, 3], 5)).requires_grad_()
    stages = tiny().stages(torch.randn(3, 8), packed)
    for attention in stages.attention:
        torch.testing.assert_close(attention.sum(dim=1), torch.ones(3, *attention.shape[2:]))
        assert attention[0, 2:].abs().max() == attention[2, 3:].abs().max() == 0
    stages.images[-1].sum().backward()
    assert packed.grad is not None
    assert packed.grad[0, 3:].abs().max() == packed.grad[2, 4:].abs().max() == 0
    assert packed.grad[1, 1:, 1:5].abs().min() > 0


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({"image_size": 32}, (8, 16, 32)),
        ({"image_size": 64}, (16, 32, 64)),
        ({"image_size": 64, "base_size": 64}, (64,)),
        ({"image_size": 64, "base_size": 8}, (8, 16, 32, 64)),
        ({"image_size": 33}, (16, 32, 33)),
        ({"image_size": 100}, (32, 64, 100)),
        ({"image_size": 224}, (64, 128, 224)),
        ({"image_size": 256}, (64, 128, 256)),
        ({"image_size": 96, "one_image": True}, (32, 64, 96)),
    ],
)
@torch.no_grad()
def test_any_size(given: dict[str, int | bool], sizes: tuple[int, ...]) -> None:
    generator, packed = tiny(**given, base_channels=2), pack(captions([2, 3], 3))
    assert generator.config.sizes == sizes
    stages = generator.stages(torch.randn(2, 8), packed)
    shown = sizes[-1:] if "one_image" in given else sizes
    assert [image.shape for image in stages.images] == [(2, 3, size, size) for size in shown]
    assert [attention.shape for attention in stages.attention] == [(2, 3, size, size) for size in sizes[:-1]]
    config = AttnGANDiscriminatorConfig(**given, base_channels=1)
    discriminators = Discriminators(1, 6, config.image_sizes, not config.one_image).eval()
    views = discriminators.views(stages.images[-1])
    assert [view.shape for view in views] == [image.shape for image in stages.images]
    for logits in discriminators(views, packed):
        assert logits.conditional.shape == (2,)
        assert (logits.unconditional is None) == config.one_image
    assert discriminators.nets[-1].blocks(views[-1]).shape[1] == 8


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image_size": 24}, "image_size is 24; AttnGAN's must be 32 to 256"),
        ({"image_size": 64, "base_size": 24}, "base_size is 24; it must be a power of two, 8 or more"),
        ({"image_size": 32, "base_size": 64}, "not above image_size 32; or 0 for a quarter"),
        ({"z_dim": 0}, "z_dim is 0; it must be 1 to"),
        ({"residual_blocks": -1}, "residual_blocks is -1; it must be 0 to 64"),
    ],
)
def test_sizes_that_cannot_be(given: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        AttnGANConfig(**given)


def test_real_images_are_reduced_as_pil_reduces() -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    for view, size in zip(Discriminators(1, 6, (16, 32, 64)).views(image), (16, 32, 64), strict=True):
        reduced = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
        expected = torch.from_numpy(reduced.copy()).permute(2, 0, 1)[None] / 127.5 - 1
        torch.testing.assert_close(view, expected, rtol=0, atol=1.5 / 127.5)  # PIL rounds after each direction


def test_the_same_caption_is_no_mistake() -> None:
    sentences = torch.randn(4, 8)
    sentences[3] = sentences[1] * (1 + 1e-6)
    same = same_captions(sentences)
    assert same.tolist() == [[i == k or {i, k} == {1, 3} for i in range(4)] for k in range(4)]
    relevance = sentence_relevance(torch.randn(4, 8), sentences)
    rows, columns = contrast(relevance, same)
    others = [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2, 3], [0, 2, 3]]
    for loss, one in ((rows, relevance), (columns, relevance.T)):
        expected = [torch.logsumexp(one[k, others[k]], 0) - one[k, k] for k in range(4)]
        torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_captions_become_sentence_and_words(tiny_clip: Path) -> None:
    """Words without the start of the text, with its end; what comes after it is padding."""
    clip, family = load_clip(str(tiny_clip)), AttnGAN()
    texts = ["a red bird", "", "a bird " * 20]
    rows = family.rows(clip, texts)
    assert rows.shape == (3, clip.context_length)
    sentence, words, real = unpack(family.condition(clip, rows), clip.geometry.embed_dim, clip.geometry.text_width)
    torch.testing.assert_close(sentence, clip.encode_text(texts))
    torch.testing.assert_close(words, clip.encode_words(rows).hidden[:, 1:])
    assert real.sum(dim=1).tolist() == [4, 1, clip.context_length - 1]
    assert real.diff(dim=1).float().abs().sum() == 2, "real words come first"


@torch.no_grad()
def test_between_two_captions() -> None:
    """The ends are the captions' own images to the bit, and words come and go without a jump."""
    generator, z = tiny(), torch.randn(1, 8)
    start, end = (one.clone() for one in pack(captions([2, 5], 5)).split(1))
    for share, whole in ((0.0, start), (1.0, end)):
        assert torch.equal(generator(z, AttnGAN().between(start, end, share)), generator(z, whole))
    sentence, words, real = unpack(AttnGAN().between(start, end, 0.25), 6, 4)
    theirs = [unpack(one, 6, 4) for one in (start, end)]
    torch.testing.assert_close(sentence, torch.lerp(theirs[0].sentence, theirs[1].sentence, 0.25))
    torch.testing.assert_close(words[:, :2], torch.lerp(theirs[0].words, theirs[1].words, 0.25)[:, :2])
    assert torch.equal(words[:, 2:], theirs[1].words[:, 2:]), "the shorter caption has none there"
    torch.testing.assert_close(real, torch.tensor([[1, 1, 0.25, 0.25, 0.25]]))
    there = generator.stages(z, AttnGAN().between(start, end, 0.5)).attention[0]
    assert there[:, 2:].min() > 0
    shares = torch.linspace(0, 1, 101).tolist()
    images = torch.cat([generator(z, AttnGAN().between(start, end, share)) for share in shares])
    steps = images.diff(dim=0).flatten(1).norm(dim=1)
    assert steps.max() < 10 * steps.median(), "no step is a jump"


@pytest.fixture(scope="module")
def run_settings(tiny_settings: TrainSettings) -> TrainSettings:
    sizes = {"image_size": 32, "z_dim": 5, "condition_dim": 3, "generator_channels": 2, "discriminator_channels": 1}
    return tiny_settings.replaced(variant="attngan", **sizes)


@pytest.fixture(scope="module")
def run(run_settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps."""
    folder = tmp_path_factory.mktemp("attngan") / "run"
    list(open_session(run_settings.replaced(out=str(folder), sample_every=3)).run())
    return folder


def test_a_run(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    measured = {"loss_d", "loss_g", "logit_real", "logit_fake", "logit_mismatched", "clip_similarity", "match", "kl"}
    assert measured <= lines[0].keys()
    assert not any(line["skipped"] for line in lines)
    config = (run / "config.toml").read_text()
    assert "base_size = 0" in config
    assert "match_weight = 5.0" in config
    assert "penalty_weight" not in config
    assert (run / "samples" / "step_00000006.png").is_file()


@pytest.mark.slow
def test_export(run: Path, tmp_path: Path) -> None:
    """Its text encoder gives sentence, words and mask, packed, which its generator takes."""
    model = load_model(str(run))
    exported = export_model(model, tmp_path / "onnx", "onnx")
    assert exported.image_difference < 1e-4
    folder = ExportedModel(exported.folder)
    prompts = ["a red bird", "a bird " * 3]
    text = np.concatenate([folder.encoded(prompt) for prompt in prompts])
    torch.testing.assert_close(torch.from_numpy(text), model.encode(prompts), rtol=1e-4, atol=1e-5)
    noise = folder.noise(3, range(2))
    images, similarity = folder.images(noise, [text[:1], text[1:]])
    expected = sample(model, torch.from_numpy(noise), model.encode(prompts))
    own = torch.cosine_similarity(model.clip.encode_image(expected), model.clip.encode_text(prompts))
    assert similarity == pytest.approx(own.tolist(), abs=1e-4)
    levels = ((expected.permute(0, 2, 3, 1) + 1) * 127.5).numpy()
    assert max(np.abs(np.asarray(image) - one).max() for image, one in zip(images, levels, strict=True)) <= 0.6
    request = InterpolationRequest(prompts, 3, seed=3)
    frames, own_frames = (list(interpolate(one, request)) for one in (folder, TorchModel(model)))
    for frame, own_frame in zip(frames, own_frames, strict=True):
        assert np.abs(np.asarray(frame).astype(int) - np.asarray(own_frame)).max() <= 1
    scored = load_exported(exported.folder)
    torch.testing.assert_close(scored.encode(prompts), model.encode(prompts), rtol=1e-4, atol=1e-5)
    vectors = scored.clip.encode_text(prompts)
    torch.testing.assert_close(vectors, model.clip.encode_text(prompts), rtol=1e-4, atol=1e-5)


def trainer_of(settings: TrainSettings) -> tuple[Trainer, Batch]:
    clip = load_clip(settings.clip)
    rows = settings.family.rows(clip, ["a red image", "a blue image", "all of it is green", "grey"])
    batch = Batch(torch.rand(4, 3, 32, 32) * 2 - 1, torch.arange(4))
    return Trainer(settings, clip, rows, 4, torch.device("cpu")), batch


def test_a_step(run_settings: TrainSettings) -> None:
    """It moves every weight; the EMA has its decay from the first step, its buffers are copies."""
    trainer, batch = trainer_of(run_settings.replaced(ema=0.9))
    networks = {"g": trainer.generator, "d": trainer.discriminator}
    before = {name: copy.deepcopy(network.state_dict()) for name, network in networks.items()}
    trainer.train_step(batch)
    for name, network in networks.items():
        for key, parameter in network.named_parameters():
            assert not torch.equal(parameter, before[name][key]), key
    for key, averaged in trainer.ema.named_parameters():
        expected = 0.9 * before["g"][key] + 0.1 * trainer.generator.get_parameter(key)
        torch.testing.assert_close(averaged, expected)
    for key, averaged in trainer.ema.named_buffers():
        assert torch.equal(averaged, trainer.generator.get_buffer(key)), key


def test_images_of_a_class_are_not_each_others_mistakes(run_settings: TrainSettings) -> None:
    """As published; -1 is no class."""
    clip = load_clip(run_settings.clip)
    captions = ["a red image", "a blue image", "all of it is green", "grey", "all of it is grey", "pink"]
    rows, images = run_settings.family.rows(clip, captions), torch.rand(6, 3, 32, 32) * 2 - 1
    classes = np.array([0, 1, 0, -1, -1, 1])
    settings = run_settings.replaced(batch_size=6, grad_accum=1)
    logs = {}
    for known in (False, True):
        trainer = Trainer(settings, clip, rows, 6, torch.device("cpu"), classes if known else None)
        trainer.generator.eval()
        (micro,) = trainer._micro_batches(Batch(images, torch.arange(6)))
        fake = trainer.objective.fake(micro)
        logs[known] = trainer.objective.generator_loss(micro, fake)[1]["match"]
    sentence = trainer.discriminator.sentence(micro.text)
    cosines = 10 * F.cosine_similarity(clip.encode_image(fake.images[-1])[:, None], sentence[None], dim=2)
    torch.testing.assert_close(logs[False], sum(F.cross_entropy(m, torch.arange(6)) for m in (cosines, cosines.T)))
    for pair in ((0, 2), (1, 5)):
        cosines[pair] = cosines[pair[::-1]] = -torch.inf
    torch.testing.assert_close(logs[True], sum(F.cross_entropy(m, torch.arange(6)) for m in (cosines, cosines.T)))
    assert logs[True] < logs[False]


def test_a_run_knows_the_classes_of_its_dataset(run_settings: TrainSettings, tmp_path: Path) -> None:
    records = [
        Record(f"{k:02}", "train", (f"image {k}",), Image.new("RGB", (38, 38)), extra={"class": f"species {k // 2}"})
        for k in range(40)
    ]
    info = DatasetInfo(name="species", source="the tests", licence="CC0", image_size=32, split_rule="all train")
    write_dataset(tmp_path / "data", records, info)
    session = open_session(run_settings.replaced(dataset=str(tmp_path / "data"), out=str(tmp_path / "run")))
    assert sorted(session.trainer.classes.tolist()) == [k // 2 for k in range(40)]


def test_classes_reach_the_loss_by_micro_batches(run_settings: TrainSettings) -> None:
    clip = load_clip(run_settings.clip)
    rows = run_settings.family.rows(clip, ["a red image", "a blue image", "all of it is green", "grey"])
    settings = run_settings.replaced(grad_accum=2)
    trainer = Trainer(settings, clip, rows, 4, torch.device("cpu"), np.array([5, 6, 7, 8]))
    first, second = trainer._micro_batches(Batch(torch.rand(4, 3, 32, 32), torch.tensor([3, 0, 2, 1])))
    assert (first.classes.tolist(), second.classes.tolist()) == ([8, 5], [7, 6])


def test_the_objective_is_the_sum_of_the_papers_terms(run_settings: TrainSettings) -> None:
    """Of the losses' own functions, which the reference's values are for, with probabilities by PyTorch's own BCE."""
    settings = run_settings.replaced(match_weight=3.0, match_sharpness=7.0, kl_weight=2.0)
    trainer, batch = trainer_of(settings)
    (micro,) = trainer._micro_batches(batch)
    trainer.generator.eval()
    trainer.discriminator.eval()
    objective, nets = trainer.objective, trainer.discriminator
    fake = objective.fake(micro)
    one, zero, bce = torch.ones(4), torch.zeros(4), F.binary_cross_entropy
    views = nets.views(micro.images)
    logits = {"real": nets(views, micro.text), "wrong": nets(views, micro.mismatched)}
    logits["fake"] = nets(fake.images, micro.text)
    p = {name: [[x.sigmoid() for x in of_size] for of_size in sizes] for name, sizes in logits.items()}
    loss_d = torch.zeros(())
    for real, fakes, wrong in zip(p["real"], p["fake"], p["wrong"], strict=True):
        loss_d += (bce(real[0], one) + bce(real[1], one)) / 2
        loss_d += (bce(fakes[0], zero) + bce(fakes[1], zero) + bce(wrong[0], zero)) / 3
    torch.testing.assert_close(objective.discriminator_loss(micro, fake)[0], loss_d)
    sentence = nets.sentence(micro.text)
    cosines = F.cosine_similarity(trainer.clip.encode_image(fake.images[-1])[:, None], sentence[None], dim=2)
    match = F.cross_entropy(7 * cosines, torch.arange(4)) + F.cross_entropy(7 * cosines.T, torch.arange(4))
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(fake.mu, (fake.logvar / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    ).mean()
    loss_g = sum(bce(x, one) for fakes in p["fake"] for x in fakes) + 3 * match + 2 * kl
    loss, logs = objective.generator_loss(micro, fake)
    torch.testing.assert_close(loss, loss_g)
    torch.testing.assert_close(logs["clip_similarity"], cosines.diagonal())
    assert torch.equal(micro.mismatched, micro.text.roll(-1, 0))


def test_info_counts_as_the_specification(tmp_path: Path) -> None:
    told = json.loads(ratlip("info", "--variant", "attngan", "--json").out)
    counts = {one["name"]: one["trained"] for one in told["modules"]}
    assert sum(n for name, n in counts.items() if not name.startswith("discriminator")) == 7_203_376
    assert [counts[f"discriminator of {size} pixels"] for size in (64, 128, 256)] == [7_493_378, 20_603_650, 73_038_594]
    assert told["modules"][0]["name"] == "CLIP text encoder"


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_recompute_is_refused_before_anything_is_looked_for(tmp_path: Path, dry: tuple[str, ...]) -> None:
    told = ratlip(
        *("train", "--dataset", tmp_path / "nowhere", "--variant", "attngan", "--recompute", *dry),
        *("--clip", tmp_path / "no-clip", "--out", tmp_path / "run", "--quiet"),
    )
    assert (told.code, told.out) == (2, "")
    assert "variant attngan has no blocks to compute again; leave out --recompute" in told.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--grad-accum", 4), "batch_size 4 in 4 micro-batches leaves one image to each, and AttnGAN's BatchNorm"),
        (
            ("--grad-accum", 2, "--batch-norm", "local", "--devices", 2),
            "batch_size 4 in 2 micro-batches in 2 processes leaves one image to each",
        ),
    ],
)
def test_one_image_at_a_time_is_refused(
    run_settings: TrainSettings, tmp_path: Path, given: tuple[object, ...], words: str, dry: tuple[str, ...]
) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(run_settings.to_toml())
    told = ratlip("train", "--config", config, "--out", tmp_path / "run", *given, *dry)
    assert told.code == 2, told.err
    assert words in " ".join(told.err.split())


def test_two_images_of_all_processes_are_enough_for_global_statistics(run_settings: TrainSettings) -> None:
    run_settings.family.check_trained(run_settings.replaced(grad_accum=2), processes=2)


def test_a_geometry_from_before_the_text_width(run: Path, tmp_path: Path) -> None:
    """The files of models that need no words say nothing of it."""
    copied = Path(shutil.copytree(run / "model", tmp_path / "model"))
    config = json.loads((copied / "config.json").read_text())
    del config["geometry"]["text_width"]
    (copied / "config.json").write_text(json.dumps(config))
    assert read_model_config(copied).geometry.text_width == 0
