"""The verbs for photographs: what comes out, and one clear line for what cannot be."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from groupvit import GroupViT, ModelConfig, TextConfig, load_released, save_released
from groupvit.cli import main
from groupvit.segmenting.photo import open_photo
from groupvit.segmenting.segmenter import GroupViTSegmenter


def run(*argv: object) -> int:
    return main([str(arg) for arg in argv])


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as opened:
        return np.array(opened)


def test_everything_that_can_be_written(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    out, labels, groups = (tmp_path / "new" / f"{name}.png" for name in ("out", "lab", "gro"))
    files = ("--out", out, "--labels", labels, "--groups", groups)
    chosen = ("--background", 0.2, "--window", 48, "--device", "cpu")
    args = ("--classes", "dog, grass", "--checkpoint", released, *files, *chosen)
    assert run("segment", tmp_path / "photo.png", *args) == 0
    shares = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for _, name in shares] == ["background", "dog", "grass"]
    found = pixels(labels)
    assert found.shape == (60, 500)
    counts = np.bincount(found.ravel(), minlength=3) / found.size
    assert [float(share) for share, _ in shares] == pytest.approx(counts.tolist(), abs=1e-4)
    segmenter = GroupViTSegmenter(load_released(released))
    want = segmenter.label(
        open_photo(tmp_path / "photo.png"),
        segmenter.encode_classes(["dog", "grass"]),
        background=0.2,
        window_px=48,
        stride_px=24,
        short_px=64,  # twice the 32 pixels that this model trained at
    )
    assert np.array_equal(found, want.numpy())
    assert pixels(out).shape[1] == 500 and pixels(out).shape[0] > 60  # the photograph's own size
    assert pixels(groups).shape[1] == 1000
    assert sorted(path.name for path in out.parent.iterdir()) == ["gro.png", "lab.png", "out.png"]


def test_a_folder_is_segmented_picture_by_picture(
    released: Path,
    tmp_path: Path,
    jpeg: Callable[..., bytes],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "b.jpeg"):
        (folder / name).write_bytes(jpeg(seed=len(name)))
    args = ("--classes", "dog, grass", "--checkpoint", released, "--out", out)
    assert run("segment", folder, *args, "--labels", tmp_path / "ids") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        str(folder / name) for name in ("a.jpg", "b.jpeg", "b.jpg")
    ]
    assert all("dog " in line or "grass " in line for line in lines)
    names = ["a.png", "b.jpeg.png", "b.jpg.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert sorted(path.name for path in (tmp_path / "ids").iterdir()) == names

    (folder / "c.jpg").write_text("no picture")
    assert run("segment", folder, *args, "--overwrite", "true") == 3
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 3
    assert said.err == "groupvit: 1 of 4 pictures could not be read\n"
    assert "c.jpg: not a picture" in caplog.text


def test_several_pictures_and_options_in_front(
    photo: Path, released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other one.jpg"
    other.write_bytes(photo.read_bytes())
    args = ("--classes", "dog, cat", "--checkpoint", released, "--out")
    assert run("segment", photo, other, *args, tmp_path / "out") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert (tmp_path / "out" / "other one.png").is_file()
    assert run("segment", *args, tmp_path / "one.png", other) == 0  # one may stand behind
    assert len(capsys.readouterr().out.splitlines()) == 2  # a line for each class


def test_names_from_a_file_and_published_thresholds(
    photo: Path, released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text("dog\n\n grüne Wiese \nsky, blue\n", encoding="utf-8")
    args = ("--classes", tmp_path / "names.txt", "--checkpoint", released)
    for i, background in enumerate(("voc", "COCO", "0.95")):
        out = tmp_path / f"{i}.png"
        assert run("segment", photo, *args, "--out", out, "--background", background) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for _, name in lines[:4]] == ["background", "dog", "grüne Wiese", "sky, blue"]
    assert lines[:4] == lines[4:8] == lines[8:]


def test_classify_prints_the_likeliest_first(
    photo: Path, released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("--classes", "dog, cat, sky", "--checkpoint", released)
    lines: dict[str, list[list[str]]] = {}
    for templates in ("simple", "imagenet7", "clip80"):
        assert run("classify", photo, *args, "--templates", templates) == 0
        lines[templates] = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        likely = [float(value) for value, _ in lines[templates]]
        assert likely == sorted(likely, reverse=True) and sum(likely) == pytest.approx(1, abs=2e-4)
        assert {name for _, name in lines[templates]} == {"dog", "cat", "sky"}
    assert lines["simple"] != lines["clip80"]
    assert run("classify", photo, *args) == 0
    default = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert default == lines["imagenet7"]
    other = tmp_path / "other.jpg"
    other.write_bytes(photo.read_bytes())
    assert run("classify", photo, other, *args, "--top", 1) == 0
    first, second = capsys.readouterr().out.splitlines()
    path, _, found = first.partition("\t")
    assert path == str(photo) and found == second.partition("\t")[2]
    assert found.startswith(f"{default[0][1]} 0.") and "," not in found
    many = ("--classes", "dog, cat, sky, sea, cow, bus, car", "--checkpoint", released)
    assert run("classify", photo, other, *many, "--top", 7) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.count(",") == second.count(",") == 6


@pytest.mark.parametrize("size", [(1, 1), (20000, 1), (1, 20000)], ids=str)
def test_thin_and_tiny_pictures_work(size: tuple[int, int], released: Path, tmp_path: Path) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "thin.png")
    out, labels = tmp_path / "out.png", tmp_path / "labels.png"
    args = ("--classes", "dog, cat", "--checkpoint", released, "--out", out, "--labels", labels)
    assert run("segment", tmp_path / "thin.png", *args) == 0
    assert pixels(labels).shape == size[::-1]
    names = ("--classes", "dog, cat", "--checkpoint", released)
    assert run("classify", tmp_path / "thin.png", *names) == 0


@pytest.mark.parametrize("mode", ["L", "I;16", "CMYK", "P", "RGBA", "1"])
def test_pictures_of_every_mode_work(mode: str, released: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.new(mode, (20, 30)).save(path)
    args = ("--classes", "dog, cat", "--checkpoint", released, "--out", tmp_path / "out.png")
    assert run("segment", path, *args) == 0


def checkpoints(folder: Path, config: ModelConfig) -> list[tuple[int, str, Path]]:
    """Exit code, words and path of what is no GroupViT that reads words."""
    folder.mkdir()
    resnet = {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.bn1.bias": torch.zeros(64)}
    torch.save(resnet, folder / "resnet.pth")
    torch.save({"model": {"img_encoder.norm.bias": torch.zeros(4)}}, folder / "part.pth")
    torch.save([1, 2], folder / "list.pth")
    (folder / "corrupt.pth").write_bytes(b"PK\x03\x04 no zip")
    (folder / "empty.pth").touch()
    for name, text in (("words", {"vocabulary": 300}), ("short", {"context": 20})):
        other = TextConfig(width=32, layers=1, heads=2, **text)
        model = GroupViT(ModelConfig(vision=config.vision, text=other, embed_dim=16))
        save_released(model, folder / f"{name}.pth")
    (folder / "huggingface").mkdir()
    (folder / "huggingface" / "config.json").write_text("{}")
    (folder / "bare").mkdir()
    return [
        (1, "neither NVlabs' nor Hugging Face's names: conv1.weight", folder / "resnet.pth"),
        (1, "missing tensors", folder / "part.pth"),
        (1, "not a dict of tensors", folder / "list.pth"),
        (1, "not a PyTorch file", folder / "corrupt.pth"),
        (1, "not a PyTorch file", folder / "empty.pth"),
        (1, "cannot be used with words", folder / "words.pth"),
        (1, "20 of 49408", folder / "short.pth"),
        (1, "no such file", folder / "huggingface"),
        (1, "not a groupvit checkpoint", folder / "bare"),
        (3, "no such checkpoint", folder / "none.pth"),
    ]


def test_checkpoints_that_cannot_be_used_are_one_line(
    tiny_config: ModelConfig, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "results" / "new.png"
    for code, said, path in checkpoints(tmp_path / "models", tiny_config):
        names = ("--classes", "dog", "--checkpoint", path)
        for argv in (("segment", photo, *names, "--out", new), ("classify", photo, *names)):
            assert run(*argv) == code, path
            line = capsys.readouterr().err
            assert said in line and line.startswith("groupvit: ") and line.count("\n") == 1, line
    assert not new.parent.exists()  # nothing is left that would be in the way of the next try


def test_wrong_words_and_places_are_one_line(
    photo: Path, released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none.txt").write_text("\n \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "bare").mkdir()
    new = ("--checkpoint", released, "--out", tmp_path / "new.png")
    dog = ("--classes", "dog, cat", *new)
    out = ("--classes", "dog", "--checkpoint", released, "--out")
    cases: list[tuple[int, str, tuple[object, ...]]] = [
        (2, "at least one name, got ''", (photo, "--classes", "", *new)),
        (2, "at least one name, got ' '", (photo, "--classes", " ", *new)),
        (2, "a name is blank in 'dog, ,cat'", (photo, "--classes", "dog, ,cat", *new)),
        (2, "comes twice: 'dog'", (photo, "--classes", "dog,cat,dog", *new)),
        (2, "at least one name", (photo, "--classes", tmp_path / "none.txt", *new)),
        (3, "bytes.txt: not a text file", (photo, "--classes", tmp_path / "bytes.txt", *new)),
        (3, "absent.txt: no such file", (photo, "--classes", tmp_path / "absent.txt", *new)),
        (2, "one of voc, context, coco, got 'vco'", (photo, *dog, "--background", "vco")),
        (2, "a number in [0, 1], got 1.5", (photo, *dog, "--background", 1.5)),
        (2, "--window needs at least", (photo, *dog, "--window", 7)),
        (2, "--short needs at least", (photo, *dog, "--short", 7)),
        (2, "--device mars", (photo, *dog, "--device", "mars")),
        (2, "--device cuda:99", (photo, *dog, "--device", "cuda:99")),
        (3, "absent.jpg: no such file", (tmp_path / "absent.jpg", *dog)),
        (3, "bare: no picture in this folder", (tmp_path / "bare", *dog)),
        (1, "cannot be written", (photo, *out, photo / "below" / "new.png")),
        (2, "ends in .png", (photo, *dog, "--labels", tmp_path / "labels.bmp")),
        (2, "is read, and would be", (photo, *out, photo, "--overwrite", "true")),
        (
            2,
            "take it from --classes",
            (photo, "--classes", "sky,background", *new, "--background", 0.5),
        ),
        (2, "would be written twice", (photo, *dog, "--groups", tmp_path / "new.png")),
        (2, "name of a picture such as groups.png", (photo, *dog, "--groups", tmp_path / "g.x")),
        (2, "required", ("--classes", "dog", *new)),
    ]
    for code, said, argv in cases:
        assert run("segment", *argv) == code, argv
        line = capsys.readouterr().err
        assert said in line and line.startswith("groupvit: ") and line.count("\n") == 1, line
    assert not (tmp_path / "new.png").exists()
    assert run("classify", photo, "--classes", "dog", "--checkpoint", released, "--top", 0) == 2
    assert "--top needs at least 1" in capsys.readouterr().err


def test_too_large_a_picture_is_one_line_with_advice(
    photo: Path,
    released: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    args = ("--classes", "dog", "--checkpoint", released, "--out")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 36 * 40 - 1)  # large: a warning of Pillow's
    assert run("segment", photo, *args, tmp_path / "large.png") == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 36 * 40 // 2 - 1)  # an error above twice that
    assert run("segment", photo, *args, tmp_path / "new.png") == 3
    line = capsys.readouterr().err
    assert "has more than 1,438 pixels; make it smaller" in line and line.count("\n") == 1


def test_a_long_name_is_one_warning(
    photo: Path, released: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = ("--checkpoint", released, "--out", tmp_path / "new.png")
    assert run("segment", photo, "--classes", "cat, " + "dog " * 90, *args) == 0
    assert len(caplog.records) == 1 and "the name 'dog dog" in caplog.text


def test_an_interrupt_says_what_comes_next(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("groupvit.cli.load_any", stop)
    monkeypatch.setattr("groupvit.cli.load_recipe", stop)
    assert run("classify", photo, "--classes", "dog", "--checkpoint", photo) == 4
    assert capsys.readouterr().err == "groupvit: stopped\n"
    assert run("train", "cc3m", "data", "run") == 4
    assert capsys.readouterr().err == "groupvit: stopped; run it again to go on\n"


def test_overwrite_replaces(photo: Path, released: Path, tmp_path: Path) -> None:
    out = tmp_path / "there.png"
    out.touch()
    args = ("--classes", "dog,cat", "--checkpoint", released, "--out", out)
    assert run("segment", photo, *args) == 2
    assert run("segment", photo, *args, "--overwrite", "true") == 0
    assert pixels(out).shape[0] > 40
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["there.png"]
