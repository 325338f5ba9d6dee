"""Find what captions leave out: a folder of pictures and captions to a concept archive.

    hatch run python examples/curate_a_folder.py [FOLDER]

The encoder here knows red, green and blue, so that nothing has to be downloaded; of photographs it
would be `OpenClipEncoder("ViT-B-16", pretrained="openai")`.
"""

import sys
from pathlib import Path

import torch
from PIL import Image

from conceptarchive import ArchiveConfig, Embeddings, Vocabulary, build_archive, embed

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


class Colours:
    """An encoder: how red, green and blue a picture is, and which colour a text names."""

    id = "colours"

    def encode_images(self, images):
        means = [image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)) for image in images]
        return torch.nn.functional.normalize(torch.tensor(means).float(), dim=1)

    def encode_texts(self, texts):
        rows = [[float(name in text) + 0.01 for name in COLOURS] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/curated")
(folder / "pairs").mkdir(parents=True, exist_ok=True)
for number in range(12):  # half a picture has another colour, which half of the captions name
    first, second = list(COLOURS)[number % 3], list(COLOURS)[(number + 1) % 3]
    picture = Image.new("RGB", (64, 64), COLOURS[first])
    picture.paste(COLOURS[second], (0, 0, 64, 32))
    picture.save(folder / "pairs" / f"{number:02d}.png")
    told = f"{first} and {second}" if number >= 6 else first
    (folder / "pairs" / f"{number:02d}.txt").write_text(f"a picture with {told} in it")

embed([folder / "pairs"], Colours(), folder / "embeddings")
pairs, words = Embeddings.open(folder / "embeddings"), Vocabulary(tuple(COLOURS))
rows = Colours().encode_texts(words.prompts()).numpy()
archive = build_archive(
    folder / "archive", anchors=pairs, pool=pairs, vocabulary=words, concept_features=rows,
    config=ArchiveConfig(neighbours=3),
)  # fmt: skip
for key in archive.keys[:3]:
    found = ", ".join(f"{concept.name} {concept.score:.2f}" for concept in archive.concepts(key))
    print(f"{archive.caption(key)!r} shows {found}")
