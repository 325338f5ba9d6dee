"""CLIP made dense, against the equations of the papers written out in plain tensors."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from segbench.models import DenseClip, clearclip, clip, maskclip, naclip, pixelclip, sclip
from segbench.models.last_block import PlainClip, neighbourhood
from segbench.models.vit import ClipViT

WIDTH, HEADS, PATCH, LAYERS, SIDE = 32, 2, 8, 3, 4
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CONFIG = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": SIDE * PATCH,
            "layers": LAYERS,
            "width": WIDTH,
            "head_width": WIDTH // HEADS,
            "patch_size": PATCH,
        },
        "text_cfg": {"width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": MEAN, "std": STD},
}
FACTORIES: dict[str, Callable[..., DenseClip]] = {
    "clip": clip,
    "maskclip": maskclip,
    "sclip": sclip,
    "clearclip": clearclip,
    "naclip": naclip,
    "pixelclip": pixelclip,
}
OWN_GRID = ["clip", "maskclip", "sclip", "clearclip", "naclip"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP of true architecture, with weights at which attention is far from uniform."""
    path = tmp_path_factory.mktemp("tiny-clip")
    (path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{path}", load_weights=False)
    draw = torch.Generator().manual_seed(1)
    state = {
        name: value + 0.2 * torch.randn(value.shape, generator=draw) * (value.ndim > 0)
        for name, value in model.state_dict().items()
    }
    save_file(state, path / "open_clip_model.safetensors")
    return path


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, DenseClip]:
    """Every method on that CLIP."""
    return {name: make(model=f"local-dir:{folder}") for name, make in FACTORIES.items()}


@pytest.fixture
def bank() -> Tensor:
    return F.normalize(torch.randn(5, 24), dim=1)


def noise(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(7))


# --- the papers' equations, one head and one token at a time ---


def norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def mlp(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    hidden = x @ state[f"{name}.c_fc.weight"].T + state[f"{name}.c_fc.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return hidden @ state[f"{name}.c_proj.weight"].T + state[f"{name}.c_proj.bias"]


def attend(
    x: Tensor, state: dict[str, Tensor], name: str, rule: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """W_o concat over heads of rule(q, k) v, from (n, C) normed tokens."""
    packed = x @ state[f"{name}.in_proj_weight"].T + state[f"{name}.in_proj_bias"]
    size, heads = WIDTH // HEADS, []
    for head in range(HEADS):
        q, k, v = (
            packed[:, part * WIDTH + head * size : part * WIDTH + (head + 1) * size]
            for part in range(3)
        )
        heads.append(rule(q / size**0.25, k / size**0.25) @ v)
    joined = torch.cat(heads, dim=1)
    return joined @ state[f"{name}.out_proj.weight"].T + state[f"{name}.out_proj.bias"]


def soft(logits: Tensor) -> Tensor:
    raised = torch.exp(logits - logits.amax(1, keepdim=True))
    return raised / raised.sum(1, keepdim=True)


def tokens_before_last(state: dict[str, Tensor], image: Tensor) -> Tensor:
    coloured = (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    kernel = state["conv1.weight"].flatten(1)
    rows = [
        kernel @ coloured[:, y : y + PATCH, x : x + PATCH].flatten()
        for y in range(0, image.shape[1], PATCH)
        for x in range(0, image.shape[2], PATCH)
    ]
    x = torch.stack([state["class_embedding"], *rows]) + state["positional_embedding"]
    x = norm(x, state, "ln_pre")
    for layer in range(LAYERS - 1):
        name = f"transformer.resblocks.{layer}"
        x = x + attend(
            norm(x, state, f"{name}.ln_1"), state, f"{name}.attn", lambda q, k: soft(q @ k.T)
        )
        x = x + mlp(norm(x, state, f"{name}.ln_2"), state, f"{name}.mlp")
    return x


def gaussian(sigma: float) -> Tensor:
    places = [(y, x) for y in range(SIDE) for x in range(SIDE)]
    bias = torch.zeros(1 + len(places), 1 + len(places))
    for i, (y0, x0) in enumerate(places):
        for j, (y1, x1) in enumerate(places):
            squared = (y0 - y1) ** 2 + (x0 - x1) ** 2
            bias[1 + i, 1 + j] = math.exp(-squared / (2 * sigma**2))
    return bias


def expected(model: DenseClip, method: str, image: Tensor, sigma: float = 5.0) -> Tensor:
    """(D, h, w) features by the equations."""
    state = {name: value.double() for name, value in model.tower.visual.state_dict().items()}
    name = f"transformer.resblocks.{LAYERS - 1}"
    x = tokens_before_last(state, image.double())
    rules: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "clip": lambda q, k: soft(q @ k.T),
        "maskclip": lambda q, _: torch.eye(len(q), dtype=q.dtype),
        "pixelclip": lambda q, _: torch.eye(len(q), dtype=q.dtype),
        "sclip": lambda q, k: soft(q @ q.T) + soft(k @ k.T),
        "clearclip": lambda q, _: soft(q @ q.T),
        "naclip": lambda _, k: soft(k @ k.T + gaussian(sigma)),
    }
    y = attend(norm(x, state, f"{name}.ln_1"), state, f"{name}.attn", rules[method])
    if method not in ("clearclip", "naclip"):
        y = y + (x[:1] if method == "pixelclip" else x)
        y = y + mlp(norm(y, state, f"{name}.ln_2"), state, f"{name}.mlp")
    features: Tensor = norm(y, state, "ln_post") @ state["proj"]
    return features[1:].T.reshape(-1, SIDE, SIDE)


# --- parity ---


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("method", OWN_GRID)
def test_features_are_those_of_the_papers_equation(made: dict[str, DenseClip], method: str) -> None:
    image = noise(32, 32)
    assert off(made[method].features(image), expected(made[method], method, image)) < 1e-5


def test_pixelclip_resizes_features_then_normalises(folder: Path, bank: Tensor) -> None:
    model = pixelclip(model=f"local-dir:{folder}", input_px=SIDE * PATCH)
    image = noise(32, 32)
    raw = expected(model, "pixelclip", image)
    resized = F.interpolate(raw[None], (64, 64), mode="bilinear", align_corners=False)[0]
    unit = resized / resized.pow(2).sum(0).sqrt()
    scores = model.segment(image, bank)
    assert scores.shape == (5, 64, 64)
    assert off(scores, torch.einsum("kd,dyx->kyx", bank.double(), unit)) < 1e-5


def test_the_methods_differ_from_one_another(made: dict[str, DenseClip]) -> None:
    features = [made[method].features(noise(32, 32)) for method in OWN_GRID]
    pairs = [(a, b) for i, a in enumerate(features) for b in features[:i]]
    assert min(off(a, b) for a, b in pairs) > 0.1


def test_scores_are_cosines(made: dict[str, DenseClip], bank: Tensor) -> None:
    features = made["sclip"].features(noise(32, 32))
    cosine = F.cosine_similarity(bank[:, :, None, None], features[None], dim=1)
    assert torch.allclose(made["sclip"].segment(noise(32, 32), bank), cosine, atol=1e-6)


def test_maskclip_can_leave_the_rest_of_the_block_out(folder: Path) -> None:
    model = maskclip(model=f"local-dir:{folder}", whole_block=False)
    state = {name: value.double() for name, value in model.tower.visual.state_dict().items()}
    name = f"transformer.resblocks.{LAYERS - 1}"
    x = norm(tokens_before_last(state, noise(32, 32).double()), state, f"{name}.ln_1")
    y = attend(x, state, f"{name}.attn", lambda q, _: torch.eye(len(q), dtype=q.dtype))
    wanted = (norm(y, state, "ln_post") @ state["proj"])[1:].T.reshape(-1, SIDE, SIDE)
    assert off(model.features(noise(32, 32)), wanted) < 1e-5
    assert model.name.endswith("whole_block=False")


def test_plain_clip_gives_open_clips_own_tokens(made: dict[str, DenseClip]) -> None:
    model, visual = made["clip"], made["clip"].tower.visual
    coloured = (noise(32, 32) - model.tower.mean) / model.tower.std
    visual.output_tokens = True
    tokens = visual(coloured[None])[1][0] @ visual.proj  # (N, D)
    visual.output_tokens = False
    assert off(model.features(noise(32, 32)).flatten(1).T, tokens) < 1e-5


@pytest.mark.parametrize("size", [(48, 24), (16, 56)])
def test_other_sizes_are_those_of_open_clip_at_that_size(
    folder: Path, made: dict[str, DenseClip], size: tuple[int, int]
) -> None:
    """open_clip resizes position embeddings when it loads weights into a model of another size."""
    fixed = open_clip.create_model(f"local-dir:{folder}", force_image_size=size).eval()
    fixed.visual.output_tokens = True
    model = DenseClip(made["clip"].clip, PlainClip(), name="clip", antialias=True)
    image = noise(*size)
    coloured = (image - model.tower.mean) / model.tower.std
    with torch.inference_mode():
        tokens = fixed.visual(coloured[None])[1][0] @ fixed.visual.proj  # (N, D)
    found = model.features(image)
    assert found.shape[1:] == (size[0] // PATCH, size[1] // PATCH)
    assert off(found.flatten(1).T, tokens) < 1e-5


@pytest.mark.parametrize("method", FACTORIES)
def test_positions_are_resized_as_in_the_methods_code(
    made: dict[str, DenseClip], method: str
) -> None:
    tower = made[method].tower
    planes = tower.visual.positional_embedding[1:].T.reshape(1, WIDTH, SIDE, SIDE)
    smooth = ClipViT(tower.visual, MEAN, STD, antialias=True)
    for grid in [(40, 40), (3, 2)]:
        wanted = F.interpolate(planes, grid, mode="bicubic", align_corners=False)
        found = tower.positions(grid)
        assert torch.allclose(found[1:].T.reshape(wanted.shape), wanted, atol=1e-6)
        assert torch.equal(found[0], tower.visual.positional_embedding[0])
        assert not torch.allclose(found, smooth.positions(grid), atol=1e-2)


def test_the_neighbourhood_is_a_gaussian_of_places() -> None:
    assert torch.allclose(neighbourhood((SIDE, SIDE), 2.0), gaussian(2.0)[1:, 1:])
    tall = neighbourhood((3, 2), 1.0)
    assert tall[0, 1] == pytest.approx(math.exp(-0.5))  # a column apart
    assert tall[0, 4] == pytest.approx(math.exp(-2.0))  # two rows apart


def test_sigma_reaches_the_bias(folder: Path) -> None:
    model = naclip(model=f"local-dir:{folder}", sigma=1.5)
    wanted = expected(model, "naclip", noise(32, 32), sigma=1.5)
    assert off(model.features(noise(32, 32)), wanted) < 1e-5
    assert model.name.endswith("sigma=1.5")
