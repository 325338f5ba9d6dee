"""Name the clusters of a trained model, and draw them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maskcluster.config import ClusterConfig
from maskcluster.errors import DataError, MaskClusterError, UsageError
from maskcluster.files import sweep
from maskcluster.masks.mask_set import MaskSet, MaskSource
from maskcluster.masks.photo_files import Photo, find_photos, open_photo
from maskcluster.model.pixelclip import PixelCLIP, build_prompts, clip_of
from maskcluster.naming.names import (
    NamedCluster,
    name_clusters,
    read_names,
    short_name,
    write_names,
)
from maskcluster.naming.page import write_page
from maskcluster.naming.pictures import draw_seen
from maskcluster.naming.predictions import Seen, look, mask_counts, pixel_shares
from maskcluster.naming.tsne import draw_tsne, tsne
from maskcluster.segmenting.bank import class_bank, encode_prompts

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class NameReport:
    """What was found, and where it is."""

    clusters: tuple[NamedCluster, ...]
    """All K."""

    table: Path
    """names.json; names.md and names.csv are beside it."""

    plot: Path
    """tsne.png."""

    pictures: tuple[Path, ...]
    """Of photographs."""

    page: Path
    """index.html, which shows all."""

    def lines(self) -> list[str]:
        """For standard output: columns separated by tabs."""
        named = [f"{one.cluster}\t{one.name}\t{one.similarity:.3f}" for one in self.clusters]
        return [*named, f"page\t{self.page}"]


def name(  # noqa: PLR0913  # every option of the command
    model: PixelCLIP,
    out: Path,
    *,
    names: str,
    photos: Path | None = None,
    masks: MaskSource | None = None,
    start: Tensor | None = None,
    most: int = 12,
    runners_up: int = 4,
    image_px: int = 320,
    mask_px: int = 256,
    seed: int = 0,
    overwrite: bool = False,
) -> NameReport:
    """Say what the clusters of a trained model mean, by class names and in pictures.

    Writes into OUT: names.json, names.md and names.csv, the nearest class names of every class
    prompt; tsne.png, the prompts among the class names; photos/KEY.png, photographs in the colours
    of clusters and of names, and their masks before and after clustering; index.html, all of it.

    Args:
        model: the trained model.
        out: folder; it may be there.
        names: class names: a text file, one a line, or a list with commas between them.
        photos: folder of photographs to draw; without it there are no pictures of photographs.
        masks: of these photographs.
        start: (K, D) features of the class prompts before training, see `starting_rows`; without
            them they are not in the plot.
        most: how many photographs are drawn, evenly spread over the folder.
        runners_up: how many class names are told of a cluster, after the nearest.
        image_px: side of the square that photographs are squashed to, as in training.
        mask_px: side of the grid of masks, as in training.
        seed: of the plot.
        overwrite: replace what an earlier call wrote.

    Returns:
        What was found.

    Raises:
        UsageError: a model without class prompts, results that are there already, or class names
            that cannot be.
        DataError: photographs or names that cannot be read, or no photograph that has masks.
    """
    if model.prompts is None:
        raise UsageError("the model was trained without clustering: it has no class prompts")
    if (out / "names.json").exists() and not overwrite:
        raise UsageError(f"{out}: has results; choose another folder or --overwrite")
    words = read_names(names)
    chosen = {} if photos is None else _read_photos(photos, masks, most)
    _prepare(out)

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            rows = model.prompts()  # (K, D)
            word_rows = class_bank(partial(encode_prompts, model), words)  # (n, D)
        found = _masks_of(masks, list(chosen))
        seen = look(model, chosen, found, image_px=image_px, mask_px=mask_px)
    finally:
        model.train(training)

    clusters = name_clusters(
        rows,
        words,
        word_rows,
        runners_up=runners_up,
        masks=mask_counts(seen, len(rows)) if found else None,
        pixels=pixel_shares(seen, len(rows)) if seen else None,
    )
    plot = _plot(out / "tsne.png", clusters, words, rows, word_rows, start, seed=seed)
    pictures = _draw(out, seen, clusters, words)
    page = write_page(out, clusters, plot=plot, pictures=pictures)
    files = write_names(out, clusters, words)  # names.json last: it says that all is there
    return NameReport(
        clusters=tuple(clusters),
        table=files["json"],
        plot=plot,
        pictures=tuple(pictures),
        page=page,
    )


@torch.no_grad()
def starting_rows(model: PixelCLIP, config: ClusterConfig, *, seed: int = 0) -> Tensor:
    """Features (K, D) of the class prompts as a run began with them: drawn again from its seed.

    Not those of a run whose prompts were given (`PixelCLIP.from_config(start=...)`).

    Args:
        model: of the run, trained.
        config: of the run.
        seed: of the run.

    Raises:
        ValueError: the run has no class prompts.
    """
    prompts = build_prompts(clip_of(model), config, seed=seed)
    if prompts is None:
        raise ValueError("a run without clustering has no class prompts")
    rows: Tensor = prompts.to(model.mean.device)()
    return rows


def _read_photos(photos: Path, masks: MaskSource | None, most: int) -> dict[str, Photo]:
    """Photographs to draw by key: those that have masks, if there are masks."""
    found = find_photos(photos)
    known = None if masks is None else set(masks.keys())
    keys = [key for key in found if known is None or key in known]
    if not keys:
        raise DataError(f"{photos}: none of {len(found)} photographs has masks")
    if len(keys) > most:
        keys = [keys[round(at)] for at in np.linspace(0, len(keys) - 1, most)]
    return {key: open_photo(found[key]) for key in keys}


def _masks_of(masks: MaskSource | None, keys: Sequence[str]) -> dict[str, MaskSet]:
    return {} if masks is None else {key: masks[key] for key in keys}


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MaskClusterError(f"{out}: cannot be written to ({error.strerror})") from error
    sweep(out)


def _plot(
    path: Path,
    clusters: Sequence[NamedCluster],
    words: Sequence[str],
    rows: Tensor,
    word_rows: Tensor,
    start: Tensor | None,
    *,
    seed: int,
) -> Path:
    sets = {} if start is None else {"at the start": start}
    places = tsne(sets | {"learnt": rows, "names": word_rows}, seed=seed)
    number_of = {word: number for number, word in enumerate(words)}
    nearest = [number_of[one.name] for one in clusters]
    return draw_tsne(path, places, [short_name(word) for word in words], nearest)


def _draw(
    out: Path, seen: Sequence[Seen], clusters: Sequence[NamedCluster], words: Sequence[str]
) -> list[Path]:
    """Pictures, in OUT/photos by their keys."""
    made = []
    for number, one in enumerate(seen):
        made.append(draw_seen(out / "photos" / f"{one.key}.png", one, clusters, words))
        log.info("drew %d of %d photographs", number + 1, len(seen))
    return made
