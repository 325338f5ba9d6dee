"""Command line: ls, doctor, run, score, sweep, table, page, compare."""

import importlib
import logging
import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import auto_cli

from segbench.datasets.doctor import examine, render
from segbench.device import named_device
from segbench.errors import (
    DataMissingError,
    IncompleteError,
    SegbenchError,
    UsageError,
    unknown,
)
from segbench.models import ALIASES
from segbench.page import write_page
from segbench.protocols.classification import ClassificationTask, load_any_task
from segbench.protocols.task import Task, list_tasks, load_task
from segbench.results.any_report import AnyReport, read_report
from segbench.results.compare import compare as compare_reports
from segbench.results.report import Report
from segbench.results.tables import Format, benchmark_table, classification_table, detail_table
from segbench.running.classify import evaluate_classification
from segbench.running.evaluate import evaluate, score_folder
from segbench.running.ranks import joined, rank_and_world
from segbench.running.sweep import sweep as sweep_values
from segbench.segmenter import Classifier, Segmenter
from segbench.words import list_sets


def ls(what: Literal["tasks", "models", "prompts", "names"]) -> None:
    """List what comes with the package.

    Args:
        what: tasks, models, template sets or class name lists.
    """
    if what == "tasks":
        for name in list_tasks():
            print(f"{name}\t{load_any_task(name).summary}")
    elif what == "models":
        for name, factory in ALIASES.items():
            print(f"{name}\t{factory}")
    else:
        print("\n".join(list_sets("prompts" if what == "prompts" else "classnames")))


def doctor(root: Path, *, sample: int = 20) -> None:
    """Say which data sets lie under a folder, what is wrong with them, and what mends it.

    Args:
        root: a data root, or one data set.
        sample: label files of each data set that are read.
    """
    print(render(examine(root, sample=sample), root), end="")


def run(  # noqa: PLR0913  every argument is an option of the command line
    segmenter: str,
    task: str,
    *,
    root: Path | None = None,
    data: dict[str, Any] | None = None,
    out: Path | None = None,
    option: dict[str, Any] | None = None,
    limit: int | None = None,
    metrics: str = "",
    device: str = "cpu",
    overlays: int = 0,
    save_pred: bool = False,
    bank_cache: Path | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
    allow_partial: bool = False,
) -> None:
    """Evaluate a model on one or more tasks; killed and called again, it goes on.

    Under torchrun the ranks share the images; each takes the GPU of its own number.

    Args:
        segmenter: `package.module:callable` that returns a Segmenter, or for tasks that classify
            a Classifier; or one of `ls models`.
        task: task id or TOML file; several are separated by commas.
        root: folder with the data.
        data: options of the data set, `--data.layout=raw` each or all as JSON.
        out: results go to `OUT/<task id>/`.
        option: keyword arguments of the callable, `--option.key=value` each or all as JSON.
        limit: score the first images only.
        metrics: further ones, separated by commas: boundary, mask_acc.
        device: where tensors are made, such as cuda.
        overlays: draw this many of the first images.
        save_pred: write every label map to `OUT/<task id>/predictions/`.
        bank_cache: folder that keeps text banks of models with a fingerprint.
        overwrite: replace results that are there, or a journal.
        skip_existing: take results that are there if they are of the same task and model.
        allow_partial: exit with 0 although images could not be read, or a benchmark has another
            number of images than was published.
    """
    options = data or {}
    names = task.split(",")
    tasks = [load_any_task(name).with_dataset(**options) for name in names]  # before any work
    of_maps: dict[str, Any] = {
        "metrics": _words(metrics),
        "overlays": overlays,
        "save_pred": save_pred,
    }
    _check_options(tasks, of_maps)
    with joined(named_device(device)) as where:
        model = load_model(segmenter, option or {}, where)
        for each in tasks:
            _check_model(model, segmenter, each)
        reports: list[AnyReport] = []
        for each in tasks:
            common: dict[str, Any] = {
                "root": root,
                "out": out / each.id if out else None,
                "limit": limit,
                "device": where,
                "bank_cache": bank_cache,
                "overwrite": overwrite,
                "skip_existing": skip_existing,
            }
            report: AnyReport = (
                evaluate(model, each, **common, **of_maps)
                if isinstance(each, Task)
                else evaluate_classification(model, each, **common)
            )
            if rank_and_world()[0] == 0:
                print(report.summary())
            reports.append(report)
    _check_complete(reports, allow_partial)


