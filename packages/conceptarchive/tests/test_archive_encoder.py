import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from conceptarchive import DataMissingError, OpenClipEncoder
from conceptarchive.embedding.encoder import PixelEncoder, _split_transform
from conceptarchive.errors import FormatError, UsageError

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny open_clip model with random weights, as a local-dir folder."""
    folder = tmp_path_factory.mktemp("tiny-clip")
    config = {"model_cfg": MODEL, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(0)
    model = open_clip.CLIP(**MODEL)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def architecture(folder: Path) -> str:
    """The same model as a name that open_clip knows, without weights."""
    path = folder / "tiny-known.json"
    path.write_text(json.dumps(MODEL), encoding="utf-8")
    open_clip.add_model_config(path)
    return "tiny-known"


@pytest.fixture
def quiet() -> Iterator[None]:
    """Without open_clip's own remarks."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def pictures(count: int = 5) -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = [(32, 32), (40, 30), (31, 57), (300, 20), (64, 64)]
    return [
        Image.fromarray(random.integers(0, 256, (*sizes[n % 5], 3), np.uint8)).resize(sizes[n % 5])
        for n in range(count)
    ]


def test_unit_rows(folder: Path) -> None:
    encoder = OpenClipEncoder(f"local-dir:{folder}", batch_size=2)
    image, text = encoder.encode_images(pictures()), encoder.encode_texts(["a dog", "", "🐻"])
    assert (image.shape, text.shape, image.dtype) == ((5, 16), (3, 16), torch.float32)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(3))
    assert encoder.encode_images([]).shape == (0, 0)
    assert encoder.encode_texts([]).shape == (0, 0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_batch_size_changes_no_bit(folder: Path, precision: Any) -> None:
    images, texts = pictures(37), [f"caption {n}" for n in range(37)]
    whole = OpenClipEncoder(f"local-dir:{folder}", precision=precision)
    image, text = whole.encode_images(images), whole.encode_texts(texts)
    for size in (1, 2, 5, 11, 16, 36):
        encoder = OpenClipEncoder(f"local-dir:{folder}", precision=precision, batch_size=size)
        assert torch.equal(encoder.encode_images(images), image)
        assert torch.equal(encoder.encode_texts(texts), text)


def test_rows_are_those_of_the_model(folder: Path) -> None:
    encoder = OpenClipEncoder(f"local-dir:{folder}")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    pixels = torch.stack([preprocess(image) for image in pictures(16)])
    with torch.no_grad():
        expected = model.eval().encode_image(pixels, normalize=True)
    assert torch.equal(encoder.encode_images(pictures(16)), expected)
    assert isinstance(encoder, PixelEncoder)
    own = torch.stack([encoder.preprocess(image) for image in pictures(16)])
    assert (own.shape, own.dtype) == ((16, 32, 32, 3), torch.uint8)
    assert torch.equal(encoder.encode_pixels(own), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"},
        {"resize_mode": "squash"},
        {"resize_mode": "longest", "fill_color": 9},
        {"image_size": (20, 32)},
    ],
    ids=str,
)
def test_pixels_are_to_the_bit_those_of_open_clip(settings: dict[str, Any]) -> None:
    transform = image_transform(**({"image_size": 32} | settings), is_train=False)
    to_pixels, levels = _split_transform(transform)
    assert levels is not None
    for image in pictures():
        own = to_pixels(image).long()  # (H, W, 3)
        normalised = torch.stack([levels[c][own[..., c]] for c in range(3)])
        assert torch.equal(normalised, transform(image))


def test_a_foreign_transform_is_taken_whole() -> None:
    def foreign(image: Image.Image) -> Tensor:
        return torch.tensor(image.size)

    assert _split_transform(foreign) == (foreign, None)
    known = image_transform(32, is_train=False)
    known.transforms.insert(4, torch.nn.Identity())
    assert _split_transform(known) == (known, None)


def test_foreign_transform_gives_the_same_rows(folder: Path) -> None:
    encoder = OpenClipEncoder(f"local-dir:{folder}")
    expected = encoder.encode_images(pictures())
    encoder._to_pixels, encoder._levels = image_transform(32, is_train=False), None
    assert torch.equal(encoder.encode_images(pictures()), expected)


def test_id_names_weights_and_precision(folder: Path) -> None:
    encoder = OpenClipEncoder(f"local-dir:{folder}")
    assert encoder.id.startswith(f"open_clip/{folder.name}@")
    assert encoder.id == OpenClipEncoder(f"local-dir:{folder}", batch_size=1).id
    half = OpenClipEncoder(f"local-dir:{folder}", precision="bfloat16")
    assert half.id != encoder.id
    assert half.weights_sha256 == encoder.weights_sha256
    near = half.encode_texts(["a dog"]) @ encoder.encode_texts(["a dog"]).mT
    assert near.item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("suffix", ["pt", "bin", "safetensors"])
