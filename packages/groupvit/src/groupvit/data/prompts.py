"""CLIP's 80 ImageNet templates, generated from their grammar."""

ARTICLES = ("a", "the")
PHOTOS = (
    "bad", "low resolution", "cropped", "bright", "close-up", "pixelated", "blurry", "good",
    "jpeg corrupted", "black and white", "dark",
)  # fmt: skip
PICTURES = (
    "rendering",
    "sculpture",
    "rendition",
    "drawing",
    "painting",
    "tattoo",
    "doodle",
    "sketch",
)
LOOKS = ("hard to see", "clean", "dirty", "cool", "large", "nice", "weird", "small")
MATERIALS = ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")


def _grammar() -> tuple[str, ...]:
    kinds = [f"{look} photo" for look in PHOTOS] + list(PICTURES)
    templates = [f"a {kind} of {article} {{}}." for kind in kinds for article in ARTICLES]
    templates += [
        f"{art} of {article} {{}}." for art in ("graffiti", "art") for article in ARTICLES
    ]
    templates += [f"a photo of {one} {{}}." for one in ("a", "the", "many", "my", "one")]
    templates += [f"a photo of {article} {look} {{}}." for look in LOOKS for article in ARTICLES]
    templates += [f"{article} {stuff} {{}}." for stuff in MATERIALS for article in ARTICLES]
    templates += [f"{article} {{}} in a video game." for article in ARTICLES]
    templates += [f"itap of {one} {{}}." for one in ("a", "the", "my")]
    return tuple(templates)


TEMPLATES = _grammar()
"""80 templates with one `{}` each."""

SIMPLE = ("a photo of a {}.",)
"""The template that segmentation is evaluated with."""

TEMPLATE_SETS = {"clip80": TEMPLATES, "simple": SIMPLE}
"""Sets by the name they have in a recipe."""
