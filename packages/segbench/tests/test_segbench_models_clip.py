"""What every method that makes CLIP dense has in common: texts, sizes, places, errors."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from segbench import Classifier
from segbench.models import DenseClip, clearclip, clip, maskclip, naclip, pixelclip, sclip

PATCH = 8
CONFIG = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 3,
            "width": 32,
            "head_width": 16,
            "patch_size": PATCH,
        },
        "text_cfg": {"width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)},
}
FACTORIES: dict[str, Callable[..., DenseClip]] = {
    "clip": clip,
    "maskclip": maskclip,
    "sclip": sclip,
    "clearclip": clearclip,
    "naclip": naclip,
    "pixelclip": pixelclip,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP of true architecture, with weights at which attention is far from uniform."""
    path = tmp_path_factory.mktemp("tiny-clip")
    (path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{path}", load_weights=False)
    draw = torch.Generator().manual_seed(1)
    state = {
        name: value + 0.2 * torch.randn(value.shape, generator=draw) * (value.ndim > 0)
        for name, value in model.state_dict().items()
    }
    save_file(state, path / "open_clip_model.safetensors")
    return path


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, DenseClip]:
    """Every method on that CLIP."""
    return {name: make(model=f"local-dir:{folder}") for name, make in FACTORIES.items()}


@pytest.fixture
def bank() -> Tensor:
    return F.normalize(torch.randn(5, 24), dim=1)


def noise(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(7))


# --- texts ---


def test_encode_text_is_open_clips_without_normalisation(
    folder: Path, made: dict[str, DenseClip]
) -> None:
    prompts = ["a photo of a cat.", "a photo of a very long-haired dog.", "sky " * 100]
    peer = open_clip.create_model(f"local-dir:{folder}").eval()
    wanted = peer.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(prompts))
    for model in made.values():
        assert torch.equal(model.encode_text(prompts), wanted)
    assert not torch.allclose(wanted.norm(dim=1), torch.ones(3))


# --- any size, and places ---


