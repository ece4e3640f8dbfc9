"""Images of a small model: the same to the bit whatever else is generated, by however many threads."""

from __future__ import annotations

import copy
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ratlip_cli.cli import waiting
from ratlip_cli.fast.sampling import CHUNK
from ratlip_cli.fast.swaps import swap_rows
from ratlip_cli.fast.workers import spread
from ratlip_cli.pixels import to_uint8
from ratlip_cli.sampling import Sample, TorchModel, generate, noise_vectors, sample
from ratlip_cli.threads import available_threads
from ratlip_cli.weights.load import DEMO, load_model
from ratlip_cli.weights.model_folder import Model

PROMPTS = ("a red bird with black wings", "a yellow flower", "the face of a man with a beard")


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(DEMO)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def by_place(samples: list[Sample]) -> dict[tuple[str, int], tuple[bytes, float]]:
    """Pixels and CLIP similarity of each prompt's image k."""
    return {(one.prompt, one.index): (one.image.tobytes(), one.clip_similarity) for one in samples}


@pytest.mark.usefixtures("threads")
def test_an_image_depends_on_nothing_else_that_is_generated(model: Model) -> None:
    """Over many compositions: the row in the chunk, the other rows, what fills it, and the number of threads."""
    count = 2 * CHUNK + 3
    noise, text = noise_vectors(0, range(count), model.config.generator.noise_dim), model.encode(PROMPTS)
    captions = torch.arange(count) % len(PROMPTS)
    torch.set_num_threads(1)
    expected = torch.cat([sample(model, noise[[k]], text[captions[[k]]]) for k in range(count)])
    order = random.Random(0)
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        for size in (count, CHUNK + 1, CHUNK, 2):
            chosen = order.sample(range(count), size)
            made = sample(model, noise[chosen], text[captions[chosen]])
            assert torch.equal(made, expected[chosen]), f"{size} images by {number} threads"


@pytest.mark.usefixtures("threads")
def test_generated_images_and_their_similarities_depend_on_prompt_seed_and_index(model: Model) -> None:
    torch.set_num_threads(2)
    every = by_place(list(generate(model, PROMPTS, 3)))
    assert len(every) == 9
    assert by_place(list(generate(model, PROMPTS[:1], indices=[2, 0]))).items() <= every.items()
    torch.set_num_threads(1)
    assert by_place(list(generate(model, PROMPTS[::-1], 2))).items() <= every.items()


@pytest.mark.usefixtures("threads")
def test_a_prompt_is_encoded_alike_by_however_many_threads(model: Model) -> None:
    colours, birds = ("red", "blue", "yellow", "green"), ("bird", "bird with black wings", "flower with six petals")
    prompts = [f"a {colour} {what}" for colour in colours for what in birds]
    encoded = {}
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        encoded[number] = [torch.cat(TorchModel(model).encoded(prompt)) for prompt in prompts]
    assert all(torch.equal(torch.cat(encoded[1]), torch.cat(encoded[number])) for number in (2, 3))


