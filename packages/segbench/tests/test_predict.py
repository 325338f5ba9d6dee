"""From an image to a label map."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segbench import (
    FormatError,
    Task,
    load_names,
    load_task,
    predict_labels,
    task_bank,
    task_queries,
)

SCENES = {"kind": "scenes"}


class ColourSegmenter:
    """Three classes by colour channel, on a coarse grid; remembers the windows it saw."""

    name = "colour"

    def __init__(self, cell_px: int = 4) -> None:
        self.cell_px = cell_px
        self.seen: list[tuple[int, ...]] = []

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return 2 * torch.eye(3)[: len(prompts)]

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        self.seen.append(tuple(image.shape))
        pooled = F.avg_pool2d(image, self.cell_px, ceil_mode=True)  # (3, h, w)
        return torch.einsum("kd,dyx->kyx", bank, pooled)


def photograph(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def test_whole_image_equals_resize_then_argmax() -> None:
    model, task, image = ColourSegmenter(), Task(id="a@b", dataset=SCENES), photograph(20, 33)
    bank = task_bank(model, task, ["r", "g", "b"])
    torch.testing.assert_close(bank, torch.eye(3))
    want = F.interpolate(model.segment(image, bank)[None], (20, 33), mode="bilinear")[0].argmax(0)
    assert torch.equal(predict_labels(model, image, bank, task, "rgb"), want)


def test_windows_equal_the_published_recipe_written_out() -> None:
    task = Task(id="a@b", dataset=SCENES, short_px=16, long_px=64, window_px=16, stride_px=8)
    model, image = ColourSegmenter(), photograph(20, 34)
    bank = torch.eye(3)
    got = predict_labels(model, image, bank, task, "rgb")
    assert model.seen == [(3, 16, 16)] * 3  # 27 wide after resizing: columns 0, 8 and 11

    small = F.interpolate(image[None], (16, 27), mode="bilinear", align_corners=False)[0]
    total, hits = torch.zeros(3, 16, 27), torch.zeros(16, 27)
    for left in (0, 8, 11):
        part = F.avg_pool2d(small[:, :, left : left + 16], 4)
        up = F.interpolate(part[None], (16, 16), mode="bilinear", align_corners=False)[0]
        total += F.pad(up, (left, 27 - left - 16))
        hits += F.pad(torch.ones(16, 16), (left, 27 - left - 16))
    full = F.interpolate((total / hits)[None], (20, 34), mode="bilinear", align_corners=False)[0]
    assert torch.equal(got, full.argmax(dim=0))


def test_threshold_acts_on_each_window() -> None:
    class Level(ColourSegmenter):
        def segment(self, image: Tensor, bank: Tensor) -> Tensor:
            return image[: len(bank)]

    image = torch.zeros(3, 2, 4)
    image[0] = torch.tensor([0.3, 0.3, 0.6, 0.7])
    choices = {"background": "threshold", "background_value": 0.5}
    whole = Task(id="a@b", dataset=SCENES, **choices)  # type: ignore[arg-type]  # plain strings
    assert predict_labels(Level(), image, torch.eye(1), whole, "bx")[0].tolist() == [0, 0, 1, 1]
    split = Task(id="a@b", dataset=SCENES, window_px=2, stride_px=2, **choices)  # type: ignore[arg-type]  # as above
    # in the left window .3 is the surest score, which caps the threshold
    assert predict_labels(Level(), image, torch.eye(1), split, "bx")[0].tolist() == [1, 1, 1, 1]


def test_background_has_no_prompt() -> None:
    names = ["sky", "background", "cat"]
    task = Task(id="a@b", dataset=SCENES, background="constant", background_label=1)
    assert task_queries(task, names) == (("sky", "cat"), (0, 2))
    assert task_queries(Task(id="a@b", dataset=SCENES), names).prompts == tuple(names)
    with pytest.raises(FormatError, match="background_label must be < 1, got 1"):
        task_queries(task, ["sky"])


def test_name_lists_replace_the_data_sets_names() -> None:
    task = Task(id="a@b", dataset=SCENES, names="voc21:groupvit", background="threshold")
    names = task_queries(task, ["x"] * 21).prompts
    assert (len(names), names[10]) == (20, "table")
    with pytest.raises(FormatError, match="has 21 names, the data set has 3"):
        task_queries(task, ["x"] * 3)


def test_synonyms_and_extra_names_are_queries_of_their_own() -> None:
    names = load_names("voc21")
    asked = task_queries(load_task("voc21@sclip"), names)
    assert asked.owners[:26] == (0,) * 26 and asked.prompts[:2] == ("sky", "wall")
    people = [p for p, o in zip(*asked, strict=True) if o == names.index("person")]
    assert len(people) == 7 and set(asked.owners) == set(range(21))
    task = Task(id="a@b", dataset=SCENES, background="constant", extra_names=("wall", "floor"))
    assert task_queries(task, ["none", "cat"]) == (("cat", "wall", "floor"), (1, 0, 0))
    threshold = Task(id="a@b", dataset=SCENES, background="threshold", names="voc21:sclip_synonyms")
    with pytest.raises(FormatError, match="background threshold needs one name a class"):
        task_queries(threshold, names)


def test_a_square_is_made_after_the_ratio_was_kept() -> None:
    task = Task(id="a@b", dataset=SCENES, short_px=12, long_px=64, square_px=8)
    model, image = ColourSegmenter(), photograph(20, 34)
    got = predict_labels(model, image, torch.eye(3), task, "rgb")
    assert model.seen == [(3, 8, 8)] and got.shape == (20, 34)
    kept = F.interpolate(image[None], (12, 20), mode="bilinear", align_corners=False)
    square = F.interpolate(kept, (8, 8), mode="bilinear", align_corners=False)[0]
    scores = F.avg_pool2d(square, 4)[None]
    want = F.interpolate(scores, (20, 34), mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(got, want)


def test_a_large_picture_is_shrunk_and_its_labels_enlarged() -> None:
    task = Task(id="a@b", dataset=SCENES, largest_px=10)
    model, image = ColourSegmenter(2), photograph(20, 40)
    got = predict_labels(model, image, torch.eye(3), task, "rgb")
    assert model.seen == [(3, 5, 10)]
    small = F.interpolate(image[None], (5, 10), mode="bilinear", align_corners=False)[0]
    plain = predict_labels(ColourSegmenter(2), small, torch.eye(3), task, "rgb")
    assert torch.equal(got, plain.repeat_interleave(4, 0).repeat_interleave(4, 1))
    assert predict_labels(model, photograph(9, 11), torch.eye(3), task, "rgb").shape == (9, 11)
    assert model.seen[1] == (3, 9, 11)  # no more pixels than a square of 10 has


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(2, 4, 4), r"must give \(3, h, w\), got \(2, 4, 4\)"),
        (torch.zeros(4, 4), r"got \(4, 4\)"),
        (torch.full((3, 1, 1), float("nan")), "not finite"),
        (torch.full((3, 1, 1), -torch.inf), "not finite"),
    ],
)
def test_bad_scores_are_refused(scores: Tensor, message: str) -> None:
    class Bad(ColourSegmenter):
        def segment(self, image: Tensor, bank: Tensor) -> Tensor:
            return scores + 0 * image.sum() + 0 * bank.sum()

    with pytest.raises(ValueError, match=message):
        predict_labels(Bad(), photograph(8, 8), torch.eye(3), Task(id="a@b", dataset=SCENES), "rgb")
