"""What a user can act on."""


class MaskClusterError(Exception):
    """One line that says what is wrong and what to do; `exit_code` is the command's."""

    exit_code = 1


class DataError(MaskClusterError):
    """Photographs or masks are missing or cannot be read."""

    exit_code = 3


class FormatError(MaskClusterError):
    """A file is not of the kind, version or schema that is read."""


class CheckpointError(MaskClusterError):
    """A checkpoint is of another kind, version or model."""


class DivergedError(MaskClusterError):
    """The loss is no longer a number."""


class RecipeError(MaskClusterError):
    """A recipe has an unknown field or a value that cannot be."""

    exit_code = 2


class UsageError(MaskClusterError):
    """The command was given what it cannot use."""

    exit_code = 2
