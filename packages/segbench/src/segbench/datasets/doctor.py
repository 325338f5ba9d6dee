"""What is wrong with a folder of data sets, and the one command or sentence that mends it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segbench.datasets.benchmark import Benchmark, Located, choose, find_benchmark, locate
from segbench.datasets.benchmarks import BENCHMARKS
from segbench.datasets.checks import file_problems, read_sample, spread, unknown_values
from segbench.datasets.imagenet import EXPECTED_IMAGES, ImageNetDataset, locate_imagenet
from segbench.datasets.layout import FileLayout, walk
from segbench.datasets.lookup import IGNORED, UNKNOWN
from segbench.datasets.signs import Problem, near_misses, value_problems
from segbench.errors import DataMissingError, FormatError, SegbenchError, UsageError

__all__ = ["Finding", "Problem", "examine", "expected_images", "how_to_get", "render"]

SAMPLE = 20  # label files that are read

_GET_IMAGENET = (
    "download ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from image-net.org and "
    "unpack both in one folder `imagenet`"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A data set in one layout at one place."""

    dataset: str
    """Its kind in a task file, or "imagenet1k"."""

    layout: str
    """How it lies; empty where there is something of it but no labels."""

    place: Path
    """Folder or file of the labels."""

    images: int = 0
    labels: int = 0
    expected: int
    """Images of the published validation set."""

    sampled: int = 0
    """Label files that were read for the histogram."""

    histogram: Mapping[int, int] = field(default_factory=dict)
    """Pixels (of imagenet1k, images) by label id; -1 is ignored, -2 has no meaning."""

    names: tuple[str, ...] = ()
    """Class names by label id."""

    problems: tuple[Problem, ...] = ()
    """What is wrong, the most severe first."""


def examine(root: Path, *, sample: int = SAMPLE) -> list[Finding]:
    """Look for every data set under a root, and for what is wrong with it.

    Nothing is written. Every file is looked at, `sample` of each data set are read.

    Args:
        root: a data root, a project that keeps its data in a folder of it, or one data set.
        sample: label files to read of each data set, spread evenly.

    Returns:
        One finding for each layout of each data set, in the order of `BENCHMARKS`; none of a data
        set of which there is no trace.

    Raises:
        DataMissingError: there is no such root.
        UsageError: `sample` below 0.
    """
    if sample < 0:
        raise UsageError(f"sample must be >= 0, got {sample}")
    if not root.is_dir():
        raise DataMissingError(f"no data root at {root}")
    found: list[Finding] = []
    for benchmark in BENCHMARKS:
        located = locate(benchmark, root)
        found += [_examine_layout(benchmark, each, sample, root, located) for each in located]
        if not located:
            found += [
                Finding(
                    dataset=benchmark.name,
                    layout="",
                    place=home,
                    expected=benchmark.expected_images,
                    problems=(problem,),
                )
                for home, problem in near_misses(benchmark, root)
            ]
    return [*found, *_examine_imagenet(root, sample)]


def how_to_get(kind: str) -> str:
    """One command or sentence that gets a data set, whether or not anything of it is there.

    Args:
        kind: of a benchmark or "imagenet1k", as in a task's description of its data set.

    Raises:
        UsageError: no such benchmark; folders of one's own and procedural data are none.
    """
    return _GET_IMAGENET if kind == "imagenet1k" else find_benchmark(kind, BENCHMARKS).get


def expected_images(kind: str) -> int:
    """Images of a data set's published validation set; `kind` and errors as of `how_to_get`."""
    if kind == "imagenet1k":
        return EXPECTED_IMAGES
    return find_benchmark(kind, BENCHMARKS).expected_images


def _examine_layout(
    benchmark: Benchmark, located: Located, sample: int, root: Path, all_found: Sequence[Located]
) -> Finding:
    place = located.layout.place(located.home)
    ambiguous = _ambiguity(benchmark, root) if located == all_found[0] else []
    try:
        stock = located.layout.take_stock(located.home, "")
    except SegbenchError as error:
        images, labels = _count_files(located)
        return Finding(
            dataset=benchmark.name,
            layout=located.layout.name,
            place=place,
            images=images,
            labels=labels,
            expected=benchmark.expected_images,
            problems=(_stock_problem(benchmark, error), *ambiguous),
        )
    entries = spread(stock.entries, sample)
    sample_read = read_sample(benchmark, stock, entries)
    values = sample_read.values
    histogram: Counter[int] = Counter()
    for value, pixels in values.items():
        histogram[int(stock.table[value])] += pixels
    signs = value_problems(benchmark.name, located.layout.name, values.keys(), sample_read.read)
    return Finding(
        dataset=benchmark.name,
        layout=located.layout.name,
        place=place,
        images=len(stock.entries) + len(stock.no_label),
        labels=len(stock.entries) + len(stock.no_image),
        expected=benchmark.expected_images,
        sampled=sample_read.read,
        histogram=dict(sorted(histogram.items())),
        names=benchmark.names,
        problems=(
            *signs,
            *sample_read.problems,
            *(unknown_values(benchmark, stock, values) if not signs else ()),
            *file_problems(benchmark, stock),
            *ambiguous,
        ),
    )


