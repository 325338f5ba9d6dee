"""The report of a run of PixelCLIP: the paper's table beside ours."""

from collections.abc import Sequence
from dataclasses import asdict

from integration.papers.pixelclip.recipe import MasksRecipe
from integration.papers.pixelclip.stages import MasksRun, MasksWork
from integration.papers.report import (
    figures_of,
    head_lines,
    images_line,
    report_name,
    results_of,
    save_report,
    summaries,
)
from integration.papers.table import comparison
from integration.results import table
from maskcluster import TrainConfig


def heading(
    recipe: MasksRecipe, configs: Sequence[TrainConfig], photos: int, limit: int | None
) -> str:
    """What is run, in a few lines.

    Args:
        recipe: of the run.
        configs: what its arms train; none where all are un-tuned.
        photos: that there are.
        limit: of a rehearsal.
    """
    said = f"Arms {', '.join(recipe.arms)}; masks {recipe.masks}; prompts "
    said += f"{', '.join(recipe.prompts)}"
    for config in configs[:1]:
        steps, batch = config.optim.total_steps, config.data.batch
        epochs = f", {steps * batch / photos:.2f} epochs of what is there" if photos else ""
        said += f"; {steps:,} steps of {batch:,} photographs{epochs}"
    return head_lines(recipe.summary, f"{said}.", limit)


def write_report(run: MasksRun, work: MasksWork) -> str:
    """Write report.md and results.json to `OUT/<recipe>`, and give the former.

    A rehearsal's are in `OUT/<recipe>-limit-N`.
    """
    recipe = run.recipe
    found = summaries(work.scores, run.out)
    name = report_name(recipe.name, run.limit)
    photos = min(len(run.photos.files), run.limit or len(run.photos.files))
    rows = [["photographs", "this run", "the published run"]]
    kind = recipe.mask_kind
    rows += [[kind.title, f"{photos:,}", f"{kind.published:,}"]] if run.configs else []
    parts = [
        f"# {name}",
        heading(recipe, list(run.configs.values()), photos, run.limit),
        comparison(recipe.name, recipe.load_tasks(), figures_of(found)),
        *([table(rows)] if run.configs else []),
        images_line(next(iter(found.values()))),
    ]
    results = {
        "recipe": asdict(recipe),
        "limit": run.limit,
        "photographs": photos,
        **results_of(found, work.stages, run.out),
    }
    return save_report(run.out / name, parts, results)
