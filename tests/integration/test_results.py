"""Numbers over seeds, and their tables."""

import json
import re
from pathlib import Path

import pytest

from integration.progress import ArmRun, last_loss
from integration.provenance import machine
from integration.results import (
    Outcome,
    arms_table,
    gather,
    markdown,
    paired_gain,
    quality_table,
    seconds_table,
    speed_table,
    spread,
    table,
)
from integration.stage import Stage, write_text


def quality(recall: float) -> dict[str, object]:
    return {
        "recall": {"1": recall}, "precision": {"1": 0.25},
        "pairs": 10, "pairs_with_missing": 8, "named": 0.375,
    }  # fmt: skip


OUTCOME = Outcome(
    metrics={
        "baseline": {"miou": [0.1, 0.2], "miou_stuff": [0.0, 0.0], "other": [9.0, 9.0]},
        "cocu": {"miou": [0.3, 0.6], "miou_stuff": [0.5, 0.5], "other": [9.0, 9.0]},
    },
    losses={"baseline": 2.5, "cocu": 1.25},
    quality={"caption alone": quality(0.0), "vision": quality(0.5)},
    gap={"stuff": 0.2, "thing": 0.9, "all": 0.5, "false": 0.04},
    seconds={"pairs": 1.4, "train": 60.0},
)


def test_spread_of_one_to_three_by_hand() -> None:
    # deviations -1, 0, 1: sample variance 1, standard error 1 / sqrt 3
    found = spread([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.error == pytest.approx(3**-0.5)
    assert str(found) == "2.000 ± 0.577"


def test_spread_of_one_seed_has_no_error() -> None:
    assert spread([0.25]).error is None
    assert str(spread([0.25])) == "0.250"


def test_paired_gain_by_hand() -> None:
    # differences 0.2 and 0.4: mean 0.3, sample variance 0.02, standard error 0.1
    gain = paired_gain([0.1, 0.2], [0.3, 0.6])
    assert gain.mean == pytest.approx(0.3)
    assert gain.error == pytest.approx(0.1)
    with pytest.raises(ValueError, match="shorter"):
        paired_gain([1.0, 2.0], [1.0])


def test_a_constant_gain_has_no_error_though_seeds_vary() -> None:
    assert paired_gain([0.0, 5.0, 9.0], [1.0, 6.0, 10.0]).error == 0


def test_last_loss_is_of_the_last_tenth() -> None:
    log = [{"loss": float(step)} for step in range(20)]
    assert last_loss(log) == 18.5
    assert last_loss(log[:3]) == 2


def test_table_is_markdown() -> None:
    assert table([["a", "b"], ["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_arms_table_has_means_and_the_paired_gain() -> None:
    *lines, blank, meanings = arms_table(OUTCOME).splitlines()
    assert lines == [
        "Zero-shot segmentation, by the names of classes alone (2 seeds, mean ± standard error).",
        "",
        "| arm | mIoU | stuff | final loss |",
        "|---|---|---|---|",
        "| baseline | 0.150 ± 0.050 | 0.000 ± 0.000 | 2.500 |",
        "| cocu | 0.450 ± 0.150 | 0.500 ± 0.000 | 1.250 |",
        "| cocu - baseline | 0.300 ± 0.100 | 0.500 ± 0.000 |  |",
    ]
    assert blank == ""
    told = re.findall(r"\*\*(.+?)\*\*", meanings)  # every column but the first, and no other
    assert told == ["mIoU", "stuff", "final loss"]


def test_one_arm_alone_has_no_gain() -> None:
    alone = Outcome({"cocu": {"miou": [0.5]}}, {"cocu": 1.0}, {}, None, {})
    text = arms_table(alone)
    assert "one seed" in text
    assert "cocu - baseline" not in text


def test_quality_table_has_every_way_of_ranking() -> None:
    text = quality_table(OUTCOME.quality)
    assert "Captions name 38% of the concepts that pictures show; 8 of 10 leave something" in text
    assert "| curation | R@1 | P@1 |" in text
    assert "| caption alone | 0.000 | 0.250 |" in text
    assert "| vision | 0.500 | 0.250 |" in text


def test_a_column_of_mfu_is_there_where_it_is_known() -> None:
    assert speed_table({"a": {"images_per_s": 9.6}, "b": {}}).endswith(
        "| arm | images / s |\n|---|---|\n| a | 10 |\n| b |  |"
    )
    known = speed_table({"a": {"images_per_s": 9.6, "mfu": 0.25}, "b": {}})
    assert "| arm | images / s | MFU |" in known
    assert "| a | 10 | 0.250 |\n| b |  |  |" in known
    assert known.count("**MFU**") == 1


def test_seconds_table_adds_up() -> None:
    assert seconds_table({"a": 1.4, "b": 60.0}).endswith("| a | 1 |\n| b | 60 |\n| all | 61 |")


def test_markdown_has_every_table_and_the_gap_where_it_is_known() -> None:
    text = markdown(OUTCOME)
    assert text.startswith("Captions name 20% of the stuff and 90% of the things")
    assert "4% of what they name is not there" in text
    for part in ("Zero-shot segmentation", "Archive quality", "Seconds per stage"):
        assert part in text
    unknown = Outcome(OUTCOME.metrics, OUTCOME.losses, OUTCOME.quality, None, OUTCOME.seconds)
    assert markdown(unknown).startswith("Zero-shot")


def test_gather_reads_what_stages_left(tmp_path: Path) -> None:
    def made(name: str, *inputs: Stage, **files: str) -> Stage:
        stage = Stage(name=name, settings={}, inputs=inputs, run=lambda _: None)
        stage.folder(tmp_path).mkdir(parents=True)
        for file, content in {**files, "stage": json.dumps({"seconds": 2.0})}.items():
            ending = "jsonl" if file == "log" else "json"
            write_text(stage.folder(tmp_path) / f"{file}.{ending}", content)
        return stage

    clip = made("clip")
    pairs = made("pairs")
    archive = made("archive", pairs, clip, quality="{}")
    runs = {}
    for seed, miou in enumerate((0.5, 0.75)):
        trained = made(f"train-{seed}", archive, log='{"step": 1, "loss": 3.0}\n')
        summary = json.dumps({"miou": miou, "absent": None})
        judged = made(f"evaluate-{seed}", trained, summary=summary)
        runs["cocu", seed] = ArmRun(trained, judged, None)
    outcome = gather(tmp_path, pairs=pairs, archive=archive, runs=runs)
    assert outcome.metrics == {"cocu": {"miou": [0.5, 0.75]}}
    assert outcome.losses == {"cocu": 3.0}
    assert outcome.gap is None
    # the curator's CLIP is counted too, though nothing of it is in the tables
    assert set(outcome.seconds) == {
        "pairs", "clip", "archive", "train-0", "evaluate-0", "train-1", "evaluate-1",
    }  # fmt: skip
    assert sum(outcome.seconds.values()) == 14


def test_machine_names_what_numbers_hang_on() -> None:
    here = machine()
    assert here["cpu"]
    assert here["threads"] >= 1
    assert {"gpu", "python", "torch"} <= here.keys()
