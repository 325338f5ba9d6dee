"""The text tower, its tokenizer, the templates and the words drawn from captions."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from groupvit import GroupViT, ModelConfig, TextConfig
from groupvit.data.nouns import caption_words
from groupvit.data.prompts import TEMPLATES
from groupvit.data.tokens import CONTEXT, VOCABULARY, tokenize
from groupvit.model.text import TextTower
from groupvit.released.layouts import to_layout
from groupvit.texts import Texts

CLASSIFICATION = (
    "itap of a {}.", "a bad photo of a {}.", "a origami {}.", "a photo of the large {}.",
    "a {} in a video game.", "art of the {}.", "a photo of the small {}.",
)  # fmt: skip
"""The subset that GroupViT's classification uses (spec 3.5)."""


CAPTIONS = ("a cat", "two dogs on a red sofa", "", "word " * 200, "a photo of the large cat")


def tower(**values: Any) -> TextTower:
    torch.manual_seed(0)
    return TextTower(TextConfig(width=32, layers=2, heads=2, **values)).eval().double()


def read(model: TextTower, texts: Texts) -> Tensor:
    """(n, C) of texts in their order."""
    result: Tensor = model.pick(model(texts.tokens, texts.positions, texts.owners), texts.ends)
    return result


def one_to_a_row(ids: Tensor) -> Texts:
    """Padded texts (n, T) as they are, each in a row of its own with all of its padding."""
    count, length = ids.shape
    return Texts(
        tokens=ids,
        positions=torch.arange(length).expand(count, -1),
        owners=torch.zeros_like(ids),
        ends=torch.arange(count) * length + ids.argmax(dim=1),
        longest=length,
        shape=(count,),
    )


def test_tokens_fill_the_context_and_end_with_the_highest_id() -> None:
    tokens = tokenize(["a cat", "word " * 200])
    assert tokens.shape == (2, CONTEXT)
    assert tokens.max(dim=1).values.tolist() == [VOCABULARY - 1] * 2
    assert int(tokens[1, -1]) == VOCABULARY - 1  # a long text fills it


@torch.no_grad()
@pytest.mark.parametrize("row", [1, 100, 128, 1000])
def test_packing_changes_nothing(row: int) -> None:
    model, ids = tower(), tokenize(CAPTIONS)
    texts = Texts.of(ids, row=row)
    assert texts.tokens.shape[1] == {1: 77, 100: 99, 128: 99, 1000: 99}[row]
    want = read(model, one_to_a_row(ids))
    torch.testing.assert_close(read(model, texts), want, rtol=0, atol=1e-13)


@torch.no_grad()
@pytest.mark.parametrize("caption", CAPTIONS, ids=len)
def test_one_text_alone_is_what_it_is_among_others(caption: str) -> None:
    model, ids = tower(), tokenize(CAPTIONS)
    alone = read(model, Texts.of(tokenize([caption])))
    among = read(model, Texts.of(ids))[CAPTIONS.index(caption)]
    torch.testing.assert_close(alone[0], among, rtol=0, atol=1e-13)


@torch.no_grad()
def test_order_of_texts_is_kept_whatever_row_they_are_in() -> None:
    model, ids = tower(), tokenize(CAPTIONS)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(read(model, Texts.of(ids[order])), read(model, Texts.of(ids))[order])


def test_nothing_leaks_between_texts_of_a_row() -> None:
    """The gradient of a text reaches all of its own tokens and places, and no others."""
    model = tower(vocabulary=100)
    ids = torch.tensor([[1, 2, 3, 95, 0], [11, 12, 96, 0, 0], [21, 22, 23, 24, 97]])
    texts = Texts.of(ids)
    assert len(texts.tokens) == 1  # all in one row
    upstream = torch.randn(32, dtype=torch.float64)
    for own, row in zip(ids.tolist(), read(model, texts), strict=True):
        grads = torch.autograd.grad(
            row @ upstream, [model.token_embedding.weight, model.positions], retain_graph=True
        )
        tokens, places = (grad.abs().amax(dim=1) for grad in grads)
        assert tokens.nonzero().flatten().tolist() == [token for token in own if token]
        assert places.nonzero().flatten().tolist() == list(range(sum(token > 0 for token in own)))
        assert float(tokens[tokens > 0].min()) > 1e-6  # more than rounding


def test_what_follows_the_end_is_ignored() -> None:
    model, tokens = tower(), tokenize(["a cat"])
    other = tokens.clone()
    other[0, 4:] = torch.randint(1, 49406, (73,))
    other[0, 20] = 49407  # a second end: the first one counts
    for make in (Texts.of, one_to_a_row):
        torch.testing.assert_close(read(model, make(other)), read(model, make(tokens)))


def test_result_is_the_normed_state_at_the_end_token() -> None:
    model, ids = tower(), tokenize(["a cat", "a cat on a mat"])
    later = torch.full((77, 77), float("-inf"), dtype=torch.float64).triu(1)
    x: Any = model.token_embedding(ids) + model.positions
    for block in model.blocks:
        x = block(x, None, later)
    x = model.norm(x)
    want = torch.stack([x[0, 3], x[1, 6]])
    torch.testing.assert_close(read(model, Texts.of(ids)), want, rtol=0, atol=1e-13)


def test_published_tower_reads_as_restated(restated: SimpleNamespace) -> None:
    torch.manual_seed(0)
    model = GroupViT(ModelConfig()).eval()
    ids = tokenize(CAPTIONS)
    with torch.no_grad():
        got = read(model.text, Texts.of(ids))
        want = restated.read(to_layout(model.state_dict(), "nvlabs"), ids, 4)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_too_long_a_text_is_an_error(tiny_config: ModelConfig) -> None:
    model = GroupViT(tiny_config)
    ids = torch.randint(1, 49406, (2, 90))
    ids[:, 80] = 49407
    with pytest.raises(ValueError, match="at most 77 tokens, got 81"):
        model.encode_text(Texts.of(ids))


def test_order_of_words_matters() -> None:
    one, other = read(tower(), Texts.of(tokenize(["dog bites man", "man bites dog"])))
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
