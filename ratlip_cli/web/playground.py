"""The playground: a page in the browser on which models are tried, by gradio (the extra `play`).

`ratlip play` serves it, and so does a Hugging Face Space (examples/space). Visitors choose by name among models that
are loaded already: nothing that they send is a path, and `guard` lets nothing through that the page does not send.
"""

from __future__ import annotations

import contextlib
import functools
import html
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware
from torch import Tensor

from ratlip_cli import samples
from ratlip_cli.errors import RatlipError, UsageError, unknown_name
from ratlip_cli.explain.gradcam.explanation import Map, maps_of
from ratlip_cli.explain.gradcam.figures import heated
from ratlip_cli.explain.gradcam.gradcam import make_target, resolve_layer
from ratlip_cli.explain.gradcam.input_images import InputImage
from ratlip_cli.explain.gradcam.words import words
from ratlip_cli.files import scratch_folder
from ratlip_cli.generation import check_request
from ratlip_cli.outputs import ImageFolder, png_text, slug
from ratlip_cli.pixels import from_image
from ratlip_cli.samples import Sample
from ratlip_cli.sampling import TorchModel, generate
from ratlip_cli.setting import own_name
from ratlip_cli.web.guard import MOST_SESSIONS, OnlyThePage, serves_this_machine_alone
from ratlip_cli.weights.model_folder import Model

LONGEST_PROMPT = 1000
"""Letters of a prompt."""
MOST_IMAGES, MOST_PROMPTS, MOST_BEST_OF, MOST_WORDS, MOST_TRUNCATION = 16, 6, 8, 12, 1.5
"""Images of a prompt, prompts under the same noise, images to choose each from, words explained, truncation."""
MOST_WAITING = 100
"""Visitors that wait; the next one is asked to come again."""
MOST_SEED = 2**53 - 1
"""A browser knows whole numbers up to here."""
FIRST_PORT, PORTS = 7860, 100
"""Ports that are tried where none is named."""

_KEPT_SECONDS = 3600  # Images of a visitor can be saved so long.
_MOST_KNOWN_WORDS = 1000  # A vocabulary of more words is not listed on the page.
_IMAGES = 8  # Shown first.


@dataclass(frozen=True, repr=False)
class Between(Sample):
    """An image on the way from `prompt` to another one; its CLIP similarity is that to the text vector in between."""

    end: str = ""
    share: float = 0.0  # Of the text vector of `end`: 0 is the image of `prompt`, 1 that of `end`.


@dataclass(frozen=True)
class Shown:
    """What a visitor sees, so that its images can be made again and explained."""

    model: str
    prompt: str
    seed: int
    truncation: float
    indices: tuple[int, ...]  # Of their noise vectors.


class _Between(TorchModel):
    """A model for which any prompt is what lies at `share` of the way between two."""

    def __init__(self, model: Model, prompts: tuple[str, str], share: float) -> None:
        super().__init__(model)
        start, end = map(super().encoded, prompts)
        self._text = self.between(start, end, share)

    def encoded(self, prompt: str) -> tuple[Tensor, Tensor]:
        """See `samples.ImageModel`."""
        return self._text


def between(
    model: Model, prompts: tuple[str, str], share: float, count: int, seed: int, truncation: float
) -> list[Between]:
    """`count` images of the text vector at `share` of the way between two prompts; image k has noise vector k.

    As `ratlip generate --interpolate` has it. At 0 and 1 they are those of `generate`.
    """
    check_request(prompts, count, seed, truncation)
    made = samples.generate(_Between(model, prompts, share), prompts[:1], count, seed, truncation)
    return [Between(**vars(one), end=prompts[1], share=share) for one in made]


def word_maps(model: Model, image: Image.Image, prompt: str) -> list[Map]:
    """Grad-CAM of a prompt and of the first MOST_WORDS of its words on an image of the model's size, by its CLIP."""
    target = make_target("clip", model)
    shown = InputImage("", prompt, from_image(image))
    return maps_of(model, target, resolve_layer(target, None), shown, words(prompt)[:MOST_WORDS])[0]


