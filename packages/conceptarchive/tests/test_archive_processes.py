import pytest

from conceptarchive.embedding.processes import device_of, rank_from_environment
from conceptarchive.errors import UsageError


def test_ranks_are_those_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert rank_from_environment() == (0, 1, 0)
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank_from_environment() == (9, 16, 1)


@pytest.mark.parametrize(
    ("rank", "world", "match"),
    [
        ("1", None, "RANK=1, LOCAL_RANK=0 of .*; set all or none"),
        ("x", "2", "RANK=x.*whole numbers"),
        ("2", "2", "needs 0 <= RANK < WORLD_SIZE"),
        ("-1", "2", "needs 0 <= RANK < WORLD_SIZE"),
    ],
)
def test_half_an_environment_is_refused(rank: str, world: str | None, match: str) -> None:
    given = {"RANK": rank, "LOCAL_RANK": "0"} | ({} if world is None else {"WORLD_SIZE": world})
    with pytest.raises(UsageError, match=match):
        rank_from_environment(given)


def test_each_process_has_its_own_gpu() -> None:
    assert [device_of(name, 3) for name in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]
