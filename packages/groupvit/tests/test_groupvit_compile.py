"""torch.compile sees both towers whole, and the compiled step is the same step."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from groupvit import GroupViT, ModelConfig, OptimConfig, Texts
from groupvit.model.noise import step_noise
from groupvit.training.schedule import build_optimizer
from groupvit.training.step import training_step

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # a file before this may have compiled too
    yield
    torch._dynamo.reset()


def texts(pairs: int, seed: int) -> Texts:
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 49406, (pairs, 3, 8), generator=random)
    return Texts.of(ids.index_fill(2, torch.tensor([7]), 49407), row=24)


def three_steps(config: ModelConfig, backend: str | None) -> list[list[float]]:
    """Losses and gradient norms of three steps with texts of different sizes."""
    torch.manual_seed(0)
    model = GroupViT(config).train()
    if backend is not None:
        model.compile_towers(backend=backend)
    optim = OptimConfig(total_steps=10, precision="float32")
    optimizer = build_optimizer(model, optim)
    found = []
    for step in range(3):
        images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        noise = step_noise(step, device=CPU)
        losses, norm = training_step(model, optimizer, images, texts(6, step), noise, optim, 1e-3)
        found.append([float(value) for value in (*losses.values(), norm)])
    return found


@pytest.mark.slow
def test_towers_compile_without_a_break_and_steps_stay_the_same(tiny_config: ModelConfig) -> None:
    """`fullgraph` raises at a break. The backend runs what was traced, forward and backward."""
    eager, compiled = (three_steps(tiny_config, backend) for backend in (None, "aot_eager"))
    torch.testing.assert_close(torch.tensor(compiled), torch.tensor(eager), rtol=1e-4, atol=1e-4)
    stats = torch._dynamo.utils.counters["stats"]
    assert stats["unique_graphs"] <= 3  # the image tower, the text tower, other sizes of texts


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own compiler
def test_compiled_code_computes_what_the_image_tower_does(tiny_config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = GroupViT(tiny_config).train()
    images, noise = torch.randn(4, 3, 32, 32), step_noise(5, device=CPU)

    def gradient(pooled: Tensor) -> Tensor:
        model.zero_grad()
        pooled.square().sum().backward()  # type: ignore[no-untyped-call]  # PyTorch's
        assert model.vision.patches.positions.grad is not None
        return model.vision.patches.positions.grad.clone()

    want = model.vision(images, noise).pooled
    want_gradient = gradient(want)
    model.compile_towers()
    got = model.vision(images, noise).pooled
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient(got), want_gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_whole_forward_pass_is_one_graph(tiny_config: ModelConfig) -> None:
    """On one process both towers, projectors and losses trace without a break."""
    torch.manual_seed(0)
    model = GroupViT(tiny_config).train()
    images, noise = torch.randn(6, 3, 32, 32), step_noise(5, device=CPU)
    want = model(images, texts(6, 1), noise)
    whole = torch.compile(model, fullgraph=True, backend="aot_eager")
    got = whole(images, texts(6, 1), noise)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-5)
