"""Public names and the data files of the package."""

import subprocess
import sys
from pathlib import Path

import pytest

import segbench
from segbench import Segmenter, evaluate, list_tasks, load_task, open_dataset
from segbench.protocols.task import _stems


def test_all_is_sorted_complete_and_importable() -> None:
    assert segbench.__all__ == sorted(segbench.__all__)
    for name in segbench.__all__:
        assert getattr(segbench, name).__doc__, name


def test_scenes_are_opened_through_the_registry(painted: Segmenter) -> None:
    task = load_task("scenes@whole").with_dataset(count=2, size_px=32)
    dataset = open_dataset(task.dataset)
    assert len(dataset) == 2
    assert dataset[0].labels.shape == (32, 32)
    report = evaluate(painted, task)
    assert report.data["images_scored"] == 2
    assert set(report.subsets) == set(dataset.subsets)


def test_import_configures_nothing() -> None:
    code = (
        "import logging, os, warnings; before = dict(os.environ), len(warnings.filters)\n"
        "import torch; filters = len(warnings.filters)\n"
        "import segbench, sys\n"
        "assert not logging.getLogger('segbench').handlers\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert dict(os.environ) == before[0]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code = readme.split("```python\n")[1].split("```")[0]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("colours on scenes@whole: mIoU 0.")


def test_readme_lists_every_task() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Tasks")[1].split("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
    first = [row[0].strip().strip("`") for row in rows]
    tasks = [name for name in first if "@" in name]
    for name, row in zip(first, rows, strict=True):
        if name in _stems("protocols"):
            tasks += [f"{dataset}@{name}" for dataset in row[1].split()]
    assert sorted(tasks) == list_tasks()
