"""From photographs to a store of masks, in parts that survive a kill."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from maskcluster.errors import DataError
from maskcluster.files import folder_lock
from maskcluster.generators.protocol import BatchMaskGenerator, MaskGenerator
from maskcluster.masks.mask_set import MaskRules, MaskSet, apply_rules, count_reasons
from maskcluster.masks.photo_files import Photo, find_photos, read_photo
from maskcluster.masks.store import MaskStore, MaskStoreWriter, Part
from maskcluster.progress import progress

log = logging.getLogger(__name__)

Found = tuple[Photo, tuple[str, ...]] | DataError
"""A photograph and how it was changed on reading, or why there is none."""


@dataclass(frozen=True, slots=True)
class GenerateReport:
    """What became of all photographs.

    Attributes:
        store: finished.
        made: photographs of this run; others were there already.
        seconds: that this run took.
        converted: how many photographs of this run were changed on reading, by the change.
    """

    store: MaskStore
    made: int
    seconds: float
    converted: Mapping[str, int]

    def lines(self) -> list[str]:
        """For people: counts, what was dropped and changed, and what could not be read."""
        store = self.store
        each = store.mask_count / max(len(store), 1)
        found = [f"{store.mask_count} masks of {len(store)} photographs, {each:.1f} each"]
        if self.made < len(store):
            found.append(f"{len(store) - self.made} photographs were there already")
        if self.made:
            found.append(f"{self.made / max(self.seconds, 1e-9):.2f} photographs a second")
        if store.dropped:
            found.append("dropped masks: " + count_reasons(store.dropped))
        if self.converted:
            found.append("converted photographs: " + count_reasons(self.converted))
        if store.skipped:
            found.append(f"{len(store.skipped)} photographs could not be read:")
            found += [f"  {reason}" for reason in store.skipped.values()]
        return found


def generate(
    photos: Path | str | Sequence[Path | str],
    out: Path | str,
    generator: MaskGenerator,
    *,
    rules: MaskRules | None = None,
    part_size: int = 256,
    batch_size: int = 8,
) -> GenerateReport:
    """Make masks of all photographs; run again after a kill, it goes on where it stopped.

    A photograph that cannot be read is named in the report and in the store, and left out. The
    store's bytes are the same wherever it was killed.

    Args:
        photos: a folder, looked through with all folders inside, or files; see `find_photos`.
        out: the store's folder, made if it is not there.
        generator: what makes the masks.
        rules: which masks are kept.
        part_size: photographs a shard, and so how many are made again after a kill.
        batch_size: photographs held and, by a `BatchMaskGenerator`, computed at a time.

    Raises:
        DataError: no photographs, or none that can be read.
        UsageError: `out` holds other things, masks of another generator, or another process writes
            there; or two photographs have one key.
        MaskClusterError: the store cannot be written.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    paths = find_photos(photos)
    rules = rules or MaskRules()
    begun = time.perf_counter()
    work = _Work(paths, generator, rules, batch_size)
    with folder_lock(Path(out)):
        described = dict(generator.description) | {"rules": asdict(rules)}
        writer = MaskStoreWriter(out, generator=described, keys=list(paths), part_size=part_size)
        already = min(writer.first_missing * part_size, len(paths))
        with progress(total=len(paths), initial=already, unit="photo") as bar:
            for number in range(writer.first_missing, writer.parts):
                writer.write(number, work.part(writer.keys_of(number), bar))
        store = writer.finish()
    if not len(store):
        reason = next(iter(store.skipped.values()))
        raise DataError(f"none of {len(paths)} photographs can be read: {reason}")
    return GenerateReport(store, work.made, time.perf_counter() - begun, work.converted)


class _Work:
    """Reads photographs ahead and has masks made of them."""

    def __init__(
        self,
        paths: Mapping[str, Path],
        generator: MaskGenerator,
        rules: MaskRules,
        batch_size: int,
    ) -> None:
        self.paths = paths
        self.generator = generator
        self.rules = rules
        self.batch_size = batch_size
        self.made = 0
        self.converted = Counter[str]()

    def part(self, keys: Sequence[str], bar: "tqdm[None]") -> Part:
        """Masks of some photographs; batches never reach over the end of a part."""
        masks: dict[str, MaskSet] = {}
        skipped: dict[str, str] = {}
        for batch in self._read_ahead(keys):
            good = []
            for key, found in batch:
                if isinstance(found, DataError):
                    log.warning("%s", found)
                    skipped[key] = str(found)
                else:
                    good.append((key, found[0]))
                    self.converted.update(found[1])
            for (key, photo), made in zip(good, self._make([p for _, p in good]), strict=True):
                masks[key] = self._checked(key, photo, made)
            self.made += len(good)
            bar.update(len(batch))
        return Part(masks, skipped)

    def _make(self, photos: list[Photo]) -> list[MaskSet]:
        if photos and isinstance(self.generator, BatchMaskGenerator):
            return self.generator.many(photos)
        return [self.generator(photo) for photo in photos]

    def _checked(self, key: str, photo: Photo, made: MaskSet) -> MaskSet:
        if (made.height, made.width) != photo.shape[:2]:
            raise ValueError(
                f"{key!r}: the generator made masks of {made.height} x {made.width} "
                f"of a photograph of {photo.shape[0]} x {photo.shape[1]}"
            )
        return apply_rules(made, self.rules)

    def _read_ahead(self, keys: Sequence[str]) -> Iterator[list[tuple[str, Found]]]:
        """Batches of photographs; the next one is read while one is worked on."""
        batches = [keys[i : i + self.batch_size] for i in range(0, len(keys), self.batch_size)]
        with ThreadPoolExecutor(1) as reader:
            coming = [reader.submit(self._read, batch) for batch in batches[:1]]
            for following in [*batches[1:], None]:
                ready = coming.pop().result()
                if following is not None:
                    coming.append(reader.submit(self._read, following))
                yield ready

    def _read(self, keys: Sequence[str]) -> list[tuple[str, Found]]:
        return [(key, _try_read(self.paths[key])) for key in keys]


def _try_read(path: Path) -> Found:
    try:
        return read_photo(path)
    except DataError as error:
        return error
