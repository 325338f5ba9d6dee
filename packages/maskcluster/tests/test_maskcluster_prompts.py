"""Class prompts: the text they stand in, where they start, and where gradients go."""

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskcluster.model.clip import Clip
from maskcluster.model.prompts import (
    TEMPLATE,
    TEMPLATES,
    ClassPrompts,
    DirectPrompts,
    FixedPrompts,
    TextTower,
    name_rows,
    name_tokens,
    vocabulary_tokens,
)

restated = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("restated_pixelclip.py"))))


@pytest.fixture(scope="module")
def clip() -> Clip:
    made: Clip = restated.tiny_clip()
    made.model.eval().requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def text(clip: Clip) -> TextTower:
    return TextTower(clip)


def test_the_text_is_the_published_thirteen_tokens(clip: Clip, text: TextTower) -> None:
    prompts = ClassPrompts(text, torch.full((1, 4, 16), 7.0))
    embeddings, last = prompts.embeddings()
    around = [49406, 320, 1125, 539, 320, 0, 0, 0, 0, 530, 518, 3562, 49407]
    want = clip.model.token_embedding.weight[around].clone()  # type: ignore[index, union-attr]
    want[5:9] = 7.0
    assert embeddings.shape == (1, 13, 16) and last.tolist() == [12]
    torch.testing.assert_close(embeddings[0], want)