class Playground:
    """What the page does. Its methods yield what is shown; a RatlipError is a message to the visitor.

    Args:
        models: loaded models, at least one; their files are not needed any more.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = _by_name(models)
        self.prompts = _prompts(models[0])

    def one_prompt(
        self, prompt: str | None, best_of: int, name: str, count: int, seed: int | None, truncation: float
    ) -> Iterator[tuple[Any, ...]]:
        """Images of a prompt."""
        model, text, count, best_of = self._model(name), _read(prompt), _count(count), _best_of(best_of)
        with _timed([model], [text]) as note:
            made = list(generate(model, [text], count, _seed(seed), _truncation(truncation), best_of))
        shown = Shown(name, text, made[0].seed, made[0].truncation, tuple(one.index for one in made))
        with _saved(made) as files:
            yield files, note(len(made)), shown, 0, gr.Gallery(value=[], visible=False), ""

    def two_prompts(
        self,
        start: str | None,
        end: str | None,
        share: float,
        name: str,
        count: int,
        seed: int | None,
        truncation: float,
    ) -> Iterator[tuple[Any, ...]]:
        """Images between two prompts."""
        model, ends, share = self._model(name), (_read(start), _read(end)), _share(share)
        with _timed([model], ends) as note:
            made = between(model, ends, share, _count(count), _seed(seed), _truncation(truncation))
        with _saved(made) as files:
            yield files, note(len(made))

    def several_prompts(
        self, lines: str | None, name: str, count: int, seed: int | None, truncation: float
    ) -> Iterator[tuple[Any, ...]]:
        """Images of several prompts, one a line, under the same noise vectors."""
        model, count = self._model(name), _count(count)
        texts = [_read(line) for line in _text(lines).splitlines() if line.strip()]
        if len(texts) > MOST_PROMPTS:
            raise UsageError(f"there are {len(texts)} prompts; at most {MOST_PROMPTS} go together, one a line.")
        with _timed([model], texts) as note:
            made = list(generate(model, texts, count, _seed(seed), _truncation(truncation)))
        with _saved(made) as files:
            rows = [
                gr.Gallery(files[start : start + count], label=text, columns=min(count, 8), visible=True)
                for start, text in zip(range(0, len(files), count), texts, strict=True)
            ]
            hidden = [gr.Gallery(visible=False)] * (MOST_PROMPTS - len(rows))
            yield *rows, *hidden, note(len(made))

    def two_models(
        self, prompt: str | None, first: str, second: str, count: int, seed: int | None, truncation: float
    ) -> Iterator[tuple[Any, ...]]:
        """Images of a prompt by two models, from the same seed."""
        models, text, count = [self._model(first), self._model(second)], _read(prompt), _count(count)
        with _timed(models, [text]) as note:
            made = [list(generate(model, [text], count, _seed(seed), _truncation(truncation))) for model in models]
        with _saved(made[0]) as files, _saved(made[1]) as others:
            yield files, others, note(2 * len(made[0]))

    def explained(self, shown: Shown | None, position: int) -> Iterator[tuple[Any, ...]]:
        """Where one of the images shown holds each word of its prompt."""
        if shown is None or not 0 <= position < len(shown.indices):
            raise UsageError("there is no image to explain; generate one first.")
        model, index = self._model(shown.model), shown.indices[position]
        (made,) = generate(model, [shown.prompt], 1, shown.seed, shown.truncation, indices=[index])
        maps = word_maps(model, made.image, shown.prompt)
        with scratch_folder() as folder:
            items = []
            for place, one in enumerate(maps):
                file = folder / f"{place:02d}_{slug(one.text)}_{index}.png"
                record = {**made.record(), "word": one.text, "score": round(one.score, 4)}
                Image.fromarray(heated(made.image, one.pixels)).save(file, pnginfo=png_text(record))
                items.append((file, f"{one.text} {one.score:+.2f}" if place else f"whole prompt {one.score:.2f}"))
            yield gr.Gallery(value=items, visible=True), _explanation(index, len(words(shown.prompt)))

    def _model(self, name: str) -> Model:
        if str(name) not in self.models:
            raise unknown_name("model", str(name), self.models)
        return self.models[str(name)]


def _by_name(models: Sequence[Model]) -> dict[str, Model]:
    """Models by the names that visitors see: without the folders that they lie in, which are nobody's business."""
    named: dict[str, Model] = {}
    for model in models:
        name = own_name(model.name) if Path(model.name).exists() else model.name
        if name in named:
            name = f"{name} ({model.fingerprint})"
        named[name] = replace(model, name=name)
    return named


