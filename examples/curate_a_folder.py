"""Find what captions leave out: a folder of pictures and captions to a concept archive.

    hatch run python examples/curate_a_folder.py [FOLDER] [OUT]

FOLDER has KEY.jpg beside KEY.txt; without one, twelve pictures are drawn. The encoder here compares
thumbnails, so that nothing has to be downloaded; of photographs it would be
`OpenClipEncoder("ViT-B-16", pretrained="openai")`, which embeds the concepts' prompts too.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import normalize

from conceptarchive import ArchiveConfig, Embeddings, Vocabulary, build_archive, embed


class Thumbnails:
    """An encoder of pictures alone: 4 x 4 pixels of each."""

    id = "thumbnails"

    def encode_images(self, images):
        small = [image.convert("RGB").resize((4, 4), Image.Resampling.BOX) for image in images]
        return normalize(torch.tensor([list(one.tobytes()) for one in small]).float())  # (n, 48)


def draw(folder):
    """Fire, grass or sky, and another of them that only half of the captions name."""
    folder.mkdir(parents=True, exist_ok=True)
    colours = {"fire": "red", "grass": "green", "sky": "blue"}
    for number in range(12):
        first, second = (list(colours)[(number + n) % 3] for n in (0, 1))
        picture = Image.new("RGB", (64, 64), colours[first])
        picture.paste(colours[second], (0, 0, 64, 32))
        picture.save(folder / f"{number:02d}.png")
        told = f"{first} and {second}" if number >= 6 else first
        (folder / f"{number:02d}.txt").write_text(f"a picture of {told}")


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/drawn")
out = Path(sys.argv[2] if len(sys.argv) > 2 else f"runs/curated/{folder.resolve().name}")
if len(sys.argv) == 1:  # none of your own
    draw(folder)
embed([folder], Thumbnails(), out / "embeddings", with_text=False)
pairs = Embeddings.open(out / "embeddings")
captions = [caption.lower() for caption in pairs.captions]
words = Vocabulary.mine(captions, min_count=1)
rows = torch.tensor(pairs.image[:]).float()  # (n, D)
looks = [rows[[word in said for said in captions]].mean(dim=0) for word in words.names]
archive = build_archive(
    out / "archive", anchors=pairs, pool=pairs, vocabulary=words,
    concept_features=normalize(torch.stack(looks)).numpy(),  # it looks like what is called so
    config=ArchiveConfig(neighbours=min(3, len(pairs) - 1)),
)  # fmt: skip
for key in archive.keys[:3]:
    found = ", ".join(f"{concept.name} {concept.score:.2f}" for concept in archive.concepts(key))
    print(f"{archive.caption(key)!r} shows {found}")
