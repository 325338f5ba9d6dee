"""Nearest names by cosine, lists of class names, features of names, tables."""

import csv
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskcluster.errors import DataError, UsageError
from maskcluster.naming.names import (
    NamedCluster,
    name_clusters,
    read_names,
    short_name,
    write_names,
)

NAMES = ("east", "north", "west")
DIRECTIONS = torch.tensor([[3.0, 0.0], [0.0, 0.5], [-1.0, 0.0]])


def test_a_prompt_has_the_name_of_highest_cosine_and_lengths_do_not_count() -> None:
    prompts = torch.tensor([[0.3, 0.4], [-8.0, 6.0]])
    first, second = name_clusters(prompts, NAMES, DIRECTIONS)
    assert (first.cluster, first.name) == (0, "north")
    assert first.similarity == pytest.approx(0.8)
    assert [name for name, _ in first.runners_up] == ["east", "west"]
    assert [value for _, value in first.runners_up] == pytest.approx([0.6, -0.6])
    assert (second.cluster, second.name) == (1, "west")
    assert second.similarity == pytest.approx(0.8)


def test_of_equal_cosines_the_first_of_the_list_wins() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    (found,) = name_clusters(torch.tensor([[1.0, 0.0]]), NAMES, rows)
    assert [found.name, *(name for name, _ in found.runners_up)] == list(NAMES)


def test_counts_and_fewer_names_than_runners_up() -> None:
    found = name_clusters(
        torch.eye(2), ["a"], torch.ones(1, 2), runners_up=4, masks=[3, 0], pixels=[0.75, 0.25]
    )
    assert [(one.masks, one.pixels, one.runners_up) for one in found] == [
        (3, 0.75, ()),
        (0, 0.25, ()),
    ]


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 1000))
def test_names_move_with_their_rows(clusters: int, count: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    prompts, rows = (torch.randn(n, 5, generator=random) for n in (clusters, count))
    names = [f"class {n}" for n in range(count)]
    order = torch.randperm(count, generator=random)
    found = name_clusters(prompts, names, rows)
    moved = name_clusters(prompts, [names[i] for i in order.tolist()], rows[order])
    assert [one.name for one in found] == [one.name for one in moved]
    for one in found:
        told = [one.similarity, *(value for _, value in one.runners_up)]
        assert told == sorted(told, reverse=True)


@pytest.mark.parametrize(
    ("prompts", "rows", "masks", "said"),
    [
        (torch.ones(2, 3), torch.ones(3, 2), None, r"names \(3, D\).*got \(2, 3\) and \(3, 2\)"),
        (torch.ones(2, 2), torch.ones(2, 2), None, r"got \(2, 2\) and \(2, 2\)"),
        (torch.ones(2, 2), torch.ones(3, 2), [1], "masks must be of 2 clusters, got 1"),
        (torch.full((2, 2), torch.nan), torch.ones(3, 2), None, "must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(
    prompts: torch.Tensor, rows: torch.Tensor, masks: list[int] | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        name_clusters(prompts, NAMES, rows, masks=masks)


def test_a_file_has_one_class_a_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\ufeffcow, cattle\n\n  traffic light \r\nsky\n", encoding="utf-8")
    assert read_names(path) == read_names(str(path)) == ("cow, cattle", "traffic light", "sky")
    assert short_name("cow, cattle") == "cow"


def test_a_list_has_commas() -> None:
    assert read_names("cow,traffic light, sky ,") == ("cow", "traffic light", "sky")


def test_lists_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.txt: cannot be read \(No such file"):
        read_names(str(tmp_path / "gone.txt"))
    with pytest.raises(UsageError, match="coco: no such file; class names are a text file"):
        read_names("coco")
    with pytest.raises(UsageError, match="has the class name 'sky' twice"):
        read_names("sky,tree,sky")
    with pytest.raises(DataError, match="no class names"):
        read_names(",,")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"latin.txt: not UTF-8"):
        read_names(tmp_path / "latin.txt")


def test_tables_hold_what_was_found(tmp_path: Path) -> None:
    clusters = name_clusters(
        torch.tensor([[0.3, 0.4], [-8.0, 6.0]]), NAMES, DIRECTIONS, runners_up=1, masks=[5, 2]
    )
    files = write_names(tmp_path, clusters, NAMES)
    stored = json.loads(files["json"].read_text())
    assert (stored["kind"], stored["version"]) == ("maskcluster.names", 1)
    assert stored["class_names"] == list(NAMES)
    assert [one["name"] for one in stored["clusters"]] == ["north", "west"]
    assert stored["clusters"][0]["runners_up"][0]["name"] == "east"
    assert "pixels" not in stored["clusters"][0]
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [(r["cluster"], r["name"], r["masks"], r["name_2"]) for r in rows] == [
        ("0", "north", "5", "east"),
        ("1", "west", "2", "north"),
    ]
    lines = files["md"].read_text().splitlines()
    assert lines[0] == "| cluster | name | cosine | masks | runners-up |"
    assert lines[2] == "| 0 | north | 0.800 | 5 | east 0.600 |"


def test_a_bar_in_a_name_does_not_break_the_table(tmp_path: Path) -> None:
    one = NamedCluster(cluster=0, name="a|b", similarity=0.5)
    text = write_names(tmp_path, [one], ["a|b"])["md"].read_text()
    assert "| 0 | a\\|b | 0.500 |  |" in text