def _prompts(model: Model) -> list[str]:
    """Prompts that suit a model: those that its training was watched by, and at least three."""
    return [*model.config.training.get("prompts", []), "a red bird", "a blue bird", "a yellow flower"][:4]


class WrongValue(UsageError):
    """A value that none of the page's controls can have: gradio's own checks leave tracebacks on the terminal."""


def _text(value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise WrongValue(f"{value!a:.40} is not text.")
    return value or ""


def _read(prompt: object) -> str:
    """A prompt as it was typed. Raises UsageError for one that is too long."""
    text = _text(prompt).strip()
    if len(text) > LONGEST_PROMPT:
        raise UsageError(f"the prompt has {len(text):,} letters; shorten it to at most {LONGEST_PROMPT:,}.")
    return text


def _number(what: str, value: object, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise WrongValue(f"{what} is {value!a:.40}; it must be a number from {least} to {most}.")
    return value


def _whole(what: str, value: object, least: int, most: int) -> int:
    """Raises UsageError for a number between two whole ones, which the page shows as it was typed."""
    number = _number(what, value, least, most)
    if number != int(number):
        raise UsageError(f"{what} is {number}; give a whole number, such as {int(number)}.")
    return int(number)


def _count(value: object) -> int:
    return _whole("the number of images", value, 1, MOST_IMAGES)


def _best_of(value: object) -> int:
    return _whole("best-of", value, 1, MOST_BEST_OF)


def _truncation(value: object) -> float:
    return float(_number("truncation", value, 0, MOST_TRUNCATION))


def _share(value: object) -> float:
    return float(_number("the share of the second prompt", value, 0, 1))


def _seed(value: object) -> int:
    if value is None:
        raise UsageError("there is no seed; give a whole number, such as 0.")
    return _whole("seed", value, 0, MOST_SEED)


@contextlib.contextmanager
def _timed(models: Sequence[Model], prompts: Sequence[str]) -> Iterator[Callable[[int], str]]:
    """Yield what writes, after the work, the line under so many images: time, model, and what it could not read."""
    started = time.perf_counter()
    seconds = 0.0

    def note(count: int) -> str:
        by = " and ".join(f"{model.name} ({model.fingerprint})" for model in models)
        lines = [f"{count} image{'s' if count > 1 else ''} in {seconds:.2f} s by {by}"]
        warnings = [line for model in models for prompt in prompts for line in _unread(model, prompt)]
        return _lines(lines, dict.fromkeys(warnings))

    yield note
    seconds = time.perf_counter() - started


def _unread(model: Model, prompt: str) -> Iterator[str]:
    """What of a prompt a model cannot read."""
    if model.text_encoder.is_overlong(prompt):
        yield samples.overlong_prompt(model.text_encoder.context_length)
    if unknown := model.text_encoder.unknown_words(prompt):
        yield samples.unknown_words(model.name, unknown)


def _explanation(index: int, count: int) -> str:
    lines = [
        f"Image {index}, by Grad-CAM: bright is what raises CLIP's similarity of image and prompt. For a word it is "
        "what the word adds to that, and the number says how much."
    ]
    return _lines(lines, [f"only the first {MOST_WORDS} words are explained"] if count > MOST_WORDS else [])


def _lines(lines: Sequence[str], warnings: Any) -> str:
    told = [f"<p>{html.escape(line)}</p>" for line in lines]
    return "".join([*told, *(f'<p class="ratlip-warning">{html.escape(line)}</p>' for line in warnings)])


@contextlib.contextmanager
def _saved(made: Sequence[Sample]) -> Iterator[list[tuple[Path, str]]]:
    """Images as the files of `ratlip generate`, with their records inside; under each its number and similarity."""
    with scratch_folder() as folder:
        files = ImageFolder(folder)
        yield [(files.save(one), f"{one.index} · {one.clip_similarity:.2f}") for one in made]


def told(work: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """`work` with a message on the page where it raises a RatlipError; what is shown stays.

    A WrongValue, which comes from no control of the page, fails the event.
    """

    @functools.wraps(work)
    def event(*inputs: Any) -> Iterator[Any]:
        try:
            yield from work(*inputs)
        except WrongValue as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None
        except RatlipError as error:
            gr.Warning(html.escape(str(error)))  # shown as HTML
            yield gr.skip()

    return event


def page(playground: Playground) -> Any:
    """The page (gradio.Blocks), not served yet."""
    names = list(playground.models)
    run: dict[str, Any] = {
        "api_visibility": "private",
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "preprocess": False,  # see `WrongValue`
    }
    with gr.Blocks(analytics_enabled=False, title="ratlip playground", delete_cache=(600, _KEPT_SECONDS)) as blocks:
        gr.HTML(_HEAD)
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                tabs = gr.Tabs()
            with gr.Column(scale=1, min_width=220):
                name = gr.Dropdown(names, value=names[0], label="Model", interactive=len(names) > 1)
                count = gr.Slider(1, MOST_IMAGES, _IMAGES, step=1, precision=0, label="Images")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MOST_SEED)
                other = gr.Button("Another seed", size="sm")
                truncation = gr.Slider(
                    0, MOST_TRUNCATION, 1, step=0.05, label="Truncation", info="Below 1, less variety."
                )
                best_of = gr.Slider(
                    1,
                    MOST_BEST_OF,
                    1,
                    step=1,
                    precision=0,
                    label="Best of",
                    info="Generate: so many made for each shown.",
                )
                _known_words(playground.models)
        settings = [name, count, seed, truncation]
        with tabs:
            with gr.Tab("Generate"):
                generate_images, inputs, outputs = _one_prompt(playground, [best_of, *settings], run)
            with gr.Tab("Between"):
                _two_prompts(playground, settings, run)
            with gr.Tab("Same noise"):
                _several_prompts(playground, settings, run)
            if len(names) > 1:
                with gr.Tab("Compare"):
                    _two_models(playground, names, settings[1:], run)
        other.click(lambda: random.randrange(2**32), None, seed, api_visibility="private").then(
            generate_images, inputs, outputs, **run
        )
        blocks.load(generate_images, inputs, outputs, **run)
    blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=1)
    return blocks


def _one_prompt(playground: Playground, settings: list[Any], run: dict[str, Any]) -> tuple[Any, list[Any], list[Any]]:
    """The first tab; the event that generates, its inputs and its outputs."""
    prompt, go = _asking(playground.prompts[0])
    # Not gradio.Examples: their click does not go through the queue, and the server answers nothing else.
    tries = gr.Dataset(components=[prompt], samples=[[one] for one in playground.prompts], type="index", label="Try")
    gallery, note = _gallery("Images"), gr.HTML(elem_classes="ratlip-note")
    shown, position = gr.State(None), gr.State(0)
    explain = gr.Button("Where does the chosen image show each word?", size="md")
    maps = _gallery("Where the words are", visible=False)
    about = gr.HTML(elem_classes="ratlip-note")
    inputs, outputs = [prompt, *settings], [gallery, note, shown, position, maps, about]
    event = told(playground.one_prompt)

    def tried(number: object) -> Iterator[str]:
        yield playground.prompts[_whole("the prompt's number", number, 0, len(playground.prompts) - 1)]

    trying = tries.click(told(tried), tries, prompt, show_progress="hidden", **run)
    for trigger in (go.click, prompt.submit, trying.then):
        trigger(event, inputs, outputs, **run)

    def chosen(selected: gr.SelectData) -> int:
        return int(selected.index)

    gallery.select(chosen, None, position, api_visibility="private", show_progress="hidden")
    explain.click(told(playground.explained), [shown, position], [maps, about], **run)
    return event, inputs, outputs


def _two_prompts(playground: Playground, settings: list[Any], run: dict[str, Any]) -> None:
    with gr.Row():
        start = gr.Textbox(playground.prompts[0], label="From")
        end = gr.Textbox(playground.prompts[-1], label="To")
    share = gr.Slider(0, 1, 0.5, step=0.02, label="Share of the second prompt")
    go = gr.Button("Generate", variant="primary")
    gallery, note = _gallery("Images between the two prompts"), gr.HTML(elem_classes="ratlip-note")
    event, inputs, outputs = told(playground.two_prompts), [start, end, share, *settings], [gallery, note]
    for trigger in (go.click, start.submit, end.submit):
        trigger(event, inputs, outputs, **run)
    share.input(event, inputs, outputs, trigger_mode="always_last", show_progress="hidden", **run)


def _several_prompts(playground: Playground, settings: list[Any], run: dict[str, Any]) -> None:
    lines = gr.Textbox("\n".join(playground.prompts[:3]), label="Prompts, one a line", lines=3, max_lines=MOST_PROMPTS)
    go = gr.Button("Generate", variant="primary")
    rows = [_gallery("", visible=False, elem_classes="ratlip-row", show_label=True) for _ in range(MOST_PROMPTS)]
    note = gr.HTML(elem_classes="ratlip-note")
    go.click(told(playground.several_prompts), [lines, *settings], [*rows, note], **run)


def _two_models(playground: Playground, names: list[str], settings: list[Any], run: dict[str, Any]) -> None:
    prompt, go = _asking(playground.prompts[0])
    sides = []
    with gr.Row():
        for place in range(2):
            with gr.Column(min_width=280):
                sides.append((gr.Dropdown(names, value=names[place], label=f"Model {place + 1}"), _gallery("Images")))
    note = gr.HTML(elem_classes="ratlip-note")
    (first, left), (second, right) = sides
    for trigger in (go.click, prompt.submit):
        trigger(told(playground.two_models), [prompt, first, second, *settings], [left, right, note], **run)


def _asking(value: str) -> tuple[Any, Any]:
    """A box for a prompt, and the button beside it."""
    with gr.Row(equal_height=True):
        prompt = gr.Textbox(value, label="Prompt", scale=4, min_width=240)
        return prompt, gr.Button("Generate", variant="primary", scale=1, min_width=120)


def _gallery(label: str, visible: bool = True, elem_classes: str = "ratlip-images", show_label: bool = False) -> Any:
    return gr.Gallery(
        label=label,
        show_label=show_label,
        elem_classes=elem_classes,
        columns=4,
        object_fit="contain",
        height="auto",
        interactive=False,
        buttons=["download", "download_all", "fullscreen"],
        visible=visible,
    )


def _known_words(models: dict[str, Model]) -> None:
    """The vocabularies that are not whole, to unfold."""
    for name, model in models.items():
        known = model.text_encoder.known_words()
        if known is not None and len(known) <= _MOST_KNOWN_WORDS:
            with gr.Accordion(f"Words that {name} knows", open=False):
                gr.HTML(html.escape(", ".join(known)))


_HEAD = """<h1>ratlip playground</h1>
<p>Images from text by GANs on frozen CLIP. Image <i>k</i> depends on the model, the prompt, the seed, the
truncation and <i>k</i> alone. Under each image: <i>k</i>, and how like the prompt CLIP finds it. A saved image holds
all of that as PNG text.</p>"""

_STYLE = """
.ratlip-note p { margin: 0; font-size: 0.9em; opacity: 0.8; }
.ratlip-note p.ratlip-warning { opacity: 1; color: #b45309; font-weight: 600; }
.dark .ratlip-note p.ratlip-warning { color: #fbbf24; }
.ratlip-images .grid-wrap, .ratlip-row .grid-wrap { min-height: 0 !important; max-height: none !important; }
.ratlip-images .caption-label, .ratlip-row .caption-label { font-size: 11px; padding: 0 5px; max-width: 95%; }
.ratlip-row .grid-wrap { padding-top: 36px; }
.ratlip-row label { max-width: 85%; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.ratlip-row .thumbnail-item, .ratlip-row .gallery-item { height: auto !important; aspect-ratio: 1; }
.ratlip-row .grid-container { grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)) !important; }
@media (max-width: 640px) {
  .ratlip-images .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; }
  .ratlip-row .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; }
  .tab-container button { padding: 0 8px !important; font-size: 13px !important; }
}
"""


@contextlib.contextmanager
def served(
    models: Sequence[Model], host: str = "127.0.0.1", port: int | None = None, share: bool = False
) -> Iterator[str]:
    """Serve the playground of these models while the context lasts; it yields the address.

    Args:
        host: a name or an address of this machine; see `guard.serves_this_machine_alone`.
        port: left out, the first free one from FIRST_PORT.
        share: also ask gradio's servers for a public address, and yield that one.

    Raises UsageError where the host is none of this machine; RatlipError where the port is taken, or there is no public
    address.
    """
    host = host.strip("[]").lower()
    own = host if serves_this_machine_alone(host) and not share else None
    direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), host, "localhost"]
    proxies = {"no_proxy": ",".join(filter(None, direct))}  # gradio calls on its own server, by any proxy that is set
    with scratch_folder() as scratch, _environment(GRADIO_TEMP_DIR=str(scratch), **proxies):
        blocks = page(Playground(models))
        address, public = _launched(blocks, host, own, port, share, str(scratch))
        try:
            if share and not public:
                raise RatlipError("there is no public address: gradio's servers were not reached; leave out --share.")
            yield public or address
        finally:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it counts the pages that are still open
            blocks.server.config.timeout_graceful_shutdown = 1
            blocks.close(verbose=False)


def _launched(
    blocks: Any, host: str, own: str | None, port: int | None, share: bool, folder: str
) -> tuple[str, str | None]:
    """Serve in a thread of its own, which answers to the name `own` alone: the address here, and the public one."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            _, address, public = blocks.launch(
                server_name=f"[{host}]" if ":" in host else host,  # as addresses have IPv6
                server_port=port,
                share=share,
                prevent_thread_lock=True,
                quiet=True,
                inline=False,
                theme=_theme(),
                css=_STYLE,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                mcp_server=False,
                ssr_mode=False,
                pwa=False,
                state_session_capacity=MOST_SESSIONS,
                app_kwargs={"middleware": [Middleware(OnlyThePage, blocks=blocks, folder=folder, host=own)]},
            )
    except OSError as error:
        where = f"ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are" if port is None else f"port {port} is"
        raise RatlipError(f"{where} taken, or cannot be opened on {host}: choose another --port.") from error
    return address, public


def _theme() -> Any:
    """Fonts of the visitor's system: nothing is downloaded."""
    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]
    return gr.themes.Default(primary_hue="emerald", font=fonts, font_mono=["ui-monospace", "monospace"])


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables for a while: gradio takes the place of its files from there alone."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
