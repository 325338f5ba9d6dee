"""Text banks."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segbench import FormatError, UsageError, build_bank, load_names, load_task, load_templates
from segbench.words import clean_name, fill_template, list_sets

ROWS = {"a cat": [3.0, 0.0], "cat!": [0.0, 1.0], "a dog": [0.0, 2.0], "dog!": [0.0, 5.0]}


def encode(prompts: Sequence[str]) -> Tensor:
    return torch.tensor([ROWS[prompt] for prompt in prompts])


def test_averaging_orders_by_hand() -> None:
    templates = ("a {}", "{}!")
    first = build_bank(encode, ["cat", "dog"], templates, "normalise_mean_normalise")
    torch.testing.assert_close(first, torch.tensor([[0.5**0.5, 0.5**0.5], [0, 1]]))
    second = build_bank(encode, ["cat", "dog"], templates, "mean_then_normalise")
    torch.testing.assert_close(second, torch.tensor([[3 / 10**0.5, 1 / 10**0.5], [0, 1]]))


def test_synonyms_are_averaged_by_template() -> None:
    rows = {"a x": [1.0, 0.0], "a y": [0.0, 4.0], "x": [1.0, 0.0], "y": [1.0, 0.0]}
    bank = build_bank(
        lambda prompts: torch.tensor([rows[p] for p in prompts]),
        ["x, y"],
        ["a {}", "{}"],
        split_synonyms=True,
    )
    by_template = torch.tensor([[0.5**0.5, 0.5**0.5], [1.0, 0.0]])
    torch.testing.assert_close(bank[0], F.normalize(by_template.mean(dim=0), dim=0))


def test_names_with_commas_stay_whole_unless_asked() -> None:
    asked: list[str] = []

    def note(prompts: Sequence[str]) -> Tensor:
        asked.extend(prompts)
        return torch.ones(len(prompts), 2)

    build_bank(note, ["bed, cot"], ["a {}."])
    assert asked == ["a bed, cot."]
    build_bank(note, ["bed, cot"], ["a {}."], split_synonyms=True)
    assert asked[1:] == ["a bed.", "a cot."]


def test_many_prompts_go_in_batches_and_stay_in_order() -> None:
    sizes: list[int] = []

    def count(prompts: Sequence[str]) -> Tensor:
        sizes.append(len(prompts))
        return F.one_hot(torch.tensor([int(p) for p in prompts]), 600).float()

    bank = build_bank(count, [str(n) for n in range(600)], ["{}"])
    assert torch.equal(bank.argmax(dim=1), torch.arange(600))
    assert max(sizes) <= 256


@pytest.mark.parametrize(
    ("template", "want"),
    [
        ("a {}.", "a owl."),
        ("a {c}.", "a owl."),
        ("There is {article} {category}.", "There is an owl."),
    ],
)
def test_templates_of_every_project_are_filled(template: str, want: str) -> None:
    assert fill_template(template, "owl") == want


def test_template_without_a_slot_is_refused() -> None:
    for template in ("a photo.", "a {article} photo."):
        with pytest.raises(FormatError, match="no slot"):
            fill_template(template, "cat")
    with pytest.raises(FormatError, match=r"unknown slot \{colour\}"):
        fill_template("a {colour} {}", "cat")


def test_every_template_of_every_set_has_a_slot() -> None:
    for name in list_sets("prompts"):
        for template in load_templates(name):
            assert "zebra" in fill_template(template, "zebra")


def test_groupvit_subset_is_not_clips_subset() -> None:
    ours, clips = load_templates("groupvit_simple:subset"), load_templates("clip_imagenet_7")
    assert len(ours) == len(clips) == 7
    assert set(ours) ^ set(clips) == {"a bad photo of a {}.", "a bad photo of the {}."}


def test_name_lists_have_their_lengths() -> None:
    lengths = {"voc21": 21, "coco_stuff171": 171, "ade847": 847, "imagenet_s919": 920, "pc459": 459}
    assert {name: len(load_names(name)) for name in lengths} == lengths
    assert load_names("voc21")[11] == "diningtable"
    assert load_names("voc21:groupvit")[11] == "table"


def test_unknown_sets_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'clip_imagenet_7'"):
        load_templates("clip_imagenet7")
    with pytest.raises(UsageError, match="unknown variant of voc21 'grupvit'"):
        load_names("voc21:grupvit")
    with pytest.raises(UsageError, match="'mappings' does not hold one name a class"):
        load_names("mappings")


def test_clean_name_strips_repeatedly_but_never_to_nothing() -> None:
    suffixes = load_task("coco128_panoptic133@groupvit").strip_suffixes
    assert clean_name("wall-other-merged", suffixes) == "wall"
    assert clean_name("wall-brick", suffixes) == "wall-brick"
    assert clean_name("-other", suffixes) == "-other"


@pytest.mark.parametrize("row", [[0.0, 0.0], [float("nan"), 1.0]])
def test_useless_embeddings_raise(row: list[float]) -> None:
    with pytest.raises(ValueError, match="zero or not finite"):
        build_bank(lambda prompts: torch.tensor([row] * len(prompts)), ["cat"], ["{}"])


def test_wrong_row_count_and_empty_input_raise() -> None:
    with pytest.raises(ValueError, match=r"2 prompts gave \(1, 4\)"):
        build_bank(lambda _: torch.ones(1, 4), ["cat", "dog"], ["{}"])
    with pytest.raises(ValueError, match="needs names and templates, got 0 and 1"):
        build_bank(encode, [], ["{}"])
