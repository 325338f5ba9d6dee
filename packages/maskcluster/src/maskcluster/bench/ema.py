"""The parts of a step that are neither images nor masks: the teacher's move and class prompts."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from maskcluster.bench.machine import H200, Limits
from maskcluster.bench.plain import plain_prompts
from maskcluster.bench.step import build_model
from maskcluster.bench.timing import Call, time_calls
from maskcluster.model.pixelclip import PixelCLIP

Figures = dict[str, Any]


def measure(device: torch.device, limits: Limits) -> Figures:
    """Measure the teacher's update, and 64 class prompts on 13 positions against 77, in float32.

    Args:
        device: where.
        limits: of the machine, for floors.

    Returns:
        `ema` and `text`, each with the milliseconds of both ways and floors, and
        `ema_ratio_to_loop` and `text_ratio_to_77_positions`.
    """
    model = build_model(device)
    repeats = 21 if device.type == "cuda" else 5
    found: Figures = {}
    for name, (ways, moved, flops) in {
        "ema": (_ema(model), _ema_bytes(model), 0.0),
        "text": (_text(model), 0.0, _text_flops(model)),
    }.items():
        found[name] = {
            "ways": time_calls(ways, device, repeats=repeats),
            "bytes_moved": moved,
            "flops": flops,
            "floor_ms": limits.floor_ms(moved, flops),
            "h200_floor_ms": H200.floor_ms(moved, flops, half=True),
        }
    return found | {
        "ema_ratio_to_loop": _ratio(found["ema"]["ways"], "loop"),
        "text_ratio_to_77_positions": _ratio(found["text"]["ways"], "77 positions"),
    }


def _ema(model: PixelCLIP) -> dict[str, Call]:
    def loop() -> None:
        with torch.no_grad():
            pairs = zip(model.teacher.tower.parameters(), model.tower.parameters(), strict=True)
            for own, its in pairs:
                own.mul_(0.999).add_(its, alpha=0.001)

    return {"ours": model.update_teacher, "loop": loop}


def _ema_bytes(model: PixelCLIP) -> float:
    """Both towers read, one written."""
    return float(3 * sum(p.nbytes for p in model.tower.parameters()))


def _text(model: PixelCLIP) -> dict[str, Call]:
    """Forward and backward to the learnt tokens."""
    prompts = model.prompts
    assert prompts is not None
    tokens = list(prompts.parameters())
    return {
        "ours": lambda: torch.autograd.grad(prompts().sum(), tokens),
        "77 positions": lambda: torch.autograd.grad(
            plain_prompts(prompts, model.clip).sum(), tokens
        ),
    }


def _text_flops(model: PixelCLIP) -> float:
    with FlopCounterMode(display=False) as counter:
        _text(model)["ours"]()
    return float(counter.get_total_flops())


def _ratio(ways: Figures, other: str) -> float:
    return float(ways[other]["median_ms"] / ways["ours"]["median_ms"])