def score(  # noqa: PLR0913  # every option of the command
    predictions: Path,
    task: str,
    *,
    root: Path | None = None,
    data: dict[str, Any] | None = None,
    out: Path | None = None,
    limit: int | None = None,
    metrics: str = "",
    overlays: int = 0,
    overwrite: bool = False,
    allow_partial: bool = False,
) -> None:
    """Score saved label maps, without a model.

    Args:
        predictions: folder with `<image id>.png` or `<image id>.npy` label maps, or detectron2's
            JSON file of run lengths with label ids.
        task: task id or TOML file.
        root: folder with the data.
        data: options of the data set, `--data.layout=raw` each or all as JSON.
        out: results go to `OUT/<task id>/`.
        limit: score the first images only.
        metrics: further ones, separated by commas: boundary, mask_acc.
        overlays: draw this many of the first images.
        overwrite: replace results that are there, or a journal.
        allow_partial: exit with 0 although images could not be read, or a benchmark has another
            number of images than was published.
    """
    loaded = load_task(task).with_dataset(**data or {})
    report = score_folder(
        predictions,
        loaded,
        root=root,
        out=out / loaded.id if out else None,
        limit=limit,
        metrics=_words(metrics),
        overlays=overlays,
        overwrite=overwrite,
    )
    print(report.summary())
    _check_complete([report], allow_partial)


def sweep(  # noqa: PLR0913  # every option of the command
    segmenter: str,
    task: str,
    *,
    bg_thresh: str,
    root: Path | None = None,
    data: dict[str, Any] | None = None,
    out: Path | None = None,
    option: dict[str, Any] | None = None,
    limit: int | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    allow_partial: bool = False,
) -> None:
    """Score a model at many values of a task's background threshold, looking at images once.

    Args:
        segmenter: `package.module:callable` that returns a Segmenter, or one of `ls models`.
        task: task id or TOML file, with a background policy.
        bg_thresh: LOW:HIGH:N, both ends among the N values; or values separated by commas.
        root: folder with the data.
        data: options of the data set, as for run.
        out: `sweep.json` goes to `OUT/<task id>/`.
        option: keyword arguments of the callable, as for run.
        limit: score the first images only.
        device: where tensors are made, such as cuda.
        overwrite: replace a sweep that is there, or a journal.
        allow_partial: exit with 0 although images are missing, as for run.
    """
    loaded, values = load_task(task).with_dataset(**data or {}), _values(bg_thresh)
    with joined(named_device(device)) as where:
        found = sweep_values(
            load_segmenter(segmenter, option or {}, where),
            loaded,
            values,
            root=root,
            out=out / loaded.id if out else None,
            limit=limit,
            device=where,
            overwrite=overwrite,
        )
        if rank_and_world()[0] == 0:
            print(found.summary())
    if not allow_partial:
        _check_images(
            loaded.id, len(found.skipped), found.images_in_dataset, found.images_published
        )


