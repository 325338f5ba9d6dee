"""Pairs and models small enough for tests."""

import io
import runpy
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from groupvit import (
    DataConfig,
    GroupViT,
    ModelConfig,
    OptimConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
    save_released,
)

Randomise = Callable[[nn.Module], None]
WriteShard = Callable[[Path, Mapping[str, bytes]], Path]

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (240,) * 3}


@pytest.fixture
def tiny_config() -> ModelConfig:
    """A GroupViT of 16 patches and 5, then 3 groups."""
    return ModelConfig(
        vision=VisionConfig(
            image_px=32,
            patch_px=8,
            width=32,
            heads=2,
            depths=(1, 1, 1),
            group_tokens=(5, 3),
            output_groups=(5, 3),
        ),
        text=TextConfig(width=32, layers=1, heads=2),
        embed_dim=16,
        projector_hidden=24,
    )


@pytest.fixture
def tiny_model(tiny_config: ModelConfig) -> GroupViT:
    """The same, with weights far enough from their initial values that groups differ."""
    torch.manual_seed(3)
    model = GroupViT(tiny_config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.endswith("bias"):  # the same for all tokens: they would all agree
                value.add_(0.3 * torch.randn_like(value))
        model.logit_scale.fill_(2.0)
    return model


@pytest.fixture(scope="session")
def restated() -> SimpleNamespace:
    """GroupViT once more, from its equations: what `restated.py` defines."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("restated.py"))))


@pytest.fixture(scope="session")
def randomise() -> Randomise:
    """Make every tensor of a model, batch norm statistics too, differ from its neighbours."""

    @torch.no_grad()
    def change(model: nn.Module) -> None:
        random = torch.Generator().manual_seed(0)
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=random) + 0.5)
            elif name.endswith("logit_scale"):
                value.fill_(2.5 if name == "logit_scale" else 1.3)
            elif value.is_floating_point():
                # far from the small initial values, so that the assignments are not all alike
                spread = 1.0 if "group_token" in name or "position" in name else 0.05
                value.add_(spread * torch.randn(value.shape, generator=random))

    return change


@pytest.fixture
def tiny_recipe(tiny_config: ModelConfig) -> TrainConfig:
    """Eight steps of four pairs."""
    return TrainConfig(
        optim=OptimConfig(total_steps=8, warmup_steps=2, precision="float32"),
        model=tiny_config,
        data=DataConfig(batch=4, concepts=2, augment="flip", workers=0),
        log_every=1,
        checkpoint_every=3,
    )


@pytest.fixture
def write_shard() -> WriteShard:
    """Write a tar file of members in order."""

    def write(path: Path, members: Mapping[str, bytes]) -> Path:
        with tarfile.open(path, "w") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def jpeg() -> Callable[..., bytes]:
    """Bytes of a picture of one colour, or of noise."""

    def encode(colour: tuple[int, ...] | None = None, *, seed: int = 0) -> bytes:
        random = np.random.default_rng(seed)
        noise = random.integers(0, 256, (40, 36, 3), dtype=np.uint8)  # (H, W, 3)
        pixels = noise if colour is None else np.full_like(noise, colour)
        memory = io.BytesIO()
        Image.fromarray(pixels).save(memory, "JPEG")
        return memory.getvalue()

    return encode


@pytest.fixture
def colour_shard(tmp_path: Path, write_shard: WriteShard, jpeg: Callable[..., bytes]) -> Path:
    """Twelve pictures of one colour each, with captions that name it."""
    members: dict[str, bytes] = {}
    for i in range(12):
        name = list(COLOURS)[i % len(COLOURS)]
        members[f"{i:05d}.jpg"] = jpeg(COLOURS[name])
        members[f"{i:05d}.txt"] = f"a wall painted {name}".encode()
    return write_shard(tmp_path / "colours-00000.tar", members)


@pytest.fixture
def photo(tmp_path: Path, jpeg: Callable[..., bytes]) -> Path:
    """One picture on disk."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg())
    return path


@pytest.fixture
def released(tmp_path: Path, tiny_model: GroupViT) -> Path:
    """The tiny model as a file in the layout of the release."""
    save_released(tiny_model, tmp_path / "released.pth")
    return tmp_path / "released.pth"
