import numpy as np
import pytest

from maskcluster.errors import FormatError
from maskcluster.masks.mask_set import MaskRules, MaskSet, apply_rules, count_reasons
from maskcluster.masks.rle import Rle


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Rle:
    mask = np.zeros((10, 20), np.bool_)
    mask[y0:y1, x0:x1] = True
    return Rle.from_mask(mask)


def some_masks() -> MaskSet:
    masks = [
        rectangle(0, 0, 4, 5),
        rectangle(0, 0, 0, 0),
        rectangle(0, 0, 20, 10),
        rectangle(0, 0, 4, 5),
        rectangle(1, 1, 2, 2),
    ]
    return MaskSet.of(10, 20, masks, predicted_iou=[0.5, 1, 1, 0.9, 0.7])


def test_areas_boxes_and_filled_in_fields() -> None:
    masks = some_masks()
    assert masks.areas.tolist() == [20, 0, 200, 20, 1]
    assert masks.boxes[0].tolist() == [0, 0, 4, 5]
    assert masks.points[0].tolist() == [2, 2.5]
    assert masks.crops[0].tolist() == [0, 0, 20, 10]
    assert masks.stability.tolist() == [1] * 5


def test_rules_drop_what_teaches_nothing_and_count_it() -> None:
    kept = apply_rules(some_masks(), MaskRules())
    assert kept.areas.tolist() == [200, 20, 1]
    assert kept.predicted_iou.tolist() == pytest.approx([1, 0.9, 0.7])
    assert kept.dropped == {"empty": 1, "duplicate": 1}
    assert kept.describe() == ("3 masks; 1 of the whole photograph; dropped: 1 duplicate, 1 empty")


def test_full_and_small_masks_are_dropped_where_asked() -> None:
    kept = apply_rules(some_masks(), MaskRules(min_area=2, max_coverage=0.95, unique=False))
    assert kept.areas.tolist() == [20, 20]
    assert kept.dropped == {"empty": 1, "under 2 px": 1, "over 95% of the photograph": 1}


def test_of_thousands_the_largest_are_kept_in_their_order() -> None:
    masks = [rectangle(0, 0, 1 + i % 20, 1 + i // 20 % 10) for i in range(3000)]
    rules = MaskRules(max_masks=3, unique=False)
    kept = apply_rules(MaskSet.of(10, 20, masks), rules)
    assert kept.areas.tolist() == [200, 200, 200]
    assert kept.dropped == {"smaller than the 3 largest": 2997}


def test_rules_are_idempotent() -> None:
    once = apply_rules(some_masks(), MaskRules())
    twice = apply_rules(once, MaskRules())
    assert twice.masks == once.masks
    assert twice.dropped == once.dropped


def test_a_set_without_masks_stands_all_rules() -> None:
    kept = apply_rules(MaskSet.of(10, 20, []), MaskRules())
    assert len(kept) == 0
    assert kept.boxes.shape == (0, 4)
    assert kept.decode().shape == (0, 10, 20)
    assert kept.describe() == "0 masks"


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(FormatError, match="mask 1 is 20 x 10, the photograph 10 x 20"):
        MaskSet.of(10, 20, [rectangle(0, 0, 1, 1), Rle(20, 10, np.array([200]))])


def test_arrays_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="predicted_iou must be"):
        MaskSet.of(10, 20, [rectangle(0, 0, 1, 1)], predicted_iou=[1, 1])


def test_decoded_masks_are_the_sampled_ones() -> None:
    masks = some_masks()
    bits = masks.sample_bits(np.arange(10), np.arange(16))
    sampled = np.unpackbits(bits, axis=2, bitorder="little").view(np.bool_)
    assert np.array_equal(sampled, masks.decode()[:, :, :16])


@pytest.mark.parametrize("wrong", [{"min_area": 0}, {"max_masks": 0}, {"max_coverage": 1.5}])
def test_rules_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        MaskRules(**wrong)  # type: ignore[arg-type]


def test_reasons_are_counted_by_number_then_name() -> None:
    assert count_reasons({"b": 1, "a": 1, "c": 7}) == "7 c, 1 a, 1 b"
