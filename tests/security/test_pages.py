"""HTML pages: captions, names and ids are text, whatever they look like."""

import html.parser
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import maskcluster
from conceptarchive import (
    ArchiveConfig,
    ConceptArchive,
    Embeddings,
    Vocabulary,
    build_archive,
    describe,
    write_page,
)
from integration import figures, pages
from integration.cocu import concept_pages
from integration.wiring import write_truth
from segbench import evaluate, load_task
from segbench import write_page as write_segbench_page

SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(1)>"
BREAKOUT = "\"'><svg onload=alert(1)>"
HOSTILE = (SCRIPT, IMAGE, BREAKOUT, "</title></style><iframe src=javascript:alert(1)>", "&lt;b&gt;")


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: its tags, and its texts."""

    allowed: ClassVar = frozenset({
        "html", "head", "meta", "title", "style", "body", "main", "article", "header", "section",
        "h1", "h2", "h3", "p", "div", "span", "small", "mark", "b", "i", "br", "figure", "img",
        "figcaption", "table", "caption", "tr", "th", "td", "pre",
    })  # fmt: skip

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.values: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        assert tag in self.allowed, f"<{tag} {attrs}>"
        for name, value in attrs:
            assert not name.startswith("on"), f"<{tag} {attrs}>"
            if name in ("src", "href"):
                assert re.match(r"data:image/(png|jpeg);base64,|[\w/%.-]+$", value or ""), value
            self.values.append(value or "")
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def shows(self, text: str) -> bool:
        """Whether a text stands on the page as it is."""
        return any(text in said for said in [*self.values, "".join(self.texts)])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ConceptArchive:
    """Captions, keys and concepts are all hostile."""
    folder = tmp_path_factory.mktemp("archive")
    names = (*(text.lower() for text in HOSTILE), "dog")
    captions = [f"a dog {text} and a dog" for text in HOSTILE]
    rows = np.eye(len(HOSTILE), len(names), dtype=np.float32)
    pairs = Embeddings.from_arrays([f"set/0/{text}" for text in HOSTILE], captions, rows)
    return build_archive(
        folder / "archive",
        anchors=pairs,
        pool=pairs,
        vocabulary=Vocabulary(names),
        concept_features=np.eye(len(names), dtype=np.float32),
        config=ArchiveConfig(neighbours=4, response="shifted"),
    )


def test_pages_of_an_archive(archive: ConceptArchive, photo: bytes, tmp_path: Path) -> None:
    write_page(archive, list(archive.keys), tmp_path / "page.html", images=lambda _: photo)
    page = Page(tmp_path / "page.html")
    for text in HOSTILE:
        assert page.shows(text), text
        assert page.shows(f"set/0/{text}"), text
    assert "http" not in "".join(page.values).replace("http-equiv", "")


def test_an_archive_in_a_terminal(tmp_path: Path) -> None:
    """No letter moves the cursor, clears the screen or turns the direction of writing."""
    control = "\x1b[2j\u202e\x07"
    rows = np.ones((1, 1), np.float32)
    pairs = Embeddings.from_arrays([f"set/0/{control}"], [f"a dog {control}"], rows)
    made = build_archive(
        tmp_path,
        anchors=pairs,
        pool=pairs,
        vocabulary=Vocabulary((f"dog {control}", "dog")),
        concept_features=np.ones((2, 1), np.float32),
        config=ArchiveConfig(neighbours=1, self_mode="force"),
    )
    told = describe(made, made.keys[0], 9, width=200)
    assert "dog" in told
    assert all(line.isprintable() for line in told.splitlines())


class Always:
    """Sees one class everywhere."""

    name = f"model {SCRIPT}"

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.eye(len(prompts))

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:  # noqa: ARG002  # of the protocol
        return torch.ones(len(bank), 4, 4) * torch.arange(len(bank)).view(-1, 1, 1)


def test_the_page_of_an_evaluation(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    for place in ("images/val", "masks/val"):
        (root / place).mkdir(parents=True)
    ids = [text.replace("/", "") for text in HOSTILE]  # as far as files can have such names
    for number, name in enumerate(ids):
        Image.new("RGB", (24, 16)).save(root / "images/val" / f"{name}.png")
        Image.new("L", (24, 16), number).save(root / "masks/val" / f"{name}.png")
    rows = [f"{value}\t{name}" for value, name in enumerate(HOSTILE)]
    (root / "labels.tsv").write_text("\n".join(["mask_value\tname", *rows]) + "\n")
    task = load_task("camvid11@groupvit").with_dataset(folder="data", ignore=())
    evaluate(Always(), task, root=tmp_path, out=out, save_pred=True)
    page = Page(write_segbench_page(out, root=tmp_path, task=task))
    for text in (*HOSTILE, *ids, Always.name):
        assert page.shows(text), text
    assert page.tags.count("img") == len(ids)


CLIP: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8},
    "text_cfg": {"width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def pixelclip(tmp_path: Path) -> maskcluster.PixelCLIP:
    """A PixelCLIP that was never trained, with a class prompt for each hostile name."""
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP}))
    tower = maskcluster.load_clip(f"local-dir:{tmp_path / 'clip'}", "random")
    return maskcluster.PixelCLIP.from_config(
        maskcluster.ModelConfig(architecture="ViT-B-16", pretrained="random"),
        maskcluster.ClusterConfig(clusters=len(HOSTILE), tokens=1),
        clip=tower,
    )


def test_the_page_of_clusters(
    pixelclip: maskcluster.PixelCLIP, photo: bytes, tmp_path: Path
) -> None:
    photos, words = tmp_path / "photos", tmp_path / "names.txt"
    photos.mkdir()
    for name in HOSTILE:
        (photos / f"{name.replace('/', '')}.png").write_bytes(photo)
    words.write_text("\n".join(HOSTILE))
    maskcluster.name(
        pixelclip, tmp_path / "out", names=str(words), photos=photos, image_px=32, mask_px=32
    )
    page = Page(tmp_path / "out" / "index.html")
    assert all(page.shows(text) for text in HOSTILE)
    assert page.tags.count("img") >= len(HOSTILE)


@pytest.mark.parametrize("known", [False, True], ids=["truth unknown", "truth known"])
def test_the_report_of_a_run(
    archive: ConceptArchive,
    photo: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    known: bool,
) -> None:
    """Captions and names of an archive, class names in tables and pictures, a recipe's summary."""
    pair = SimpleNamespace(image=photo)
    captions = {key: archive.caption(key) for key in archive.keys}

    def all_pairs(*_: object) -> Iterator[SimpleNamespace]:
        return (SimpleNamespace(id=key, caption=said) for key, said in captions.items())

    monkeypatch.setattr(figures, "all_pairs", all_pairs)
    monkeypatch.setattr(figures, "pick_pairs", lambda *_: dict.fromkeys(captions, pair))
    monkeypatch.setattr(ConceptArchive, "open", lambda _: archive)
    if known:
        write_truth(tmp_path, {key: [f"missed {text}" for text in HOSTILE] for key in captions})
    section = concept_pages.archive_section(tmp_path, tmp_path)
    table = "\n".join(["| class | n |", "|---|---|", *(f"| {text} | 1 |" for text in HOSTILE)])
    tables = f"{SCRIPT}\n\n{table}\n\n**{IMAGE}**"
    seen = np.zeros((2, 2, 3), np.uint8)
    labels = np.arange(4).reshape(2, 2)
    example = concept_pages.Example(0, seen, labels.astype(np.int32), {BREAKOUT: labels})
    pages.write_page(
        tmp_path / "report.html",
        title=SCRIPT,
        lead=BREAKOUT,
        summary=IMAGE,
        command=f"reproduce {SCRIPT}",
        sections={
            SCRIPT: [section, pages.html_tables(tables), pages.figure_tag("a.png", BREAKOUT)],
            IMAGE: [example.cells([f"class {text}" for text in HOSTILE], {0: (1, 2, 3)})],
        },
    )
    page = Page(tmp_path / "report.html")
    assert all(page.shows(f"a dog {text} and a dog") for text in HOSTILE)
    assert all(page.shows(f"missed {text}") == known for text in HOSTILE)
    assert page.shows(f"truth: class {SCRIPT}")
    assert page.shows(f"{BREAKOUT}: class {SCRIPT}, IoU 1.00")
    assert all(page.shows(text) for text in HOSTILE)
