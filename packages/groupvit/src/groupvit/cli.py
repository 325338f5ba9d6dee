"""Command line: train, segment, classify, convert."""

import json
import logging
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jsonargparse import auto_cli
from tqdm import tqdm

from groupvit import __version__
from groupvit.config import TrainConfig
from groupvit.data.concepts import check_covered, check_source, open_concepts
from groupvit.data.order import check_fills_batch
from groupvit.data.pairs import PairDataset
from groupvit.data.pool import CheckImages, decodable, open_pool
from groupvit.data.shards import Missing
from groupvit.device import default_device, named_device
from groupvit.errors import DataError, GroupViTError, UsageError
from groupvit.model.groupvit import GroupViT
from groupvit.recipe import load_recipe
from groupvit.released.layouts import Layout
from groupvit.released.weights import load_released, save_released
from groupvit.segmenting.album import BACKGROUND_NAME, segment_photos
from groupvit.segmenting.outputs import plan
from groupvit.segmenting.photo import find_photos, read_photos
from groupvit.segmenting.segmenter import GroupViTSegmenter
from groupvit.segmenting.templates import TEMPLATES_OF, TemplateSet
from groupvit.segmenting.words import read_names, read_threshold
from groupvit.training.checkpoint import load_model
from groupvit.training.launch import Ranks, joined
from groupvit.training.train import check_reads_captions
from groupvit.training.train import train as train_run

SHOWN = 5
"""Classes on the line of a photograph that is segmented, if there are several."""


def train(  # noqa: PLR0913  # every option of the command
    recipe: str,
    data: str,
    out: Path,
    *,
    dataset: str | None = None,
    concepts: Path | None = None,
    concept_reader: str | None = None,
    index: Path | None = None,
    missing_shards: Missing = "error",
    check_images: CheckImages = "auto",
    chunk: int | None = None,
    recompute: bool | None = None,
    compile: bool | None = None,  # noqa: A002  # the name of the field
    cudnn_attention: bool | None = None,
    workers: int | None = None,
    device: str | None = None,
    dry_run: bool = False,
) -> None:
    """Train a GroupViT on image-caption pairs, or go on where a killed run stopped.

    Args:
        recipe: TOML file, or the name of a recipe that comes with the package, such as gcc-yfcc.
        data: folder of the data sets that the recipe names; if it names none, tar shards, as a
            path or a quoted pattern such as "pairs/*.tar" or "pairs/{00000..00331}.tar".
        out: folder of the run.
        dataset: name of the data set, the first part of every key, if the recipe names none; by
            default the shards' folder.
        concepts: concept archive, for recipes with data.source = "archive".
        concept_reader: which of several installed readers of concept archives to use.
        index: folder that keeps what is found in the shards; by default OUT/index.
        missing_shards: what to do when shards of a range in braces are not there.
        check_images: read every image first and leave out those that cannot be decoded; auto does
            so for up to 100,000 pairs. Later, the next pair takes the place of such an image.
        chunk: pairs, on each rank, whose activations are kept at a time, in place of the recipe's
            machine.chunk; fits a large batch on few GPUs, and the loss still sees all of it.
        recompute: in place of the recipe's machine.recompute.
        compile: in place of the recipe's machine.compile.
        cudnn_attention: in place of the recipe's machine.cudnn_attention.
        workers: loader processes of each rank, in place of the recipe's data.workers.
        device: where to compute, such as cuda:0; the first GPU if there is one.
        dry_run: only read the recipe and list what would be trained on.
    """
    config = _on_this_machine(
        load_recipe(recipe),
        workers,
        chunk=chunk,
        recompute=recompute,
        compile=compile,
        cudnn_attention=cudnn_attention,
    )
    check_reads_captions(config.model.text)
    check_source(config.data, concepts)
    source = open_concepts(concepts, config.data, reader=concept_reader) if concepts else None
    cache = index or out / "index"
    with joined(named_device(device) if device else None) as where:
        pairs = open_pool(
            config.data,
            data,
            dataset=dataset,
            missing=missing_shards,
            cache=cache if cache.exists() or not dry_run else None,
        )
        check_fills_batch(len(pairs), config.data.batch)
        if source is not None:
            check_covered(pairs, source)
        steps = config.optim.total_steps
        _print_once(f"shards\t{len(pairs.shards)}\npairs\t{len(pairs)}\nsteps\t{steps}")
        if dry_run:
            return
        pool = decodable(pairs, check_images)
        image_px = config.model.vision.image_px
        drawn = PairDataset.from_config(pool, config.data, image_px, source=source)
        result = train_run(config, drawn, out, device=where)
        _print_once(f"checkpoint\t{result.checkpoint}\nlog\t{result.log}")


