"""Text banks: prompts on as many positions as they need, the order of averages, names of a file."""

import runpy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskcluster.errors import DataError, UsageError
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.model.prompts import TEMPLATES, TextTower
from maskcluster.segmenting import bank as banks
from maskcluster.segmenting.bank import class_bank, encode_prompts
from maskcluster.segmenting.segmenter import PixelCLIPSegmenter
from maskcluster.segmenting.words import read_names

HERE = Path(__file__).parent
restated = SimpleNamespace(**runpy.run_path(str(HERE / "restated_pixelclip.py")))


def tiny(*, custom_text: bool = False) -> PixelCLIP:
    return PixelCLIP(restated.tiny_clip(custom_text=custom_text), None).eval()


@pytest.mark.parametrize("custom_text", [False, True])
def test_prompts_are_open_clips_own_embeddings_on_77_positions(custom_text: bool) -> None:
    model = tiny(custom_text=custom_text)
    prompts = ["a photo of a cat.", "a very long prompt " * 40, "x"]
    want = model.clip.encode_text(model.tokenizer(prompts))  # type: ignore[operator]
    for found in (encode_prompts(model, prompts), encode_prompts(model, prompts[2:])):
        torch.testing.assert_close(found, want[-len(found) :], rtol=1e-5, atol=1e-5)
    assert float((want.norm(dim=1) - 1).abs().min()) > 1e-3  # not normalised


def test_short_prompts_take_few_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lengths = tiny(), []
    forward = TextTower.forward

    def counted(self: TextTower, embeddings: Tensor, last: Tensor) -> Tensor:
        lengths.append(embeddings.shape[1])
        return forward(self, embeddings, last)

    monkeypatch.setattr(TextTower, "forward", counted)
    monkeypatch.setattr(banks, "BATCH", 2)
    found = encode_prompts(model, ["a cat", "a dog on grass", "a"])
    assert lengths == [6, 3] and len(found) == 3


def by_letters(prompts: Sequence[str]) -> Tensor:
    """An embedding of any length: how often some letters are there."""
    counts = [[text.count(letter) + 0.5 for letter in "aeiorst"] for text in prompts]
    return torch.tensor(counts, dtype=torch.float64)


def test_a_bank_averages_synonyms_by_template_then_templates() -> None:
    names, templates = ["cat, tiger", "house"], ["a {}.", "the large {}"]
    found = class_bank(by_letters, names, templates)
    rows = []
    for name in names:
        means = []
        for template in templates:
            unit = [
                F.normalize(by_letters([template.format(word)]), dim=1)[0]
                for word in name.split(", ")
            ]
            means.append(F.normalize(torch.stack(unit).mean(dim=0), dim=0))
        rows.append(F.normalize(torch.stack(means).mean(dim=0), dim=0))
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-12, atol=1e-12)
    flat = by_letters([t.format(w) for t in templates for w in ("cat", "tiger")])
    pooled = F.normalize(F.normalize(flat, dim=1).mean(dim=0), dim=0)
    assert not torch.allclose(found[0], pooled, rtol=1e-6)  # the order matters


def test_the_published_eight_templates_are_the_default() -> None:
    segmenter = PixelCLIPSegmenter(tiny(), precision="float32")
    found = segmenter.encode_classes(["dog", "bed, cot"])
    prompts = [template.format("dog") for template in TEMPLATES]
    unit = F.normalize(segmenter.encode_text(prompts), dim=1)
    assert len(TEMPLATES) == 8
    torch.testing.assert_close(found[0], F.normalize(unit.mean(dim=0), dim=0))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def test_words_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one name"):
        class_bank(by_letters, [])
    with pytest.raises(ValueError, match="at least one name"):
        class_bank(by_letters, "dog")
    with pytest.raises(ValueError, match="needs a name, got ' '"):
        class_bank(by_letters, ["dog", " "])
    with pytest.raises(ValueError, match=r"one \{\}"):
        class_bank(by_letters, ["dog"], ["a photo"])
    with pytest.raises(ValueError, match="at least one prompt"):
        encode_prompts(tiny(), [])


def test_names_are_a_list_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("\ufeffbed, cot\n\n dog \n", encoding="utf-8")
    assert read_names(str(file)) == ("bed, cot", "dog")
    assert read_names("bed, dog,") == ("bed", "dog")
    assert read_names("dog") == ("dog",)
    with pytest.raises(DataError, match="no such file"):
        read_names(str(tmp_path / "no.txt"))
    for text, said in (("", "at least one"), ("a,,b", "is blank"), ("a,b,a", "twice: 'a'")):
        with pytest.raises(UsageError, match=said):
            read_names(text)
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="not a text file"):
        read_names(str(file))
