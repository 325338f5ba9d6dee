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
from integration.pages import html_tables
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


def test_a_concept_strip_dims_what_is_outside_of_the_mask() -> None:
    image = np.full((4, 4, 3), 200, np.uint8)
    mask = np.eye(4, dtype=bool)
    axes = figures.concept_strip(image, {"truth": mask, "cocu": ~mask}, "sand").axes
    assert [axis.get_title() for axis in axes] == ["picture", "sand: truth", "sand: cocu"]
    shown = np.asarray(axes[1].images[0].get_array())
    assert shown[0, 1].tolist() == [110, 110, 110]
    assert shown[0, 0].tolist() == [235, 96, 109]  # 0.35 * 200 + 0.65 * (255, 40, 60)
    assert (image == 200).all()  # the picture itself is left alone


def test_a_label_strip_has_a_map_for_every_model() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    labels = np.zeros((8, 8), np.int64)
    figure = figures.label_strip(image, {"truth": labels, "cocu": labels}, ("sky", "sea"))
    assert [axis.get_title() for axis in figure.axes] == ["truth", "cocu"]


def test_a_strip_shrinks_photographs_and_enlarges_scenes() -> None:
    for height, width, shown in (
        (480, 640, (240, 320)),
        (427, 641, (143, 214)),
        (24, 48, (144, 288)),
    ):
        image = np.zeros((height, width, 3), np.uint8)
        labels = np.zeros((height, width), np.int64)
        labels[:, width // 2 :] = 1
        (axis,) = figures.label_strip(image, {"truth": labels}, ("sky", "sea")).axes
        picture = np.asarray(axis.images[0].get_array())  # with the legend on its right
        assert picture.shape[0] >= shown[0]
        left, right = picture[0, 0].tolist(), picture[0, shown[1] - 1].tolist()
        assert picture[0, shown[1] // 2 - 2].tolist() == left != right


def test_tables_become_html_and_text_is_escaped() -> None:
    html = html_tables("a < b\n\n| head | n |\n|---|---|\n| x & y | 1 |")
    assert html == (
        "<p>a &lt; b</p>\n<table><tr><th>head</th><th>n</th></tr>"
        "<tr><td>x &amp; y</td><td>1</td></tr></table>"
    )
