"""Files of PixelCLIP's release, made here in their layout with the weights of a tiny CLIP."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from torch import Tensor

from segbench.models import DenseClip, naclip, pixelclip
from segbench.models.pixelclip_release import released_clip, wants_quick_gelu

NAME = "segbench-release-tiny"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"width": 16, "heads": 2, "layers": 1},
}
PREFIX = "sem_seg_head.predictor."


@pytest.fixture(scope="module", autouse=True)
def architecture(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("config") / f"{NAME}.json"
    file.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(file)


@pytest.fixture
def tuned() -> dict[str, Tensor]:
    """Weights of a CLIP, other than those that are drawn from seed 0."""
    torch.manual_seed(5)
    state: dict[str, Tensor] = open_clip.create_model(NAME, load_weights=False).state_dict()
    return state


def write(path: Path, clip: dict[str, Tensor]) -> Path:
    """A file as detectron2 writes it: the CLIP among the other parts of the training."""
    model = {f"{PREFIX}clip_model.{name}": value for name, value in clip.items()}
    model |= {f"teacher_encoder.{name}": value + 1 for name, value in clip.items()}
    model |= {f"{PREFIX}prompt_tokens": torch.zeros(64, 4, 16), "head.proj.bias": torch.zeros(1)}
    torch.save({"model": model, "iteration": 9999}, path)
    return path


def test_the_tuned_clip_is_found_and_not_its_teacher(
    tuned: dict[str, Tensor], tmp_path: Path
) -> None:
    found = released_clip(write(tmp_path / "a.pth", tuned))
    assert found is not None
    assert found.keys() == tuned.keys()
    assert all(torch.equal(found[name], tuned[name]) for name in tuned)


@pytest.mark.parametrize("make", [pixelclip, naclip])
def test_every_dense_method_reads_a_released_file(
    tuned: dict[str, Tensor],
    tmp_path: Path,
    make: Callable[..., DenseClip],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = make(model=NAME, checkpoint=str(write(tmp_path / "tuned.pth", tuned)))
    state = model.clip.model.state_dict()
    assert all(torch.equal(state[name], tuned[name]) for name in tuned)
    assert model.name == f"{make.__name__} {NAME} tuned.pth"
    assert "randomly" not in caplog.text


def test_a_released_vit_has_quickgelu_without_being_told(
    tuned: dict[str, Tensor], tmp_path: Path
) -> None:
    model = pixelclip(model=NAME, checkpoint=str(write(tmp_path / "a.pth", tuned)))
    assert isinstance(model.tower.last.block.mlp.gelu, QuickGELU)
    torch.save(tuned, tmp_path / "plain.pt")
    plain = pixelclip(model=NAME, checkpoint=str(tmp_path / "plain.pt"))
    assert not isinstance(plain.tower.last.block.mlp.gelu, QuickGELU)
    assert plain.fingerprint != model.fingerprint
    assert not wants_quick_gelu({"visual.trunk.stem.0.weight": torch.zeros(1)})


def test_other_files_are_not_taken_for_releases(tuned: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": tuned}, tmp_path / "plain.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model": Path("code")}, tmp_path / "code.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as script:  # as TorchScript is laid out
        script.writestr("script/constants.pkl", b"")
    for name in ("plain.pt", "list.pt", "code.pt", "text.pt", "script.pt"):
        assert released_clip(tmp_path / name) is None, name


def test_a_release_of_another_architecture_is_one_line(
    tuned: dict[str, Tensor], tmp_path: Path
) -> None:
    file = write(tmp_path / "a.pth", tuned)
    with pytest.raises(ValueError, match=r"'ViT-S-32-alt' with .*a\.pth: ") as caught:
        pixelclip(model="ViT-S-32-alt", checkpoint=str(file))
    assert "\n" not in str(caught.value)
