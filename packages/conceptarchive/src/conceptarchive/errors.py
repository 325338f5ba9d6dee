"""Errors that a user can act on; each knows the exit code of the command it ends."""


class ConceptArchiveError(Exception):
    """A one-line message that names the file, what is wrong with it and the way out."""

    exit_code = 1


class FormatError(ConceptArchiveError):
    """A file is not what it should be: damaged, of another kind, or of an unknown version."""


class UsageError(ConceptArchiveError, ValueError):
    """A setting out of range, or settings that do not fit together."""

    exit_code = 2


class DataMissingError(ConceptArchiveError):
    """A file or folder that should hold data is missing or empty."""

    exit_code = 3


class IncompleteError(ConceptArchiveError):
    """A folder that a killed run left unfinished; running it again goes on."""

    exit_code = 4


class StaleFolderError(ConceptArchiveError):
    """A folder begun with other settings or other inputs; it is never continued."""
