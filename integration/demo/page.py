"""The page itself: two tabs of Gradio components, wired to the desk. No logic is here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from integration.demo import archive, drawing
from integration.demo.desk import Desk, Listing
from integration.demo.guard import HOST, middleware
from integration.demo.picture import FORMATS, MAX_BYTES
from integration.demo.runs import MODELS

TITLE = "Open-vocabulary segmentation from captions"

STYLE = drawing.STYLE + archive.STYLE + ".hint { opacity: .7; font-size: 13px; }"

ENDINGS = [".jpg", ".jpeg", ".png", ".webp", ".bmp"]
"""Of `FORMATS`."""

HEADING = f"""# {TITLE}
Everything is computed on this machine, from the models and the archive of finished runs."""

SEGMENT_HINT = f"""Classes are separated by commas, synonyms of a class by `|`: `person | man, sky`.
Pictures are {", ".join(FORMATS)} files of at most {MAX_BYTES // 2**20} MB. A mini run's models have
seen procedural scenes only: draw one to see what they learnt."""

ARCHIVE_HINT = """What curation says that each picture shows, beyond its caption. A caption's
concepts are marked in the colours of their clusters; beside each concept are its witnesses, the
reference images whose captions mention it."""

CHOOSE = "element.addEventListener('click', event => {\
 const card = event.target.closest('[data-row]');\
 if (card) trigger('click', {row: Number(card.dataset.row)}); });"
"""Tells which card of a list was clicked."""


def build(desk: Desk) -> gr.Blocks:
    """The page of a desk."""
    blocks: gr.Blocks
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(600, 3600), fill_width=True
    ) as blocks:
        gr.Markdown(HEADING)
        with gr.Tab("Segment"):
            _segment_tab(desk)
        with gr.Tab("Archive"):
            _archive_tab(blocks, desk)
    return blocks


def start(blocks: gr.Blocks, port: int, uploads: Path) -> str:
    """Serve the page on this machine alone, in the background.

    Args:
        blocks: the page.
        port: where; it must be free.
        uploads: folder that the environment names as GRADIO_TEMP_DIR.

    Returns:
        Its address.

    Raises:
        OSError: the port is taken.
    """
    address: str
    _, address, _ = blocks.queue(max_size=16).launch(
        server_name=HOST,
        server_port=port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        allowed_paths=[],
        max_file_size=MAX_BYTES,
        max_threads=4,
        num_workers=0,
        state_session_capacity=64,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        root_path="",
        app_kwargs={"middleware": middleware(uploads), "openapi_url": None},
        theme=gr.themes.Default(
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=STYLE,
    )
    return address


def _segment_tab(desk: Desk) -> None:
    picture, number = gr.State(None), gr.State(0)  # a file's bytes, the scene drawn next
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            drop = gr.File(
                label="Drop a picture", type="binary", file_types=ENDINGS, height=120,
                elem_id="picture",
            )  # fmt: skip
            scene = gr.Button("Draw a scene", elem_id="scene", size="sm")
            words = gr.Textbox(desk.words, label="Words", lines=3, elem_id="words")
            model = gr.Radio(list(MODELS), value=MODELS[1], label="Model", elem_id="model")
            threshold = gr.Slider(
                0, 1, 0, step=0.05, label="Background below", elem_id="threshold",
                info="a place that scores less for every class is background; 0: there is none",
            )  # fmt: skip
            go = gr.Button("Segment", variant="primary", elem_id="segment")
            gr.Markdown(SEGMENT_HINT, elem_classes="hint")
        with gr.Column(scale=3, min_width=320):
            overlay = gr.HTML(elem_id="overlay", js_on_load=None)
    with gr.Accordion("Maps: what each group owns, or where each class scores", open=True):
        maps = gr.HTML(elem_id="maps", js_on_load=None)

    def draw(at: int) -> tuple[bytes, int]:
        return desk.scene(at), at + 1

    show: dict[str, Any] = {
        "fn": desk.segment,
        "inputs": [picture, words, model, threshold],
        "outputs": [overlay, maps],
        **_QUIET,
    }
    drop.upload(_taken, drop, [picture, drop], **_QUIET).then(**show)
    scene.click(draw, number, [picture, number], **_QUIET).then(**show)
    gr.on([go.click, words.submit, model.change, threshold.release], **show)


def _archive_tab(blocks: gr.Blocks, desk: Desk) -> None:
    listing, picture = gr.State(Listing()), gr.State(None)
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            with gr.Row():
                text = gr.Textbox(
                    "", label="Search", placeholder="words", scale=2, elem_id="search"
                )
                where = gr.Radio(
                    ["captions", "concepts"], value="captions", label="in", elem_id="where"
                )
            cards = gr.HTML(elem_id="cards", js_on_load=CHOOSE)
            with gr.Row():
                back = gr.Button("Back", size="sm", min_width=60, elem_id="back")
                span = gr.HTML(elem_id="span", min_width=120, js_on_load=None)
                more = gr.Button("More", size="sm", min_width=60, elem_id="more")
            with gr.Accordion("What the archive says of a new picture", open=True):
                drop = gr.File(
                    label="Drop a picture", type="binary", file_types=ENDINGS, height=120,
                    elem_id="new-picture",
                )  # fmt: skip
                caption = gr.Textbox("", label="Its caption, if you like", elem_id="caption")
        with gr.Column(scale=2, min_width=360):
            gr.Markdown(ARCHIVE_HINT, elem_classes="hint")
            entry = gr.HTML(elem_id="entry", js_on_load=None)

    def choose(shown: Listing, event: gr.EventData) -> str:
        return desk.entry(shown, int(event.row))

    def turn(pages: int) -> Callable[[Listing], Listing]:
        return lambda shown: shown.moved(pages)

    listed: dict[str, Any] = {
        "fn": desk.list,
        "inputs": listing,
        "outputs": [cards, span],
        "show_progress": "hidden",
        **_QUIET,
    }
    judged: dict[str, Any] = {
        "fn": desk.judge, "inputs": [picture, caption], "outputs": entry, **_QUIET,
    }  # fmt: skip
    gr.on([blocks.load, text.submit, where.change], desk.find, [text, where], listing,
          **_QUIET).then(**listed)  # fmt: skip
    back.click(turn(-1), listing, listing, **_QUIET).then(**listed)
    more.click(turn(1), listing, listing, **_QUIET).then(**listed)
    cards.click(choose, listing, entry, **_QUIET)
    drop.upload(_taken, drop, [picture, drop], **_QUIET).then(**judged)
    caption.submit(**judged)


def _taken(data: bytes) -> tuple[bytes, None]:
    """A dropped file's bytes, and an empty place for the next one."""
    return data, None


_QUIET: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "desk"}
"""No event is an endpoint for programs, and one runs at a time."""
