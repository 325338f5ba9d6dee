"""The processes of a run: alone, and which device a rank takes."""

import pytest
import torch

from maskcluster.errors import UsageError
from maskcluster.training.launch import Ranks, joined

CPU = torch.device("cpu")


def test_a_process_alone_is_the_first_of_one() -> None:
    ranks = Ranks.current()
    assert (ranks.rank, ranks.world, ranks.group, ranks.is_first) == (0, 1, None, True)
    values = torch.tensor([1.0, 2.0])
    assert torch.equal(ranks.sum(values), values)
    model = torch.nn.Linear(2, 2)
    assert ranks.share(model) is model
    ranks.wait()


def test_a_process_alone_joins_nobody() -> None:
    with joined(CPU) as device:
        assert device == CPU and not torch.distributed.is_initialized()
    with joined(None) as device:
        assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "9")
    monkeypatch.setenv("LOCAL_RANK", "8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(UsageError, match=r"more ranks than the 1 GPUs.*lower --nproc_per_node"),
        joined(torch.device("cuda")),
    ):
        pass


def test_other_ranks_neither_write_nor_come_first() -> None:
    assert not Ranks(rank=1, world=2).is_first
