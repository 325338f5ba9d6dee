"""Which parameters train, and at which rate."""

from collections.abc import Iterator
from typing import Any, Literal

from torch import nn

from maskcluster.config import OptimConfig
from maskcluster.model.dense import DenseTower

Trainable = Literal["attention", "all"]

_POSITIONS = ("positional_embedding", "trunk.pos_embed")

_ATTENTION = (".attn.", "trunk.attn_pool.kv.", "trunk.attn_pool.proj.")
"""In names of projections: of blocks, and of SigLIP's pooling, which dense features go through."""

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def choose_trainable(tower: DenseTower, trainable: Trainable) -> tuple[str, ...]:
    """Set which parameters of an image tower train; the others are frozen.

    Args:
        tower: of a CLIP model.
        trainable: `attention`: query, key, value and output projections of all blocks (and of
            SigLIP's pooling, whose value path is its last block), and the position embedding
            (PixelCLIP's code, ViT); `all` (ConvNeXt). Parameters that dense features do not depend
            on are frozen in either case.

    Returns:
        Names of the parameters of `tower.visual` that train.

    Raises:
        ValueError: the tower has no attention, or no such choice.
    """
    if trainable not in ("attention", "all"):
        raise ValueError(f"trainable must be attention or all, got {trainable!r}")
    unused = set(tower.unused)
    chosen = []
    for name, parameter in tower.visual.named_parameters():
        attends = any(part in name for part in _ATTENTION)
        wanted = trainable == "all" or attends or name in _POSITIONS
        parameter.requires_grad = wanted and name not in unused
        if parameter.requires_grad:
            chosen.append(name)
    if not chosen:
        raise ValueError(
            "trainable = attention needs an image tower with attention; use trainable = all"
        )
    return tuple(chosen)


def parameter_groups(
    visual: nn.Module, prompts: nn.Module | None, decoder: nn.Module, config: OptimConfig
) -> list[dict[str, Any]]:
    """Groups for `torch.optim.AdamW`, of parameters that train.

    The image tower has the rate `lr`, class prompts `prompt_lr` and the decoder `decoder_lr`.
    Norms, embeddings, positions and class prompts do not decay.

    Args:
        visual: the image tower.
        prompts: class prompts, or None without clustering.
        decoder: the decoder.
        config: rates and decay.

    Returns:
        Dictionaries of `name` ("tower", "tower-no-decay", "prompts", "decoder",
        "decoder-no-decay"), `params`, `lr`, `initial_lr` and `weight_decay`; none of them empty.
    """
    decays, kept = _by_decay(visual)
    decoder_decays, decoder_kept = _by_decay(decoder)
    learnt = [] if prompts is None else [p for p in prompts.parameters() if p.requires_grad]
    decay = config.weight_decay
    groups = [
        ("tower", decays, config.lr, decay),
        ("tower-no-decay", kept, config.lr, 0.0),
        ("prompts", learnt, config.prompt_lr, 0.0),
        ("decoder", decoder_decays, config.decoder_lr, decay),
        ("decoder-no-decay", decoder_kept, config.decoder_lr, 0.0),
    ]
    return [
        {"name": name, "params": values, "lr": lr, "initial_lr": lr, "weight_decay": decay}
        for name, values, lr, decay in groups
        if values
    ]


def _by_decay(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that train: those that decay, and those that do not."""
    decays: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter, is_kept in _parameters(module):
        if parameter.requires_grad:
            (kept if is_kept else decays).append(parameter)
    return decays, kept


def _parameters(module: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    """Every parameter, and whether it is one of a norm or an embedding."""
    for prefix, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            whole = f"{prefix}.{name}" if prefix else name
            embeds = isinstance(part, nn.Embedding) or whole in (*_POSITIONS, "class_embedding")
            yield parameter, embeds or isinstance(part, _NORMS)
