"""A data folder in miniature: every pair set, benchmark and weight of the papers, as it lies.

Layouts are those of the tools that write them (img2dataset, the frozen mirrors, the benchmarks' own
archives); pictures are noise and the CLIP has ViT-B/16's true size and random weights.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from safetensors.torch import save_file

THINGS = ("dog", "cat", "horse", "car", "boat", "tree", "chair", "bird")
PLACES = ("beach", "street", "forest", "kitchen")
PAIRS = 16
WNIDS = ("n01440764", "n01443537")


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Coarse noise, so that it is no flat colour after a resize."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def caption(number: int) -> str:
    thing, place = THINGS[number % len(THINGS)], PLACES[number % len(PLACES)]
    return f"a {thing} near the {place} in the morning"


def jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    picture(72, 56, number).save(stream, "JPEG")
    return stream.getvalue()


def write_shard(
    path: Path, members: Sequence[tuple[str, bytes]], notes: dict[str, Any] | None = None
) -> None:
    """A tar shard, and img2dataset's statistics beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    if notes is not None:
        path.with_name(f"{path.stem}_stats.json").write_text(json.dumps(notes))


def pair(key: str, number: int, text: str = ".txt") -> list[tuple[str, bytes]]:
    note = {"key": key, "caption": caption(number), "status": "success", "width": 72, "height": 56}
    return [
        (f"{key}.jpg", jpeg(number)),
        (f"{key}{text}", caption(number).encode()),
        (f"{key}.json", json.dumps(note).encode()),
    ]


def write_img2dataset(root: Path, shards: int = 2, pairs: int = PAIRS) -> None:
    """`00000.tar`, `00000_stats.json`, ...: keys are shard and place."""
    for shard in range(shards):
        members = [
            member
            for place in range(pairs)
            for member in pair(f"{shard:05d}{place:04d}", shard * pairs + place)
        ]
        stats = {"count": pairs + 3, "successes": pairs, "failed_to_download": 3}
        write_shard(root / f"{shard:05d}.tar", members, stats)


def write_mirror(root: Path, name: str, shards: int = 2, pairs: int = PAIRS) -> None:
    """`cc12m-train-0000.tar`, ... of the frozen mirrors: no statistics."""
    for shard in range(shards):
        members = [
            member
            for place in range(pairs)
            for member in pair(f"{shard:04d}{place:05d}", 100 + shard * pairs + place)
        ]
        write_shard(root / f"{name}-train-{shard:04d}.tar", members)


def write_pairs(root: Path) -> None:
    write_img2dataset(root / "cc3m")
    write_mirror(root / "cc12m", "cc12m")
    members = [m for i in range(PAIRS) for m in pair(f"yfcc{i:07d}", 300 + i, ".text")]
    write_shard(root / "yfcc14m" / "yfcc14m-000000.tar", members)  # GroupViT's converter
    write_img2dataset(root / "redcaps12m", shards=1)


def write_clip(folder: Path) -> None:
    """OpenAI's ViT-B/16 in open_clip's layout, with random weights."""
    torch.manual_seed(0)
    config = open_clip.get_model_config("ViT-B-16-quickgelu")
    model = open_clip.create_model("ViT-B-16-quickgelu")
    folder.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    described = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))


SMALL_CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32, "layers": 2, "width": 24, "patch_size": 8, "head_width": 12,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}  # fmt: skip


def write_small_clip(folder: Path) -> None:
    """A ViT of two blocks in the same layout, for what does not hang on size."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**SMALL_CLIP)
    folder.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    described = {
        "model_cfg": SMALL_CLIP, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(described))


def write_sa1b(root: Path, archives: int = 2, photos: int = 3) -> None:
    """`sa_000020/sa_223750.jpg` and `.json` beside it, as the archives are unpacked."""
    for archive in range(archives):
        for place in range(photos):
            number = archive * photos + place
            path = root / f"sa_{20 + archive:06d}" / f"sa_{223750 + number}.jpg"
            save(path, picture(72, 56, number))
            path.with_suffix(".json").write_text(json.dumps(sa1b_masks(path.name, number)))


def sa1b_masks(name: str, number: int) -> dict[str, Any]:
    """Four quarters and a square over them, run lengths by pycocotools."""
    masks = np.zeros((5, 56, 72), np.uint8)
    masks[0, :28, :36] = masks[1, :28, 36:] = masks[2, 28:, :36] = masks[3, 28:, 36:] = 1
    masks[4, 10:40, 8 + number : 40 + number] = 1
    rows = []
    for at, mask in enumerate(masks):
        runs = coco.encode(np.asfortranarray(mask))
        segmentation = {"size": [56, 72], "counts": runs["counts"].decode()}
        rows.append(
            {
                "id": 5 * number + at,
                "segmentation": segmentation,
                "bbox": [int(each) for each in coco.toBbox(runs)],
                "area": int(mask.sum()),
                "predicted_iou": 0.95,
                "stability_score": 0.97,
                "crop_box": [0, 0, 72, 56],
                "point_coords": [[20.5, 20.5]],
            }
        )
    image = {"image_id": number, "width": 72, "height": 56, "file_name": name}
    return {"image": image, "annotations": rows}


def write_coco_stuff(root: Path, photos: int = 6) -> None:
    """COCO's training photographs and the label maps of COCO-Stuff, as both are unpacked."""
    for number in range(photos):
        name = f"{number + 9:012d}"
        save(root / "images" / "train2017" / f"{name}.jpg", picture(64, 48, number))
        labels = halves(48, 64, 1, 181)
        labels[:8], labels[40:, :8] = 255, 1 + number
        save(root / "annotations" / "train2017" / f"{name}.png", grey(labels))


