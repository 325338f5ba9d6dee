"""A supervised network in ONNX: a reference for what labels can buy."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.errors import ModelError, unknown
from segbench.models.named import names_in
from segbench.models.optional import needed
from segbench.models.weights import one_line, title
from segbench.protocols.inference import resize_image


class OnnxSegmenter:
    """Class logits of a network that knows its classes by number.

    A prompt is embedded as the one-hot row of the class that it names, so that the harness' text
    bank picks channels: score[k] = bank[k] . logits. Prompts are read with the templates of the
    package, the longest name that fits first; names are compared without case and spaces.

    An image is resized to the network's own size, whole and bilinearly; the ratio is not kept.

    Args:
        path: the file; one input (1, H, W, 3) or (1, 3, H, W), uint8 or floating, and an output
            (1, K, h, w) or (1, h, w, K) of logits.
        names: K class names, in the order of the logits.
        size: (H, W) of the input where the file leaves it open.
        output: name of the output; the first floating one with K channels when left out.
        aliases: further names of classes, such as {"television": "tvmonitor"}.
        mean: taken off the channels of floating inputs, on a scale of 0 to 1.
        std: that channels of floating inputs are divided by.
        softmax: give probabilities over all K classes in place of logits, as thresholds need.
        align_corners: the corners of the logits are those of the input, as DeepLab's 33 x 33 of
            513 x 513 are: they are resized to the input's size so, which covers it evenly.
        device: "cpu", "cuda" or "cuda:1".

    Raises:
        ValueError: no such file, no image input, no such output, or an alias of no class.
        ModuleNotFoundError: onnxruntime is not installed.
    """

    def __init__(  # noqa: PLR0913  # what a file cannot say of itself
        self,
        path: Path,
        names: Sequence[str],
        *,
        size: tuple[int, int] | None = None,
        output: str | None = None,
        aliases: Mapping[str, str] | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        softmax: bool = False,
        align_corners: bool = False,
        device: str = "cpu",
    ) -> None:
        self.path = path
        self.classes = len(names)
        self.columns = _columns(names, aliases or {})
        self.session = _open(path, device)
        entry = self.session.get_inputs()[0]
        self.input_name: str = entry.name
        self.is_bytes = entry.type == "tensor(uint8)"
        self.channels_last, self.size = _layout(entry.shape, size, path)
        self.output = _output(self.session.get_outputs(), self.classes, output, path)
        self.mean, self.std = (torch.tensor(c).view(3, 1, 1) for c in (mean, std))  # (3, 1, 1)
        self.softmax, self.align_corners = softmax, align_corners
        chosen = {"softmax": softmax, "align_corners": align_corners}
        options = {option: True for option, wanted in chosen.items() if wanted}
        self.name = title("onnx", path.stem, options)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file and of how it is used."""
        colours = (self.mean.flatten().tolist(), self.std.flatten().tolist())
        use = (self.columns, self.size, self.output, colours, self.softmax, self.align_corners)
        return hashlib.sha256(self.path.read_bytes() + repr(use).encode()).hexdigest()

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """One-hot rows of the classes that prompts name, (n, K) float32.

        Raises:
            ModelError: a prompt names no class of the network.
        """
        columns = [self._column(prompt) for prompt in prompts]
        return torch.eye(self.classes)[columns]

    def _column(self, prompt: str) -> int:
        named = names_in(prompt)
        for name in named:
            if _plain(name) in self.columns:
                return self.columns[_plain(name)]
        raise ModelError(unknown("class", named[0], self.columns, self.path.name))

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        """Scores of the classes of a bank, (K', h, w) float32; see `Segmenter`."""
        fitted = resize_image(image.detach().cpu(), self.size)  # (3, H, W)
        if self.is_bytes:
            array = fitted.mul(255).round().clamp(0, 255).to(torch.uint8).numpy()
        else:
            array = ((fitted - self.mean) / self.std).numpy()
        if self.channels_last:
            array = np.ascontiguousarray(array.transpose(1, 2, 0))  # (H, W, 3)
        (found,) = self.session.run([self.output[0]], {self.input_name: array[None]})
        logits = torch.tensor(found[0], dtype=torch.float32, device=image.device)
        if self.output[1]:
            logits = logits.permute(2, 0, 1)  # (K, h, w)
        if self.align_corners:
            logits = F.interpolate(logits[None], self.size, mode="bilinear", align_corners=True)[0]
        if self.softmax:
            logits = logits.softmax(dim=0)
        return torch.einsum("nk,kyx->nyx", bank.to(logits), logits)


