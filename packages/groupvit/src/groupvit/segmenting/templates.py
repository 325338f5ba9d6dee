"""Sentences around the name of a class."""

from typing import Literal

from groupvit.data.prompts import SIMPLE, TEMPLATES

TemplateSet = Literal["simple", "imagenet7", "clip80"]

IMAGENET_TEMPLATES = tuple(
    template
    for template in TEMPLATES
    if template
    in {
        "itap of a {}.",
        "a bad photo of a {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    }
)
"""The 7 of CLIP's 80 templates that GroupViT classifies ImageNet with."""

TEMPLATES_OF: dict[TemplateSet, tuple[str, ...]] = {
    "simple": SIMPLE,
    "imagenet7": IMAGENET_TEMPLATES,
    "clip80": TEMPLATES,
}
"""Sets by the name they have on the command line."""