Labels = npt.NDArray[np.integer]


def halves(height: int, width: int, left: int, right: int) -> Labels:
    """(H, W) labels: one on the left, one on the right."""
    labels = np.full((height, width), left)
    labels[:, width // 2 :] = right
    return labels


def grey(labels: Labels) -> Image.Image:
    return Image.fromarray(labels.astype(np.uint8))


def write_voc(root: Path) -> None:
    for year, labels, split, values in (
        ("VOC2012", "SegmentationClass", "Segmentation", (0, 12)),
        ("VOC2010", "SegmentationClassContext", "SegmentationContext", (0, 25)),
    ):
        home, name = root / "VOCdevkit" / year, "2008_000003"
        save(home / "JPEGImages" / f"{name}.jpg", picture(50, 38, 1))
        mask = grey(halves(38, 50, *values))
        if year == "VOC2012":
            mask.putpalette([(7 * v + 3) % 256 for v in range(768)])
        save(home / labels / f"{name}.png", mask)
        (home / "ImageSets" / split).mkdir(parents=True)
        (home / "ImageSets" / split / "val.txt").write_text(f"{name}\n")


def write_benchmarks(root: Path) -> None:
    """One picture of each data set, under the names of the original downloads."""
    write_voc(root)
    name = "000000000139"
    save(root / "coco" / "images" / "val2017" / f"{name}.jpg", picture(64, 48, 2))
    save(root / "coco" / "annotations" / "val2017" / f"{name}.png", grey(halves(48, 64, 17, 180)))
    city = "frankfurt_000000_000294"
    save(root / f"cityscapes/leftImg8bit/val/frankfurt/{city}_leftImg8bit.png", picture(64, 64, 3))
    labels = grey(halves(64, 64, 7, 26))
    save(root / f"cityscapes/gtFine/val/frankfurt/{city}_gtFine_labelIds.png", labels)
    ade = root / "ADEChallengeData2016"
    save(ade / "images/validation/ADE_val_00000001.jpg", picture(40, 40, 4))
    save(ade / "annotations/validation/ADE_val_00000001.png", grey(halves(40, 40, 1, 3)))
    for classes in (50, 300):
        home = root / "ImageNetS" / f"ImageNetS{classes}"
        ids = halves(38, 50, 1, 0)
        colours = np.stack([ids % 256, ids // 256, ids * 0], axis=2).astype(np.uint8)
        stem = f"{WNIDS[0]}/ILSVRC2012_val_00000293"
        save(home / f"validation/{stem}.JPEG", picture(50, 38, 5))
        save(home / f"validation-segmentation/{stem}.png", Image.fromarray(colours))
    for wnid in WNIDS:
        save(root / f"imagenet/val/{wnid}/ILSVRC2012_val_00000293_{wnid}.JPEG", picture(60, 50, 6))


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of all papers, in miniature."""
    folder = tmp_path_factory.mktemp("data")
    write_pairs(folder)
    write_benchmarks(folder)
    write_clip(folder / "clip-vit-b-16")
    write_small_clip(folder / "clip-small")
    return folder


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without weights, quick to make: for checks and plans."""
    folder = tmp_path_factory.mktemp("bare")
    write_pairs(folder)
    write_benchmarks(folder)
    clip = folder / "clip-vit-b-16"
    clip.mkdir()
    described = {"model_cfg": {"embed_dim": 512, "quick_gelu": True}}
    (clip / "open_clip_config.json").write_text(json.dumps(described))
    (clip / "open_clip_model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of PixelCLIP's runs with a small CLIP, quick to make."""
    folder = tmp_path_factory.mktemp("photographs")
    write_sa1b(folder / "sa1b")
    write_coco_stuff(folder / "coco")
    write_benchmarks(folder)
    write_small_clip(folder / "clip-small")
    return folder


@pytest.fixture
def on_two_ranks() -> Callable[..., str]:
    """Run `integration.reproduce` under torchrun, two ranks on CPUs; what it printed."""

    def run(arguments: Sequence[str]) -> str:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        done = subprocess.run(
            [sys.executable, *torchrun, "-m", "integration.reproduce", *arguments],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
