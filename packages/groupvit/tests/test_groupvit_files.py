"""Files that are no checkpoint, or not quite one: one line that says what is wrong."""

import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm import create_model
from torch import Tensor, nn

from groupvit import CheckpointError, GroupViT, ModelConfig, VisionConfig
from groupvit.released.layouts import their_names
from groupvit.released.weights import load_released, save_released

Randomise = Callable[[nn.Module], None]


@pytest.fixture
def file(tiny_model: GroupViT, tmp_path: Path) -> Path:
    save_released(tiny_model, tmp_path / "model.pth")
    return tmp_path / "model.pth"


@pytest.fixture
def folder(tiny_model: GroupViT, tmp_path: Path) -> Path:
    save_released(tiny_model, tmp_path / "hf", layout="huggingface")
    return tmp_path / "hf"


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_released(path, **options)
    said = str(caught.value)
    assert "\n" not in said and said.startswith(str(path)) and len(said) < 600
    return said.removeprefix(str(path))


def edit_config(folder: Path, **values: Any) -> None:
    """Set fields of `config.json`; `vision__x` stands for field x of its vision_config."""
    told = json.loads((folder / "config.json").read_text())
    for name, value in values.items():
        tower, _, field = name.partition("__")
        if field:
            told[f"{tower}_config"][field] = value
        else:
            told[name] = value
    (folder / "config.json").write_text(json.dumps(told))


