"""kill -9 at random moments, in every stage, until the work is done: nothing is lost."""

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest

from conceptarchive import Embeddings, Vocabulary, build_archive, embed, find_shards
from conceptarchive.config import ArchiveConfig, SearchConfig
from conceptarchive.output.export import export

MakeTar = Callable[[Path, list[tuple[str, bytes]]], Path]
Jpeg = Callable[[int], bytes]

WORDS = tuple(f"w{number}" for number in range(40))
SHARDS, PAIRS = 4, 40
KILLS = 50


def run_all(top: Path, encoder: object, search: SearchConfig) -> None:
    """Embed, build and export."""
    shards = find_shards(top / "cc")
    embed(shards, encoder, top / "out" / "emb", batch_size=16)  # type: ignore[arg-type]  # a test's
    pairs = Embeddings.open(top / "out" / "emb")
    features = np.random.default_rng(0).standard_normal((len(WORDS), pairs.image.shape[1]))
    archive = build_archive(
        top / "out" / "archive", anchors=pairs, pool=pairs, vocabulary=Vocabulary(WORDS),
        concept_features=features / np.linalg.norm(features, axis=1, keepdims=True),
        config=ArchiveConfig(response="shifted"), search=search, shard_rows=25,
    )  # fmt: skip
    export(archive, top / "out" / "webdataset", "webdataset", shards=shards)


def run_until_killed(top: Path, encoder: object, search: SearchConfig, replaces: int) -> None:
    """`run_all`, ended by SIGKILL right before the n-th file gets its final name."""
    left = replaces

    def audit(event: str, _: object) -> None:
        nonlocal left
        if event == "os.rename":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    run_all(top, encoder, search)


def start(target: Callable[..., None], *args: object) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")
    assert isinstance(context, ForkServerContext)
    context.set_forkserver_preload(["conceptarchive"])
    process = context.Process(target=target, args=args)
    process.start()
    return process


def files(top: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(top): path.read_bytes()
        for path in sorted((top / "out").rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "ivf_flat"])
def test_killed_fifty_times_and_resumed(
    tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg, tiny_encoder: object, method: str
) -> None:
    stream = random.Random(0)
    for shard in range(SHARDS):
        pairs = []
        for number in range(PAIRS):
            caption = " ".join(stream.choices(WORDS, k=4)).encode()
            pairs += [(f"{number}.jpg", jpeg(shard * PAIRS + number)), (f"{number}.txt", caption)]
        for name in ("whole", "killed"):
            make_tar(tmp_path / name / "cc" / f"{shard}.tar", pairs)
            os.utime(tmp_path / name / "cc" / f"{shard}.tar", (0, 0))
    search = SearchConfig(method=method, recall_queries=20)  # type: ignore[arg-type]  # a literal
    whole = start(run_all, tmp_path / "whole", tiny_encoder, search)
    whole.join(timeout=300)
    assert whole.exitcode == 0
    kills = finished = 0
    while kills < KILLS // 2:
        process = start(
            run_until_killed, tmp_path / "killed", tiny_encoder, search, stream.randint(1, 4)
        )
        process.join(timeout=300)
        if process.exitcode == 0:  # done: begin again with the last stages, or with all
            assert files(tmp_path / "killed") == files(tmp_path / "whole")
            finished += 1
            for path in sorted((tmp_path / "killed" / "out").rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
        else:
            assert process.exitcode == -signal.SIGKILL
            kills += 1
    process = start(run_all, tmp_path / "killed", tiny_encoder, search)
    process.join(timeout=300)
    assert process.exitcode == 0
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
