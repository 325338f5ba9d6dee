import html.parser
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conceptarchive import ConceptArchive
from conceptarchive.concepts.vocabulary import Vocabulary
from conceptarchive.errors import ConceptArchiveError
from conceptarchive.output.highlight import mentions_of, named, readable
from conceptarchive.output.page import describe, pictures, write_page
from conceptarchive.output.pictures import data_uri

WriteArchive = Callable[..., Path]
MakeTar = Callable[[Path, Sequence[tuple[str, bytes]]], Path]
Jpeg = Callable[[int], bytes]

NAMES = ["dog", "fire truck", "truck", "grass", "man"]
PAIRS: list[Any] = [
    (
        "set/a/0",
        "A <b>dog</b> & its\nfriend",
        [(0, 1.5, 0), (1, 1.25, 1), (3, -0.5, 0)],
        [(0, 1.0), (1, 0.75), (2, 0.5)],
    ),
    ("set/a/1", "", [], []),
    ("set/b/2", "men", [(4, 1.0, 0)], []),
]
POOL: list[Any] = [
    ("set/a/0", "A <b>dog</b> & its\nfriend", [(0, 0.5)]),
    ("set/a/1", "two Fire-Trucks, fire trucks on grass", [(1, 0.25), (2, 0.25), (3, 0.25)]),
    ("set/b/2", "a \x1b[31m dog\u202e on the grass", [(0, 0.25), (3, 0.125)]),
]


@pytest.fixture
def archive(tmp_path: Path, write_archive: WriteArchive) -> ConceptArchive:
    return ConceptArchive.open(write_archive(tmp_path / "archive", NAMES, PAIRS, POOL))


class Page(html.parser.HTMLParser):
    """Collects what a page shows, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def within(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def test_a_page_shows_captions_concepts_and_witnesses(
    archive: ConceptArchive, tmp_path: Path, jpeg: Jpeg
) -> None:
    asked: list[str] = []

    def images(key: str) -> bytes | None:
        asked.append(key)
        return jpeg(0) if key == "set/a/0" else None

    write_page(archive, ["set/a/0"], tmp_path / "page.html", images=images)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.within("h1") == ["set/a/0"]
    assert "".join(text for tag, text in page.texts if tag in ("p", "mark")).startswith(
        "A <b>dog</b> & its friend"
    )
    assert [text for text in page.within("h2") if text.strip()] == ["dog", "fire truck", "grass"]
    assert page.within("mark") == ["dog", "dog", "dog", "fire trucks", "grass", "grass"]
    chips = [text for text in page.within("span") if "caption" in text]
    assert chips == ["in the caption", "not in the caption", "not in the caption"]
    assert "similarity 0.750" in page.within("span")
    widths = [a["style"] for _, a in page.tags if a.get("class") == "fill"]
    assert widths == ["width: 100.0%", "width: 83.3%", "width: 0.0%"]
    assert page.within("div").count("no picture") == 4
    assert text.count("data:image/jpeg;base64,") == 2  # large and small, once each
    assert sorted(asked) == ["set/a/0", "set/a/0", "set/a/1", "set/b/2"]
    assert list(tmp_path.glob("*.part")) == []


def test_a_page_asks_for_nothing_outside(archive: ConceptArchive, tmp_path: Path) -> None:
    write_page(archive, [key for key, *_ in PAIRS], tmp_path / "p.html", images=lambda _: None)
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text
    assert not any("src" in attrs or "href" in attrs for _, attrs in page.tags)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "(no caption)" in page.within("p")
    assert "no witness: it comes from the pair's own caption" in page.within("p")
    assert "no concepts: no reference image's caption mentions one" in page.within("p")
    assert page.within("title") == ["3 pairs"]


def test_a_page_that_cannot_be_written_says_so(archive: ConceptArchive, tmp_path: Path) -> None:
    with pytest.raises(ConceptArchiveError, match=r"none/p\.html: cannot be written"):
        write_page(archive, ["set/a/0"], tmp_path / "none/p.html", images=lambda _: None)
    with pytest.raises(KeyError, match="'x' is not in"):
        write_page(archive, ["x"], tmp_path / "p.html", images=lambda _: None)


def test_lines_for_a_terminal(archive: ConceptArchive) -> None:
    assert describe(archive, "set/a/0", 2, width=200).splitlines() == [
        "set/a/0",
        "A <b>dog</b> & its friend",
        "",
        "  1   dog          1.5000  cluster 0",
        "         1.0000  A <b>dog</b> & its friend",
        "         0.5000  a \ufffd[31m dog\ufffd on the grass",
        "  2 + fire truck   1.2500  cluster 1",
        "         0.7500  two Fire-Trucks, fire trucks on grass",
        "",
        "+ not in the caption; below: similarity and caption of each witness",
    ]
    assert "(no caption)" in describe(archive, "set/a/1", 2)
    assert "no concepts" in describe(archive, "set/a/1", 2)
    lines = describe(archive, "set/a/0", 9, width=24).splitlines()
    assert max(map(len, lines)) == 24
    assert "         0.5000  a \ufffd[31…" in lines


def test_where_captions_mention_names() -> None:
    text = "Fire trucks and a truck-stop; TRUCKS"
    spans = mentions_of(text, ["truck", "fire truck"], merge_plurals=True)
    assert [(text[start:stop], name) for start, stop, name in spans] == [
        ("Fire trucks", 1),
        ("TRUCKS", 0),
    ]
    assert mentions_of(text, ["truck", "fire truck"], merge_plurals=False) == []
    assert mentions_of("", ["truck"], merge_plurals=True) == []
    assert named("Two\nmen", "man", Vocabulary(("man",)))
    assert not named("a woman", "man", Vocabulary(("man",)))
    assert readable("a\tb\n c\x07") == "a b c\ufffd"


def test_pictures_are_found_in_their_shards(
    archive: ConceptArchive, tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg
) -> None:
    def shard(path: Path, seed: int, *keys: str) -> Path:
        files = [(f"{key}.jpg", jpeg(seed + int(key))) for key in keys]
        files += [(f"{key}.txt", b"c") for key in keys]
        return make_tar(path, sorted(files))

    ours = [shard(tmp_path / "set/a.tar", 0, "0", "1", "3"), shard(tmp_path / "set/b.tar", 0, "2")]
    other = shard(tmp_path / "another/a.tar", 50, "0", "1")
    found = pictures(archive, ["set/a/0"], [other, *ours])
    assert [found(f"set/{key}") for key in ("a/0", "a/1", "b/2")] == [jpeg(n) for n in range(3)]
    assert found("set/a/3") is None  # not asked for
    renamed = pictures(archive, ["set/a/0"], [shard(tmp_path / "moved/a.tar", 0, "0", "1")])
    assert renamed("set/a/1") == jpeg(1)
    assert renamed("set/b/2") is None
    assert pictures(archive, ["set/a/0"], [])("set/a/0") is None


def test_pictures_are_made_small(jpeg: Jpeg) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (900, 300), (255, 0, 0, 128)).save(buffer, "PNG")
    address = data_uri(buffer.getvalue(), 90)
    assert address is not None
    assert address.startswith("data:image/jpeg;base64,")
    assert len(address) < 2000
    assert data_uri(b"no image", 90) is None
    assert data_uri(jpeg(0)[:50], 90) is None