class Ran:
    """Stands for an object in a foreign checkpoint whose code must not run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (create, ("ran",))


def create(name: str) -> str:
    Path(os.environ["GROUPVIT_TEST_FOLDER"], name).touch()
    return name


class Settings:
    """Stands for a configuration object: a class with state, of a library that is not here."""

    def __init__(self) -> None:
        self.content = {"depth": [1, 2]}


def test_foreign_objects_are_not_loaded(
    file: Path,
    tiny_model: GroupViT,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("GROUPVIT_TEST_FOLDER", str(tmp_path))
    stored = torch.load(file, weights_only=True)
    stored |= {"config": Settings(), "hook": Ran(), "metrics": defaultdict(list, {"miou": [52.3]})}
    torch.save(stored, tmp_path / "training.pth")
    again = load_released(tmp_path / "training.pth").state_dict()
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(again[name], value), name
    assert not (tmp_path / "ran").exists()
    assert "are not read" in caplog.text and "Settings" in caplog.text
    torch.load(tmp_path / "training.pth", weights_only=False)
    assert (tmp_path / "ran").exists()  # the trap works


def test_code_in_the_format_before_zip_archives_does_not_run(
    file: Path, tiny_model: GroupViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROUPVIT_TEST_FOLDER", str(tmp_path))
    stored = torch.load(file, weights_only=True)
    old = tmp_path / "old.pth"
    torch.save(stored, old, _use_new_zipfile_serialization=False)
    again = load_released(old).state_dict()
    assert all(torch.equal(again[k], v) for k, v in tiny_model.state_dict().items())
    torch.save(stored | {"hook": Ran()}, old, _use_new_zipfile_serialization=False)
    assert "not a PyTorch file that can be read" in refusal(old)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("layout", ["nvlabs", "huggingface"])
@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "axes"])
def test_wrong_tensors_are_named(
    tiny_model: GroupViT, layout: Any, change: str, tmp_path: Path
) -> None:
    path = tmp_path / "saved"
    save_released(tiny_model, path, layout=layout)
    weights = path / "model.safetensors"
    stored: dict[str, Any] = (
        torch.load(path, weights_only=True) if layout == "nvlabs" else {"model": load_file(weights)}
    )
    tensors: dict[str, Tensor] = stored["model"]
    name = their_names("text.blocks.0.attention.qkv.weight", layout)[-1]
    rows, width = tensors[name].shape
    said = f"{change} tensors: {name}"
    if change == "missing":
        del tensors[name]
    elif change == "unexpected":
        said = "unexpected tensors: one.b, one.w, stray.0 and 2 more"
        tensors |= {n: torch.zeros(2) for n in ("one.w", "one.b", "stray.0", "stray.1", "stray.2")}
    else:
        wrong = torch.zeros(rows, width - 1) if change == "shape" else torch.zeros(3)
        said = f"{name} has shape {tuple(wrong.shape)}, this model needs {(rows, width)}"
        tensors[name] = wrong
    if layout == "nvlabs":
        torch.save(stored, path)
    else:
        save_file(tensors, weights)
    assert refusal(path) == f": {said}"


def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "nothing.pth").touch()
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    torch.save(create_model("resnet18").state_dict(), tmp_path / "resnet.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model": {"a": "b"}}, tmp_path / "words.pth")
    torch.save({"model": {}}, tmp_path / "empty.pth")
    torch.save({"model": 3}, tmp_path / "number.pth")
    for name, said in (
        ("text.pth", "not a PyTorch file"),
        ("nothing.pth", "not a PyTorch file"),
        ("other.pth", "neither NVlabs' nor Hugging Face's names: a"),
        ("resnet.pth", "names: bn1.bias, bn1.num_batches_tracked, bn1.running_mean and 119 more"),
        ("list.pth", "holds a list"),
        ("words.pth", "no table of tensors"),
        ("empty.pth", "no table of tensors"),
        ("number.pth", "model must be a table, is a int"),
        ("absent.pth", "no such file"),
    ):
        assert said in refusal(tmp_path / name)


def test_folders_without_what_they_need_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty") == "/config.json: no such file"
    config = (folder / "config.json").read_text()
    for text, said in (("{", "not JSON"), ("[1]", "must be a table, is a list")):
        (folder / "config.json").write_text(text)
        assert said in refusal(folder)
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    assert "not JSON" in refusal(folder)
    (folder / "config.json").write_text(config)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    assert "/model.safetensors: not a safetensors file that can be read" in refusal(folder)
    weights.unlink()
    said = ": has no weights: no such file as model.safetensors or pytorch_model.bin"
    assert refusal(folder) == said
    index = folder / "model.safetensors.index.json"
    for table, said in (
        ({}, "index.json: weight_map must be a table, is a NoneType"),
        ({"weight_map": {"a": "model-1.safetensors"}}, "/model-1.safetensors: no such file"),
        ({"weight_map": {"a": "../model.pth"}}, "names files outside of its folder: ../model.pth"),
    ):
        index.write_text(json.dumps(table))
        assert said in refusal(folder)


def test_a_block_too_many_is_named_however_high_its_number(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["text_model.encoder.layers.999999999.layer_norm1.weight"] = torch.zeros(32)
    save_file(tensors, folder / "model.safetensors")
    assert refusal(folder).startswith(": missing tensors: text_model.encoder.layers.1.")


@pytest.mark.parametrize("layout", ["nvlabs", "huggingface"])
def test_cut_off_and_damaged_files_are_refused(
    tiny_model: GroupViT, layout: Any, tmp_path: Path
) -> None:
    save_released(tiny_model, tmp_path / "saved", layout=layout)
    name = "saved" if layout == "nvlabs" else "saved/model.safetensors"
    content = (tmp_path / name).read_bytes()
    random = torch.Generator().manual_seed(0)
    for kept in torch.rand(12, generator=random).mul(len(content)).int().tolist():
        (tmp_path / name).write_bytes(content[:kept])
        assert "can be read" in refusal(tmp_path / "saved")
    if layout == "nvlabs":
        (tmp_path / "saved").write_bytes(content[:200] + bytes(300) + content[500:])
        assert "can be read" in refusal(tmp_path / "saved")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"vision__layer_norm_eps": 1e-6}, "vision layer_norm_eps must be 1e-05, got 1e-06"),
        ({"vision__assign_eps": 1e-10}, "vision assign_eps must be 1.0, got 1e-10"),
        ({"text__hidden_act": "gelu"}, "text hidden_act must be 'quick_gelu', got 'gelu'"),
        ({"vision__num_attention_heads": 5}, "width must be a multiple of heads, got 32, 5"),
        ({"text__num_attention_heads": "2"}, "text num_attention_heads must be a whole number"),
        ({"text_config": [1]}, "text_config must be a table, is a list"),
        ({"multi_label_logit_scale": "2.6"}, "multi_label_logit_scale must be a number, got '2.6'"),
        ({"multi_label_logit_scale": True}, "multi_label_logit_scale must be a number, got True"),
    ],
    ids=str,
)
def test_configurations_of_other_models_are_refused(
    folder: Path, values: dict[str, Any], said: str
) -> None:
    edit_config(folder, **values)
    assert said in refusal(folder)


def test_heads_that_cannot_be_known_are_an_error(folder: Path, file: Path, tmp_path: Path) -> None:
    stored = torch.load(file, weights_only=True)
    torch.save({"model": stored["model"]}, tmp_path / "bare.pth")
    assert refusal(tmp_path / "bare.pth").startswith(
        ": the number of attention heads is not known: vision width 32 is no multiple of 64"
    )
    (folder / "config.json").write_text("{}")
    assert "attention heads is not known: vision width 32" in refusal(folder)


def test_what_our_own_configuration_says_must_fit(file: Path) -> None:
    stored = torch.load(file, weights_only=True)
    stored["groupvit_config"]["vision"]["width"] = 64
    torch.save(stored, file)
    assert "has shape" in refusal(file) and "this model needs" in refusal(file)
    stored["groupvit_config"]["vision"]["colour"] = 1
    torch.save(stored, file)
    assert refusal(file).startswith(": unknown field 'vision.colour'")


def test_the_wrong_layout_is_an_error(file: Path, tmp_path: Path) -> None:
    unknown: Any = "keras"
    assert "missing tensors: " in refusal(file, layout="huggingface")
    with pytest.raises(ValueError, match="one of nvlabs, huggingface, got 'keras'"):
        load_released(file, layout=unknown)
    with pytest.raises(ValueError, match="one of nvlabs, huggingface, got 'keras'"):
        save_released(load_released(file), tmp_path / "new", layout=unknown)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("vision.stem", {"vision": VisionConfig(stem="conv", width=384)}),
        ("vision.pre_assign", {"vision": VisionConfig(pre_assign=False)}),
        ("projector", {"projector": "linear"}),
    ],
)
def test_other_models_have_no_released_layout(
    field: str, values: dict[str, Any], tmp_path: Path
) -> None:
    with torch.device("meta"):
        model = GroupViT(ModelConfig(**values))
    with pytest.raises(CheckpointError, match=field):
        save_released(model, tmp_path / "model.pth")


def test_nothing_is_overwritten_and_nothing_half_written(
    tiny_model: GroupViT, file: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts: list[tuple[Path, Any]] = [(file, "nvlabs"), (folder, "huggingface")]
    for there, layout in layouts:
        with pytest.raises(CheckpointError, match="exists; choose another name"):
            save_released(tiny_model, there, layout=layout)
    (tmp_path / ".new.tmp").mkdir()  # left by a command that was killed

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("groupvit.released.weights.json.dumps", full)
    with pytest.raises(CheckpointError, match=r"new: cannot be written \(.*No space left"):
        save_released(tiny_model, tmp_path / "new", layout="huggingface")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "model.pth"]
    save_released(tiny_model, tmp_path / "new")
    assert load_released(tmp_path / "new").config == tiny_model.config
