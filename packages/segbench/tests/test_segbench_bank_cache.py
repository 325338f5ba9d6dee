"""Text banks on disk."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segbench import FormatError, Segmenter, UsageError, evaluate, load_task, task_bank

NAMES = ("sky", "grass", "cat")


class CountingSegmenter:
    """Counts the prompts that it encodes."""

    name = "counting"

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.encoded = 0

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        self.encoded += len(prompts)
        return torch.eye(3)[: len(prompts)] + len(self.fingerprint)

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        return torch.einsum("kd,dyx->kyx", bank, image)


def test_a_bank_is_built_once_a_model_and_protocol(mini_task: Path, tmp_path: Path) -> None:
    task, model = load_task(mini_task), CountingSegmenter("a")
    tmp_path = tmp_path / "banks"
    first = task_bank(model, task, NAMES, tmp_path)
    again = task_bank(CountingSegmenter("a"), task, NAMES, tmp_path)
    assert torch.equal(first, again) and torch.equal(first, task_bank(model, task, NAMES))
    assert model.encoded == 6 and len(list(tmp_path.iterdir())) == 1
    others = [
        (CountingSegmenter("bb"), task, NAMES),
        (model, replace(task, templates="groupvit_simple:identity"), NAMES),
        (model, replace(task, averaging="mean_then_normalise"), NAMES),
        (model, task, NAMES[::-1]),
    ]
    for count, (other, protocol, names) in enumerate(others, 2):
        task_bank(other, protocol, names, tmp_path)
        assert len(list(tmp_path.iterdir())) == count


def test_an_evaluation_uses_it(mini: Path, mini_task: Path, tmp_path: Path) -> None:
    model = CountingSegmenter("a")
    reports = [
        evaluate(model, str(mini_task), root=mini, bank_cache=tmp_path / "banks") for _ in range(2)
    ]
    assert model.encoded == 3 and reports[0].metrics == reports[1].metrics


def test_what_cannot_be_kept_or_read_is_one_line(
    painted: Segmenter, mini_task: Path, tmp_path: Path
) -> None:
    task, model = load_task(mini_task), CountingSegmenter("a")
    with pytest.raises(UsageError, match="kept by a model's fingerprint, which this one lacks"):
        task_bank(painted, task, NAMES, tmp_path)
    task_bank(model, task, NAMES, tmp_path / "banks")
    next((tmp_path / "banks").iterdir()).write_bytes(b"x")
    with pytest.raises(FormatError, match=r"bank-\w+\.npy: damaged text bank"):
        task_bank(model, task, NAMES, tmp_path / "banks")
