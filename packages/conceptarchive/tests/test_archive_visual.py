from pathlib import Path

import numpy as np
import pytest

from conceptarchive import MentionFinder, Vocabulary, visualness
from conceptarchive.features.rows import RowFiles


def test_hand_worked_case() -> None:
    images = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], np.float32)
    vocabulary = Vocabulary(("dog", "morning", "cat"))
    features = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], np.float32)
    captions = ["a dog in the morning", "morning", "the dog", "nothing"]
    mentions = MentionFinder(vocabulary).find_all(captions)
    dog, morning, cat = visualness(images, features, mentions)
    assert dog == pytest.approx(1.0)  # mean 0.5, deviation 0.5, captioned 1 and 1
    assert morning == pytest.approx(0.0)  # captioned 0 and 1: no more than on average
    assert cat == 0.0  # never mentioned


def test_a_response_that_never_varies_is_not_visual() -> None:
    images = np.tile(np.array([[1.0, 0.0]], np.float32), (5, 1))
    vocabulary = Vocabulary(("dog",))
    mentions = MentionFinder(vocabulary).find_all(["dog", "", "", "dog", ""])
    features = np.array([[0.8, 0.6]], np.float32)
    assert visualness(images, features, mentions).tolist() == [0.0]


def test_words_used_at_random_score_far_below_words_that_fit() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 20_000)
    images = rng.normal(0, 0.3, (20_000, 8)).astype(np.float32)
    images[np.arange(20_000), kind] += 1
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    vocabulary = Vocabulary(("boat", "holiday"))
    captions = [
        ("boat " if k == 0 else "") + ("holiday" if rng.random() < 0.3 else "") for k in kind
    ]
    mentions = MentionFinder(vocabulary).find_all(captions)
    boat, holiday = visualness(images, np.eye(2, 8, dtype=np.float32), mentions)
    assert boat > 0.8
    assert abs(holiday) < 0.05


def test_is_what_every_response_gives_and_rows_may_lie_in_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(0.2, 1, (10_000, 6)).astype(np.float32)  # more than one block
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    features = rng.normal(0.2, 1, (30, 6)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    vocabulary = Vocabulary(tuple(f"w{number}" for number in range(30)))
    captions = [" ".join(rng.choice(vocabulary.names[:29], 3)) for _ in images]
    mentions = MentionFinder(vocabulary).find_all(captions)

    found = visualness(images, features, mentions)
    responses = images.astype(np.float64) @ features.T  # (n, V)
    for concept, name in enumerate(vocabulary.names[:29]):
        named = [name in caption.split() for caption in captions]
        gain = responses[named, concept].mean() - responses[:, concept].mean()
        assert found[concept] == pytest.approx(gain / responses[:, concept].std(), abs=1e-5)
    assert found[29] == 0.0  # in no caption

    np.save(tmp_path / "0.npy", images[:3000])
    np.save(tmp_path / "1.npy", images[3000:])
    paths = [tmp_path / "0.npy", tmp_path / "1.npy"]
    rows = RowFiles(paths, [3000, 7000], 6, np.float32)
    assert visualness(rows, features, mentions).tolist() == found.tolist()
