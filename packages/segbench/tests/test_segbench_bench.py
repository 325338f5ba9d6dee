"""The bench: what it refuses, and that it writes what it says."""

import json
from pathlib import Path

import pytest
import torch

from segbench.bench import __main__ as command
from segbench.bench import decode
from segbench.errors import SegbenchError, UsageError


def test_figures_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decode, "KINDS", ("close",))
    command.run(out=tmp_path)
    (path,) = tmp_path.iterdir()
    figures = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out) == figures
    assert figures["decode_ratio_to_eager_171"] == pytest.approx(
        figures["decode_ms"]["close"]["eager"] / figures["decode_ms"]["close"]["ours"]
    )
    assert 1 < figures["decode_ms"]["close"]["classes_compared"] < 40
    assert figures["decode_peak_bytes"]["eager"] > 171 * 480 * 640 * 4  # full-size scores
    assert figures["decode_peak_bytes"]["ours"] < figures["decode_peak_bytes"]["eager"] / 20


def test_a_wrong_answer_is_an_error_and_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "KINDS", ("close",))
    monkeypatch.setitem(decode.PATHS, "eager", lambda s, _: torch.eye(len(s), dtype=torch.int64))
    with pytest.raises(SegbenchError, match=r"close scores: counts of .* pixels differ; not timed"):
        decode.measure_decode(torch.device("cpu"))
    with pytest.raises(UsageError, match="--device mars"):
        command.run(device="mars")
