"""Where towers compute in bfloat16."""

import pytest
import torch

from groupvit.precision import Precision, wants_bfloat16


@pytest.mark.parametrize(
    ("precision", "unit", "wanted"),
    [
        ("auto", "amx_bf16", True),
        ("auto", "avx512_bf16", True),
        ("auto", "avx2", False),
        ("float32", "amx_bf16", False),
        ("bfloat16", "avx2", True),
    ],
)
def test_auto_asks_the_processor(
    monkeypatch: pytest.MonkeyPatch, precision: Precision, unit: str, wanted: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True}, raising=False)
    assert wants_bfloat16(precision, torch.device("cpu")) is wanted
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert wants_bfloat16(precision, torch.device("cpu")) is (precision == "bfloat16")


@pytest.mark.parametrize(("capability", "wanted"), [((7, 5), False), ((8, 0), True)])
def test_auto_asks_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], wanted: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert wants_bfloat16("auto", torch.device("cuda:0")) is wanted
    assert not wants_bfloat16("auto", torch.device("mps"))
