"""The files of PixelCLIP's release: a CLIP among the weights of a training."""

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

_CLIP = "sem_seg_head.predictor.clip_model."
"""Before the names of the tuned CLIP's weights; the momentum teacher, the decoder and the class
prompts, which inference does not use, have other prefixes."""


def released_clip(path: Path) -> dict[str, Tensor] | None:
    """Weights of the tuned CLIP in a file of PixelCLIP's release, under open_clip's names.

    The file is detectron2's, with all weights under "model". Below the prefix a ViT has OpenAI's
    names and a ConvNeXt open_clip's own, so that nothing has to be renamed. No code in the file is
    run. The layout is known from the released code (cvlab-kaist/PixelCLIP); no released file has
    been read with this yet.

    Args:
        path: any file.

    Returns:
        The state dict; None where the file is something else.
    """
    state = _tensors(path)
    found = {k.removeprefix(_CLIP): v for k, v in state.items() if k.startswith(_CLIP)}
    return found or None


def wants_quick_gelu(state: dict[str, Tensor]) -> bool:
    """Whether it is the release's ViT, which was OpenAI's; its ConvNeXts have plain GELU."""
    return "visual.proj" in state


def _tensors(path: Path) -> dict[str, Tensor]:
    """What `torch.save` wrote, by name; nothing for another kind of file."""
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("constants.pkl") for name in archive.namelist()):
            return {}  # TorchScript, as OpenAI's own files are
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError):
        return {}  # open_clip, which reads it next, says what is wrong
    state = content.get("model", content) if isinstance(content, dict) else {}
    return state if isinstance(state, dict) else {}
