import json
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from conceptarchive import DataMissingError, OpenClipEncoder

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


def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (40 + n, 30), (20 * n, 90, 200 - 20 * n)) for n in range(5)]


def test_unit_rows_for_any_batch_size(folder: Path) -> None:
    encoder = OpenClipEncoder(f"local-dir:{folder}", batch_size=2)
    whole = OpenClipEncoder(f"local-dir:{folder}")
    image, text = encoder.encode_images(pictures()), encoder.encode_texts(["a dog", "", "🐻"])
    assert (image.shape, text.shape, image.dtype) == ((5, 16), (3, 16), torch.float32)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(whole.encode_images(pictures()), image, rtol=0, atol=1e-5)
    assert encoder.encode_images([]).shape == (0, 0)
    assert encoder.encode_texts([]).shape == (0, 0)


def test_rows_are_those_of_the_model(folder: Path) -> None:
    encoder = OpenClipEncoder(f"local-dir:{folder}")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    pixels = torch.stack([preprocess(image) for image in pictures()])
    with torch.no_grad():
        expected = model.eval().encode_image(pixels, normalize=True)
    torch.testing.assert_close(encoder.encode_images(pictures()), expected)


def test_id_names_weights_and_precision(folder: Path) -> None:
    encoder = OpenClipEncoder(f"local-dir:{folder}")
    assert encoder.id.startswith(f"open_clip/{folder.name}@")
    assert encoder.id == OpenClipEncoder(f"local-dir:{folder}", batch_size=1).id
    half = OpenClipEncoder(f"local-dir:{folder}", precision="bfloat16")
    assert half.id != encoder.id
    assert half.weights_sha256 == encoder.weights_sha256
    near = half.encode_texts(["a dog"]) @ encoder.encode_texts(["a dog"]).mT
    assert near.item() == pytest.approx(1, abs=0.01)


def test_weights_come_from_one_place() -> None:
    with pytest.raises(ValueError, match="one of pretrained, checkpoint and local-dir"):
        OpenClipEncoder("ViT-B-16")
    with pytest.raises(ValueError, match="one of"):
        OpenClipEncoder("local-dir:x", pretrained="openai")


def test_missing_weights_are_one_line(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataMissingError, match="local-dir:FOLDER") as caught:
            OpenClipEncoder("ViT-B-16", checkpoint=tmp_path / "none.pt")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataMissingError):
        OpenClipEncoder(f"local-dir:{tmp_path / 'none'}")
