"""Devices by name, on machines without a GPU too."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from segbench import UsageError
from segbench.cli import load_segmenter, main
from segbench.device import named_device
from segbench.models import ALIASES
from segbench.models.onnx import _open


def test_a_device_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert named_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match=r"^--device mars: [^\n]+$"):
        named_device("mars")
    for verb in (["run"], ["sweep", "--bg_thresh", "0:1:2"]):
        assert main([*verb, "m:f", "scenes@whole", "--device", "mars"]) == 2
        assert capsys.readouterr().err.startswith("segbench: --device mars: ")


@pytest.mark.parametrize(
    ("name", "options", "given"),
    [
        ("cuda:1", {}, "cuda:1"),
        ("cpu", {}, "cpu"),
        ("cuda:1", {"device": "cpu"}, "cpu"),  # the user's own choice stands
    ],
)
def test_a_model_of_the_package_is_put_where_the_command_says(
    painted: Any, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any], given: str
) -> None:
    seen: list[dict[str, Any]] = []

    def make(**options: Any) -> Any:
        seen.append(options)
        return painted

    monkeypatch.setattr("segbench.models.maskclip", make)
    assert ALIASES["maskclip"] == "segbench.models:maskclip"
    load_segmenter("maskclip", options, torch.device(name))
    assert seen == [{"device": given}]
    load_segmenter("segbench.models:maskclip", {}, torch.device(name))  # its factory may take none
    assert seen[1] == {}


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[[str], list[Any]]:
    """What onnxruntime is asked to run on, by the name of the device."""
    runtime = SimpleNamespace(
        InferenceSession=lambda _, providers: providers,
        get_available_providers=lambda: ["CPUExecutionProvider", "CUDAExecutionProvider"],
    )
    monkeypatch.setattr("segbench.models.onnx.needed", lambda *_: runtime)
    (tmp_path / "net.onnx").touch()

    def opened(device: str) -> list[Any]:
        asked: list[Any] = _open(tmp_path / "net.onnx", device)
        return asked

    return opened


def test_onnxruntime_is_told_which_gpu(providers: Callable[[str], list[Any]]) -> None:
    assert providers("cuda:1") == [("CUDAExecutionProvider", {"device_id": 1})]
    assert providers("cuda") == ["CUDAExecutionProvider"]
    assert providers("cpu") == ["CPUExecutionProvider"]
    with pytest.raises(ValueError, match="does not run on 'mars' here"):
        providers("mars")
