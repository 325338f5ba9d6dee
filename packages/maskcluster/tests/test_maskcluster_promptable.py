import runpy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from maskcluster.errors import CheckpointError, DataError, UsageError
from maskcluster.generators.promptable import TransformersSam, load_sam
from maskcluster.generators.sam import SamMasks, SamOptions

transformers = pytest.importorskip("transformers")

Photo = npt.NDArray[np.uint8]
restated_masks = runpy.run_path(str(Path(__file__).with_name("restated_sam.py")))["restated_masks"]


def tiny_sam(**changes: Any) -> Any:
    torch.manual_seed(0)
    vision = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 16, "output_channels": 32, "num_pos_feats": 16, "window_size": 2,
        "global_attn_indexes": [1], "mlp_dim": 64, "initializer_range": 0.5,
    }  # fmt: skip
    prompt = {"hidden_size": 32, "image_size": 64, "patch_size": 16}
    mask = {
        "hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32,
    }  # fmt: skip
    config = transformers.SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=mask | changes
    )
    return spread(transformers.SamModel(config))


def tiny_sam2() -> Any:
    torch.manual_seed(0)
    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 16, "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 1, 1, 1], "window_size_per_stage": [4, 2, 2, 2],
        "global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4],
    }  # fmt: skip
    vision = {
        "backbone_config": backbone, "backbone_channel_list": [128, 64, 32, 16],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 32,
    }  # fmt: skip
    config = transformers.Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32,
        },
    )  # fmt: skip
    return spread(transformers.Sam2Model(config))


def spread(model: Any) -> Any:
    """Random weights large enough that masks differ from point to point."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def photo_of(height: int, width: int) -> Photo:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("make", [tiny_sam, tiny_sam2])
def test_three_masks_and_scores_for_each_point(make: Any) -> None:
    model = TransformersSam(make(), {"model": "tiny"})
    encoded = model.encode(photo_of(50, 70))
    logits, iou = model.predict(encoded, np.array([[10.0, 20], [60, 5]]))
    assert logits.shape == (2, 3, 16, 16)
    assert iou.shape == (2, 3)
    assert model.upsample(encoded, logits[0]).shape == (3, 50, 70)
    one, _ = model.predict(encoded, np.array([[60.0, 5]]))
    assert torch.allclose(one[0], logits[1], atol=1e-4)
    assert not torch.allclose(logits[0], logits[1], atol=1e-2)


@pytest.mark.parametrize("size", [(50, 70), (70, 50), (64, 64), (200, 130)])
def test_sam_is_asked_as_its_own_processor_asks(size: tuple[int, int]) -> None:
    processor = transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16}, mask_pad_size={"height": 16, "width": 16},
    )  # fmt: skip
    raw = tiny_sam().eval()
    model = TransformersSam(raw, {})
    photo = photo_of(*size)
    theirs = processor(images=photo, return_tensors="pt")
    with torch.no_grad():
        embedded = raw.get_image_embeddings(theirs["pixel_values"])
    encoded = model.encode(photo)
    assert torch.equal(torch.tensor(encoded[2]), theirs["reshaped_input_sizes"][0])
    assert (encoded[0] - embedded).abs().mean() < 0.02 * embedded.std()  # uint8 rounding
    logits, _ = model.predict(encoded, np.array([[10.0, 20]]))
    expected = processor.post_process_masks(
        [logits], theirs["original_sizes"], theirs["reshaped_input_sizes"], binarize=False
    )
    assert torch.allclose(model.upsample(encoded, logits[0]), expected[0][0], atol=1e-4)


def test_sam2_is_asked_as_its_own_processor_asks() -> None:
    processor = transformers.Sam2ImageProcessor(
        size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16}
    )
    raw = tiny_sam2().eval()
    model = TransformersSam(raw, {})
    photo = photo_of(50, 70)
    theirs = processor(images=photo, return_tensors="pt")
    with torch.no_grad():
        embedded = raw.get_image_embeddings(theirs["pixel_values"])
    encoded = model.encode(photo)
    for ours, their in zip(encoded[0], embedded, strict=True):
        assert (ours - their).abs().mean() < 0.02 * their.std()
    logits, _ = model.predict(encoded, np.array([[10.0, 20]]))
    expected = processor.post_process_masks([logits], [(50, 70)], binarize=False)
    assert torch.allclose(model.upsample(encoded, logits[0]), expected[0][0], atol=1e-4)


@pytest.mark.parametrize("make", [tiny_sam, tiny_sam2])
@pytest.mark.parametrize("layers", [0, 1])
def test_all_is_as_in_plain_code_with_a_random_model(make: Any, layers: int) -> None:
    model = TransformersSam(make(), {})
    photo = photo_of(50, 70)
    logits, _ = model.predict(model.encode(photo), np.array([[35.0, 25]]))
    opts = SamOptions(
        points_per_side=4, points_per_batch=5, iou_threshold=-1e9, stability_threshold=0.3,
        mask_threshold=float(logits.median()), stability_offset=float(logits.std()) / 10,
        crop_layers=layers, crop_edge_px=1, min_region_px=3, box_nms=1.0, crop_nms=1.0,
    )  # fmt: skip
    made, expected = SamMasks(model, opts)(photo), restated_masks(model, photo, opts)
    assert len(made) == len(expected) > 1
    for mask, row in zip(made.masks, expected, strict=True):
        differing = (mask.to_mask() != row[0]).sum()
        assert differing <= 2  # points of a batch are rounded otherwise than one at a time


@pytest.mark.parametrize("make", [tiny_sam, tiny_sam2])
def test_a_folder_is_loaded_to_the_same_model(make: Any, tmp_path: Path) -> None:
    raw = make()
    raw.save_pretrained(tmp_path)
    loaded = load_sam(str(tmp_path))
    assert len(loaded.description["weights_sha256"]) == 1
    photo, points = photo_of(40, 60), np.array([[30.0, 20]])
    ours = TransformersSam(raw, {})
    expected, _ = ours.predict(ours.encode(photo), points)
    found, _ = loaded.predict(loaded.encode(photo), points)
    assert torch.allclose(found, expected, atol=1e-5)


def test_what_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        load_sam(str(tmp_path / "none"))
    assert "\n" not in str(caught.value)


def test_another_model_is_refused(tmp_path: Path) -> None:
    config = transformers.CLIPConfig()
    config.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="'clip'"):
        load_sam(str(tmp_path))


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny_sam().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {k: v for k, v in load_file(path).items() if "iou_prediction_head" not in k}
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="iou_prediction_head"):
        load_sam(str(tmp_path))
