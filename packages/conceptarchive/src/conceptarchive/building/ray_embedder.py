"""Embedding on a Ray cluster: an encoder in every actor, a shard a task, read where it is done."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from conceptarchive.building.ray_engine import RayEngine
from conceptarchive.embedding.embedder import embed_shard
from conceptarchive.embedding.encoder import Encoder
from conceptarchive.embedding.plan import partition_name, plan_partitions
from conceptarchive.embedding.report import EmbedReport, report_partitions
from conceptarchive.features.embeddings import is_written
from conceptarchive.files import sweep
from conceptarchive.inputs.columns import TableColumns
from conceptarchive.lock import folder_lock


class EmbedOptions(NamedTuple):
    """Keyword arguments of `embed`."""

    dataset: str | None = None
    with_text: bool = True
    columns: TableColumns | None = None
    batch_size: int = 256
    workers: int = 4


class _Partitions(NamedTuple):
    """What an actor holds: its encoder, and the shards by number of their partition."""

    encoder: Encoder
    shards: dict[int, Path]
    out: Path
    options: EmbedOptions


def embed_on_ray(
    engine: RayEngine,
    shards: Sequence[Path],
    make_encoder: Callable[[], Encoder],
    out: Path,
    options: EmbedOptions,
) -> EmbedReport:
    """Embed pairs as `embed` does, on a cluster; the files are the same.

    Args:
        engine: its actors each make an encoder, on the GPU that Ray gives them.
        shards: see `embed`; all nodes read them and write `out`.
        make_encoder: called in every actor, and once here for its id.
        out: folder of the embeddings.
        options: see `embed`.

    Raises:
        ConceptArchiveError: those of `embed`.
    """
    with folder_lock(out):
        sweep(out)
        plan = plan_partitions(
            shards,
            out,
            encoder_id=make_encoder().id,
            dataset=options.dataset,
            with_text=options.with_text,
            columns=options.columns,
        )
        todo = [
            n
            for n, _ in plan
            if not is_written(out, partition_name(n), with_text=options.with_text)
        ]
        team = engine.start(_hold, make_encoder, dict(plan), out, options)
        team.map(_embed_one, todo, "embed")
        report = report_partitions(out, [number for number, _ in plan])
    report.skips.report()
    return report


def _hold(make_encoder: Callable[[], Encoder], *rest: Any) -> _Partitions:
    """The state of an actor."""
    return _Partitions(make_encoder(), *rest)


def _embed_one(state: _Partitions, number: int) -> None:
    """One task: a shard to its partition."""
    embed_shard(state.shards[number], number, state.encoder, state.out, **state.options._asdict())