def onnx_segmenter(
    path: str,
    names: str | Sequence[str],
    *,
    size: int | Sequence[int] | None = None,
    **options: Any,
) -> OnnxSegmenter:
    """A network from an ONNX file.

    Args:
        path: the file.
        names: class names in the order of the logits, or a text file with one a line.
        size: (H, W), or one side of a square, where the file leaves the input's size open.
        **options: `output`, `aliases`, `mean`, `std`, `softmax`, `align_corners` and `device` of
            `OnnxSegmenter`.

    Raises:
        ValueError: as `OnnxSegmenter`, or no such file of names.
    """
    if isinstance(names, str):
        if not Path(names).is_file():
            raise ValueError(f"no file of class names at {names!r}")
        lines = Path(names).read_text(encoding="utf-8").splitlines()
        names = [line.strip() for line in lines if line.strip()]
    sides = None if size is None else (size, size) if isinstance(size, int) else tuple(size)
    return OnnxSegmenter(Path(path), names, size=sides, **options)  # type: ignore[arg-type]  # checked


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _columns(names: Sequence[str], aliases: Mapping[str, str]) -> dict[str, int]:
    columns = {_plain(name): column for column, name in enumerate(names)}
    if not names or len(columns) < len(names):
        raise ValueError(f"needs class names that differ, got {list(names)!r}")
    for alias, name in aliases.items():
        if _plain(name) not in columns:
            raise ValueError(unknown("class", name, columns, "aliases"))
        columns[_plain(alias)] = columns[_plain(name)]
    return columns


def _open(path: Path, device: str) -> Any:
    runtime = needed("onnxruntime", "onnxruntime")
    if not path.is_file():
        raise ValueError(f"no ONNX file at {str(path)!r}")
    kind, _, number = device.partition(":")
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(kind)
    if provider not in runtime.get_available_providers():
        raise ValueError(f"onnxruntime does not run on {device!r} here")
    chosen = (provider, {"device_id": int(number)}) if number else provider
    try:
        return runtime.InferenceSession(str(path), providers=[chosen])
    # onnxruntime raises classes of its own that have no common base but Exception
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from error


def _layout(
    shape: Sequence[Any], size: tuple[int, int] | None, path: Path
) -> tuple[bool, tuple[int, int]]:
    """Whether channels come last, and (H, W)."""
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise ValueError(f"{path}: input must be (1, H, W, 3) or (1, 3, H, W), got {shape}")
    last = shape[3] == 3
    sides = (shape[1], shape[2]) if last else (shape[2], shape[3])
    height, width = (s if isinstance(s, int) else None for s in sides)
    if height is None or width is None:
        if size is None:
            raise ValueError(f"{path}: its input has no size of its own; give size")
        return last, (size[0], size[1])
    if size not in (None, (height, width)):
        raise ValueError(f"{path}: its input is {(height, width)}, got size {size}")
    return last, (height, width)


def _output(
    entries: Sequence[Any], classes: int, wanted: str | None, path: Path
) -> tuple[str, bool]:
    """Name of the output, and whether its channels come last."""
    for entry in entries:
        if (wanted or entry.name) != entry.name or "float" not in entry.type:
            continue
        if len(entry.shape) == 4 and classes in (entry.shape[1], entry.shape[3]):
            return entry.name, entry.shape[1] != classes
    shapes = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in entries)
    raise ValueError(
        f"{path}: no output {wanted or 'float'} of {classes} class logits, has {shapes}"
    )
