"""A small CLIP that is trained in the run."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from conceptarchive import OpenClipEncoder
from integration.cocu import curator
from integration.cocu.curator import END_OF_TEXT, CuratorConfig, train_curator
from integration.errors import DamagedError
from segbench import ScenesDataset, write_pairs

CPU = torch.device("cpu")
Make = Callable[..., CuratorConfig]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    scenes = ScenesDataset(split="curator", count=24, size_px=32)
    return write_pairs(scenes, tmp_path_factory.mktemp("pairs"), progress=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "open_clip_model.safetensors")


def same(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_training_moves_the_weights(
    shards: list[Path], curator_config: Make, tmp_path: Path
) -> None:
    short = train_curator(shards, curator_config(steps=1), tmp_path / "a", device=CPU)
    longer = train_curator(shards, curator_config(), tmp_path / "b", device=CPU)
    assert not same(short, longer)
    assert all(value.isfinite().all() for value in weights(longer).values())


def test_equal_recipes_give_equal_weights_and_other_seeds_others(
    shards: list[Path], curator_config: Make, tmp_path: Path
) -> None:
    runs = [
        train_curator(shards, curator_config(seed=seed), tmp_path / str(number), device=CPU)
        for number, seed in enumerate((0, 0, 1))
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_a_killed_training_goes_on_to_the_same_weights(
    shards: list[Path], curator_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_curator(shards, curator_config(), tmp_path / "whole", device=CPU)
    step, ran = curator._step, list[int]()

    def killed(*arguments: object) -> torch.Tensor:
        ran.append(len(ran))
        if len(ran) == 4:  # after the state of step 2 was written
            raise KeyboardInterrupt
        return step(*arguments)  # type: ignore[arg-type]  # passed through

    with monkeypatch.context() as patch:
        patch.setattr(curator, "_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train_curator(shards, curator_config(), tmp_path / "killed", device=CPU)
    assert not (tmp_path / "killed" / "open_clip_model.safetensors").exists()

    ran.clear()

    def counted(*arguments: object) -> torch.Tensor:
        ran.append(len(ran))
        return step(*arguments)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(curator, "_step", counted)
    resumed = train_curator(shards, curator_config(), tmp_path / "killed", device=CPU)
    assert len(ran) == 2  # steps 3 and 4
    assert same(whole, resumed)
    assert sorted(p.name for p in resumed.iterdir()) == sorted(p.name for p in whole.iterdir())


def test_the_folder_opens_with_open_clip_and_encodes(
    shards: list[Path], curator_config: Make, tmp_path: Path
) -> None:
    folder = train_curator(shards, curator_config(), tmp_path, device=CPU)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    for name, value in weights(folder).items():
        assert torch.equal(model.state_dict()[name], value), name
    assert preprocess is not None
    encoder = OpenClipEncoder(f"local-dir:{folder}", device="cpu")
    rows = encoder.encode_texts(["a boat on the water", "a car"])
    assert rows.shape == (2, 16)
    assert torch.allclose(rows.norm(dim=1), torch.ones(2), atol=1e-3)


def test_long_texts_keep_their_end() -> None:
    tokens = torch.tensor([[1, 2, 3, END_OF_TEXT, 0], [1, 2, 3, 4, END_OF_TEXT]])
    cut = curator._fit(tokens, 3)
    assert cut.tolist() == [[1, 2, END_OF_TEXT], [1, 2, END_OF_TEXT]]
    assert curator._fit(tokens, 4).tolist()[0] == [1, 2, 3, END_OF_TEXT]
    assert curator._fit(tokens, 7).tolist()[1] == [1, 2, 3, 4, END_OF_TEXT, 0, 0]


def test_rate_climbs_and_falls_to_zero(curator_config: Make) -> None:
    config = curator_config(steps=100, lr=1.0)
    rates = [curator._rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[5] == max(rates) == 1
    assert rates[100] == pytest.approx(0)
    assert all(a >= b for a, b in itertools.pairwise(rates[5:]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"batch": 1}, "batch must be >= 2, got 1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be >= 1, got 0"),
        ({"lr": 0.0}, "lr must be > 0, got 0.0"),
    ],
)
def test_bad_values_are_named(
    curator_config: Make, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        curator_config(**change)


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_damaged_state_is_named_with_the_way_out(
    shards: list[Path], curator_config: Make, tmp_path: Path, kept: float
) -> None:
    config = curator_config()
    model = torch.nn.Linear(300, 300)
    state = tmp_path / curator._STATE
    curator._save_state(state, model, curator._optimizer(model, config), 2)
    content = state.read_bytes()
    state.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DamagedError, match=r"unfinished.pt: cannot be read .*; delete it to train"):
        train_curator(shards, config, tmp_path, device=CPU)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("a tensor shares its storage"), SafetensorError("no such dtype (os error 13)")],
)
def test_only_a_full_disk_asks_for_room(tmp_path: Path, error: Exception) -> None:
    said = re.escape(str(error))
    with pytest.raises(type(error), match=said), curator._replacing(tmp_path / "a.pt"):
        raise error
    assert not [*tmp_path.iterdir()]
    gone = curator._replacing(tmp_path / "gone" / "a.pt")
    with pytest.raises(FileNotFoundError, match=r"\[Errno 2\] No such file .*gone/a.tmp"), gone:
        pytest.fail("there is no such folder")
    full = curator._replacing(tmp_path / "a.pt")
    with pytest.raises(OSError, match=r"a.pt: cannot be written .*; make room and run"), full:
        raise SafetensorError("I/O error: No space left on device (os error 28)")


def test_a_state_that_cannot_be_written_leaves_the_one_before(
    curator_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = curator._optimizer(model, curator_config())
    state = tmp_path / curator._STATE
    curator._save_state(state, model, optimizer, 2)
    before = state.read_bytes()

    def full(_: object, path: Path) -> None:  # as torch says it
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 64 vs 8")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"unfinished.pt: cannot be written .*; make room and run"):
        curator._save_state(state, model, optimizer, 4)
    assert state.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [curator._STATE]