@pytest.mark.parametrize("method", FACTORIES)
@pytest.mark.parametrize("size", [(32, 32), (37, 61), (80, 24), (5, 9), (8, 200)])
def test_any_size_gives_finite_scores(
    made: dict[str, DenseClip], bank: Tensor, method: str, size: tuple[int, int]
) -> None:
    scores = made[method].segment(noise(*size), bank)
    grid = (max(size[0] // PATCH, 1), max(size[1] // PATCH, 1))
    assert scores.shape == (5, *((64, 64) if method == "pixelclip" else grid))
    assert scores.isfinite().all()
    assert scores.dtype == torch.float32
    assert scores.abs().max() <= 1 + 1e-5


@pytest.mark.parametrize("method", FACTORIES)
@pytest.mark.parametrize("corner", [(8, 40), (48, 16)])
def test_a_bright_square_moves_the_scores_where_it_is(
    folder: Path, bank: Tensor, method: str, corner: tuple[int, int]
) -> None:
    options: dict[str, Any] = {"input_px": 0} if method == "pixelclip" else {}
    model = FACTORIES[method](model=f"local-dir:{folder}", **options)
    top, left = corner
    without = noise(67, 83) * 0.2  # 8 by 10 patches, of 8.4 by 8.3 pixels
    with_square = without.clone()
    with_square[:, top : top + 16, left : left + 16] = 1
    change = (model.segment(with_square, bank) - model.segment(without, bank)).abs().mean(0)
    place = divmod(int(change.argmax()), change.shape[1])
    y, x = ((place[axis] + 0.5) / change.shape[axis] * (67, 83)[axis] for axis in (0, 1))
    assert top - 4 <= y <= top + 20
    assert left - 4 <= x <= left + 20


# --- what a model says of itself ---


def test_fingerprint_is_of_the_weights(folder: Path, made: dict[str, DenseClip]) -> None:
    assert made["clip"].fingerprint == made["sclip"].fingerprint
    assert len(made["clip"].fingerprint) == 64
    other = clip(model=f"local-dir:{folder}")
    with torch.no_grad():
        other.tower.visual.proj[0, 0] += 1
    assert other.fingerprint != made["clip"].fingerprint
    assert len({model.name for model in made.values()}) == len(made)


def test_fingerprint_tells_quick_gelu_which_is_no_weight(folder: Path) -> None:
    plain, quick = (clip(model=f"local-dir:{folder}", quick_gelu=each) for each in (False, True))
    states = [dict(model.clip.model.state_dict()) for model in (plain, quick)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert plain.fingerprint != quick.fingerprint
    again = clip(model=f"local-dir:{folder}", quick_gelu=True)
    assert quick.fingerprint == again.fingerprint


def test_random_weights_are_those_of_seed_0_and_leave_the_generator() -> None:
    before = torch.get_rng_state()
    first, second = (clip(model="ViT-S-32-alt", pretrained="random") for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert torch.equal(torch.get_rng_state(), before)
    assert first.name == "clip ViT-S-32-alt random"


def test_a_checkpoint_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(_named_config(tmp_path))
    file = folder / "open_clip_model.safetensors"
    model = clip(model="segbench-tiny", checkpoint=str(file))
    assert model.fingerprint == clip(model=f"local-dir:{folder}").fingerprint
    assert model.name == "clip segbench-tiny open_clip_model.safetensors"
    with pytest.raises(ValueError, match=r"'ViT-S-32-alt' with .*safetensors: .+"):
        clip(model="ViT-S-32-alt", checkpoint=str(file))
    torch.save({"classifier.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: it has no positional_embedding$"):
        clip(model="segbench-tiny", checkpoint=str(tmp_path / "other.pt"))


def _named_config(path: Path) -> Path:
    file = path / "segbench-tiny.json"
    file.write_text(json.dumps(CONFIG["model_cfg"]))
    return file


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ViT-B-61"}, "unknown open_clip model 'ViT-B-61'; did you mean 'ViT-B-16'"),
        ({"model": "zzz"}, "unknown open_clip model 'zzz'; see open_clip.list_models"),
        ({"model": "local-dir:/nowhere"}, "no open_clip_config.json in that folder"),
        ({"checkpoint": "/nowhere.pt"}, "no checkpoint at '/nowhere.pt'"),
        ({"pretrained": "opnai"}, "unknown pretrained 'opnai' of 'ViT-B-16'; known: openai, "),
        ({"pretrained": "openai", "checkpoint": "a.pt"}, "give pretrained or checkpoint"),
        ({"model": "ViT-S-16"}, "'ViT-S-16' needs a checkpoint, or pretrained: 'random'"),
        ({"model": "RN50", "pretrained": "random"}, "got a ModifiedResNet vision tower"),
        (
            {"model": "ViT-S-32-alt", "pretrained": "random", "device": "cuda:99"},
            "alt' with random: ",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        clip(**options)
    assert "\n" not in str(caught.value)


def test_pixelclip_and_naclip_check_their_options(folder: Path) -> None:
    with pytest.raises(ValueError, match="sigma must be > 0, got 0"):
        naclip(model=f"local-dir:{folder}", sigma=0)
    with pytest.raises(ValueError, match="input_px must be >= 1, got -1"):
        pixelclip(model=f"local-dir:{folder}", input_px=-1)


def test_a_corrupt_checkpoint_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"with .*a\.pt: ") as caught:
        clip(model="ViT-S-32-alt", checkpoint=str(file))
    assert "\n" not in str(caught.value)


def test_vit_b_16_in_its_real_shapes() -> None:
    model = sclip(model="ViT-B-16", pretrained="random")
    bank = F.normalize(model.encode_text(["a photo of a cat."]), dim=1)
    assert bank.shape == (1, 512)
    assert model.segment(noise(33, 48), bank).shape == (1, 2, 3)


def test_a_download_that_failed_is_told_once_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def offline(_: str, **__: Any) -> None:
        logging.error("Failed to download weights for tag 'openai': no network")
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(ValueError, match=r"no network; .* by --option\.checkpoint=FILE$"):
        clip(model="ViT-B-16", pretrained="openai")
    assert not caplog.messages


def test_the_tag_decides_about_quick_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def stop(_: str, **options: Any) -> None:
        seen.update(options)
        raise RuntimeError("stopped")

    monkeypatch.setattr(open_clip, "create_model", stop)
    for tag, wanted in (("openai", True), ("laion400m_e32", False)):
        with pytest.raises(ValueError, match="stopped"):
            clip(model="ViT-B-16", pretrained=tag)
        assert seen["force_quick_gelu"] is wanted
    with pytest.raises(ValueError, match="'laion400m_e32' of 'ViT-B-16-quickgelu'"):
        clip(model="ViT-B-16-quickgelu", pretrained="laion400m_e32")


# --- whole images ---


@pytest.mark.parametrize("pooling", [{}, {"pool_type": "avg"}, {"final_ln_after_pool": True}])
def test_the_embedding_of_an_image_is_open_clips(pooling: dict[str, Any], tmp_path: Path) -> None:
    config: dict[str, Any] = json.loads(json.dumps(CONFIG))
    config["model_cfg"]["vision_cfg"] |= pooling
    if "final_ln_after_pool" in pooling:
        config["model_cfg"]["vision_cfg"]["pool_type"] = "avg"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    model = clip(model=f"local-dir:{tmp_path}", pretrained="random")
    assert isinstance(model, Classifier) and model.image_px == 32
    image = noise(32, 32)
    colours = config["preprocess_cfg"]
    mean, std = (torch.tensor(colours[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        wanted = model.clip.model.encode_image(((image - mean) / std)[None])[0]
    assert torch.allclose(model.encode_image(image), wanted, atol=1e-5)
    assert model.encode_image(noise(40, 24)).isfinite().all()  # positions are resized


def test_no_method_changes_the_embedding_of_an_image(made: dict[str, DenseClip]) -> None:
    wanted = made["clip"].encode_image(noise(32, 32))
    for name in ("maskclip", "sclip", "clearclip", "naclip"):
        assert torch.equal(made[name].encode_image(noise(32, 32)), wanted), name
