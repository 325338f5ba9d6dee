"""Command line: `python -m maskcluster.bench --device cuda`."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from maskcluster.bench import ema, generators, loading, masks, sinkhorn, step
from maskcluster.bench.machine import H200, Limits, describe_machine, measure_limits
from maskcluster.bench.table import as_markdown
from maskcluster.device import named_device
from maskcluster.errors import MaskClusterError, UsageError
from maskcluster.files import write_json, write_text

log = logging.getLogger(__name__)

Figures = dict[str, Any]


def run(
    *,
    device: str = "cpu",
    parts: list[str] | None = None,
    out: Path = Path("docs/results"),
    photos: Path | None = None,
    masks: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Measure this machine and write OUT/DATE-maskcluster-bench-DEVICE.json and .md.

    Against POT (balanced assignment), plain PyTorch (mask pooling, the mask loss, a whole training
    step at the published sizes, the teacher's update, class prompts) and the machine's own rates of
    copies and products. On a GPU a step has 48 images and 4,800 masks, on a CPU 2 and 200.
    A quarter of an hour on two cores that did other work too; less on a GPU.

    Args:
        device: cpu, cuda or cuda:1.
        parts: of sinkhorn, masks, step, ema, generators and loader; all when left out. Each is
            written as soon as it is done.
        out: folder.
        photos: folder of photographs for the loader, in place of made-up ones.
        masks: folder of SA-1B JSON for these photographs.
        overwrite: replace files of this day that are there.
    """
    where, today = named_device(device), date.today().isoformat()
    chosen = _chosen(parts)
    if (photos is None) != (masks is None):
        raise UsageError("--photos and --masks go together")
    stem = out / f"{today}-maskcluster-bench-{where.type}"
    if stem.with_suffix(".json").exists() and not overwrite:
        raise UsageError(
            f"{stem.name}.json is there; choose another folder, or pass --overwrite true"
        )
    begin, limits = time.perf_counter(), measure_limits(where)
    figures: Figures = {
        "date": today,
        "command": f"python -m maskcluster.bench --device {device}",
        "machine": describe_machine(where),
        "limits": limits.as_dict(),
    }
    out.mkdir(parents=True, exist_ok=True)
    for part in chosen:
        log.info("measuring %s", part)
        figures |= MEASURES[part](where, limits) if part != "loader" else _loader(photos, masks)
        figures["seconds"] = round(time.perf_counter() - begin, 1)
        write_json(stem.with_suffix(".json"), figures)
        write_text(stem.with_suffix(".md"), as_markdown(figures) + "\n")
    print(as_markdown(figures))


def _chosen(parts: Sequence[str] | None) -> list[str]:
    known = [*MEASURES, "loader"]
    for part in parts or ():
        if part not in known:
            raise UsageError(f"--parts knows {', '.join(known)}, got {part!r}")
    return [part for part in known if not parts or part in parts]


def _sinkhorn(device: torch.device, limits: Limits) -> Figures:
    """Balanced assignment, in the layout of the other parts; on a GPU of the published size."""
    with _one_thread():  # more are slower at this size, and POT uses one
        found = sinkhorn.measure(device)
    size = f"{sinkhorn.MASKS} x {sinkhorn.CLUSTERS}"
    own = found[size] if device.type == "cuda" else found
    count = sinkhorn.MASKS * sinkhorn.CLUSTERS
    moved, flops = 4.0 * (count + sinkhorn.MASKS), 34.0 * count
    ways = own["ways"]
    ratios = {name: value for name, value in found.items() if "_ratio_" in name}
    ratios["sinkhorn_ratio_to_reference"] = (
        ways["reference"]["median_ms"] / ways["ours"]["median_ms"]
    )
    return ratios | {"sinkhorn": {**found, "ways": ways} | _floors(moved, flops, limits)}


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _masks(device: torch.device, limits: Limits) -> Figures:
    """Pooling and the loss, in the layout of the other parts."""
    found = masks.measure(device)
    for op in ("mask_pool", "mask_bce"):
        own = found[op]
        own["ways"] = {
            way: {
                "median_ms": median,
                "p20_ms": low,
                "p80_ms": high,
                "peak_bytes": own["peak_bytes"][way],
            }
            for way, (low, median, high) in own.pop("times_ms").items()
        }
        del own["peak_bytes"]
        own |= _floors(own["bytes_moved"], own["flops"], limits)
    return found


def _generators(device: torch.device, _: Limits) -> Figures:
    return {"generators": generators.measure(device)}


def _loader(photos: Path | None, masks: Path | None) -> Figures:
    return loading.measure(photos=photos, masks=masks)


def _floors(moved: float, flops: float, limits: Limits) -> Figures:
    return {
        "bytes_moved": moved,
        "flops": flops,
        "floor_ms": limits.floor_ms(moved, flops),
        "h200_floor_ms": H200.floor_ms(moved, flops),
    }


MEASURES: Mapping[str, Callable[[torch.device, Limits], Figures]] = {
    "sinkhorn": _sinkhorn,
    "masks": _masks,
    "step": step.measure,
    "ema": ema.measure,
    "generators": _generators,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run; return the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        auto_cli(run, args=None if args is None else list(args), prog="python -m maskcluster.bench")
    except MaskClusterError as error:
        print(f"maskcluster.bench: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