def _on_this_machine(
    config: TrainConfig, workers: int | None, **machine: int | bool | None
) -> TrainConfig:
    """A recipe with what was asked for on the command line."""
    asked = {name: value for name, value in machine.items() if value is not None}
    try:
        data = config.data if workers is None else replace(config.data, workers=workers)
        return replace(config, data=data, machine=replace(config.machine, **asked))  # type: ignore[arg-type]  # by name
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def segment(  # noqa: PLR0913  # every option of the command
    photos: list[str] | str,
    *,
    classes: str,
    checkpoint: Path,
    out: Path,
    background: float | str | None = None,
    short: int | None = None,
    window: int | None = None,
    labels: Path | None = None,
    groups: Path | None = None,
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Find things in photographs by their names; every pixel takes the best of them.

    Args:
        photos: picture files, or folders of them; they come before all options.
        classes: names, separated by commas: "dog, grass, sky"; or a text file, one name a line.
        checkpoint: a run, a checkpoint of one, or a released file or folder.
        out: picture to write, the photograph with the names laid over it; a folder, if there are
            several photographs.
        background: what scores below this is background: a number in [0, 1], or voc, context or
            coco for the threshold published for that data set; by default there is none.
        short: short side in pixels that photographs are resized to before they are looked at; by
            default twice the side that the model trained at, 448 for the published one.
        window: side of the windows that are looked at, by default the same; 0 looks at the whole
            picture at once.
        labels: picture to write whose values are the classes in their order, with 0 for the
            background if there is one; .png, or a folder as for `out`.
        groups: picture to write, the groups of every stage before they are named; or a folder.
        device: where to compute, such as cuda:0; the first GPU if there is one.
        overwrite: replace files that are there.
    """
    names, threshold = read_names(classes), read_threshold(background)
    if threshold is not None and BACKGROUND_NAME in names:
        raise UsageError(
            f"--background gives the name {BACKGROUND_NAME!r} to what is left; take it from "
            "--classes"
        )
    places = [photos] if isinstance(photos, str) else photos
    found = find_photos(places)
    folders = len(found) > 1 or any(Path(place).is_dir() for place in places)
    files = plan(found, out, labels=labels, groups=groups, overwrite=overwrite, folders=folders)
    where = named_device(device) if device else default_device()
    model = load_any(checkpoint)
    sides = {"--short": short, "--window": window or None}
    for option, side in sides.items():
        if side is not None and side < model.config.vision.patch_px:
            raise UsageError(f"{option} needs at least a patch of pixels, got {side}")
    usual = 2 * model.config.vision.image_px
    done = segment_photos(
        GroupViTSegmenter(model.to(where)),
        files,
        names,
        background=threshold,
        window_px=None if window == 0 else window or usual,
        short_px=short or usual,
    )
    for path, share in tqdm(done, total=len(files), unit="photo", disable=_silent(found)):
        if folders:
            largest = sorted(share.items(), key=lambda item: -item[1])[:SHOWN]
            _say(path, dict(largest))
        else:
            _say(None, share)


def classify(
    photos: list[str] | str,
    *,
    classes: str,
    checkpoint: Path,
    templates: TemplateSet = "imagenet7",
    top: int = 5,
    device: str | None = None,
) -> None:
    """Say which of some classes photographs show as a whole, the likeliest first.

    Args:
        photos: picture files, or folders of them; they come before all options.
        classes: names, separated by commas: "dog, grass, sky"; or a text file, one name a line.
        checkpoint: a run, a checkpoint of one, or a released file or folder.
        templates: sentences around a name: "a photo of a {}.", the 7 that ImageNet is classified
            with, or all 80 of CLIP.
        top: how many classes are printed.
        device: where to compute, such as cuda:0; the first GPU if there is one.
    """
    names = read_names(classes)
    if top < 1:
        raise UsageError(f"--top needs at least 1, got {top}")
    found = find_photos([photos] if isinstance(photos, str) else photos)
    where = named_device(device) if device else default_device()
    segmenter = GroupViTSegmenter(load_any(checkpoint).to(where))
    bank = segmenter.encode_classes(names, TEMPLATES_OF[templates])
    with tqdm(total=len(found), unit="photo", disable=_silent(found)) as bar:
        for some in read_photos(found, batch=16):
            ranking = segmenter.classify([photo for _, photo in some], bank, k=top)
            for (path, _), best, likely in zip(some, *ranking, strict=True):
                ranked = [names[k] for k in best.tolist()]
                share = dict(zip(ranked, likely.tolist(), strict=True))
                _say(None if len(found) == 1 else path, share)
            bar.update(len(some))


def convert(source: Path, out: Path, *, layout: Layout = "nvlabs") -> None:
    """Write a model in one of the layouts of the released checkpoints.

    Args:
        source: a run, a checkpoint of one, or a released file or folder.
        out: file (nvlabs) or folder (huggingface) to write; must not exist.
        layout: whose.
    """
    if out.exists():
        raise UsageError(f"{out}: exists; choose another name")
    save_released(load_any(source), out, layout=layout)
    print(f"{layout}\t{out}")


def load_any(path: Path) -> GroupViT:
    """The model of a run, a checkpoint, or a released file or folder.

    Raises:
        CheckpointError: it is none of these.
        DataError: there is nothing.
    """
    if not path.exists():
        raise DataError(f"{path}: no such checkpoint")
    is_released = path.is_file() or (path / "config.json").exists()
    return load_released(path) if is_released else load_model(path)


VERBS: list[Callable[..., None]] = [train, segment, classify, convert]
_KINDS = {"bool": "true, false", "int": "a whole number", "float": "a number", "Path": "a path"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code: 0 done, 1 could not, 2 wrong usage, 3 data missing."""
    logging.basicConfig(format="groupvit: %(message)s", level=logging.WARNING)
    args = _gather(list(sys.argv[1:] if argv is None else argv))
    try:
        auto_cli(VERBS, args=args, prog="groupvit", version=__version__, exit_on_error=False)
    except GroupViTError as error:
        print(f"groupvit: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except ArgumentError as error:
        what = _plain(str(error))
        asked = ["groupvit", *(word for word in args[:1] if word in [v.__name__ for v in VERBS])]
        print(f"groupvit: {what}; see {' '.join(asked)} --help", file=sys.stderr)
        return UsageError.exit_code
    except SystemExit as stop:  # after --help
        return stop.code if isinstance(stop.code, int) else UsageError.exit_code
    except KeyboardInterrupt:
        again = "; run it again to go on" if args[:1] == ["train"] else ""
        print(f"groupvit: stopped{again}", file=sys.stderr)
        return 4
    return 0


def _plain(said: str) -> str:
    """The parser's words on a wrong option, without Python's types."""
    line = " ".join(said.split())
    wrong = re.search(r'key "(?:\w+\.)?(\w+)": (.*?)(?:Got|Given) value: (.*)$', line)
    if wrong:
        name, expected, got = wrong.groups()
        kinds = [_KINDS.get(kind) for kind in re.findall(r"<class '(\w+)'>", expected)]
        words = re.findall(r"'(\w+)'", "".join(re.findall(r"Literal\[.*?\]", expected)))
        choice = ", ".join(dict.fromkeys(one for one in [*kinds, *words] if one))
        return f"--{name} must be {choice}, got {got}"
    return re.sub(rf"\b(?:{'|'.join(verb.__name__ for verb in VERBS)})\.(\w+)", r"\1", line)


def console() -> None:
    """Entry point of the installed command."""
    sys.exit(main())


def _print_once(result: str) -> None:
    """Print a result, once however many ranks there are."""
    if Ranks.current().is_first:
        print(result)


def _gather(argv: list[str]) -> list[str]:
    """Make several photographs in a row the one list that the parser takes."""
    if not argv or argv[0] not in ("segment", "classify"):
        return argv
    options = (i for i, word in enumerate(argv) if word.startswith("-"))
    end = next(options, len(argv))
    photos = [json.dumps(argv[1:end], ensure_ascii=False)] if end > 1 else []
    return [argv[0], *photos, *argv[end:]]


def _silent(photos: Sequence[Path]) -> bool | None:
    """For tqdm: no progress of a single photograph, nor where no terminal shows it."""
    return True if len(photos) == 1 else None


def _say(path: Path | None, share: Mapping[str, float]) -> None:
    """Print a line for every class; or one for all of them, if a path stands in front."""
    if path is None:
        lines = [f"{value:.4f}\t{name}" for name, value in share.items()]
    else:
        found = [f"{name} {value:.2f}" for name, value in share.items() if value > 0]
        lines = [f"{path}\t{', '.join(found)}"]
    tqdm.write("\n".join(lines), file=sys.stdout)
