"""Supervised networks in ONNX: what the adapter does around the runtime, and the real file."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from segbench import ModelError, build_bank, load_names, load_templates
from segbench.cli import load_segmenter
from segbench.models import onnx_segmenter
from segbench.models.named import names_in

Array = npt.NDArray[Any]
NAMES = ["background", "cat", "dining table", "tvmonitor"]


class FakeSession:
    """Logits are the mean colour of each quarter, weighed by the class; keeps what it was given."""

    inputs: list[Any]
    outputs: list[Any]
    given: Array

    def __init__(self, path: str, providers: list[str]) -> None:
        if Path(path).read_bytes() != b"a network":
            raise RuntimeError("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF\nmore")
        assert providers == ["CPUExecutionProvider"]

    def get_inputs(self) -> list[Any]:
        return type(self).inputs

    def get_outputs(self) -> list[Any]:
        return type(self).outputs

    def run(self, names: list[str], feed: dict[str, Array]) -> list[Array]:
        assert names == [type(self).outputs[-1].name]
        (array,) = feed.values()
        type(self).given = array
        last = array.shape[3] == 3
        planes = array[0].transpose(2, 0, 1) if last else array[0]
        quarters = planes.astype(np.float32).mean(0).reshape(2, planes.shape[1] // 2, 2, -1)
        means = quarters.mean((1, 3))  # (2, 2)
        logits = means[None] * np.arange(1, 5, dtype=np.float32)[:, None, None]  # (4, 2, 2)
        return [logits.transpose(1, 2, 0)[None] if names == ["scores_last"] else logits[None]]


def entry(name: str, kind: str, shape: list[Any]) -> SimpleNamespace:
    return SimpleNamespace(name=name, type=kind, shape=shape)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    """A runtime that is not there, with one input and two outputs."""
    FakeSession.inputs = [entry("image", "tensor(uint8)", [1, 8, 12, 3])]
    FakeSession.outputs = [
        entry("labels", "tensor(int64)", [1, 8, 12]),
        entry("logits", "tensor(float)", [1, 4, 2, 2]),
    ]
    runtime = ModuleType("onnxruntime")
    vars(runtime).update(
        InferenceSession=FakeSession,
        get_available_providers=lambda: ["CPUExecutionProvider"],
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    return FakeSession


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "net.onnx").write_bytes(b"a network")
    return str(tmp_path / "net.onnx")


def test_the_bank_picks_channels(session: type[FakeSession], file: str) -> None:
    model = onnx_segmenter(file, NAMES)
    bank = build_bank(model.encode_text, ["tv monitor", "cat"], ["a photo of a {}."])
    assert bank.tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    image = torch.zeros(3, 8, 12)
    image[:, :4, 6:] = 1
    scores = model.segment(image, bank)
    assert scores[0].tolist() == [[0, 255 * 4], [0, 0]]
    assert scores[1].tolist() == [[0, 255 * 2], [0, 0]]
    assert session.given.dtype == np.uint8
    assert session.given.shape == (1, 8, 12, 3)


def test_images_of_any_size_are_resized_to_the_networks(
    session: type[FakeSession], file: str
) -> None:
    model = onnx_segmenter(file, NAMES)
    image = torch.zeros(3, 40, 37)
    image[:, 20:] = 0.5
    scores = model.segment(image, torch.eye(4))
    assert scores.shape == (4, 2, 2)
    assert scores[0, 1].tolist() == [128, 128]  # 127.5 rounds to even
    assert session.given.shape == (1, 8, 12, 3)


def test_floating_planes_are_normalised(session: type[FakeSession], file: str) -> None:
    session.inputs = [entry("x", "tensor(float)", ["batch", 3, "h", "w"])]
    model = onnx_segmenter(file, NAMES, size=4, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    model.segment(torch.ones(3, 9, 9), torch.eye(4))
    assert session.given.dtype == np.float32
    assert session.given.shape == (1, 3, 4, 4)
    assert np.allclose(session.given, 2)


def test_channels_may_come_last_and_become_probabilities(
    session: type[FakeSession], file: str
) -> None:
    session.outputs = [entry("scores_last", "tensor(float)", [1, 2, 2, 4])]
    model = onnx_segmenter(file, NAMES, softmax=True)
    scores = model.segment(torch.full((3, 8, 12), 1 / 255), torch.eye(4))
    wanted = torch.arange(1.0, 5).softmax(0)
    assert torch.allclose(scores[:, 1, 0], wanted)
    assert model.name == "onnx net softmax=True"


@pytest.mark.usefixtures("session")
def test_corners_can_be_those_of_the_input(file: str) -> None:
    model = onnx_segmenter(file, NAMES, align_corners=True)
    image = torch.zeros(3, 8, 12)
    image[:, :4, 6:] = 1
    scores = model.segment(image, torch.eye(4))
    assert scores.shape == (4, 8, 12)
    across = torch.linspace(0, 255, 12)
    assert torch.allclose(scores[0, 0], across, atol=1e-3)  # the outermost places are the corners
    assert torch.allclose(scores[0, 7], torch.zeros(12))


@pytest.mark.parametrize(
    "options",
    [
        {"size": 4},
        {"output": "other"},
        {"aliases": {"television": "tvmonitor"}},
        {"mean": [0.5, 0.5, 0.5]},
        {"std": [0.5, 0.5, 0.5]},
        {"softmax": True},
        {"align_corners": True},
        {"names": NAMES[::-1]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_fingerprint_tells_every_option_that_moves_scores(
    session: type[FakeSession], file: str, options: dict[str, Any]
) -> None:
    session.inputs = [entry("x", "tensor(float)", ["batch", 3, "h", "w"])]
    session.outputs += [entry("other", "tensor(float)", [1, 4, 2, 2])]
    usual: dict[str, Any] = {"path": file, "names": NAMES, "size": 8}
    plain, again, other = (onnx_segmenter(**usual | more) for more in ({}, {}, options))
    assert plain.fingerprint == again.fingerprint != other.fingerprint
    Path(file).write_bytes(b"another network")
    assert plain.fingerprint != _fresh(plain)


def _fresh(model: Any) -> str:
    """The fingerprint of the file as it is now."""
    del model.fingerprint
    text: str = model.fingerprint
    return text


@pytest.mark.usefixtures("session")
def test_every_template_of_the_package_is_read_back(file: str) -> None:
    model = onnx_segmenter(file, NAMES, aliases={"television": "tvmonitor"})
    for templates in ("clip_imagenet_80", "vild", "groupvit_simple:identity", "tcl_custom_9"):
        bank = build_bank(
            model.encode_text, ["dining table", "television"], load_templates(templates)
        )
        assert torch.allclose(bank, torch.eye(4)[[2, 3]])
    assert names_in("a photo of a toy cat.")[0] == "toy cat"


@pytest.mark.usefixtures("session")
def test_a_name_that_it_does_not_know_is_an_error(file: str) -> None:
    model = onnx_segmenter(file, NAMES)
    for prompt in ("a photo of a cattle.", "a photo of a wild cat.", "giraffe"):
        with pytest.raises(ModelError, match=r"unknown class '(cattle|wild cat|giraffe)' in net"):
            model.encode_text(["a photo of a cat.", prompt])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "/nowhere.onnx"}, "no ONNX file at '/nowhere.onnx'"),
        ({"names": "/nowhere.txt"}, "no file of class names at '/nowhere.txt'"),
        ({"names": ["cat", "Cat"]}, "needs class names that differ"),
        ({"names": ["a", "b", "c"]}, "no output float of 3 class logits, has labels tensor"),
        ({"output": "labels"}, "no output labels of 4 class logits"),
        ({"size": 9}, r"its input is \(8, 12\), got size \(9, 9\)"),
        ({"device": "cuda"}, "onnxruntime does not run on 'cuda' here"),
        ({"aliases": {"tv": "telly"}}, "unknown class 'telly' in aliases"),
    ],
)
@pytest.mark.usefixtures("session")
def test_what_is_wrong_is_said_in_one_line(
    file: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        onnx_segmenter(**{"path": file, "names": NAMES} | options)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_network_is_one_line(session: type[FakeSession], tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"?")
    with pytest.raises(ValueError, match=r"bad.onnx cannot be read: .* INVALID_PROTOBUF$"):
        onnx_segmenter(str(tmp_path / "bad.onnx"), NAMES)
    (tmp_path / "net.onnx").write_bytes(b"a network")
    session.inputs = [entry("x", "tensor(float)", [1, 7])]
    with pytest.raises(ValueError, match="input must be"):
        onnx_segmenter(str(tmp_path / "net.onnx"), NAMES)
    session.inputs = [entry("x", "tensor(float)", [1, 3, "h", "w"])]
    with pytest.raises(ValueError, match="its input has no size of its own; give size"):
        onnx_segmenter(str(tmp_path / "net.onnx"), NAMES)


def test_without_the_runtime_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match="needs onnxruntime: pip install onnxruntime"):
        onnx_segmenter(file, NAMES)


def test_deeplab_segments_a_photograph(real_data: Path) -> None:
    """The file in shared/weights, on a photograph with its labels."""
    pytest.importorskip("onnxruntime")
    folder = real_data.parent / "weights" / "deeplabv3_mobilenetv2_voc21"
    if not folder.is_dir():
        pytest.skip("no shared/weights")
    options = {
        "path": str(folder / "deeplabv3_mnv2_voc21.onnx"),
        "names": str(folder / "labels.txt"),
    }
    model = load_segmenter("segbench.models:onnx_segmenter", options)
    names = list(load_names("voc21"))[1:]
    bank = build_bank(model.encode_text, names, load_templates("clip_imagenet_7"))
    assert torch.equal(bank, torch.eye(21)[1:])
    scores = model.segment(torch.rand(3, 60, 90), bank)
    assert scores.shape == (20, 33, 33)
    assert scores.isfinite().all()
