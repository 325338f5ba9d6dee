"""Names of tensors in the published checkpoints, and ours.

The published checkpoints (model hub: hsshin98/PixelCLIP) are detectron2's: a table `model` of all
tensors of the training. The names are known from the released code (cvlab-kaist/PixelCLIP:
pixelclip/pixelclip.py, modeling/transformer/pixelclip_predictor.py):

    sem_seg_head.predictor.clip_model.*    the tuned CLIP: below it OpenAI's names for ViT and
                                           open_clip's for ConvNeXt, which are the same
    sem_seg_head.predictor.prompt_tokens   class prompts: (K, l, d_e) tokens, or (K, D) rows
    teacher_encoder.*                      the momentum teacher: a CLIP without its text transformer
    head.*                                 the decoder
    dino.*                                 the DINO model of a training with its masks: not read
"""

from collections.abc import Mapping

from torch import Tensor

CLIP = "sem_seg_head.predictor.clip_model."
TEACHER = "teacher_encoder."
PROMPTS = "sem_seg_head.predictor.prompt_tokens"
DECODER = "head."

_OUR_CLIP, _OUR_TEACHER, _OUR_DECODER = "clip.", "teacher.tower.visual.", "decoder.layers."
_VISUAL = "visual."

_LAYERS = {
    "0": "conv0",
    "1": "up1",
    "2": "conv1.double_conv.0",
    "3": "conv1.double_conv.1",
    "5": "conv1.double_conv.3",
    "6": "conv1.double_conv.4",
    "8": "up2",
    "9": "conv2.double_conv.0",
    "10": "conv2.double_conv.1",
    "12": "conv2.double_conv.3",
    "13": "conv2.double_conv.4",
    "15": "proj",
}
"""Of the decoder: our number, their name."""

_OURS = {theirs: ours for ours, theirs in _LAYERS.items()}


def to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a `PixelCLIP` under the names of the release.

    As there, the teacher also has what a CLIP has beside its two towers; it shares its memory with
    the student's, and so its place in the file.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(_OUR_CLIP):
            inner = name.removeprefix(_OUR_CLIP)
            found[CLIP + inner] = tensor
            if not inner.startswith((_VISUAL, "transformer.", "text.")):
                found[TEACHER + inner] = tensor
        elif name.startswith(_OUR_TEACHER):
            found[TEACHER + _VISUAL + name.removeprefix(_OUR_TEACHER)] = tensor
        elif name.startswith(_OUR_DECODER):
            number, _, leaf = name.removeprefix(_OUR_DECODER).partition(".")
            found[f"{DECODER}{_LAYERS[number]}.{leaf}"] = tensor
        else:  # prompts.tokens or prompts.rows
            found[PROMPTS] = tensor
    return found


def clip_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tuned CLIP of a released file, under open_clip's names; empty if there is none."""
    return _below(tensors, CLIP)


def teacher_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The teacher's image tower of a released file; empty if there is none."""
    return _below(tensors, TEACHER + _VISUAL)


def decoder_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoder of a released file under our names; empty if there is none.

    Names that no decoder has are kept, so that loading them says so.
    """
    found = {}
    for name, tensor in _below(tensors, DECODER).items():
        layer, _, leaf = name.rpartition(".")
        found[f"layers.{_OURS.get(layer, layer)}.{leaf}"] = tensor
    return found


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
