"""Command line: train, segment, convert."""

import io
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from PIL import Image, ImageOps

from groupvit.training.checkpoint import load_model
from groupvit.data.pairs import PairDataset, index_shards, without_corrupt
from groupvit.errors import DataError, GroupViTError, UsageError
from groupvit.released.layouts import Layout
from groupvit.model.groupvit import GroupViT
from groupvit.segmenting.overlay import draw_overlay
from groupvit.recipe import load_recipe
from groupvit.segmenting.segmenter import GroupViTSegmenter
from groupvit.training.train import train as train_run
from groupvit.released.weights import load_released, save_released

TEMPLATE = "a photo of a {}."
SHORT_SIDE = 448
"""Pixels of the short side of a picture that is segmented, as in GroupViT's demo."""


def train(
    recipe: Path,
    shards: str,
    out: Path,
    *,
    dataset: str | None = None,
    check_images: bool = True,
    device: str | None = None,
    dry_run: bool = False,
) -> None:
    """Train a GroupViT on image-caption pairs, or go on where a killed run stopped.

    Args:
        recipe: TOML file.
        shards: tar shards, as a path or a quoted glob such as "pairs/*.tar".
        out: folder of the run.
        dataset: name of the data set, the first part of every key; by default the shards' folder.
        check_images: read every image first and leave out those that cannot be decoded.
        device: where to compute, such as cuda:0; the first GPU if there is one.
        dry_run: only read the recipe and list what would be trained on.
    """
    config = load_recipe(recipe)
    paths = _find(shards)
    if not paths:
        raise DataError(f"{shards}: no such file")
    pairs, _ = index_shards(paths, dataset=dataset or paths[0].resolve().parent.name)
    print(f"shards\t{len(paths)}\npairs\t{len(pairs)}\nsteps\t{config.optim.total_steps}")
    if dry_run:
        return
    if check_images:
        pairs, _ = without_corrupt(pairs)
    data = PairDataset.from_config(pairs, config.data, config.model.vision.image_px)
    result = train_run(config, data, out, device=_device(device))
    print(f"checkpoint\t{result.checkpoint}\nlog\t{result.log}")


def segment(
    photo: Path,
    *,
    classes: str,
    checkpoint: Path,
    out: Path,
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Find things in a photograph by their names; every pixel takes the best of them.

    Args:
        photo: picture file.
        classes: names, separated by commas: "dog, grass, sky".
        checkpoint: a run, a checkpoint of one, or a released file or folder.
        out: picture to write, the photograph with the names laid over it.
        device: where to compute, such as cuda:0; the CPU by default.
        overwrite: replace `out` if it is there.
    """
    names = [name.strip() for name in classes.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--classes needs at least one name, got {classes!r}")
    _check_free(out, overwrite)
    image = _open_photo(photo)
    segmenter = GroupViTSegmenter(load_any(checkpoint).to(_device(device) or "cpu"))
    bank = F.normalize(segmenter.encode_text([TEMPLATE.format(name) for name in names]), dim=-1)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255  # (3, H, W)
    labels = segmenter.segment(pixels, bank).argmax(dim=0).cpu().numpy()  # (H, W)
    out.parent.mkdir(parents=True, exist_ok=True)
    _save_picture(draw_overlay(np.asarray(image), labels, names), out)
    for index, share in enumerate(np.bincount(labels.ravel(), minlength=len(names)) / labels.size):
        print(f"{share:.4f}\t{names[index]}")


def convert(source: Path, out: Path, *, layout: Layout = "nvlabs") -> None:
    """Write a model in one of the layouts of the released checkpoints.

    Args:
        source: a run, a checkpoint of one, or a released file or folder.
        out: file (nvlabs) or folder (huggingface) to write; must not exist.
        layout: whose.
    """
    save_released(load_any(source), out, layout=layout)
    print(f"{layout}\t{out}")


def load_any(path: Path) -> GroupViT:
    """The model of a run, a checkpoint, or a released file or folder.

    Raises:
        CheckpointError: it is none of these.
    """
    is_released = path.is_file() or (path / "config.json").exists()
    return load_released(path) if is_released else load_model(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code: 0 done, 1 could not, 2 wrong usage, 3 data missing."""
    verbs: list[Callable[..., None]] = [train, segment, convert]
    logging.basicConfig(format="groupvit: %(message)s", level=logging.WARNING)
    try:
        auto_cli(verbs, args=None if argv is None else list(argv), prog="groupvit")
    except GroupViTError as error:
        print(f"groupvit: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:  # jsonargparse has said what is wrong
        return stop.code if isinstance(stop.code, int) else UsageError.exit_code
    except KeyboardInterrupt:
        print("groupvit: stopped; run it again to go on", file=sys.stderr)
        return 4
    return 0


def console() -> None:
    """Entry point of the installed command."""
    sys.exit(main())


def _find(shards: str) -> list[Path]:
    """The files of a glob, sorted."""
    pattern = Path(shards).expanduser().absolute()
    return sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))


def _device(name: str | None) -> torch.device | None:
    """The device of that name; None stays None."""
    if name is None:
        return None
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).partition(chr(10))[0]}") from error


def _check_free(out: Path, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists; choose another name, or pass --overwrite true")
    try:  # many formats are only read, or hold no RGB
        Image.new("RGB", (1, 1)).save(io.BytesIO(), _format(out))
    except (KeyError, OSError, ValueError) as error:
        raise UsageError(
            f"--out needs the name of a picture such as overlay.png, got {out}"
        ) from error


def _format(out: Path) -> str:
    """PIL's name for the format of a file; empty for a suffix that it does not know."""
    return Image.registered_extensions().get(out.suffix.lower(), "")


def _open_photo(path: Path) -> Image.Image:
    """An RGB picture, upright, its short side `SHORT_SIDE`."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a picture that can be read ({error})") from error
    factor = SHORT_SIDE / min(image.size)
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.BILINEAR)


def _save_picture(picture: Image.Image, out: Path) -> None:
    """Whole or not at all."""
    unfinished = out.with_name(f".{out.stem}.tmp{out.suffix}")
    picture.save(unfinished)
    unfinished.replace(out)