def _values(text: str) -> list[float]:
    """Thresholds from "0:1:11" or "0.1,0.2"."""
    try:
        if ":" in text:
            low, high, count = text.split(":")
            return [float(value) for value in np.linspace(float(low), float(high), int(count))]
        return [float(value) for value in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--bg_thresh needs LOW:HIGH:N or numbers, got {text!r}") from error


def table(
    results: Path,
    *,
    layout: Literal["detail", "benchmarks"] = "detail",
    format: Format = "markdown",  # noqa: A002  # the name of the option
    published: bool = False,
) -> None:
    """Print every result under a folder as one table.

    Args:
        results: folder; each `results.json` in it, at any depth, is read.
        layout: a row a run with all its figures, or models by the eight benchmarks of papers.
        format: of the table.
        published: with benchmarks, add what others have printed, marked as quoted.
    """
    if published and layout != "benchmarks":
        raise UsageError("--published is for --layout benchmarks")
    paths = sorted(results.rglob("results.json"))
    if not paths:
        raise DataMissingError(f"no results.json under {results}")
    reports = [read_report(path) for path in paths]
    if layout == "benchmarks":
        print(benchmark_table(reports, published=published).render(format), end="")
        return
    maps = [report for report in reports if isinstance(report, Report)]
    labels = [report for report in reports if not isinstance(report, Report)]
    made = [detail_table(maps)] if maps else []
    made += [classification_table(labels)] if labels else []
    print("\n".join(each.render(format) for each in made), end="")


def page(
    results: Path, *, root: Path | None = None, task: Path | None = None, count: int = 8
) -> None:
    """Write a page with the classes and the worst and best images of a run.

    Args:
        results: folder of one result, made with --save_pred true.
        root: folder with the data.
        task: task file of the result, if it is none of the package's.
        count: images of each kind.
    """
    loaded = load_task(task) if task else None
    print(write_page(results, root=root, task=loaded, count=count))


def compare(first: Path, second: Path) -> None:
    """Tell whether the second of two runs is better than the first.

    Args:
        first: results.json, or its folder.
        second: results.json, or its folder.
    """
    print(compare_reports(read_report(first), read_report(second)).summary())


def load_segmenter(
    factory: str, options: dict[str, Any], device: torch.device | None = None
) -> Segmenter:
    """Make a segmenter by the name of its factory; see `load_model`.

    Raises:
        UsageError: as of `load_model`, or what it returns is no Segmenter.
    """
    made = load_model(factory, options, device)
    if not isinstance(made, Segmenter):
        raise _lacks(made, factory, "segment")
    return made


def load_model(factory: str, options: dict[str, Any], device: torch.device | None = None) -> Any:
    """Make a model by the name of its factory.

    Args:
        factory: `package.module:callable`, where modules beside the working folder are found too;
            or the short name of a model of the package.
        options: keyword arguments of the callable.
        device: given to models of the package, if `options` has none.

    Raises:
        UsageError: no such module or callable, or it does not take the options.
    """
    if factory in ALIASES and device is not None:
        options = {"device": str(device)} | options
    if factory not in ALIASES and ":" not in factory:
        hint = "your own is named package.module:callable"
        raise UsageError(f"{unknown('model', factory, ALIASES)} ({hint})")
    module_name, _, attribute = ALIASES.get(factory, factory).partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)(**options)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UsageError(f"segmenter {factory!r}: {error}") from error


def _check_model(model: Any, factory: str, task: Task | ClassificationTask) -> None:
    """Refuse a model that cannot do what a task asks."""
    if isinstance(task, Task) and not isinstance(model, Segmenter):
        raise _lacks(model, factory, "segment")
    if isinstance(task, ClassificationTask) and not isinstance(model, Classifier):
        raise _lacks(model, factory, "encode_image", f"; {task.id} classifies whole images")


def _lacks(made: Any, factory: str, method: str, why: str = "") -> UsageError:
    return UsageError(
        f"segmenter {factory!r} gave a {type(made).__name__}, "
        f"which lacks name, encode_text or {method}{why}"
    )


def _check_options(tasks: Sequence[Task | ClassificationTask], of_maps: dict[str, Any]) -> None:
    """Refuse options of label maps where no task has any."""
    given = [name for name, value in of_maps.items() if value]
    if given and not any(isinstance(task, Task) for task in tasks):
        raise UsageError(
            f"--{given[0]} is for label maps, and {tasks[0].id} has none: it classifies images"
        )


def _words(text: str) -> list[str]:
    """Words that are separated by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def _check_complete(reports: Sequence[AnyReport], allow_partial: bool) -> None:
    if allow_partial:
        return
    for report in reports:
        _check_images(
            report.task["id"],
            *(report.data[f"images_{key}"] for key in ("skipped", "in_dataset", "published")),
        )


def _check_images(task: str, skipped: int, present: int, published: int | None) -> None:
    if skipped:
        raise IncompleteError(
            f"{task}: {skipped} images could not be read; see the warnings in the results, or pass "
            "--allow_partial true"
        )
    if published not in (None, present):
        raise IncompleteError(
            f"{task}: the data set has {present} images, {published} are published; see "
            "`segbench doctor`, or pass --allow_partial true"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code.

    0 done, 1 could not, 2 wrong usage, 3 data missing, 4 done but not of every image.
    """
    verbs: dict[str, Any] = {
        "ls": ls,
        "doctor": doctor,
        "run": run,
        "score": score,
        "sweep": sweep,
        "table": table,
        "page": page,
        "compare": compare,
    }
    logging.basicConfig(format="segbench: %(message)s", level=logging.WARNING)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    try:
        auto_cli(
            verbs, args=None if argv is None else list(argv), prog="segbench", exit_on_error=False
        )
    except ArgumentError as error:
        print(f"segbench: {' '.join(str(error).split())}", file=sys.stderr)
        return UsageError.exit_code
    except SegbenchError as error:
        print(f"segbench: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    return 0


def console() -> None:
    """Entry point of the command `segbench`; modules in the working folder can be named."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
