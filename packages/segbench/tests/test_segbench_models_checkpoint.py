"""Checkpoints of packages that segbench does not know, by the names of their functions."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segbench import Segmenter, evaluate
from segbench.cli import load_segmenter, main
from segbench.models import checkpoint_segmenter

PACKAGE = "someones_package"


class Painter:
    """Paints every pixel with the model's answer to its colour."""

    name = "painter"

    def __init__(self, model: nn.Linear, *, boldness: float = 1.0) -> None:
        self.model = model
        self.boldness = boldness

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([[len(p), 1.0, ord(p[-2])] for p in prompts])

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        return self.boldness * torch.einsum("kd,dyx->kyx", bank, image) + self.model.bias[0]


def load(path: str) -> nn.Module:
    model = nn.Linear(3, 3)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def explode(path: str) -> nn.Module:
    raise OSError(f"{path}: is\nnot mine")


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType(PACKAGE)
    vars(module).update(Painter=Painter, load=load, explode=explode, number=lambda *_: 3)
    monkeypatch.setitem(sys.modules, PACKAGE, module)
    yield


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "weights.pt")
    return {
        "path": str(tmp_path / "weights.pt"),
        "load": f"{PACKAGE}:load",
        "segmenter": f"{PACKAGE}:Painter",
    }


def test_the_segmenter_gets_the_loaded_module_and_its_options(options: dict[str, Any]) -> None:
    made = checkpoint_segmenter(**options, boldness=2.0)
    plain = checkpoint_segmenter(**options)
    image, bank = torch.rand(3, 4, 5), torch.eye(3)
    assert isinstance(made, Segmenter)
    assert made.name == "painter weights.pt boldness=2.0"
    assert torch.allclose(made.segment(image, bank) - plain.segment(image, bank), image)
    assert torch.equal(made.encode_text(["ab"]), torch.tensor([[2.0, 1.0, 97.0]]))
    assert not any(weight.requires_grad for weight in made.model.parameters())


def test_weights_are_told_apart(options: dict[str, Any]) -> None:
    first = checkpoint_segmenter(**options).fingerprint
    assert first == checkpoint_segmenter(**options).fingerprint
    torch.save(nn.Linear(3, 3).state_dict(), options["path"])
    assert checkpoint_segmenter(**options).fingerprint != first


def test_it_has_a_short_name_on_the_command_line(
    options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    made = load_segmenter("checkpoint", options, torch.device("cpu"))
    report = evaluate(made, "scenes@whole", limit=2)
    assert report.data["images_scored"] == 2
    given = [f"--option.{key}={value}" for key, value in options.items()]
    assert main(["run", "checkpoint", "scenes@whole", "--limit", "2", *given]) == 0
    assert "painter weights.pt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"path": "/nowhere"}, "no checkpoint at '/nowhere'"),
        ({"load": "no_such_package:load"}, "no callable 'no_such_package:load': No module named"),
        ({"load": f"{PACKAGE}:lod"}, f"no callable '{PACKAGE}:lod'"),
        ({"load": PACKAGE}, f"no callable '{PACKAGE}'"),
        ({"load": f"{PACKAGE}:explode"}, f"{PACKAGE}:explode: .*weights.pt: is"),
        ({"load": f"{PACKAGE}:number"}, f"{PACKAGE}:number must give a torch module, got a int"),
        ({"segmenter": f"{PACKAGE}:number"}, f"{PACKAGE}:number gave a int, which lacks name"),
        ({"boldnes": 1}, f"{PACKAGE}:Painter: .*unexpected keyword argument 'boldnes'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    options: dict[str, Any], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        checkpoint_segmenter(**options | changed)
    assert "\n" not in str(caught.value)
