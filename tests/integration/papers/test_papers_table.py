"""The table at the end: our figures, the paper's, and the difference."""

import pytest

from integration.papers.recipe import load_pairs_recipe
from integration.papers.table import MEAN, TOP_5, comparison, figures
from segbench import load_any_task

UNION = "cocu-cc3m-cc12m-yfcc14m"


def test_figures_are_percent_over_seeds_with_the_average_of_segmentation() -> None:
    found = figures(
        [
            {"voc21@cocu": {"miou": 0.50}, "ade150@cocu": {"miou": 0.10},
             "imagenet1k@cocu": {"acc1": 0.4, "acc5": 0.7}},
            {"voc21@cocu": {"miou": 0.54}, "ade150@cocu": {"miou": 0.12},
             "imagenet1k@cocu": {"acc1": 0.4, "acc5": 0.7}},
        ]
    )  # fmt: skip
    assert found["voc21@cocu"].mean == pytest.approx(52)
    assert found["voc21@cocu"].error == pytest.approx(2)
    assert found[MEAN].mean == pytest.approx(31.5)
    assert found["imagenet1k@cocu"].mean == pytest.approx(40)
    assert found["imagenet1k@cocu" + TOP_5].mean == pytest.approx(70)


def cells(text: str, first: str) -> list[list[str]]:
    """Rows whose first cell is `first`."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [row for row in rows if row[0] == first]


def test_differences_stand_under_the_papers_rows() -> None:
    recipe = load_pairs_recipe(UNION)
    ours = figures([{task: {"miou": 0.25} for task in recipe.tasks[:8]}])
    tasks = recipe.load_tasks()
    text = comparison(UNION, tasks, {"baseline": ours, "cocu": ours})
    assert cells(text, "percent")[0][9:] == ["average", "imagenet1k Acc@1", "imagenet1k Acc@5"]
    row = cells(text, "GroupViT, batch 1,024 (CoCu, table 1)")[0]
    assert row[1:10] == ["43.8", "19.3", "19.6", "37.8", "17.2", "17.2", "10.4", "13.6", "22.4"]
    differences = cells(text, "difference")
    assert len(differences) == 6  # two arms: table 1 twice, table 4
    assert differences[0][1] == "-18.8"
    assert differences[0][9] == "+2.6"
    assert differences[2][1:] == [""] * 11  # table 4 has ImageNet alone, and we have not
    assert cells(text, "CoCu (CoCu, table 4)")[0][10:] == ["43.0", "73.7"]


def test_what_is_not_to_be_had_is_said() -> None:
    tasks = [load_any_task("voc21@cocu")]
    ours = figures([{"voc21@cocu": {"miou": 0.1}}])
    text = comparison("cocu-cc3m", tasks, {"cocu": ours, "baseline": ours})
    assert "cocu, CoCu, table 2: its cells were not at hand" in text
    assert "baseline: no published figures." in text
    assert "difference" not in text
    assert MEAN not in text