@pytest.mark.parametrize(("inputs", "outputs"), [(192, 256), (64, 3), (100, 256), (17, 5), (64, 4096)])
def test_a_row_times_a_matrix_depends_on_no_other_row(inputs: int, outputs: int) -> None:
    network = nn.ModuleList([nn.Linear(inputs, outputs), nn.LSTMCell(inputs, outputs // 4 + 1)])
    x, expected = torch.randn(2 * CHUNK, inputs), []
    with torch.no_grad():
        plain = [network[0](x), network[1](x)[0]]
        swap_rows(network)
        rows = [network[0](x), network[1](x)[0]]
        for row in range(len(x)):
            order = torch.randperm(len(x))[: row + 1]
            expected.append([network[0](x[order]), network[1](x[order])[0], order])
    for number, (ours, theirs) in enumerate(zip(rows, plain, strict=True)):
        torch.testing.assert_close(ours, theirs)
        assert all(torch.equal(some[number], ours[some[2]]) for some in expected)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="MKL is the library of x86 processors alone")
def test_it_holds_with_the_kernels_of_an_older_cpu_too() -> None:
    """MKL's kernels for AVX2 multiply the last of eight rows in another way than the first, and round it otherwise."""
    older = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    chosen = ["-k", "depend or alike or rounding", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "-q"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *chosen, __file__],
        env=os.environ | older,
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout


def test_best_of_is_of_each_prompt(model: Model) -> None:
    every = list(generate(model, PROMPTS[:2], 6))
    best = list(generate(model, PROMPTS[:2], 2, best_of=3))
    for number, chosen in ((0, best[:2]), (1, best[2:])):
        of_prompt = sorted((one for one in every if one.prompt_index == number), key=lambda one: -one.clip_similarity)
        assert by_place(chosen) == by_place(of_prompt[:2])


def test_chunks_are_the_plain_model_but_for_rounding(model: Model) -> None:
    """At most one of 255 levels in under 0.1 % of the pixels; as floats no further off than `roundings` bring it."""
    noise, text = noise_vectors(1, range(CHUNK + 2), model.config.generator.noise_dim), model.encode(PROMPTS[:1])
    text = text.expand(len(noise), -1)
    with torch.no_grad():
        plain = model.generator(noise, text, model.clip).clamp(-1, 1)
        exact, moved = (one.clamp(-1, 1) for one in roundings(model, noise, text))
    made = sample(model, noise, text)
    worst = (moved - exact).abs().amax((1, 2, 3))
    assert bool(((made - exact).abs().amax((1, 2, 3)) <= worst).all())
    assert bool(((made - plain).abs().amax((1, 2, 3)) <= worst).all())
    for ours, theirs in ((made, exact), (made, plain)):
        difference, allowed = (ours - theirs).abs(), (moved - exact).abs()
        assert difference.square().mean() <= allowed.square().mean()
        assert (difference > 1e-5).float().mean() <= (allowed > 1e-5).float().mean()
    levels = (to_uint8(made).int() - to_uint8(plain).int()).abs()
    assert levels.max() <= 1
    assert (levels > 0).float().mean() < 1e-3


def roundings(model: Model, noise: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Images of the plain model in float64, and with each convolution's result moved as sums in float32 may move it.

    One accumulator of K products is rounded K times by at most 2^-24 of its value: at random, sqrt(K) 2^-24 in all.
    """
    generator, clip = copy.deepcopy(model.generator).double(), copy.deepcopy(model.clip).double()
    exact = generator(noise.double(), text.double(), clip)
    random_numbers = torch.Generator().manual_seed(0)

    def moved(conv: nn.Module, _: object, out: Tensor) -> Tensor:
        size = 2**-24 * conv.weight[0].numel() ** 0.5 * out.square().mean().sqrt()
        return out + size * torch.randn(out.shape, generator=random_numbers, dtype=out.dtype)

    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(moved)
    return exact, generator(noise.double(), text.double(), clip)


@pytest.mark.usefixtures("threads")
def test_workers_have_one_thread_the_callers_autocast_and_no_gradients() -> None:
    torch.set_num_threads(3)

    def told(x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return x + torch.tensor([torch.get_num_threads(), torch.is_autocast_enabled("cpu")])

    pieces = [(torch.full((2,), 10.0 * number),) for number in range(20)]
    expected = torch.tensor([[10.0 * number + 1, 10.0 * number + 1] for number in range(20)])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(torch.stack(spread(told, pieces)), expected)
    assert torch.stack(spread(told, pieces))[:, 1].tolist() == [10.0 * number for number in range(20)]
    assert torch.get_num_threads() == 3


def test_an_error_in_a_worker_is_the_callers() -> None:
    def fails(x: Tensor) -> Tensor:
        raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"):
        spread(fails, [(torch.zeros(1),)] * 3)


@pytest.mark.parametrize(
    ("environment", "cores", "expected"),
    [
        ({}, {1, 2}, "1000"),
        ({}, {0, 1}, "100"),  # another process has core 0
        ({}, {0, 1, 2, 3}, "100"),
        ({"OMP_NUM_THREADS": "1"}, {0, 1}, "1000"),  # the other core is enough
        ({"OMP_NUM_THREADS": "1"}, {0}, "100"),
        ({"OMP_NUM_THREADS": "2,1"}, {0, 1, 2}, "1000"),
        ({"OMP_NUM_THREADS": "3,1"}, {0, 1, 2}, "100"),
        ({"OMP_NUM_THREADS": "8"}, {1, 2}, "1000"),
        ({}, {9}, "1000"),  # of which the system tells nothing
        ({"GOMP_SPINCOUNT": "7"}, {0, 1}, "7"),
        ({"GOMP_SPINCOUNT": "1000"}, {0, 1}, "1000"),  # the user's, though it is the number that ratlip chooses
        ({"OMP_WAIT_POLICY": "active"}, {0, 1}, None),
    ],
)
def test_how_threads_wait(
    environment: dict[str, str],
    cores: set[int],
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    waits_as_told_nothing: None,
) -> None:
    """On `cores` of four, of which another process has the first; what the user's environment says is left alone."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stat = tmp_path / "stat"

    def watch(seconds: float) -> None:
        """Let time pass."""
        passed = round(1000 * seconds)
        idle = {"cpu": 3 * passed, "cpu0": 0, "cpu1": passed, "cpu2": passed, "cpu3": passed}
        busy = {**dict.fromkeys(idle, 0), "cpu": passed, "cpu0": passed}
        lines = [f"{name} {7 + busy[name]} 0 0 {5 + idle[name]} 0 0 0 0 0 0" for name in idle]
        stat.write_text("\n".join([*lines, "intr 1 2", "btime 3"]))

    watch(0)
    monkeypatch.setattr(waiting, "_TICKS", stat)
    monkeypatch.setattr(waiting.time, "sleep", watch)
    monkeypatch.setattr(waiting.os, "sched_getaffinity", lambda process: cores)
    waiting.wait_briefly()
    waiting.hardly_wait_where_busy()
    assert waiting.os.environ.get("GOMP_SPINCOUNT") == expected


def test_what_ratlip_chose_is_not_taken_for_the_users_by_what_it_starts(
    waits_as_told_nothing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting.wait_briefly()
    monkeypatch.setattr(waiting, "_is_busy", lambda: True)
    waiting.wait_briefly()  # as a process does that inherits the environment
    waiting.hardly_wait_where_busy()
    assert waiting.os.environ["GOMP_SPINCOUNT"] == "100"


@pytest.mark.parametrize(
    ("asked", "expected"), [("2,1", 2), (" 5 ", 5), ("8", 8), ("", 3), ("0", 3), ("many", 3), (None, 3)]
)
@pytest.mark.usefixtures("waits_as_told_nothing")
def test_available_threads(asked: str | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three cores; OpenMP reads the first number, the others are of threads inside threads."""
    monkeypatch.setattr(waiting.os, "sched_getaffinity", lambda process: {0, 1, 5}, raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert available_threads() == expected


@pytest.fixture
def waits_as_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing of how threads wait, or how many there are."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", waiting._OURS):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
