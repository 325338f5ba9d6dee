"""Photographs in the colours of clusters and names, and everything that `name` writes."""

import json
import logging
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import rgb2lab

from maskcluster.config import ClusterConfig, ModelConfig
from maskcluster.errors import DataError, FormatError, UsageError
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.rle import Rle
from maskcluster.model.clip import Clip
from maskcluster.model.pixelclip import PixelCLIP, clip_of
from maskcluster.model.prompts import FixedPrompts
from maskcluster.naming.explain import name, starting_rows
from maskcluster.naming.names import NamedCluster
from maskcluster.naming.palette import colours
from maskcluster.naming.pictures import draw_seen, paint, topmost
from maskcluster.naming.predictions import Seen, look, mask_counts, pixel_shares
from maskcluster.segmenting.segmenter import PixelCLIPSegmenter

tiny_clip = runpy.run_path(str(Path(__file__).with_name("restated_pixelclip.py")))["tiny_clip"]

MODEL = ModelConfig(architecture="ViT-B-16", pretrained="random")
CLUSTERS = ClusterConfig(clusters=5, tokens=2, eps=0.05)
NAMES = "sky,grass,dog,red car,house,tree"


def tiny(config: ClusterConfig = CLUSTERS) -> PixelCLIP:
    clip: Clip = tiny_clip()
    return PixelCLIP.from_config(MODEL, config, clip=clip)


