"""Task files."""

from pathlib import Path

import pytest
import torch

from segbench import (
    FormatError,
    Task,
    UsageError,
    list_tasks,
    load_any_task,
    load_names,
    load_task,
    load_templates,
    open_dataset,
    task_queries,
)
from segbench.protocols.background import decide
from segbench.protocols.task import combine, parse_task

SCENES = '[dataset]\nkind = "scenes"\n'


def test_every_task_of_the_package_loads_under_its_own_id() -> None:
    assert len(list_tasks()) == 69
    tasks = [load_any_task(name) for name in list_tasks()]
    assert [task.id for task in tasks] == list_tasks()
    assert len({task.hash for task in tasks}) == len(tasks)
    assert all(task.summary and "@" in task.id for task in tasks)


def test_groupvit_protocol_is_the_published_one() -> None:
    task = load_task("coco128_panoptic133@groupvit")
    assert (task.short_px, task.long_px, task.window_px, task.stride_px) == (448, 2048, 448, 224)
    assert (task.background, task.averaging) == ("none", "mean_then_normalise")
    assert load_templates(task.templates) == ("a photo of a {}.",)
    mini = load_task("coco_mini81@groupvit")
    assert (mini.background, mini.background_value, mini.background_label) == ("threshold", 0.95, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "window_pxx = 3\n" + SCENES,
            "unknown key 'window_pxx' in x.toml; did you mean 'window_px'",
        ),
        ('[dataset]\nkind = "scenes"\ncuont = 3\n', "did you mean 'dataset.count'"),
        ('[dataset]\nkind = "folders"\n', "did you mean 'folder'"),
        ("version = 1\n", r"needs a table \[dataset\]"),
        ("version =", "x.toml"),
        ('version = "1"\n' + SCENES, "version must be int, got '1'"),
        ("split_synonyms = 1\n" + SCENES, "split_synonyms must be bool, got 1"),
        ("version = true\n" + SCENES, "version must be int, got True"),
        ("window_px = 4\n" + SCENES, "given together"),
        ("window_px = 4\nstride_px = 5\n" + SCENES, "stride_px must be <= window_px 4, got 5"),
        ("short_px = 0\n" + SCENES, "short_px must be >= 1, got 0"),
        ("long_px = 9\n" + SCENES, "long_px needs short_px"),
        ('background = "treshold"\n' + SCENES, "did you mean 'threshold'"),
        ("background_scale = 0\n" + SCENES, "background_scale must be > 0, got 0"),
        ("area_floor = 0.1\n" + SCENES, "area_floor needs background constant or softmax_floor"),
        ('extra_names = ["a"]\n' + SCENES, "extra_names need background constant"),
        ("square_px = 0\n" + SCENES, "square_px must be >= 1, got 0"),
        ('absent = "mean"\n' + SCENES, "unknown absent 'mean'"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        parse_task(text, "x.toml")
    assert "\n" not in str(caught.value)


def test_a_protocol_says_what_differs_on_a_data_set() -> None:
    voc, stuff = load_task("voc21@sclip"), load_task("coco_stuff171@sclip")
    assert (voc.short_px, voc.window_px, voc.background_scale, voc.area_floor) == (
        336,
        224,
        65,
        0.1,
    )
    assert (stuff.short_px, stuff.window_px, stuff.background) == (448, 224, "none")
    assert voc.dataset == {"kind": "voc21"} and voc.templates == stuff.templates
    assert load_task("ade150@pixelclip").absent == "gt"
    with pytest.raises(UsageError, match=r"of protocol groupvit 'voc20'; did you mean 'voc21'"):
        combine("voc20", "groupvit")
    with pytest.raises(UsageError, match="unknown protocol 'sclp'; did you mean 'sclip'"):
        combine("voc20", "sclp")


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'camvid11@groupvit'"):
        load_task("camvid@groupvit")
    with pytest.raises(UsageError, match=r"no task file at .*nowhere\.toml"):
        load_task("nowhere.toml")


def test_hash_follows_what_moves_the_number() -> None:
    base = parse_task("version = 1\n" + SCENES, "a@b.toml")
    assert base.id == "a@b"
    told = parse_task('version = 1\nsummary = "words"\n' + SCENES, "a@b.toml")
    assert told.hash == base.hash
    changes = ("version = 2", "absent = 'gt'", "templates = 'clip_imagenet_7'", "short_px = 64")
    hashes = {parse_task(f"{change}\n{SCENES}", "a@b.toml").hash for change in changes}
    assert len(hashes | {base.hash}) == len(changes) + 1


def test_templates_of_equal_name_count_by_their_text() -> None:
    sets = ("groupvit_simple:subset", "clip_imagenet_7")
    hashes = {Task(id="a@b", dataset={"kind": "scenes"}, templates=name).hash for name in sets}
    assert len(hashes) == 2


@pytest.mark.parametrize("key", ["split", "count"])
def test_scenes_say_what_they_lack(key: str) -> None:
    spec = {"kind": "scenes", "split": "val", "count": 3}
    with pytest.raises(FormatError, match=f"scenes: needs dataset.{key}"):
        open_dataset({k: v for k, v in spec.items() if k != key})


def test_with_dataset_changes_the_hash_and_nothing_else() -> None:
    task = load_task("scenes@whole")
    small = task.with_dataset(count=3)
    assert small.dataset["count"] == 3
    assert (small.id, small.averaging) == (task.id, task.averaging)
    assert small.hash != task.hash
    assert small.with_dataset(count=task.dataset["count"]) == task
    with pytest.raises(FormatError, match=r"did you mean 'dataset\.count'"):
        task.with_dataset(counts=3)


def test_task_file_of_a_user(mini_task: Path) -> None:
    task = load_task(mini_task)
    assert task.id == "mini@whole"
    assert task.dataset["ignore"] == (255,)
    with pytest.raises(TypeError):
        task.dataset["ignore"] = ()  # type: ignore[index]  # a task never changes


def test_where_a_benchmark_lies_does_not_move_its_number() -> None:
    task = load_task("voc21@groupvit")
    assert task.with_dataset(folder="VOC2012").hash == task.hash
    assert task.with_dataset(layout="voc").hash != task.hash
    assert task.with_dataset(split="mine.txt").hash != task.hash
    mine = load_task("camvid11@groupvit")
    assert mine.with_dataset(folder="other").hash != mine.hash


def test_words_of_names_and_the_order_of_groups_count(monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task("voc21@groupvit")
    before = task.hash
    monkeypatch.setattr("segbench.protocols.task.load_queries", lambda _: (("other",),))
    assert task.hash != before
    grouped = load_task("coco128_voc21@whole")
    groups = dict(reversed(list(grouped.dataset["groups"].items())))
    assert grouped.with_dataset(groups=groups).hash != grouped.hash


SIZES = {  # of spec tables: short, long, window, stride, square
    "groupvit": (448, 2048, 448, 224, None),
    "tcl": (448, 2048, 448, 224, None),
    "maskclip": (512, 2048, None, None, None),
    "sclip": (336, 2048, 224, 112, None),
    "pixelclip": (640, 2560, None, None, 320),
}
OTHER_SIZES = {
    "coco_stuff171@cocu": (512, 2048, 224, 112, None),
    "ade150@cocu": (512, 2048, 224, 112, None),
    "cityscapes19@cocu": (1024, 2048, 448, 224, None),
    "voc21@cocu": (448, 2048, 448, 224, None),
    "context59@maskclip": (520, 520, None, None, None),
    "cityscapes19@maskclip": (512, 1024, None, None, None),
    "coco_stuff171@sclip": (448, 2048, 224, 112, None),
    "cityscapes19@sclip": (560, 2048, 224, 112, None),
    "voc20b@catseg": (640, 2560, 384, 256, 640),
}


def test_protocols_have_the_sizes_that_their_papers_code_has() -> None:
    for name in list_tasks():
        protocol = name.partition("@")[2]
        known = load_any_task(name).dataset["kind"] not in ("folder", "scenes", "imagenet1k")
        wanted = OTHER_SIZES.get(name, SIZES.get(protocol) if known else None)
        if wanted is not None:
            task = load_task(name)
            sizes = (task.short_px, task.long_px, task.window_px, task.stride_px, task.square_px)
            assert sizes == wanted, name


@pytest.mark.parametrize(
    ("name", "background", "value", "templates", "averaging"),
    [
        ("voc21@groupvit", "threshold", 0.95, "groupvit_simple", "mean_then_normalise"),
        ("context60@groupvit", "threshold", 0.35, "groupvit_simple", "mean_then_normalise"),
        ("imagenet_s300@cocu", "threshold", 0.75, "groupvit_simple", "mean_then_normalise"),
        ("ade150@cocu", "none", 0.0, "groupvit_simple", "mean_then_normalise"),
        ("coco_object81@tcl", "constant", 0.5, "tcl_custom_9", "mean_then_normalise"),
        ("voc20@maskclip", "none", 0.0, "maskclip_85", "normalise_mean_normalise"),
        ("voc21@sclip", "softmax_floor", 0.1, "clip_imagenet_80", "normalise_mean_normalise"),
        ("ade150@pixelclip", "none", 0.0, "pixelclip_select_8", "normalise_mean_normalise"),
    ],
)
def test_protocols_have_their_background_and_prompts(
    name: str, background: str, value: float, templates: str, averaging: str
) -> None:
    task = load_task(name)
    assert (task.background, task.background_value) == (background, value)
    assert (task.templates, task.averaging) == (templates, averaging)


def test_voc20b_asks_cat_segs_queries_and_folds_the_further_ones_into_background() -> None:
    task = load_task("voc20b@catseg")
    queries = task_queries(task, load_names("voc21"))
    assert queries.prompts == load_names("voc21:catseg_voc20b_queries")  # all 59, in its order
    assert queries.owners == (*range(1, 21), *[0] * 39)
    assert task.absent == "gt"


def test_in_voc20b_a_place_is_background_only_where_a_further_name_wins() -> None:
    task = load_task("voc20b@catseg")
    owners = torch.tensor(task_queries(task, load_names("voc21")).owners)
    scores = torch.full((59, 1, 3), -1e6)
    scores[3, 0, 0] = scores[19, 0, 1] = scores[58, 0, 2] = -9e5  # boat, tvmonitor, wood
    assert decide(scores, (1, 3), task, owners).tolist() == [[4, 20, 0]]
