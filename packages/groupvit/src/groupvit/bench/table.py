"""Figures of a benchmark as Markdown."""

from collections.abc import Iterator, Mapping
from typing import Any

Figures = Mapping[str, Any]

RATIOS = (
    ("train_step_ratio_to_hf", "training step, our defaults, to Hugging Face in float32"),
    ("inference_ratio_to_hf", "inference, our defaults, to Hugging Face in float32"),
    ("same_input_ratio_to_hf", "the lesser of both with identical float32 inputs"),
    ("same_input_memory_ratio_to_hf", "peak memory of the same, theirs to ours"),
    ("segment_ratio_to_original", "labels among 171 classes to the original's decoder"),
    ("loss_ratio_to_original", "multi-label loss of 4,096 pairs to the original's formulation"),
    ("loss_memory_ratio_to_original", "peak memory of the same, theirs to ours"),
)


def as_markdown(figures: Figures) -> str:
    """Headings and tables: machine, ratios, kernels, steps, largest batches, profile."""
    return "\n".join(_lines(figures))


def _lines(figures: Figures) -> Iterator[str]:
    machine, ceilings = figures["machine"], figures["ceilings"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items() if v)
    yield f"# groupvit on {machine['device']}, {figures['date']}"
    yield ""
    yield f"`python -m groupvit.bench`, commit {machine['commit']}; {versions}; "
    yield f"{machine['cpu_cores']} CPU cores, {machine['threads']} threads. Copy "
    yield f"{ceilings['copy_tb_per_s']:.3g} TB/s, products {ceilings['bfloat16_tflops']:.3g}"
    yield f"TFLOP/s in bfloat16, {ceilings['float32_tflops']:.3g} in float32. Took "
    yield f"{figures.get('seconds')} s."
    yield from _ratios(figures)
    yield from _steps(figures.get("steps", {}))
    yield from _kernels(figures.get("kernels", {}))
    yield from _largest(figures.get("largest", {}))
    yield from _profile(figures.get("profile_ms", {}))


def _ratios(figures: Figures) -> Iterator[str]:
    found = [(text, figures[name]) for name, text in RATIOS if name in figures]
    if not found:
        return
    yield from ("", "| ratio | |", "|---|---|")
    yield from (f"| {text} | {value:.2f} |" for text, value in found)
    for kind in ("step", "inference", "loss", "decode"):
        yield from ("", f"| {kind} | median ms | 20 % | 80 % | peak MiB |", "|---|---|---|---|---|")
        for name, time in figures[kind]["times"].items():
            peak = figures[kind]["peak_bytes"][name] / 2**20
            yield (
                f"| {name} | {time['median_ms']:.1f} | {time['p20_ms']:.1f} | "
                f"{time['p80_ms']:.1f} | {peak:.0f} |"
            )


def _steps(steps: Figures) -> Iterator[str]:
    if not steps:
        return
    yield from (
        "",
        f"Training step at {steps['batch']} pairs of four texts, {steps['tokens_a_text']:.1f} "
        f"tokens each; {steps['flops_a_pair'] / 1e9:.1f} GFLOP a pair without padding.",
        "",
        "| model | ms | images/s | MFU | TFLOP/s | peak GiB |",
        "|---|---|---|---|---|---|",
    )
    for name, found in steps.items():
        if not isinstance(found, Mapping):
            continue
        if "median_ms" not in found:
            yield f"| {name} | {found['failed']} | | | | |"
            continue
        mfu = f"{found['mfu']:.1%}" if "mfu" in found else ""
        rate = f"{found['tflops']:.0f}" if "tflops" in found else ""
        yield (
            f"| {name} | {found['median_ms']:.1f} | {found['images_per_s']:.0f} | {mfu} | {rate} | "
            f"{found['step_bytes'] / 2**30:.1f} |"
        )


def _kernels(kernels: Figures) -> Iterator[str]:
    if not kernels:
        return
    yield from (
        "",
        "Forward and backward, but `segment_decode`; floor: least bytes and products at the "
        "machine's own rates; busy: without the gaps between launches.",
        "",
        "| op | floor ms | how | busy ms | median ms | 20 % | 80 % | peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    )
    for op, found in kernels.items():
        for name, time in found["times"].items():
            yield (
                f"| {op} | {found['floor_ms']:.3f} | {name} | "
                f"{found['busy_ms'].get(name, float('nan')):.3f} | {time['median_ms']:.3f} | "
                f"{time['p20_ms']:.3f} | {time['p80_ms']:.3f} | "
                f"{found['peak_bytes'][name] / 2**20:.0f} |"
            )
        yield from (f"| {op} | | {name} | {why} | | | | |" for name, why in found["failed"].items())


def _largest(largest: Figures) -> Iterator[str]:
    if not largest:
        return
    yield from (
        "",
        "| largest batch that fits (powers of two) | pairs | peak GiB |",
        "|---|---|---|",
    )
    for name, found in largest.items():
        yield f"| {name} | {found['batch']} | {found['peak_bytes'] / 2**30:.1f} |"


def _profile(profile: Figures) -> Iterator[str]:
    if not profile:
        return
    yield from ("", "| compiled step spends on | ms |", "|---|---|")
    yield from (f"| {name} | {value:.2f} |" for name, value in profile.items())
