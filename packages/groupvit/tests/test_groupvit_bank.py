"""Text banks."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from groupvit import CheckpointError, GroupViT, GroupViTSegmenter, ModelConfig
from groupvit.config import TextConfig
from groupvit.data.tokens import tokenize
from groupvit.segmenting import bank as bank_module
from groupvit.texts import Texts


def exact(model: GroupViT) -> GroupViTSegmenter:
    return GroupViTSegmenter(model, precision="float32")


def test_prompts_are_projected_and_not_normalised(tiny_model: GroupViT) -> None:
    segmenter = GroupViTSegmenter(tiny_model.train(), name="mine", precision="float32")
    assert not tiny_model.training and segmenter.name == "mine"
    both = segmenter.encode_text(["a photo of a cat.", "a photo of a very long red sofa."])
    one = segmenter.encode_text(["a photo of a cat."])
    torch.testing.assert_close(both[:1], one, rtol=1e-5, atol=1e-5)
    assert both.dtype == torch.float32 and not torch.allclose(both.norm(dim=1), torch.ones(2))


def test_classes_are_averaged_before_they_are_normalised(
    tiny_model: GroupViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, templates = ["dog", "very green grass", "sky {x}"], ("a photo of a {}.", "{} itself")
    rows: list[Tensor] = []
    with torch.inference_mode():
        for name in names:
            filled = [f"a photo of a {name}.", f"{name} itself"]
            two = [tiny_model.encode_text(Texts.of(tokenize([text])))[0] for text in filled]
            rows.append(F.normalize(two[0] + two[1], dim=0))
    got = exact(tiny_model).encode_classes(names, templates)
    torch.testing.assert_close(got, torch.stack(rows), rtol=1e-5, atol=1e-5)
    assert got.shape == (3, 16)
    monkeypatch.setattr(bank_module, "BATCH", 1)  # of one class, then of one prompt
    again = exact(tiny_model).encode_classes(names, templates)
    torch.testing.assert_close(again, got, rtol=1e-5, atol=1e-5)


def test_one_template_is_the_default(tiny_model: GroupViT) -> None:
    segmenter = exact(tiny_model)
    rows = segmenter.encode_text(["a photo of a dog.", "a photo of a cat."])
    bank_rows = segmenter.encode_classes(["dog", "cat"])
    torch.testing.assert_close(bank_rows, F.normalize(rows, dim=-1))


def test_a_name_that_is_cut_is_named(
    tiny_model: GroupViT, caplog: pytest.LogCaptureFixture
) -> None:
    fits = " ".join(["dog"] * 70)  # and five words of the template: start and end make it 77
    segmenter = exact(tiny_model)
    segmenter.encode_classes(["cat", fits])
    assert not caplog.records
    segmenter.encode_classes(["cat", f"{fits} dog"])
    assert len(caplog.records) == 1
    assert "the name 'dog dog" in caplog.text and "longer than 77 tokens" in caplog.text


def test_a_model_of_other_tokens_reads_no_words(tiny_config: ModelConfig) -> None:
    text = tiny_config.text
    for other in (
        TextConfig(vocabulary=100, width=32, layers=1, heads=2),
        TextConfig(vocabulary=50000, width=32, layers=1, heads=2),
        TextConfig(context=76, width=32, layers=1, heads=2),
    ):
        config = ModelConfig(vision=tiny_config.vision, text=other, embed_dim=16)
        segmenter = GroupViTSegmenter(GroupViT(config))
        for read in (segmenter.encode_text, segmenter.encode_classes):
            with pytest.raises(CheckpointError, match="cannot be used with words"):
                read(["dog"])
        rows = F.normalize(torch.randn(2, 16), dim=1)
        segmenter.segment(torch.rand(3, 32, 32), rows)  # without words it works
    assert (text.vocabulary, text.context) == (49408, 77)


def test_what_is_no_text_is_named(tiny_model: GroupViT) -> None:
    segmenter = exact(tiny_model)
    with pytest.raises(ValueError, match="at least one prompt"):
        segmenter.encode_text([])
    with pytest.raises(ValueError, match="at least one name and one template, got "):
        segmenter.encode_classes([])
    with pytest.raises(ValueError, match=r"needs lists of at least one name .* got 'dog' and"):
        segmenter.encode_classes("dog")
    with pytest.raises(ValueError, match="needs a list of at least one prompt, got 'dog'"):
        segmenter.encode_text("dog")
    with pytest.raises(ValueError, match="a class needs a name, got ' '"):
        segmenter.encode_classes(["dog", " "])
    with pytest.raises(ValueError, match=r"a template needs one \{\}, got 'a photo'"):
        segmenter.encode_classes(["dog"], ["a photo"])
