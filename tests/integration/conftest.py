"""A recipe that runs in seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration.cocu.curator import CuratorConfig

TINY = """
summary = "cocu-mini, a thousand times smaller"
arms = ["baseline", "cocu", "upper-bound"]
[scenes]
train = 200
curator = 80
val = 30
size_px = 32
[curator]
embed_dim = 16
steps = 6
batch = 16
checkpoint_every = 2
[curator.vision_cfg]
image_size = 32
layers = [1, 1, 1, 1]
width = 8
[curator.text_cfg]
context_length = 24
vocab_size = 49408
width = 16
heads = 2
layers = 1
[vocabulary]
min_count = 3
[archive]
neighbours = 4
[train]
log_every = 2
checkpoint_every = 2
[train.model]
embed_dim = 16
projector = "linear"
[train.model.vision]
image_px = 32
patch_px = 4
width = 16
heads = 2
depths = [0, 0]
group_tokens = [4]
output_groups = [4]
drop_path = 0.0
stem = "conv"
pre_assign = false
[train.model.text]
width = 16
layers = 1
heads = 2
[train.data]
batch = 16
concepts = 2
augment = "flip"
workers = 0
keep_decoded = true
[train.optim]
total_steps = 8
warmup_steps = 2
[evaluate]
overlays = 1
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe as a file."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def curator_config() -> Callable[..., CuratorConfig]:
    """Makes the configuration of a tiny CLIP."""

    def make(**changes: Any) -> CuratorConfig:
        vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
        text = {
            "context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
        }  # fmt: skip
        values: dict[str, Any] = {"embed_dim": 16, "steps": 4, "batch": 8, "checkpoint_every": 2}
        return CuratorConfig(vision_cfg=vision, text_cfg=text, **{**values, **changes})

    return make
