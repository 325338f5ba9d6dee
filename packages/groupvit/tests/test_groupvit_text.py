"""The text tower, its tokenizer, the templates and the words drawn from captions."""

from typing import Any

import pytest
import torch

from groupvit import TextConfig
from groupvit.data.nouns import caption_words
from groupvit.data.prompts import TEMPLATES
from groupvit.model.text import TextTower, trim
from groupvit.data.tokens import CONTEXT, VOCABULARY, tokenize

CLASSIFICATION = (
    "itap of a {}.", "a bad photo of a {}.", "a origami {}.", "a photo of the large {}.",
    "a {} in a video game.", "art of the {}.", "a photo of the small {}.",
)  # fmt: skip
"""The subset that GroupViT's classification uses (spec 3.5)."""


def tower(**values: Any) -> TextTower:
    torch.manual_seed(0)
    return TextTower(TextConfig(width=32, layers=2, heads=2, **values)).eval()


def test_tokens_fill_the_context_and_end_with_the_highest_id() -> None:
    tokens = tokenize(["a cat", "word " * 200])
    assert tokens.shape == (2, CONTEXT)
    assert tokens.max(dim=1).values.tolist() == [VOCABULARY - 1] * 2
    assert int(tokens[1, -1]) == VOCABULARY - 1  # a long text fills it


def test_trimming_padding_changes_nothing() -> None:
    model, tokens = tower(), tokenize(["a cat", "two dogs on a red sofa", ""])
    trimmed = trim(tokens)
    assert trimmed.shape == (3, 8)
    torch.testing.assert_close(model(trimmed), model(tokens), rtol=1e-6, atol=1e-6)


def test_what_follows_the_end_is_ignored() -> None:
    model, tokens = tower(), tokenize(["a cat"])
    other = tokens.clone()
    other[0, 4:] = torch.randint(1, 49406, (73,))
    torch.testing.assert_close(model(other), model(tokens), rtol=1e-6, atol=1e-6)
    other[0, 20] = 49407  # a second end: the first one counts
    torch.testing.assert_close(model(other), model(tokens), rtol=1e-6, atol=1e-6)


def test_result_is_the_normed_state_at_the_end_token() -> None:
    model, tokens = tower(), tokenize(["a cat", "a cat on a mat"])
    x: Any = model.token_embedding(tokens) + model.positions
    for block in model.blocks:
        x = block(x)
    x = model.norm(x)
    torch.testing.assert_close(model(tokens), torch.stack([x[0, 3], x[1, 6]]))


def test_order_of_words_matters() -> None:
    model = tower()
    one, other = model(tokenize(["dog bites man", "man bites dog"]))
    assert not torch.allclose(one, other, atol=1e-4)


@torch.no_grad()
def test_initial_weights_follow_clip() -> None:
    torch.manual_seed(0)
    model = TextTower(TextConfig())
    assert sum(p.numel() for p in model.parameters()) == 22_145_792
    block: Any = model.blocks[7]
    for weight, want in (
        (model.token_embedding.weight, 0.02),
        (model.positions, 0.01),
        (block.attention.qkv.weight, 0.0625),
        (block.attention.out.weight, 0.01276),
        (block.mlp.fc1.weight, 0.0442),
        (block.mlp.fc2.weight, 0.01276),
    ):
        assert float(weight.std()) == pytest.approx(want, rel=0.02)
    assert not block.attention.qkv.bias.any() and not block.attention.out.bias.any()
    assert float(block.mlp.fc1.bias.abs().max()) == pytest.approx(256**-0.5, rel=0.02)


def test_known_token_ids() -> None:
    ids = tokenize(["a photo of a cat"])
    assert ids.shape == (1, 77) and ids.dtype == torch.int64
    assert ids[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert not ids[0, 7:].any()


def test_tokens_ignore_case_and_spaces_and_keep_the_end_of_long_texts() -> None:
    assert torch.equal(tokenize(["A  Photo of\ta CAT"]), tokenize(["a photo of a cat"]))
    long = tokenize(["cat " * 200])[0]
    assert long[-1] == 49407 and long[:-1].argmin() > 0 and bool((long[1:-1] == 2368).all())
    assert tokenize([""])[0, :3].tolist() == [49406, 49407, 0]


def test_templates_are_eighty_and_distinct() -> None:
    assert len(TEMPLATES) == len(set(TEMPLATES)) == 80
    assert all(one.count("{}") == 1 and one.endswith(".") for one in TEMPLATES)
    assert set(CLASSIFICATION) <= set(TEMPLATES)
    starts = {"a photo of": 21, "itap of": 3, "graffiti of": 2, "art of": 2}
    for start, count in starts.items():
        assert sum(one.startswith(start) for one in TEMPLATES) == count
    assert sum(" photo of " in one for one in TEMPLATES) == 22 + 21
    assert {"the plushie {}.", "a jpeg corrupted photo of the {}.", "a tattoo of a {}."} <= set(
        TEMPLATES
    )


def test_words_are_nouns_and_verbs_in_order() -> None:
    words = caption_words("A brown dog chases the ball and the dog jumps over a fence")
    assert words == ("dog", "chases", "ball", "dog", "jumps", "fence")


@pytest.mark.parametrize("caption", ["", "   ", "of the and", "!!! ...", "\u732b"])
def test_captions_without_words_give_none_or_themselves(caption: str) -> None:
    assert set(caption_words(caption)) <= {caption}
