import pytest

from conceptarchive import (
    ArchiveConfig,
    ConceptArchiveError,
    DataMissingError,
    FormatError,
    IncompleteError,
    StaleFolderError,
    UsageError,
)


def test_defaults_are_the_papers() -> None:
    config = ArchiveConfig()
    assert (config.expansion, config.ranking, config.neighbours) == ("vision", "relative", 8)
    assert (config.self_mode, config.clusters, config.concepts_per_pair) == ("force", "concepts", 3)
    assert (config.relative, config.cosine_norm) == ("mean_with_anchor", "max_in_archive")


@pytest.mark.parametrize("name", ["neighbours", "concepts_per_pair", "max_concepts"])
@pytest.mark.parametrize("value", [0, -1, 256])
def test_counts_are_checked(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be in .*got {value}"):
        ArchiveConfig(**{name: value})  # type: ignore[arg-type]  # all of the three are int


def test_errors_carry_exit_codes() -> None:
    codes = {FormatError: 1, StaleFolderError: 1, UsageError: 2, DataMissingError: 3}
    for kind, code in (codes | {IncompleteError: 4}).items():
        assert kind("why").exit_code == code
        assert issubclass(kind, ConceptArchiveError)
