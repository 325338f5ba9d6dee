"""Small made-up data: shards, an encoder without weights, embeddings with words for concepts."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from conceptarchive import Embeddings, Vocabulary

MakeTar = Callable[[Path, Sequence[tuple[str, bytes]]], Path]
MakeRows = Callable[[int, int, int], npt.NDArray[np.float32]]
MakePairs = Callable[..., tuple[Embeddings, Vocabulary, npt.NDArray[np.float32]]]


class TinyEncoder:
    """Colours of four quarters for images, a hash for texts; 12 numbers a row."""

    id = "tiny"

    def __init__(self) -> None:
        self.images_seen = 0

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        self.images_seen += len(images)
        small = [np.asarray(image.resize((2, 2)), np.float32).reshape(12) + 1 for image in images]
        return torch.nn.functional.normalize(torch.from_numpy(np.stack(small)), dim=1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        digests = [hashlib.sha256(text.encode()).digest()[:12] for text in texts]
        rows = torch.tensor([list(digest) for digest in digests], dtype=torch.float32) - 127.5
        return torch.nn.functional.normalize(rows, dim=1)


@pytest.fixture
def tiny_encoder() -> TinyEncoder:
    return TinyEncoder()


@pytest.fixture
def jpeg() -> Callable[[int], bytes]:
    """Bytes of a small picture, different for every seed."""

    def make(seed: int) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((32, 32)).save(buffer, "JPEG")
        return buffer.getvalue()

    return make


@pytest.fixture
def make_tar() -> MakeTar:
    """Write a tar of named files."""

    def make(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for name, data in files:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return make


@pytest.fixture
def unit_rows() -> MakeRows:
    """Random unit rows (n, D), leaning to one side as CLIP's do."""

    def make(n: int, dim: int, seed: int) -> npt.NDArray[np.float32]:
        rows = np.random.default_rng(seed).standard_normal((n, dim)) + 0.5
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    return make


@pytest.fixture
def make_pairs(unit_rows: MakeRows) -> MakePairs:
    """Random pairs whose captions are words of a random vocabulary; some images are duplicates."""

    def make(
        n: int, concepts: int = 30, dim: int = 16, seed: int = 0, prefix: str = "set/a/"
    ) -> tuple[Embeddings, Vocabulary, npt.NDArray[np.float32]]:
        random = np.random.default_rng(seed)
        image = unit_rows(n, dim, seed)
        image[random.integers(0, n, n // 5)] = image[random.integers(0, n, n // 5)]
        words = [f"w{number}" for number in range(concepts)]
        captions = [" ".join(random.choice(words, random.integers(0, 5))) for _ in range(n)]
        keys = [f"{prefix}{number:04d}" for number in range(n)]
        pairs = Embeddings.from_arrays(keys, captions, image, unit_rows(n, dim, seed + 1))
        return pairs, Vocabulary(tuple(words)), unit_rows(concepts, dim, 99)

    return make
