"""Segment a photograph with words of your own, and write it tinted with a legend.

    hatch run python examples/segment_a_photo.py [RUN] [PHOTO] [WORDS]

RUN is that of examples/train_groupvit.py, which runs first; a released checkpoint is opened by
`load_released`.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from groupvit import GroupViTSegmenter, draw_overlay, load_model, open_photo
from segbench import ScenesDataset

given = dict(enumerate(sys.argv))
run, photo = Path(given.get(1, "runs/trained/run")), Path(given.get(2, "runs/scene.png"))
words = [word.strip() for word in given.get(3, "grass, sky, house, sheep").split(",")]
if not run.exists():
    sys.exit(f"{run}: no such run; first run examples/train_groupvit.py, which makes runs/trained")
if not photo.exists():  # none of your own: a scene of the world that the example trains on
    photo.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ScenesDataset(split="val", count=1, size_px=240)[0].image).save(photo)

segmenter = GroupViTSegmenter(load_model(run))
bank = segmenter.encode_classes(words)  # (K, D) unit rows
picture = open_photo(photo)  # (H, W, 3)
labels = segmenter.label(picture, bank, window_px=None, short_px=64).numpy()  # (H, W)

share = np.bincount(labels.ravel(), minlength=len(words)) / labels.size
print("; ".join(f"{word} {part:.0%}" for word, part in zip(words, share, strict=True)))
out = photo.with_name(f"{photo.stem}-segmented.png")
draw_overlay(picture, labels, words).save(out)
print(f"overlay: {out}")
