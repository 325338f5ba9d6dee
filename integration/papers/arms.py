"""The arms of a paper's run: the ablation's, under the paper's names, and GroupViT itself."""

from collections.abc import Mapping
from dataclasses import replace

from conceptarchive import ArchiveConfig
from integration.cocu.ablation.curations import CURATIONS, MODELS, SETTINGS, Curation

ARMS: Mapping[str, Curation | None] = {
    "baseline": None,
    "cocu": MODELS["model-4"],
    "cocu-released": SETTINGS["top"],
    **{n: c for n, c in CURATIONS.items() if (c.vocabulary, c.pool) == ("mined", "own")},
}
"""GroupViT (nouns and verbs of captions), CoCu, CoCu as its released code draws, and every curation
of the ablation; vocabulary and pool are the recipe's. None: no archive."""


def archive_name(curation: Curation) -> str:
    """What an arm's archive is called; arms that only draw differently share one."""
    expansion, ranking = curation.archive["expansion"], curation.archive["ranking"]
    more = {k: v for k, v in curation.archive.items() if k not in ("expansion", "ranking")}
    parts = [f"{key}-{value}".replace("_", "-") for key, value in sorted(more.items())]
    return "-".join([expansion, ranking, *parts])


def archive_config(curation: Curation, common: ArchiveConfig) -> ArchiveConfig:
    """How an arm's archive is built, over what all arms have in common."""
    return replace(common, **curation.archive)
