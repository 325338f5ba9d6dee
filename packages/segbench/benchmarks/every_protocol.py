"""Every protocol of the package on three folders of photographs, with a CLIP of random weights.

    python packages/segbench/benchmarks/every_protocol.py DATA --out runs/protocols

checks the plumbing, not the models: DATA holds `coco_mini`, `camvid` and `labelmefacade`, of which
those that are there are used. A protocol says nothing of these folders, so each borrows the fields
of a benchmark under that protocol: COCO-mini those of COCO object (of COCO-Stuff where the protocol
has no background), the others those of VOC without background. Names are the folders' own. Prints
a line a task; the overlays are to be looked at. The text bank takes most of the time: a bank of 85
templates and 80 names is 6,800 sentences.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from segbench import Task, evaluate, list_tasks, load_task
from segbench.models import maskclip

PROTOCOLS = ("groupvit", "cocu", "tcl", "maskclip", "sclip", "pixelclip", "whole")
FOLDERS = ("coco_mini", "camvid11", "labelmefacade8")
LENDERS = {
    "coco_mini": ("coco_object81", "coco_stuff171"),
    "camvid11": ("voc20", "ade150", "coco_object81"),
    "labelmefacade8": ("voc20", "ade150", "coco_object81"),
}
"""Benchmarks whose fields a folder borrows, the first one that the protocol is defined for."""


def tasks() -> Iterator[Task]:
    """Every folder under every protocol."""
    for folder in FOLDERS:
        for protocol in PROTOCOLS:
            yield borrowed(folder, protocol)


def borrowed(folder: str, protocol: str) -> Task:
    """A folder under a protocol that says nothing of it."""
    names = (f"{lender}@{protocol}" for lender in LENDERS[folder])
    lender = load_task(next(name for name in names if name in list_tasks()))
    with_background = folder == "coco_mini" and lender.background != "none"
    home = {"coco_mini": "coco_mini81" if with_background else "coco_mini80"}.get(folder, folder)
    if not with_background:
        lender = replace(lender, background="none", background_queries=False, area_floor=0.0)
    return replace(
        lender,
        id=f"{folder}@{protocol}",
        summary="",
        dataset=load_task(f"{home}@groupvit").dataset,
        names="",
    )


def main() -> None:
    """Run them all, one line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--limit", type=int, default=2)
    given = parser.parse_args()
    segmenter = maskclip(model=given.model, pretrained="random")
    for task in tasks():
        if not (given.root / str(task.dataset["folder"])).is_dir():
            print(f"{task.id}: no {task.dataset['folder']} under {given.root}")
            continue
        times = [time.perf_counter()]
        for limit in (1, given.limit):  # the first call also makes the text bank
            report = evaluate(
                segmenter,
                task,
                root=given.root,
                limit=limit,
                out=given.out / task.id if limit == given.limit else None,
                overlays=limit,
                overwrite=True,
                bank_cache=given.out / "banks",
            )
            times.append(time.perf_counter())
        seconds = (times[2] - times[1]) / given.limit
        print(f"{task.id}: mIoU {report.metrics['miou']:.3f}, {seconds:.2f} s an image", flush=True)


if __name__ == "__main__":
    main()
