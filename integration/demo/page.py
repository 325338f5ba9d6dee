"""The page itself: two tabs of Gradio components, wired to the desk. No logic is here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from integration.demo import archive, drawing
from integration.demo.desk import Desk, Listing
from integration.demo.guard import HOST, middleware
from integration.demo.picture import FORMATS, MAX_BYTES

TITLE = "Open-vocabulary segmentation from captions"

STYLE = f"""{drawing.STYLE}{archive.STYLE}
.gradio-container {{ overflow: clip !important; }} /* hidden would keep .result from sticking */
.result {{ position: sticky; top: 8px; align-self: flex-start; gap: 10px; }}
.heading h1 {{ font-size: 22px; margin: 0; }}
.heading p {{ font-size: 14px; margin: 0; }}
.hint, .hint p {{ font-size: 14px; line-height: 1.45; margin: 0; }}
.hint code {{ font-size: 13px; }}
#model .info-text, #threshold .info-text {{ color: var(--body-text-color); font-size: 13px; }}
.drop .icon-wrap {{ display: none !important; }}
.drop .wrap {{ font-size: 14px; line-height: 1.4; padding-top: 20px; }}
#span {{ text-align: center; }}
"""

ENDINGS = [".jpg", ".jpeg", ".png", ".webp", ".bmp"]
"""Of `FORMATS`."""

HEADING = f"""# {TITLE}
Everything is computed on this machine, from the models and the archive of finished runs."""

SEGMENT_HINT = f"""Classes are separated by commas, synonyms of a class by `|`: `person | man, sky`.
Pictures are {", ".join(FORMATS)} files of at most {MAX_BYTES // 2**20} MB."""

ARCHIVE_HINT = """Choose a picture on the left, or drop a new one, to see what curation says that
it shows, beyond its caption. A caption's concepts are marked in the colours of their clusters;
beside each concept are its witnesses, the reference images whose captions mention it."""

BOUNDED = "(picture, words, model, threshold) =>\
 [picture, words, model, Math.min(Math.max(Number(threshold) || 0, 0), 1)]"
"""Takes a threshold that is being typed for what its field makes of it once it is left."""

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
        gr.Markdown(HEADING, elem_classes="heading")
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
                label="Drop a picture", type="binary", file_types=ENDINGS, height=100,
                elem_id="picture", elem_classes="drop",
            )  # fmt: skip
            scene = gr.Button("Draw a scene", elem_id="scene", size="sm")
            words = gr.Textbox(
                desk.words, label="Words (Enter segments)", max_lines=6, elem_id="words"
            )
            model = gr.Radio(
                desk.choices, value=desk.first_choice, label="Model", info=desk.missing or None,
                elem_id="model",
            )  # fmt: skip
            threshold = gr.Slider(
                0, 1, 0, step=0.05, label="Background below", elem_id="threshold",
                info="a place that scores less for every class is background; 0: there is none",
            )  # fmt: skip
            go = gr.Button("Segment", variant="primary", elem_id="segment")
            gr.Markdown(SEGMENT_HINT, elem_classes="hint")
        with gr.Column(scale=3, min_width=320):
            if desk.limits:
                gr.HTML(desk.limits, elem_id="limits", js_on_load=None)
            overlay = gr.HTML(elem_id="overlay", js_on_load=_watching("#picture"))
    with gr.Accordion("Maps: what each group owns, or where each class scores", open=True):
        maps = gr.HTML(elem_id="maps", js_on_load=None)

    def draw(at: int) -> tuple[bytes, int]:
        return desk.scene(at), at + 1

    def refuse(event: gr.EventData) -> tuple[None, str, str]:
        return None, desk.refuse(int(event.size)), ""

    show: dict[str, Any] = {
        "fn": desk.segment,
        "inputs": [picture, words, model, threshold],
        "outputs": [overlay, maps],
        "js": BOUNDED,
        **_QUIET,
    }
    drop.upload(_taken, drop, [picture, drop], **_QUIET).then(**show)
    scene.click(draw, number, [picture, number], **_QUIET).then(**show)
    overlay.upload(refuse, None, [picture, overlay, maps], **_QUIET)
    gr.on(
        [go.click, words.submit, model.change, threshold.change], **show, trigger_mode="always_last"
    )


def _archive_tab(blocks: gr.Blocks, desk: Desk) -> None:
    listing, picture = gr.State(Listing()), gr.State(None)
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            text = gr.Textbox(
                "", label="Search (Enter searches)", placeholder="words", elem_id="search"
            )
            where = gr.Radio(
                [("in captions", "captions"), ("in concepts", "concepts")], value="captions",
                show_label=False, container=False, elem_id="where",
            )  # fmt: skip
            with gr.Row():
                back = gr.Button("Back", size="sm", scale=0, min_width=70, elem_id="back")
                span = gr.HTML(elem_id="span", min_width=120, js_on_load=None)
                more = gr.Button("More", size="sm", scale=0, min_width=70, elem_id="more")
            cards = gr.HTML(elem_id="cards", js_on_load=CHOOSE)
        with gr.Column(scale=7, min_width=360, elem_classes="result"):
            with gr.Row():
                drop = gr.File(
                    label="Drop a new picture", type="binary", file_types=ENDINGS, height=90,
                    scale=1, min_width=200, elem_id="new-picture", elem_classes="drop",
                )  # fmt: skip
                caption = gr.Textbox(
                    "", label="Its caption, if you like (Enter asks the archive)", scale=2,
                    elem_id="caption",
                )  # fmt: skip
            about = gr.HTML(elem_id="about", js_on_load=None)
            entry = gr.HTML(
                drawing.draw_note(ARCHIVE_HINT), elem_id="entry",
                js_on_load=_watching("#new-picture"),
            )  # fmt: skip

    def choose(shown: Listing, event: gr.EventData) -> str:
        return desk.entry(shown, int(event.row))

    def refuse(event: gr.EventData) -> tuple[None, str]:
        return None, desk.refuse(int(event.size))

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
          **_QUIET, trigger_mode="always_last").then(**listed)  # fmt: skip
    back.click(turn(-1), listing, listing, **_QUIET).then(**listed)
    more.click(turn(1), listing, listing, **_QUIET).then(**listed)
    cards.click(choose, listing, entry, **_QUIET)
    drop.upload(_taken, drop, [picture, drop], **_QUIET).then(**judged)
    caption.submit(**judged)
    entry.upload(refuse, None, [picture, entry], **_QUIET)
    blocks.load(desk.about, None, about, **_QUIET)


def _watching(place: str) -> str:
    """What tells the size of a file dropped at a place that Gradio does not send.

    Gradio says so in passing, and what is shown would stay that of the picture before.

    Args:
        place: selector of a file's component.
    """
    return (
        "const tell = files => { const file = files && files[0]; if (!file) return;"
        f" const known = {ENDINGS}.some(ending => file.name.toLowerCase().endsWith(ending));"
        f" if (!known || file.size > {MAX_BYTES}) trigger('upload', {{size: file.size}}); }};"
        f" const here = event => event.target.closest && event.target.closest('{place}');"
        " document.addEventListener('change', e => here(e) && tell(e.target.files), true);"
        " document.addEventListener('drop', e => here(e) && tell(e.dataTransfer.files), true);"
    )


def _taken(data: bytes) -> tuple[bytes, None]:
    """A dropped file's bytes, and an empty place for the next one."""
    return data, None


_QUIET: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "desk"}
"""No event is an endpoint for programs, and one runs at a time."""
