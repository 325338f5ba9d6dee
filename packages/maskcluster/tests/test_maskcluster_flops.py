"""Operations of a step, by closed forms."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.training.flops import peak_tflops, step_flops
from maskcluster.training.train import build_model

case = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("training_case.py"))))


def build(**changes: Any) -> tuple[PixelCLIP, Any]:
    config = case.changed(**changes)
    return build_model(config, torch.device("cpu"), clip=case.tiny_clip()), config


def test_a_cluster_more_adds_its_map_and_its_prompt() -> None:
    """spec 9.1: 515.3 MFLOP a map of 20 x 20, three times that with gradients."""
    sizes = {"crop_px": 160, "image_px": 160, "shortest_px": 160, "longest_px": 240}
    counts = {}
    for clusters in (2, 3):
        for batch in (1, 2):
            model, config = build(
                cluster={"clusters": clusters, "prompts": "frozen"},
                views=sizes,
                data={"batch": batch},
            )
            counts[clusters, batch] = step_flops(model, config)
    image = [counts[k, 2] - counts[k, 1] for k in (2, 3)]  # of one photograph
    assert abs((image[1] - image[0]) / (3 * 515.3e6) - 1) < 0.01


def test_recomputing_and_chunks_do_not_count() -> None:
    machine = {"recompute_decoder": True, "recompute_tower": True, "decoder_chunk": 2}
    plain, special = build(), build(machine=machine)
    assert step_flops(*plain) == step_flops(*special) > 0
    assert special[0].tower.recompute and special[0].decoder.recompute  # as they were
    assert all(p.grad is None for p in plain[0].parameters())


def test_frozen_parts_take_less_and_no_clusters_are_not_counted() -> None:
    assert step_flops(*build()) < step_flops(*build(model={"trainable": "all"}))
    assert step_flops(*build(cluster={"targets": "masks"})) == 0


def test_peaks_of_known_processors() -> None:
    assert peak_tflops("NVIDIA H200") == 989 and peak_tflops("NVIDIA H100 PCIe") == 756
    assert peak_tflops("Voodoo 2") == 0
