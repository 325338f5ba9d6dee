"""Stages over ranks, and how a training fits a machine; two real ranks are in the rehearsal."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch

from conceptarchive import UsageError, folder_lock
from integration.errors import RecipeError
from integration.papers.launch import Ranks, joined, run_together
from integration.papers.recipe import load_pairs_recipe, train_recipe
from integration.papers.run import Options, carry_out, configs_of
from integration.papers.training import chunk_of, on_this_machine
from integration.stage import Stage


def test_one_process_leads_itself(tmp_path: Path) -> None:
    done: list[str] = []

    def stage(name: str, *inputs: Stage) -> Stage:
        return Stage(name=name, settings={}, inputs=inputs, run=lambda _: done.append(name))

    first = stage("index")
    second = stage("train", first)
    with joined() as ranks:
        assert ranks == Ranks(0, 1)
        said = StringIO()
        run_together([first, second], ["train"], tmp_path, ranks, stream=said)
        run_together([first, second], ["train"], tmp_path, ranks, stream=said, again_from="train")
    assert done == ["index", "train", "train"]
    assert said.getvalue().count("up to date") == 1
    assert ranks.leads
    assert not Ranks(1, 2).leads


def test_the_report_is_written_while_the_folder_is_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def report() -> str:
        with pytest.raises(UsageError, match="another process"), folder_lock(tmp_path):
            pytest.fail("another run may write here")
        return "the table"

    stream = StringIO()
    stage = Stage(name="index", settings={}, run=lambda _: None)
    ranks = Ranks(0, 1)
    carry_out([stage], [], report, out=tmp_path, ranks=ranks, options=Options(), stream=stream)
    assert stream.getvalue() == "the table\n"
    assert "done in 0 s" in capsys.readouterr().err


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    recipe = load_pairs_recipe("cocu-cc3m")
    with pytest.raises(RecipeError, match="a batch of 1024 pairs cannot be shared by 3 ranks"):
        configs_of(recipe, [0], [], None, Ranks(0, 3))
    assert len(configs_of(recipe, [0, 1], [], None, Ranks(0, 4))) == 4


@pytest.mark.parametrize(
    ("pairs", "memory_gib", "chunk"),
    [
        (1024, 139.8, 0),  # an H200
        (4096, 139.8, 2048),
        (2048, 79.6, 0),  # an H100
        (4096, 79.6, 2048),
        (1024, 31.7, 512),  # a V100, of which the papers had four
    ],
)
def test_a_batch_that_does_not_fit_runs_in_chunks(
    pairs: int, memory_gib: float, chunk: int
) -> None:
    assert chunk_of(pairs, memory_gib) == chunk


def test_a_cpu_compiles_nothing_and_learns_the_same() -> None:
    config = train_recipe(load_pairs_recipe("cocu-cc3m"), "cocu", 0)
    assert config.machine.compile
    here = on_this_machine(config, Ranks(), torch.device("cpu"))
    assert not here.machine.compile
    assert replace(here, machine=config.machine) == config