def halves(height: int = 40, width: int = 60) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Red on the left, blue on the right."""
    photo = np.zeros((height, width, 3), np.uint8)
    photo[:, : width // 2, 0] = 255
    photo[:, width // 2 :, 2] = 255
    return photo


def two_masks(height: int = 40, width: int = 60) -> MaskSet:
    """All of the photograph, and a square in it."""
    whole, square = np.ones((2, height, width), np.bool_)
    square[:] = False
    square[10:20, 10:20] = True
    return MaskSet.of(height, width, [Rle.from_mask(square), Rle.from_mask(whole)])


@dataclass(frozen=True)
class Held:
    """Masks in memory."""

    of: Mapping[str, MaskSet]

    def keys(self) -> Sequence[str]:
        return sorted(self.of)

    def __getitem__(self, key: str) -> MaskSet:
        return self.of[key]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for at, key in enumerate(("a", "b <&'", "c", "deep/d")):
        photo = np.roll(halves(), 7 * at, axis=1)
        Image.fromarray(photo).save(folder / f"{key}.png")
    return folder


def test_colours_do_not_depend_on_how_many_there_are() -> None:
    many = colours(64)
    assert np.array_equal(colours(5), many[:5])
    places = rgb2lab(many[None])[0]  # (64, 3)
    apart = np.linalg.norm(places[:, None] - places, axis=2) + 100 * np.eye(64)
    assert apart.min() > 8
    assert apart[:20, :20].min() > 19
    assert colours(0).shape == (0, 3)


def test_smaller_masks_lie_above() -> None:
    top = topmost(two_masks(), 4, 6)
    assert top.tolist()[1] == [1, 0, 1, 1, 1, 1]
    assert (top == 0).sum() == 1


def test_paint_mixes_colour_with_grey_and_leaves_what_has_no_label() -> None:
    photo = halves(4, 8)
    labels = np.full((4, 8), -1)
    labels[:, :4] = 1
    found = paint(photo, labels, labels, alpha=0.5)
    assert np.array_equal(found[:, 4:], photo[:, 4:])
    want = np.rint(0.5 * 85 + 0.5 * colours(2)[1].astype(float))
    assert np.array_equal(found[1, 1], want.astype(np.uint8))
    np.testing.assert_allclose(found[1, 3], 0.35 * want, atol=1)  # the edge


def test_every_pixel_has_the_prompt_that_its_features_are_nearest_to() -> None:
    model = tiny().eval()
    photo = halves(64, 64)
    with torch.no_grad():
        features = model.features(torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255)
        left, right = features[0, :, 4, 1], features[0, :, 4, 6]
    model.prompts = FixedPrompts(torch.stack([-left, right - 0.5 * left, left - 0.5 * right]))
    (seen,) = look(model, {"a": photo}, {}, image_px=64, shown_px=32)
    assert seen.photo.shape == (32, 32, 3)
    assert (seen.cluster[:, 3:12] == 2).mean() > 0.9
    assert (seen.cluster[:, 20:29] == 1).mean() > 0.9
    shares = pixel_shares([seen], 3)
    assert sum(shares) == pytest.approx(1)
    assert shares[1] == (seen.cluster == 1).mean()


def test_masks_get_the_cluster_of_the_teachers_features() -> None:
    model = tiny(ClusterConfig(clusters=4, tokens=2, eps=0.05, balance=False)).eval()
    photo, masks = halves(64, 64), two_masks(64, 64)
    with torch.no_grad():
        image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
        whole = model.teacher(model.normalise(image)).mean(dim=(2, 3))  # (1, D)
        want = int((torch.nn.functional.normalize(whole) @ model.prompts().mT).argmax())  # type: ignore[misc]
    one, two = look(model, {"a": photo, "b": photo}, {"b": masks}, image_px=64, mask_px=64)
    assert one.mask_cluster is None
    assert two.mask_cluster is not None
    assert two.mask_cluster.shape == (2,)
    assert two.mask_cluster[1] == want
    counts = mask_counts([one, two], 4)
    assert sum(counts) == 2
    assert counts[want] >= 1


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(FormatError, match="'a': masks are of 30 x 60, the photograph is 40 x 60"):
        look(tiny().eval(), {"a": halves()}, {"a": two_masks(30, 60)}, image_px=32)


def test_a_picture_has_the_colours_of_clusters_and_names(tmp_path: Path) -> None:
    labels = np.zeros((40, 60), np.int64)
    labels[:, 30:] = 2
    seen = Seen(
        key="a",
        photo=np.full((40, 60, 3), 90, np.uint8),
        cluster=labels,
        masks=two_masks(),
        mask_cluster=np.array([1, 2]),
    )
    told = [NamedCluster(cluster=i, name=n, similarity=0.5) for i, n in enumerate("bab")]
    drawn = draw_seen(tmp_path / "deep" / "a.png", seen, told, ("a", "b"))
    again = draw_seen(tmp_path / "again.png", seen, told, ("a", "b"))
    assert drawn.read_bytes() == again.read_bytes()
    picture = np.asarray(Image.open(drawn))
    width = 230
    for panel, number in ((2, 1), (2, 2), (3, 0), (3, 2), (4, 1)):
        part = picture[84:, 10 + panel * width : 10 + (panel + 1) * width]
        assert (part == colours(3)[number]).all(axis=2).sum() > 150, (panel, number)
    last = picture[84:, 10 + 4 * width :]
    assert not (last == colours(3)[0]).all(axis=2).any()  # both halves are "b", the second name


def test_everything_is_written_and_linked(tmp_path: Path, photos: Path) -> None:
    model, out = tiny().train(), tmp_path / "out"
    masks = Held({key: two_masks() for key in ("a", "b <&'", "deep/d")})
    report = name(
        model,
        out,
        names=NAMES,
        photos=photos,
        masks=masks,
        start=starting_rows(model, CLUSTERS),
        image_px=32,
        mask_px=32,
    )
    assert model.training
    made = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    pictures = {f"photos/{key}.png" for key in masks.keys()}  # noqa: SIM118  # not a mapping
    assert made == pictures | {"index.html", "names.csv", "names.json", "names.md", "tsne.png"}
    page = report.page.read_text()
    assert "photos/b%20%3C%26%27.png" in page
    assert "<&" not in page
    stored = json.loads(report.table.read_text())["clusters"]
    assert [one["name"] for one in stored] == [one.name for one in report.clusters]
    assert sum(one["masks"] for one in stored) == 6
    assert sum(one["pixels"] for one in stored) == pytest.approx(1)
    assert report.lines()[0] == f"0\t{stored[0]['name']}\t{stored[0]['similarity']:.3f}"
    assert len(report.lines()) == 6


def test_names_alone_need_no_photographs(tmp_path: Path) -> None:
    report = name(tiny(), tmp_path, names=NAMES, runners_up=1)
    assert report.pictures == ()
    assert report.clusters[0].masks is None
    assert len(report.clusters[0].runners_up) == 1
    with pytest.raises(UsageError, match="has results; choose another folder or --overwrite"):
        name(tiny(), tmp_path, names=NAMES)
    name(tiny(), tmp_path, names=NAMES, overwrite=True)


def test_of_many_photographs_some_are_drawn(tmp_path: Path, photos: Path) -> None:
    report = name(tiny(), tmp_path / "out", names=NAMES, photos=photos, image_px=32, most=2)
    assert [path.name for path in report.pictures] == ["a.png", "d.png"]


def test_prompts_at_the_start_are_drawn_again_from_the_seed() -> None:
    model = PixelCLIP.from_config(MODEL, CLUSTERS, clip=tiny_clip(), seed=3)
    assert model.prompts is not None
    at_start = model.prompts().detach().clone()
    with torch.no_grad():
        model.prompts.tokens.add_(1)  # type: ignore[operator]  # of ClassPrompts
    assert not torch.allclose(model.prompts(), at_start)
    torch.testing.assert_close(starting_rows(model, CLUSTERS, seed=3), at_start)
    assert not torch.allclose(starting_rows(model, CLUSTERS, seed=4), at_start)


def test_names_are_embedded_as_the_segmenter_embeds_classes(tmp_path: Path) -> None:
    model = tiny()
    (tmp_path / "names.txt").write_text("cow, cattle\nsky\ntree\n")
    found = name(model, tmp_path / "out", names=str(tmp_path / "names.txt")).clusters
    words = ("cow, cattle", "sky", "tree")
    bank = PixelCLIPSegmenter(model, precision="float32").encode_classes(words)  # (3, D)
    assert model.prompts is not None
    cosine = F.normalize(model.prompts(), dim=1) @ bank.mT  # (K, 3)
    assert [one.name for one in found] == [words[at] for at in cosine.argmax(dim=1).tolist()]
    similarities = [one.similarity for one in found]
    assert similarities == pytest.approx(cosine.amax(dim=1).tolist(), abs=1e-5)


def test_the_clip_inside_keeps_its_colours() -> None:
    clip = clip_of(tiny())
    assert clip.mean == pytest.approx((0.48, 0.46, 0.41))
    assert clip.std == pytest.approx((0.27, 0.26, 0.28))


def test_what_cannot_be_is_said_before_anything_is_written(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "out"
    alone = tiny(ClusterConfig(targets="masks"))
    with pytest.raises(UsageError, match="trained without clustering: it has no class prompts"):
        name(alone, out, names=NAMES)
    with pytest.raises(DataError, match="none of 4 photographs has masks"):
        name(tiny(), out, names=NAMES, photos=photos, masks=Held({}))
    with pytest.raises(DataError, match="no such folder"):
        name(tiny(), out, names=NAMES, photos=tmp_path / "gone")
    assert not out.exists()


def test_progress_is_logged(tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="maskcluster.naming.explain"):
        name(tiny(), tmp_path / "out", names=NAMES, photos=photos, image_px=32, most=3)
    assert caplog.messages[-1] == "drew 3 of 3 photographs"
