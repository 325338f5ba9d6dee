"""The settings of an archive on real photographs: `--ablation` on a recipe of Flickr8k.

Minutes of training teach nothing on under a thousand photographs, so nothing is trained: archives
and draws are judged by what four other people name. There is no closed gallery and no other pool.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from integration.cocu.ablation.curations import CURATIONS, Curation
from integration.cocu.ablation.report import write_ablation
from integration.cocu.ablation.study import build, judge, study_settings
from integration.cocu.concept_pages import ARCHIVES, archive_section
from integration.cocu.flickr8k import (
    ENCODER,
    check_data,
    curated_photos,
    data_files,
    write_photo_pairs,
)
from integration.cocu.recipe import Recipe
from integration.errors import RecipeError
from integration.stage import Stage, write_text

JUDGED: Mapping[str, Curation] = {
    name: each
    for name, each in CURATIONS.items()
    if (each.vocabulary, each.pool) == ("mined", "own")
}
"""Curations that photographs allow."""


def photo_study_stages(
    recipe: Recipe, arms: Sequence[str] | None, out: Path, data: Path | None
) -> list[Stage]:
    """The study of settings, and its report.

    Args:
        recipe: of Flickr8k.
        arms: none; nothing is trained.
        out: root of the stage folders.
        data: folder of photographs and features.

    Raises:
        RecipeError: arms, or no data folder.
        DataMissingError: it lacks a file that the recipe reads.
    """
    if arms is not None:
        raise RecipeError(f"--ablation of {recipe.name} trains nothing: leave --arms out")
    if data is None:
        raise RecipeError(f"recipe {recipe.name} reads photographs: say where with --data FOLDER")
    data = data.resolve()
    check_data(data)
    study = Stage(
        name="study",
        settings={
            **study_settings(recipe, JUDGED),
            "archive": asdict(recipe.archive),
            "photos": asdict(recipe.photos),
            "files": data_files(data),
        },
        run=partial(_study, recipe, data),
        cost=6 * recipe.costs.get("archive", 1),
    )
    report = Stage(
        name="ablation",
        settings={"recipe": recipe.name, "summary": recipe.summary},
        version=3,
        inputs=(study,),
        run=lambda folder: write_ablation(
            folder, recipe, {}, study=study, out=out, pictures=_pictures(recipe, data, study, out)
        ),
    )
    return [study, report]


def _pictures(recipe: Recipe, data: Path, study: Stage, out: Path) -> dict[str, list[str]]:
    """Photographs of the full model's archive, by heading."""
    archive = study.folder(out) / JUDGED["model-4"].archive_name(recipe)
    with TemporaryDirectory() as folder:
        write_photo_pairs(recipe, data, Path(folder))
        return {ARCHIVES: [archive_section(Path(folder), archive)]}


def _study(recipe: Recipe, data: Path, folder: Path) -> None:
    """Build every archive, and judge all."""
    photos = curated_photos(recipe, data)
    archives: dict[str, Path] = {}
    for curation in JUDGED.values():
        name = curation.archive_name(recipe)
        archives[name] = folder / name
        config, pairs = curation.archive_config(recipe), photos.embeddings
        build(config, photos.vocabulary, photos.features, pairs, pairs, ENCODER, archives[name])
    truth = {key: frozenset(names) for key, names in photos.truth.items() if names}
    found = judge(recipe, JUDGED, archives, {"mined": photos.vocabulary}, truth)
    write_text(folder / "study.json", json.dumps(found, indent=1))
