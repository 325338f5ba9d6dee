"""Every protocol on photographs, with a tiny CLIP: what `benchmarks/every_protocol.py` runs."""

import json
import runpy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from segbench import Task, evaluate
from segbench.models import maskclip

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "every_protocol.py"
CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 8, "head_width": 8, "patch_size": 32},
    "text_cfg": {"width": 8, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def every_task() -> list[Task]:
    tasks: Callable[[], Iterator[Task]] = runpy.run_path(str(SCRIPT))["tasks"]
    return list(tasks())


def test_three_folders_take_every_protocol(every_task: list[Task]) -> None:
    assert len({task.id for task in every_task}) == len(every_task) == 21
    by_id = {task.id: task for task in every_task}
    assert by_id["coco_mini@sclip"].background == "softmax_floor"
    assert by_id["coco_mini@tcl"].dataset["background"] == 0
    assert by_id["coco_mini@pixelclip"].square_px == 320
    assert by_id["camvid11@cocu"].window_px == 224
    assert by_id["camvid11@groupvit"].background == "none"


@pytest.mark.slow
def test_every_protocol_scores_a_photograph_of_every_folder(
    every_task: list[Task], real_data: Path, tmp_path: Path
) -> None:
    missing = [f for f in ("coco_mini", "camvid", "labelmefacade") if not (real_data / f).is_dir()]
    if missing:
        pytest.skip(f"no {', '.join(missing)} under {real_data}")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    model = maskclip(model=f"local-dir:{tmp_path}", pretrained="random")
    for given in every_task:
        few = given.id.startswith("coco_mini")  # 6,800 sentences take longer than all else
        task = replace(given, templates="groupvit_simple") if few else given
        report = evaluate(model, task, root=real_data, limit=1, out=tmp_path / task.id, overlays=1)
        assert report.data["images_scored"] == 1, task.id
        assert 0 <= report.metrics["miou"] <= 1, task.id
        assert len(list((tmp_path / task.id / "overlays").iterdir())) == 1, task.id