def _ambiguity(benchmark: Benchmark, root: Path) -> list[Problem]:
    try:
        choose(benchmark, root)
    except UsageError as error:
        what, _, mend = str(error).partition("; choose with ")
        return [Problem(what, f"choose with the option {mend}")]
    return []


def _stock_problem(benchmark: Benchmark, error: SegbenchError) -> Problem:
    if "choose with" in str(error):
        what, _, mend = str(error).partition("; ")
        return Problem(what, mend)
    if "no split file" in str(error):
        what = str(error).partition("; ")[0]
        return Problem(what, f"name a list with the option split, or {benchmark.get}")
    return Problem(str(error), benchmark.get)


def _count_files(located: Located) -> tuple[int, int]:
    """Images and labels where no list says which of them count."""
    layout, home = located.layout, located.home
    if not isinstance(layout, FileLayout):
        return 0, 0
    images = [folder for folder in layout.images if (home / folder).is_dir()][:1]
    counted = [walk(home / f, layout.image_suffixes, nested=layout.nested) for f in images]
    labels = walk(layout.place(home), (layout.label_suffix,), nested=layout.nested)
    return sum(1 for each in counted for _ in each), sum(1 for _ in labels)


def _examine_imagenet(root: Path, sample: int) -> Iterator[Finding]:
    located = locate_imagenet(root)
    for layout, folder in located:
        problems: list[Problem] = []
        if len(located) > 1:
            names = " or ".join(f'"{name}"' for name, _ in located)
            problems.append(
                Problem("lies here more than once", f"choose with the option layout = {names}")
            )
        try:
            dataset = ImageNetDataset(root, layout=layout)
        except SegbenchError as error:
            problems.insert(0, Problem(str(error), _GET_IMAGENET))
            yield Finding(
                dataset="imagenet1k",
                layout=layout,
                place=folder,
                expected=EXPECTED_IMAGES,
                problems=tuple(problems),
            )
            continue
        yield _imagenet_finding(dataset, folder, sample, problems)


def _imagenet_finding(
    dataset: ImageNetDataset, folder: Path, sample: int, problems: list[Problem]
) -> Finding:
    picked = spread(range(len(dataset)), sample)
    labels: Counter[int] = Counter()
    failed: list[str] = []
    for index in picked:
        try:
            labels[dataset[index].label] += 1
        except FormatError as error:
            failed.append(str(error))
    if failed:
        what = f"{len(failed)} of {len(picked)} images cannot be read: {failed[0]}"
        problems.append(Problem(what, f"take them from the archive again: {_GET_IMAGENET}"))
    if dataset.count_note:
        problems.append(
            Problem(dataset.count_note, f"unpack the whole validation set: {_GET_IMAGENET}")
        )
    return Finding(
        dataset="imagenet1k",
        layout=dataset.layout,
        place=folder,
        images=len(dataset),
        labels=len(dataset),
        expected=EXPECTED_IMAGES,
        sampled=len(picked) - len(failed),
        histogram=dict(sorted(labels.items())),
        names=dataset.names,
        problems=tuple(problems),
    )


def render(findings: Sequence[Finding], root: Path) -> str:
    """Findings as text, a block each, for `segbench doctor`."""
    if not findings:
        homes = ", ".join(dict.fromkeys(b.homes[0] for b in BENCHMARKS))
        return (
            f"no benchmark under {root}; looked for {homes}, imagenet/val. The doctor is for those "
            "alone: a folder of your own is checked as it is read, so try it with `segbench run "
            f"clip mine.toml --root {root} --limit 3 --option.pretrained=random`, where mine.toml "
            "is its task file\n"
        )
    wrong = sum(1 for finding in findings if finding.problems)
    blocks = [_block(finding) for finding in findings]
    blocks.append(f"{len(findings)} found, {wrong} with something wrong\n")
    return "\n".join(blocks)


def _block(finding: Finding) -> str:
    layout = f"layout {finding.layout}" if finding.layout else "no labels"
    lines = [f"{finding.dataset}  {layout}  {finding.place}"]
    if finding.layout:
        lines.append(
            f"  {finding.images:,} images and {finding.labels:,} labels "
            f"of {finding.expected:,} expected"
        )
    if finding.sampled:
        lines.append(f"  {finding.sampled} files read: {_shares(finding)}")
    for problem in finding.problems:
        lines += [f"  wrong: {problem.what}", f"  mend:  {problem.mend}"]
    return "\n".join(lines) + "\n"


def _shares(finding: Finding) -> str:
    total = max(sum(finding.histogram.values()), 1)
    special = {IGNORED: "ignored", UNKNOWN: "without meaning"}
    scored = [item for item in finding.histogram.items() if item[0] not in special]
    scored.sort(key=lambda item: (-item[1], item[0]))
    largest = [(finding.names[label], count) for label, count in scored[:5]]
    rest = [(name, finding.histogram.get(label, 0)) for label, name in special.items()]
    shown = [f"{name} {count / total:.1%}" for name, count in (*largest, *rest) if count]
    return f"{len(scored)} of {len(finding.names)} classes: {', '.join(shown)}"
