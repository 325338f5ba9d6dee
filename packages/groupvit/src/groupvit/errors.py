"""What a user can act on."""


class GroupViTError(Exception):
    """One line that says what is wrong and what to do; `exit_code` is the command's."""

    exit_code = 1


class DataError(GroupViTError):
    """Training data are missing or cannot be read."""

    exit_code = 3


class CheckpointError(GroupViTError):
    """A checkpoint is of another kind, version or model."""


class DivergedError(GroupViTError):
    """The loss is no longer a number."""


class RecipeError(GroupViTError):
    """A recipe has an unknown field or a value that cannot be."""

    exit_code = 2


class UsageError(GroupViTError):
    """The command was given what it cannot use."""

    exit_code = 2
