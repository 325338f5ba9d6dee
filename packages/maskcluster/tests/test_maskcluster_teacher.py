"""The momentum teacher: its equation, and what it keeps out of."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from maskcluster.model.dense import DenseTower
from maskcluster.model.teacher import MomentumTeacher

restated = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("restated_pixelclip.py"))))


def student(kind: str = "vit") -> DenseTower:
    return DenseTower(restated.tiny_clip(kind).model.visual)


@torch.no_grad()
def change(tower: DenseTower) -> None:
    for value in tower.parameters():
        value.add_(torch.randn_like(value))


def test_a_step_is_gamma_of_itself_and_the_rest_of_the_student() -> None:
    tower = student().double()
    teacher = MomentumTeacher(tower, 0.999)
    change(tower)
    for _ in range(2):
        before = [p.clone() for p in teacher.tower.visual.parameters()]
        places = [p.data_ptr() for p in teacher.tower.visual.parameters()]
        teacher.update(tower)
        own = list(teacher.tower.visual.parameters())
        assert [p.data_ptr() for p in own] == places  # in place
        for old, new, its in zip(before, own, tower.visual.parameters(), strict=True):
            want = 0.999 * old + (1 - 0.999) * its
            torch.testing.assert_close(new, want, rtol=1e-14, atol=1e-15)


def test_without_momentum_it_is_the_student_exactly() -> None:
    tower = student()
    teacher = MomentumTeacher(tower, 0.0)
    change(tower)
    teacher.update(tower)
    for own, its in zip(teacher.tower.parameters(), tower.parameters(), strict=True):
        assert torch.equal(own, its)


def test_it_starts_as_the_student_and_stays_until_it_is_updated() -> None:
    tower = student()
    teacher = MomentumTeacher(tower)
    images = torch.randn(1, 3, 32, 32)
    want = tower(images)
    change(tower)
    torch.testing.assert_close(teacher(images), want)
    assert not torch.allclose(tower(images), want)


def test_a_student_that_does_not_move_is_kept_exactly() -> None:
    tower = student()
    teacher = MomentumTeacher(tower, 0.9)
    teacher.update(tower)
    for own, its in zip(teacher.tower.parameters(), tower.parameters(), strict=True):
        assert torch.equal(own, its)


def test_it_has_no_gradients_and_no_stochastic_depth() -> None:
    tower = student("convnext").train()
    teacher = MomentumTeacher(tower).train()
    images = torch.randn(4, 3, 64, 64)
    assert not any(module.training for module in teacher.modules())
    assert torch.equal(teacher(images), teacher(images))
    assert not torch.equal(tower(images), tower(images))  # drop path
    assert not teacher(images).requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in tower.parameters())


def test_buffers_are_copied() -> None:
    tower = student()
    tower.visual.register_buffer("count", torch.tensor(3))
    teacher = MomentumTeacher(tower)
    assert isinstance(tower.visual.count, torch.Tensor)
    tower.visual.count.fill_(7)
    teacher.update(tower)
    assert int(teacher.tower.visual.count) == 7  # type: ignore[arg-type]  # a buffer


def test_it_is_stored_and_read_back() -> None:
    tower = student()
    teacher, again = MomentumTeacher(tower), MomentumTeacher(student())
    change(teacher.tower)
    again.load_state_dict(teacher.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(images), teacher(images))
    assert all(name.startswith("tower.visual.") for name in teacher.state_dict())


@pytest.mark.parametrize("momentum", [1.0, -0.1])
def test_a_momentum_that_cannot_be_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match="momentum must be in"):
        MomentumTeacher(student(), momentum)
