"""The packages together: curate pairs, train on what was found, score it with and without masks.

    hatch run python examples/all_together.py [FOLDER]

They meet through files and protocols and never import each other. Images are compared by their
thumbnails and six steps teach nothing: `hatch run reproduce cocu` does the same in earnest.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch.nn.functional as F

from conceptarchive import ArchiveConfig, Embeddings, Vocabulary, build_archive
from groupvit import GroupViTSegmenter, PairDataset, index_shards, load_model, load_recipe, train
from maskcluster import Slic
from segbench import ScenesDataset, compare, evaluate, write_pairs


class InMasks:
    """Another segmenter's scores, averaged within superpixels."""

    def __init__(self, segmenter):
        self.segmenter, self.encode_text = segmenter, segmenter.encode_text
        self.name = f"{segmenter.name} in superpixels"

    def segment(self, image, bank):
        coarse = self.segmenter.segment(image, bank)[None]  # (1, K, h, w)
        scores = F.interpolate(coarse, image.shape[1:], mode="bilinear")[0]  # (K, H, W)
        for mask in Slic()((255 * image).byte().permute(1, 2, 0).numpy()).masks:
            scores[:, mask.to_mask()] = scores[:, mask.to_mask()].mean(dim=1, keepdim=True)
        return scores


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/together")
world = ScenesDataset(split="train", count=64, size_px=48)
pairs, _ = index_shards(write_pairs(world, folder / "pairs"), dataset="scenes")
captions = [pair.caption for pair in pairs]
small = np.stack([scene.image[4::8, 4::8].ravel() for scene in world]).astype(np.float32)
rows = small / np.linalg.norm(small, axis=1, keepdims=True)  # (n, D)

words = Vocabulary.mine(captions, min_count=3)
means = np.stack([rows[[word in said for said in captions]].mean(axis=0) for word in words.names])
means /= np.linalg.norm(means, axis=1, keepdims=True)  # a concept looks like what is called so
known = Embeddings.from_arrays([pair.id for pair in pairs], captions, rows)
method = ArchiveConfig(neighbours=8)
parts = {"vocabulary": words, "concept_features": means, "config": method}
archive = build_archive(folder / "archive", anchors=known, pool=known, **parts)

tiny = load_recipe("tiny")
data = replace(tiny.data, batch=8, workers=0, source="archive")
recipe = replace(tiny, data=data, optim=replace(tiny.optim, total_steps=6, warmup_steps=1))
source = archive.sampler("cluster")  # groupvit knows it as a ConceptSource
dataset = PairDataset.from_config(pairs, data, recipe.model.vision.image_px, source=source)
run = train(recipe, dataset, folder / "run")

plain = GroupViTSegmenter(load_model(run.checkpoint))
first, second = (evaluate(each, "scenes@whole", limit=5) for each in (plain, InMasks(plain)))
print(f"{second.summary()}\n{compare(first, second).summary()}")
