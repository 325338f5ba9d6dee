"""What a user of a recipe can act on."""


class RecipeError(Exception):
    """A recipe, a stage or a path that cannot be used; one line."""

    exit_code = 2


class DataMissingError(Exception):
    """Files that a recipe needs are not there; one line with the way out."""

    exit_code = 3


class DamagedError(Exception):
    """A file of an earlier run is not as it was written; one line with the way out."""

    exit_code = 1
