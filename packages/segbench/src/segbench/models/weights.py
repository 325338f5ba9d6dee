"""What tells the weights of one model from those of another."""

import hashlib
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def fingerprint_of(modules: Mapping[str, nn.Module]) -> str:
    """SHA-256 over the layers and state dicts of modules.

    Every tensor goes in with its name, type, shape and bytes, sorted by name, so that neither the
    device nor the order in which a model was built matters.

    Args:
        modules: by name, such as {"clip": ..., "backbone": ...}.
    """
    digest = hashlib.sha256()
    for part, module in sorted(modules.items()):
        digest.update(repr(module).encode())  # layers without weights, such as QuickGELU, count too
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)  # (n,)
    return flat.view(torch.uint8).numpy().tobytes()


def title(method: str, model: str, options: Mapping[str, object]) -> str:
    """Name under which results are listed, such as "naclip ViT-B-16 openai sigma=3".

    Args:
        method: what is done with the model.
        model: architecture and weights.
        options: those that move the scores and differ from their defaults.
    """
    return " ".join([method, model, *(f"{key}={value}" for key, value in options.items())])


def one_line(error: BaseException) -> str:
    """The first line of an error that has something to say.

    Of weights that do not fit, the first tensor: PyTorch lists every one.
    """
    said = str(error)
    if "loading state_dict" in said:
        if first := re.search(r'(Missing|Unexpected) key\(s\) in state_dict: "([^"]+)"', said):
            return f"it has {'no' if first[1] == 'Missing' else 'a'} {first[2]}"
        if first := re.search(r"size mismatch for ([^:]+):", said):
            return f"its {first[1]} has another shape"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
