"""Concept archives of other packages: found by entry points, checked before training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from groupvit import (
    DataConfig,
    DataError,
    PairDataset,
    TrainConfig,
    TrainResult,
    UsageError,
    index_shards,
)
from groupvit.cli import main
from groupvit.data import concepts as concepts_module
from groupvit.data.concepts import check_covered, open_concepts

Write = Callable[..., Path]
CONFIG = DataConfig(source="archive", sampling="naive", sampling_temperature=0.5)


class Source:
    """A source that says how it was opened, and knows some pairs."""

    def __init__(self, path: Path, method: str, temperature: float) -> None:
        self.opened = (path, method, temperature)
        self.known: set[str] = set()

    def __contains__(self, key: object) -> bool:
        return key in self.known

    def sample(self, key: str, *, count: int, seed: int, epoch: int) -> Sequence[str]:
        del key, seed, epoch
        return ["sky", "grass", "road"][:count]


class Entry:
    """An installed reader."""

    def __init__(self, name: str) -> None:
        self.name = name

    def load(self) -> Callable[..., Source]:
        def reader(path: Path, *, method: str, temperature: float) -> Source:
            if not path.exists():
                raise ValueError(f"{path}: no archive for {self.name}")
            return Source(path, method, temperature)

        return reader


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that packages with these readers are installed, and no others."""

    def install(*names: str) -> None:
        def entry_points(group: str) -> list[Entry]:
            assert group == "groupvit.concept_source"
            return [Entry(name) for name in names]

        monkeypatch.setattr(concepts_module, "entry_points", entry_points)

    return install


def test_the_one_reader_opens_the_archive(install: Callable[..., None], tmp_path: Path) -> None:
    install("one")
    source: Any = open_concepts(tmp_path, CONFIG)
    assert source.opened == (tmp_path, "naive", 0.5)
    assert open_concepts(tmp_path, CONFIG, reader="one") is not source
    with pytest.raises(DataError, match=r"^--concepts .*/none: .*/none: no archive for one$"):
        open_concepts(tmp_path / "none", CONFIG)


def test_none_or_several_readers_are_one_line(install: Callable[..., None], tmp_path: Path) -> None:
    install()
    with pytest.raises(UsageError, match=r"no installed package reads .*; conceptarchive does"):
        open_concepts(tmp_path, CONFIG)
    install("one", "two")
    with pytest.raises(UsageError, match=r"several .* \(one, two\); choose one with --concept_rea"):
        open_concepts(tmp_path, CONFIG)
    assert open_concepts(tmp_path, CONFIG, reader="two") is not None
    with pytest.raises(UsageError, match="is called 'three'; installed: one, two"):
        open_concepts(tmp_path, CONFIG, reader="three")


def test_a_pair_that_an_archive_does_not_know_is_named(
    colour_shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, _ = index_shards([colour_shard], dataset="toy")
    source = Source(tmp_path, "top", 1.0)
    source.known = {pair.id for pair in pairs}
    check_covered(pairs, source)
    source.known -= {pairs[5].id, pairs[8].id}
    with pytest.raises(
        DataError, match=r"^toy/colours-00000/00005: not in the concept archive; bu"
    ):
        check_covered(pairs, source)
    monkeypatch.setattr(concepts_module, "CHECKED", 2)  # the first and the last
    check_covered(pairs, source)

    class Blind:
        def sample(self, key: str, *, count: int, seed: int, epoch: int) -> Sequence[str]:
            raise NotImplementedError

    check_covered(pairs, Blind())  # it cannot tell before a pair is drawn


@pytest.mark.parametrize("error", [OSError("shard 3: gone"), ValueError("shard 3: damaged")])
def test_a_damaged_archive_is_one_line(
    colour_shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    pairs, _ = index_shards([colour_shard], dataset="toy")
    source = Source(tmp_path, "top", 1.0)
    data = PairDataset.from_config(pairs, CONFIG, 32, source=source)

    def fail(*_: object, **__: object) -> Any:
        raise error

    for name, use in (
        ("sample", lambda: data.texts(0, 0)),
        ("__contains__", lambda: check_covered(pairs, source)),
    ):
        monkeypatch.setattr(Source, name, fail)
        with pytest.raises(DataError, match=r"^concepts of toy/colours-00000/00000: shard 3"):
            use()


def test_a_source_that_can_tell_itself_is_part_of_what_is_trained_on(
    colour_shard: Path, tmp_path: Path
) -> None:
    pairs, _ = index_shards([colour_shard], dataset="toy")
    source = Source(tmp_path, "top", 1.0)
    data = PairDataset.from_config(pairs, CONFIG, 32, source=source)
    prints = [data.fingerprint]
    assert prints == [pairs.fingerprint]
    for text in ("one", "two"):
        source.fingerprint = text  # type: ignore[attr-defined]  # a source need not have one
        prints.append(data.fingerprint)
    assert len(set(prints)) == 3


def test_a_pair_that_is_never_drawn_need_not_be_known(
    tmp_path: Path, write_shard: Write, jpeg: Callable[..., bytes]
) -> None:
    members = {"a.jpg": b"none", "a.txt": b"a", "b.jpg": jpeg(), "b.txt": b"b"}
    pairs, _ = index_shards([write_shard(tmp_path / "s.tar", members)], dataset="toy")
    source = Source(tmp_path, "top", 1.0)
    source.known = {"toy/s/b"}
    check_covered(pairs, source)


RECIPE = """
[optim]
total_steps = 2
[data]
batch = 4
concepts = 2
source = "archive"
sampling = "top"
augment = "none"
"""


def test_the_command_trains_with_an_archive(
    install: Callable[..., None],
    colour_shard: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[PairDataset] = []

    def train(_: TrainConfig, dataset: PairDataset, run: Path, **__: object) -> TrainResult:
        seen.append(dataset)
        return TrainResult(run, run)

    monkeypatch.setattr("groupvit.cli.train_run", train)
    install("one", "two")
    (tmp_path / "r.toml").write_text(RECIPE)
    archive = tmp_path / "archive"
    archive.mkdir()
    argv = [tmp_path / "r.toml", colour_shard, tmp_path / "run", "--concepts", archive]
    command = ["train", *map(str, argv)]
    assert main(command) == 2
    assert "choose one with --concept_reader" in capsys.readouterr().err
    assert main([*command, "--concept_reader", "two"]) == 3
    said = capsys.readouterr().err
    assert "/00000: not in the concept archive" in said and said.count("\n") == 1
    monkeypatch.setattr(Source, "__contains__", lambda *_: True)
    assert main([*command, "--concept_reader", "two"]) == 0
    source: Any = seen[0].source
    assert source.opened == (archive, "top", 1.0)
    assert "sky" in seen[0].texts(0, 0)[1]
