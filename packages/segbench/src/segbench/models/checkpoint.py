"""Checkpoints of any package, by functions that are named and never imported here."""

import importlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segbench.models.weights import fingerprint_of, one_line, title
from segbench.segmenter import Segmenter


class CheckpointSegmenter:
    """A segmenter of another package, with a name and a fingerprint that tell its weights.

    It segments and does no more: tasks that classify images need a factory of one's own.

    Args:
        segmenter: does the work.
        model: whose weights it uses.
        name: under which results are listed.
    """

    def __init__(self, segmenter: Segmenter, model: nn.Module, *, name: str) -> None:
        self.segmenter = segmenter
        self.model = model
        self.name = name

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights, computed when first asked for."""
        return fingerprint_of({"model": self.model})

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(n, D) as the segmenter gives them; see `Segmenter`."""
        return self.segmenter.encode_text(prompts)

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        """(K, h, w) as the segmenter gives them; see `Segmenter`."""
        return self.segmenter.segment(image, bank)


def checkpoint_segmenter(
    path: str, load: str, segmenter: str, *, device: str = "cpu", **options: Any
) -> CheckpointSegmenter:
    """A segmenter of a checkpoint: segmenter(load(path).to(device), **options).

    Args:
        path: of the checkpoint; a file, or a folder.
        load: `package.module:callable` that takes the path and returns a `torch.nn.Module`, such as
            "groupvit:load_model".
        segmenter: `package.module:callable` that takes the module and returns a Segmenter, such as
            "groupvit:GroupViTSegmenter".
        device: where the module is put.
        **options: further arguments of `segmenter`.

    Raises:
        ValueError: nothing at `path`, no such callable, it returns something else, or it raises.
    """
    if not Path(path).exists():
        raise ValueError(f"no checkpoint at {path!r}")
    model = _called(load, path)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{load} must give a torch module, got a {type(model).__name__}")
    model = model.eval().requires_grad_(False).to(device)
    made = _called(segmenter, model, **options)
    if not isinstance(made, Segmenter):
        raise ValueError(
            f"{segmenter} gave a {type(made).__name__}, which lacks name, encode_text or segment"
        )
    return CheckpointSegmenter(made, model, name=title(made.name, Path(path).name, options))


def _called(target: str, *values: Any, **options: Any) -> Any:
    """Call what `package.module:callable` names."""
    module, _, attribute = target.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"no callable {target!r}: {one_line(error)}") from error
    try:
        return function(*values, **options)
    # a package that is not known here has errors of its own, which need have no common base
    except Exception as error:
        raise ValueError(f"{target}: {one_line(error)}") from error