@pytest.mark.parametrize("custom_text", [False, True])
def test_thirteen_positions_give_what_77_give(custom_text: bool) -> None:
    clip = restated.tiny_clip(custom_text=custom_text)
    clip.model.eval().requires_grad_(False)
    text = TextTower(clip)
    tokens = vocabulary_tokens(text, 6, 4, generator=torch.Generator().manual_seed(0))
    prompts = ClassPrompts(text, tokens)
    found = []
    for rows in (prompts(), restated.plain_prompts(prompts, clip.model)):
        prompts.zero_grad()
        (rows * torch.arange(20.0)).sum().backward()
        assert prompts.tokens.grad is not None
        found.append((rows, prompts.tokens.grad.clone()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_published_text_towers_give_the_same_on_thirteen_positions() -> None:
    """True sizes, random weights: the towers of ViT-B/16 and of ConvNeXt-B."""
    import open_clip
    from open_clip.model import CLIP

    for architecture in ("ViT-B-16-quickgelu", "convnext_base_w_320"):
        sizes = open_clip.get_model_config(architecture)
        quick = sizes.get("quick_gelu", False)
        small = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
        words = {**sizes["text_cfg"], "layers": 3}  # of 12, for time
        model = CLIP(sizes["embed_dim"], small, words, quick_gelu=quick).eval()
        tokenizer = open_clip.get_tokenizer(architecture)
        clip = Clip(model=model, tokenizer=tokenizer, mean=(0.5,) * 3, std=(0.5,) * 3)
        text = TextTower(clip)
        got = name_rows(text, ["cat"], [TEMPLATE])
        with torch.no_grad():
            want = model.encode_text(tokenizer([TEMPLATE.format("cat")]), normalize=True)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_a_prompt_made_of_a_name_is_that_name(clip: Clip, text: TextTower) -> None:
    """One token that is the word's gives what open_clip gives for the sentence."""
    prompts = ClassPrompts(text, name_tokens(text, ["cat", "dog"], 1))
    sentences = clip.tokenizer([TEMPLATE.format(name) for name in ("cat", "dog")])
    want = clip.model.encode_text(sentences, normalize=True)  # type: ignore[operator]
    torch.testing.assert_close(prompts(), want)
    torch.testing.assert_close(name_rows(text, ["cat", "dog"], [TEMPLATE]), want)


def test_names_of_other_lengths_are_repeated_or_cut(text: TextTower) -> None:
    ids = [text.ids(word)[1] for word in ("traffic", "light")]
    want = text.embed(torch.tensor([ids[0], ids[1], ids[0]]))
    torch.testing.assert_close(name_tokens(text, ["traffic light"], 3)[0], want)
    torch.testing.assert_close(name_tokens(text, ["traffic light"], 1)[0], want[:1])
    with pytest.raises(ValueError, match="at least one token, got ''"):
        name_tokens(text, [""], 2)


def test_an_ensemble_is_the_mean_of_its_templates(text: TextTower) -> None:
    tokens = vocabulary_tokens(text, 3, 2, generator=torch.Generator().manual_seed(0))
    each = torch.stack([ClassPrompts(text, tokens, templates=(one,))() for one in TEMPLATES])
    want = F.normalize(each.mean(dim=0), dim=-1)
    got = ClassPrompts(text, tokens, templates=TEMPLATES)()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(got, each[-1], atol=1e-3)


def test_gradients_reach_the_tokens_and_nothing_else(clip: Clip, text: TextTower) -> None:
    prompts = ClassPrompts(text, torch.randn(3, 4, 16))
    prompts().sin().sum().backward()
    assert [name for name, _ in prompts.named_parameters()] == ["tokens"]
    assert list(prompts.state_dict()) == ["tokens"]
    assert prompts.tokens.grad is not None
    assert bool((prompts.tokens.grad.abs().amax(dim=2) > 0).all())
    assert all(p.grad is None for p in clip.model.parameters())


def test_frozen_prompts_do_not_train(text: TextTower) -> None:
    prompts = ClassPrompts(text, torch.randn(3, 4, 16), learnt=False)
    assert not prompts().requires_grad


def test_random_words_are_of_the_vocabulary_and_of_the_seed(clip: Clip, text: TextTower) -> None:
    generator = torch.Generator().manual_seed(0)
    first = vocabulary_tokens(text, 64, 4, generator=generator)
    again = vocabulary_tokens(text, 64, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first, again) and first.shape == (64, 4, 16)
    assert not torch.equal(first, vocabulary_tokens(text, 64, 4, generator=generator))
    table: Any = clip.model.token_embedding.weight  # type: ignore[union-attr]
    nearest = torch.cdist(first.view(-1, 16), table).argmin(dim=1)
    torch.testing.assert_close(table[nearest].view_as(first), first)


def test_random_words_leave_out_the_last_ten() -> None:
    text: Any = SimpleNamespace(
        vocabulary=15, device=torch.device("cpu"), embed=lambda ids: ids[..., None]
    )
    ids = vocabulary_tokens(text, 100, 4, generator=torch.Generator().manual_seed(0))
    assert set(ids.flatten().tolist()) == {0, 1, 2, 3, 4}


def test_direct_prompts_are_rows_that_learn() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    prompts = DirectPrompts(rows)
    torch.testing.assert_close(prompts(), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    prompts().sum().backward()
    assert prompts.rows.grad is not None and prompts.clusters == 2


def test_fixed_prompts_are_rows_that_do_not() -> None:
    prompts = FixedPrompts(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    torch.testing.assert_close(prompts(), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert not list(prompts.parameters()) and list(prompts.state_dict()) == ["rows"]


def test_what_is_no_prompt_is_refused(text: TextTower) -> None:
    with pytest.raises(ValueError, match=r"tokens must be \(K, l, 16\), none of them 0"):
        ClassPrompts(text, torch.zeros(3, 4, 8))
    with pytest.raises(ValueError, match=r"must have one {}, got 'a photo'"):
        ClassPrompts(text, torch.zeros(3, 4, 16), templates=("a photo",))
    with pytest.raises(ValueError, match="at most 77 tokens with its template, got 79"):
        ClassPrompts(text, torch.zeros(3, 70, 16))
    with pytest.raises(ValueError, match="at least one template"):
        ClassPrompts(text, torch.zeros(3, 4, 16), templates=())
    with pytest.raises(ValueError, match=r"prompts must be \(K, D\)"):
        DirectPrompts(torch.zeros(3))
    with pytest.raises(ValueError, match="texts must have at most 77 tokens, got 78"):
        text(torch.zeros(1, 78, 16), torch.tensor([77]))


def with_text(**change: Any) -> Clip:
    """A small CLIP whose text tower is another one, with CLIP's own tokenizer."""
    from open_clip.model import CustomTextCLIP

    torch.manual_seed(0)
    model = CustomTextCLIP(20, restated.VISION["vit"], {**restated.TEXT, **change}).eval()
    restated.roughen(model)
    tokenizer = restated.tiny_clip().tokenizer
    return Clip(model=model, tokenizer=tokenizer, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize(
    "change",
    [
        {"no_causal_mask": True},  # MobileCLIP
        {"pool_type": "last"},
        {"no_causal_mask": True, "pool_type": "last"},  # SigLIP
    ],
    ids=str,
)
def test_where_padding_is_read_prompts_run_on_all_positions(change: dict[str, Any]) -> None:
    clip = with_text(**change)
    own: Any = clip.model
    text = TextTower(clip)
    assert text.ids("a cat") == [49406, 320, 2368, 49407]
    names = ["cat", "dog"]
    want = own.encode_text(clip.tokenizer([TEMPLATE.format(n) for n in names]), normalize=True)
    prompts = ClassPrompts(text, name_tokens(text, names, 1))
    torch.testing.assert_close(prompts(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(name_rows(text, names, [TEMPLATE]), want, rtol=1e-5, atol=1e-5)
    rows = clip.tokenizer(["a cat", "", "word " * 99])
    torch.testing.assert_close(text.read(rows), own.encode_text(rows), rtol=1e-5, atol=1e-5)


def test_text_towers_that_are_read_otherwise_are_refused(clip: Clip) -> None:
    masked = with_text(no_causal_mask=True)
    masked.model.text.use_pad_mask = True  # type: ignore[union-attr]
    for other, said in (
        (with_text(embed_cls=True), "ends in a class token"),
        (with_text(pool_type="first"), "a tower that pools first"),
        (masked, "masks padding"),
        (replace(clip, model=nn.Linear(2, 2)), "must be open_clip's own, got Linear"),
    ):
        with pytest.raises(ValueError, match=said):
            TextTower(other)
