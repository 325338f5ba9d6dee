"""Grouping purity of groupings that are known beforehand."""

import pytest
import torch
from torch import Tensor

from groupvit import GroupViTSegmenter
from integration.cocu import diagnostics
from integration.cocu.diagnostics import grouping_purity
from segbench import Example, ScenesDataset, Task, load_task

COUNT, SIZE = 3, 32


@pytest.fixture
def task() -> Task:
    return load_task("scenes@whole").with_dataset(count=COUNT, size_px=SIZE)


class Grouping(GroupViTSegmenter):
    """Groups the images of a data set by given maps, in order."""

    def __init__(self, maps: list[Tensor]) -> None:
        self.maps, self.seen = maps, 0

    def encode_text(self, prompts: object) -> Tensor:  # noqa: ARG002  # the protocol's
        return torch.ones(1, 4)

    def groups(self, image: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002  # same
        self.seen += 1
        return self.maps[self.seen - 1], torch.zeros(1)


def truth(count: int = COUNT) -> list[Tensor]:
    scenes = ScenesDataset(split="val", count=count, size_px=SIZE)
    return [torch.from_numpy(scenes[index].labels).long() for index in range(count)]


def test_a_perfect_grouping_is_pure(task: Task) -> None:
    assert grouping_purity(Grouping(truth()), task, None) == 1


def test_names_of_groups_do_not_matter(task: Task) -> None:
    assert grouping_purity(Grouping([63 - labels for labels in truth()]), task, None) == 1


def test_one_group_has_the_share_of_the_commonest_label(task: Task) -> None:
    maps = truth()
    expected = sum(int(labels.flatten().bincount().max()) for labels in maps)
    found = grouping_purity(Grouping([torch.zeros_like(m) for m in maps]), task, None)
    assert found == pytest.approx(expected / (COUNT * SIZE**2))


def test_only_the_first_images_are_looked_at(task: Task) -> None:
    segmenter = Grouping(truth())
    assert grouping_purity(segmenter, task, None, images=2) == 1
    assert segmenter.seen == 2


def test_purity_by_hand_leaves_ignored_pixels_out(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.tensor([[0, 0, 1, -1], [1, 1, 1, -1]], dtype=torch.int32)
    groups = torch.tensor([[0, 0, 0, 0], [5, 5, 0, 5]])
    # group 0: labels 0 0 1 1, majority 2 of 4; group 5: labels 1 1, both; 4 of 6 in all

    class Two:
        names = ("a", "b")

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Example:
            image = torch.zeros(2, 4, 3, dtype=torch.uint8).numpy()
            return Example("x", image, labels.numpy())

    monkeypatch.setattr(diagnostics, "open_dataset", lambda *_: Two())
    assert grouping_purity(Grouping([groups]), task, None) == pytest.approx(4 / 6)
