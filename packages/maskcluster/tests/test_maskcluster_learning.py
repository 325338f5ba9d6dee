"""What is learnt on shapes whose colours nobody tells (spec, 9.3), by a small random CLIP."""

import json
import logging
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.ops.mask_pool import mask_pool
from maskcluster.training.checkpoint import load_model
from maskcluster.training.train import train

case = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("training_case.py"))))

CLUSTERS, IMAGE_PX, CLIP_SEED = 8, 48, 2
Labels = npt.NDArray[np.int64]


def recipe(**cluster: Any) -> Any:
    plain = {"photometric": False, "colour_jitter": 0.0, "greyscale": 0.0, "blur": 0.0}
    sizes = {"shortest_px": 64, "longest_px": 64, "crop_px": 64, "image_px": IMAGE_PX}
    return case.changed(
        cluster={"clusters": CLUSTERS, "tokens": 4, "eps": 0.01, "momentum": 0.95} | cluster,
        views={"mask_px": 64, "cutout": 0.0} | sizes | plain,
        optim={"total_steps": 40, "lr": 1e-3, "decoder_lr": 3e-3, "clip_grad_norm": 1.0},
        log_every=4,
        checkpoint_every=1000,
        seed=CLIP_SEED,
    )


def assign_unseen(model: PixelCLIP) -> tuple[Labels, Labels]:
    """Clusters of the masks of photographs that were not trained on, and their hidden colours."""
    grid = np.arange(case.SIDE)
    photos, packed, owner, labels = [], [], [], []
    for number in range(24):
        photo, masks, colours = case.scene(1000 + number)
        photos.append(torch.from_numpy(photo).permute(2, 0, 1).float() / 255)
        packed.append(torch.from_numpy(masks.sample_bits(grid, grid)))
        owner += [number] * len(colours)
        labels += colours
    images = F.interpolate(torch.stack(photos), (IMAGE_PX, IMAGE_PX), mode="bilinear")
    assert model.prompts is not None
    with torch.no_grad():
        pooled, _ = mask_pool(model.features(images), torch.cat(packed), torch.tensor(owner))
        assignment = model.assign(pooled, model.prompts())
    return assignment.cluster.numpy(), np.array(labels)


def purity(cluster: Labels, labels: Labels) -> float:
    """Share of masks whose colour is the most frequent one of their cluster."""
    table = np.zeros((CLUSTERS, 5))
    np.add.at(table, (cluster, labels), 1)
    return float(table.max(axis=1).sum() / len(labels))


@pytest.mark.slow
def test_clusters_follow_hidden_colours_and_collapse_without_balance(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = {}
    for name, config in (("balance", recipe()), ("nearest", recipe(balance=False))):
        data = case.dataset(tmp_path, config, count=24)
        clip = case.tiny_clip(seed=CLIP_SEED)
        with caplog.at_level(logging.WARNING, logger="maskcluster"):
            run = train(config, data, tmp_path / name, device=torch.device("cpu"), clip=clip)
        records = [json.loads(line) for line in run.log.read_text().splitlines()]
        assert records[-1]["loss"] < records[0]["loss"]
        model = load_model(run.checkpoint, clip=case.tiny_clip(seed=CLIP_SEED))
        found[name] = (records, *assign_unseen(model))

    records, cluster, labels = found["balance"]
    random = np.random.default_rng(0)
    chance = np.mean([purity(random.permutation(cluster), labels) for _ in range(20)])
    assert purity(cluster, labels) > chance + 0.1  # 0.50 and 0.35
    assert len(set(cluster.tolist())) >= CLUSTERS - 1
    assert not any(record["collapsed"] for record in records)

    records, cluster, _ = found["nearest"]
    assert len(set(cluster.tolist())) <= 2
    assert records[-1]["collapsed"] and records[-1]["clusters_used"] <= 2
    said = [message for message in caplog.messages if "the clustering has collapsed" in message]
    assert len(said) == 1 and "nearest: step 20:" in said[0] and "balance = true" in said[0]
    assert [record["step"] for record in records if "warning" in record] == [20]