def test_checkpoint_files_give_the_rows_of_their_weights(
    folder: Path, architecture: str, tmp_path: Path, suffix: str
) -> None:
    weights = torch.load(folder / "open_clip_pytorch_model.bin")
    path = tmp_path / f"weights.{suffix}"
    save: Callable[[Any, Any], None] = save_file if suffix == "safetensors" else torch.save
    save(weights if suffix != "pt" else {"state_dict": weights, "epoch": 3}, path)
    encoder = OpenClipEncoder(architecture, checkpoint=path)
    expected = OpenClipEncoder(f"local-dir:{folder}")
    assert torch.equal(encoder.encode_images(pictures()), expected.encode_images(pictures()))
    assert encoder.weights_sha256 == expected.weights_sha256
    assert encoder.id.startswith("open_clip/tiny-known@")


class Code:
    """What a pickle that runs code holds."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return pytest.fail, ("the checkpoint was run",)


@pytest.mark.usefixtures("quiet")
def test_unfit_checkpoints_are_one_line(architecture: str, folder: Path, tmp_path: Path) -> None:
    weights = torch.load(folder / "open_clip_pytorch_model.bin")
    unfit = {
        "empty.pt": b"",
        "garbage.pt": b"not a checkpoint",
        "garbage.safetensors": b"not a checkpoint",
        "list.pt": [1],
        "none.pt": {},
        "other.pt": {"weight": torch.zeros(3)},
        "part.pt": {name: weights[name] for name in list(weights)[:9]},
        "shape.pt": weights | {"text_projection": torch.zeros(3, 3)},
        "code.pt": {"state_dict": Code()},
    }
    told = {
        "other.pt": "it has no positional_embedding",
        "shape.pt": "its text_projection has another shape",
    }
    for name, content in unfit.items():
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(FormatError) as caught:
            OpenClipEncoder(architecture, checkpoint=path)
        assert str(caught.value).startswith(f"{path}: cannot be loaded as weights of tiny-known: ")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
        if name in told:
            assert str(caught.value).endswith(f": {told[name]}")


def test_random_weights_are_of_a_seed_and_say_so(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(1)
    encoder = OpenClipEncoder(architecture, pretrained="random")
    assert caplog.messages == ["the weights of tiny-known are random: its rows mean nothing"]
    assert encoder.id.startswith("open_clip/tiny-known-random@")
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)  # the global generator was left alone
    assert OpenClipEncoder(architecture, pretrained="random").id == encoder.id
    torch.testing.assert_close(encoder.encode_images(pictures(2)).norm(dim=1), torch.ones(2))


def test_weights_come_from_one_place() -> None:
    with pytest.raises(ValueError, match="one of pretrained, checkpoint and local-dir"):
        OpenClipEncoder("ViT-B-16")
    for model in ("local-dir:x", "hf-hub:x/y"):
        with pytest.raises(ValueError, match="one of"):
            OpenClipEncoder(model, pretrained="openai")


def test_unknown_names_come_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no model 'vit-b16'; did you mean ViT-B-16.*\?"):
        OpenClipEncoder("vit-b16", pretrained="openai")
    with pytest.raises(UsageError, match="no model 'qqqq', or say local-dir"):
        OpenClipEncoder("qqqq", pretrained="openai")
    with pytest.raises(UsageError, match=r"'opena' of ViT-B-16; did you mean openai\?"):
        OpenClipEncoder("ViT-B-16", pretrained="opena")
    with pytest.raises(UsageError, match="'qqqq' of ViT-B-16; its tags: openai, laion400m"):
        OpenClipEncoder("ViT-B-16", pretrained="qqqq")
    for device, match in (("gpu", "unknown device 'gpu'"), ("cuda:99", "'cuda:99' is not here")):
        with pytest.raises(UsageError, match=match):
            OpenClipEncoder("ViT-B-16", checkpoint=tmp_path / "x", device=device)


@pytest.mark.usefixtures("quiet")
def test_missing_weights_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="local-dir:FOLDER") as caught:
        OpenClipEncoder("ViT-B-16", checkpoint=tmp_path / "none.pt")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataMissingError):
        OpenClipEncoder(f"local-dir:{tmp_path / 'none'}")


def test_hub_names_and_tags_reach_open_clip(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def offline(model: str, pretrained: str | None, **_: Any) -> None:
        asked.append((model, pretrained))
        raise OSError("no\nnetwork")

    def wordy(*_: Any, **__: Any) -> None:
        logging.error("Failed to download weights for tag 'openai': word word")
        raise RuntimeError("word " * 200)

    monkeypatch.setattr(open_clip, "create_model_and_transforms", wordy)
    with pytest.raises(DataMissingError, match=r"word word \.\.\.; give --encoder.checkpoint"):
        OpenClipEncoder("ViT-B-16", pretrained="openai")
    assert not caplog.messages  # the error says it
    monkeypatch.setattr(open_clip, "create_model_and_transforms", offline)
    for model, tag in (("hf-hub:org/name", None), ("ViT-B/16", "OpenAI"), ("ViT-B-16", "openai")):
        with pytest.raises(DataMissingError, match=f"model '{model}': no network; give"):
            OpenClipEncoder(model, pretrained=tag)
        assert asked[-1] == (model, tag)
