"""Figures of a benchmark as Markdown."""

from collections.abc import Iterator, Mapping
from typing import Any

Figures = Mapping[str, Any]

RATIOS = (
    ("sinkhorn_ratio_to_pot", "balanced assignment, 4,800 x 64, to POT at the same tolerance"),
    ("sinkhorn_ratio_to_reference", "the same to its reference in PyTorch"),
    ("mask_pool_ratio_to_interpolate", "mask pooling to upsampled features and einsum"),
    ("mask_pool_memory_ratio_to_interpolate", "peak memory of the same"),
    ("mask_bce_ratio_to_eager", "mask loss, forward and backward, to eager PyTorch"),
    ("mask_bce_memory_ratio_to_eager", "peak memory of the same"),
    ("train_step_ratio_to_plain", "training step to its plain restatement, float32 or TF32 both"),
    ("train_step_memory_ratio_to_plain", "peak memory of the same"),
    ("train_step_ratio_to_plain_bfloat16", "training step to its restatement, bfloat16 both"),
    ("train_step_memory_ratio_to_plain_bfloat16", "peak memory of the same"),
    ("train_step_ratio_to_plain_at_defaults", "training step, our defaults, to the restatement"),
    ("train_step_memory_ratio_to_plain_at_defaults", "peak memory of the same"),
    ("ema_ratio_to_loop", "teacher's update to a loop over parameters"),
    ("text_ratio_to_77_positions", "class prompts on 13 positions to 77"),
)
"""Theirs to ours: above 1 is in our favour."""


def as_markdown(figures: Figures) -> str:
    """Headings and tables: machine, ratios, times and memory beside floors, masks, loader."""
    return "\n".join(_lines(figures))


def _lines(figures: Figures) -> Iterator[str]:
    machine, limits = figures["machine"], figures["limits"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items() if v)
    yield f"# maskcluster on {machine['device']}, {figures['date']}"
    yield ""
    yield f"`{figures['command']}`, commit {machine['commit']}; {versions};"
    yield f"{machine['cpu_cores']} CPU cores, threads: {machine['threads']}. Copy"
    yield f"{limits['tb_per_s']:.3g} TB/s, products {limits['bfloat16_tflops']:.3g} TFLOP/s in"
    yield f"bfloat16, {limits['float32_tflops']:.3g} in float32. Took {figures['seconds']} s."
    yield from _ratios(figures)
    yield from _times(figures)
    yield from _generators(figures.get("generators", {}))
    yield from _loader(figures.get("loader", {}))


def _ratios(figures: Figures) -> Iterator[str]:
    found = [(text, figures[name]) for name, text in RATIOS if name in figures]
    if found:
        yield from ("", "| theirs to ours | |", "|---|---|")
        yield from (f"| {text} | {value:.2f} |" for text, value in found)


def _times(figures: Figures) -> Iterator[str]:
    rows = [row for name in PARTS for row in _rows(name, figures.get(name, {}))]
    if rows:
        yield from (
            "",
            "Floor: least bytes and operations at this machine's own rates, and at an H200's.",
            "",
            "| part | way | median ms | 20 % | 80 % | peak MiB | floor ms | H200 floor ms |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
        )


TIMES = ("median_ms", "p20_ms", "p80_ms")
PARTS = ("sinkhorn", "mask_pool", "mask_bce", "step", "ema", "text")


def _rows(part: str, found: Figures) -> Iterator[str]:
    floors = " | ".join(_number(found.get(name)) for name in ("floor_ms", "h200_floor_ms"))
    for way, times in found.get("ways", {}).items():
        if "failed" in times:
            yield f"| {part} | {way} | {times['failed']} | | | | {floors} |"
            continue
        three = " | ".join(_number(times.get(name)) for name in TIMES)
        peak = times.get("peak_bytes")
        memory = "" if peak is None else f"{peak / 2**20:.0f}"
        yield f"| {part} | {way} | {three} | {memory} | {floors} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _generators(found: Figures) -> Iterator[str]:
    if not found:
        return
    head = "| masks | way | median ms | 20 % | 80 % | plain to ours |"
    yield from ("", head, "|---|---|---|---|---|---|")
    for name, part in found.items():
        for way, times in part["ways"].items():
            three = " | ".join(_number(times[key]) for key in TIMES)
            ratio = f"{part['ratio']:.1f}" if way == "ours" else ""
            yield f"| {name} | {way} | {three} | {ratio} |"


def _loader(found: Figures) -> Iterator[str]:
    if not found:
        return
    yield from ("", "| loader | |", "|---|---|")
    for data, rates in found.items():
        yield from (f"| {data}, {how} | {rate:.1f} |" for how, rate in rates.items())
