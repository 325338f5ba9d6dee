"""CLIP models by name: what is loaded, and what is refused before and after."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from maskcluster.errors import DataError, RecipeError
from maskcluster.model.clip import load_clip
from maskcluster.model.dense import DenseTower


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small CLIP in open_clip's own layout, with weights and colours of its own."""
    from open_clip.model import CLIP

    sizes: dict[str, Any] = {
        "embed_dim": 20,
        "vision_cfg": {
            "image_size": 32, "layers": 2, "width": 24, "patch_size": 8, "head_width": 12
        },
        "text_cfg": {"width": 16, "heads": 2, "layers": 1},
    }  # fmt: skip
    colours = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": sizes, "preprocess_cfg": colours})
    )
    torch.save(CLIP(**sizes).state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    return tmp_path


def test_a_folder_has_its_weights_and_its_colours(folder: Path) -> None:
    clip = load_clip(f"local-dir:{folder}")
    stored = torch.load(folder / "open_clip_pytorch_model.bin")
    assert torch.equal(clip.model.state_dict()["visual.proj"], stored["visual.proj"])
    assert clip.mean == (0.1, 0.2, 0.3) and clip.std == (0.4, 0.5, 0.6)
    assert clip.tokenizer(["a cat"]).shape == (1, 77)
    visual: Any = clip.model.visual
    assert DenseTower(visual)(torch.zeros(1, 3, 16, 16)).shape == (1, 20, 2, 2)


def test_random_weights_are_of_the_seed(folder: Path) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        load_clip(f"local-dir:{folder}", "random", seed=seed).model.state_dict()["visual.proj"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(DataError, match="cannot be loaded"):
        load_clip(f"local-dir:{folder}")
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(DataError, match=r"no open_clip_config.json in that folder"):
        load_clip(f"local-dir:{folder}")


def test_names_that_open_clip_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no model 'ViT-B-61'; did you mean 'ViT-B-16'"):
        load_clip("ViT-B-61", "openai")
    with pytest.raises(RecipeError, match=r"has no weights 'openia', .*did you mean 'openai'"):
        load_clip("ViT-B-16", "openia")
    damaged = tmp_path / "weights.pt"
    damaged.write_bytes(b"no weights")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_clip("ViT-B-32", str(damaged))


def test_weights_of_another_model_are_told_by_one_tensor(folder: Path) -> None:
    weights = folder / "open_clip_pytorch_model.bin"
    state = torch.load(weights, weights_only=True)
    one = state["visual.proj"]
    for wrong, told in (
        ({"classifier.weight": one}, "it has no positional_embedding"),
        (state | {"classifier.weight": one}, "it has a classifier.weight"),
        (state | {"visual.proj": one[:1]}, "its visual.proj has another shape"),
    ):
        torch.save(wrong, weights)
        with pytest.raises(DataError, match=rf"cannot be loaded \({told}\)$"):
            load_clip(f"local-dir:{folder}")


def test_the_activation_is_the_one_that_the_weights_were_trained_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import open_clip

    asked = []

    def create(*_: Any, **options: Any) -> Any:
        asked.append(options["force_quick_gelu"])
        raise RuntimeError("enough\nsaid")

    monkeypatch.setattr(open_clip, "create_model", create)
    for tag in ("openai", "laion2b_s34b_b88k"):
        with pytest.raises(DataError, match=rf"ViT-B-16 {tag}: cannot be loaded \(enough said\)"):
            load_clip("ViT-B-16", tag)
    assert asked == [True, False]
