"""Pictures of the report."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from conceptarchive import Pair
from integration import figures
from integration.pages import figure_tag, html_tables
from segbench import ScenesDataset, write_pairs


def opened(source: str) -> Image.Image:
    head, content = source.split(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_picture_survives_its_address() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert np.array_equal(np.asarray(opened(figures.png_data(Image.fromarray(pixels)))), pixels)
    assert opened(figures.png_data(Figure(figsize=(2, 1)))).width > 0


def test_loss_curves_have_a_line_for_every_run(tmp_path: Path) -> None:
    logs: dict[str, list[Path]] = {"baseline": [], "cocu": []}
    for arm, folders in logs.items():
        for seed in range(2):
            folder = tmp_path / f"{arm}-{seed}"
            folder.mkdir()
            lines = [
                {"step": step, "loss": 1 / step, "caption_loss": 2.0, "multi_label_loss": 3.0}
                for step in (1, 2, 4)
            ]
            (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
            folders.append(folder)
    axes = figures.loss_curves(logs).axes
    assert [axis.get_title() for axis in axes] == ["loss", "caption loss", "multi label loss"]
    for axis in axes:
        assert len(axis.lines) == 4
        legend = axis.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == ["baseline", "cocu"]
    assert np.asarray(axes[0].lines[0].get_xydata()).tolist() == [[1, 1], [2, 0.5], [4, 0.25]]


@pytest.mark.parametrize(("size", "shown"), [((32, 16), (144, 72)), ((288, 576), (72, 144))])
def test_a_thumbnail_fits_and_keeps_its_shape(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    content = io.BytesIO()
    Image.new("RGB", size).save(content, "PNG")
    pair = Pair(id="a/b/c", key="c", caption="", image=content.getvalue())
    assert opened(figures.thumbnail(pair)).size == shown


def test_pairs_are_picked_from_their_shards(tmp_path: Path) -> None:
    scenes = ScenesDataset(split="train", count=5, size_px=32)
    write_pairs(scenes, tmp_path, shard_size=2, progress=False)
    wanted = {"train/00000/000000001", "train/00002/000000004"}
    found = figures.pick_pairs(tmp_path, "train", wanted)
    assert found.keys() == wanted
    assert found["train/00002/000000004"].caption == scenes.caption(4)
    everything = list(figures.all_pairs(tmp_path, "train"))
    assert len(everything) == 5
    assert all(pair.image is None for pair in everything)


def test_tables_become_html_and_text_is_escaped() -> None:
    html = html_tables("a < **b**\n\nc < d\n\n| head | n |\n|---|---|\n| x & y | 1 |\n\n**e**: f")
    assert html == (
        "<p>a &lt; <b>b</b></p>\n<table><caption>c &lt; d</caption><tr><th>head</th><th>n</th></tr>"
        "<tr><td>x &amp; y</td><td>1</td></tr></table>\n<p><b>e</b>: f</p>"
    )


def test_a_mean_and_its_error_stay_in_one_line() -> None:
    assert "<td>1\u00a0±\u00a02 or 3</td>" in html_tables("| a |\n|---|\n| 1 ± 2 or 3 |")


def test_a_figure_has_its_caption_as_text() -> None:
    assert figure_tag("data:x", "a < b") == (
        '<figure><img src="data:x" alt="a &lt; b"><figcaption>a &lt; b</figcaption></figure>'
    )
    assert figure_tag("data:x") == '<figure><img src="data:x" alt=""></figure>'
