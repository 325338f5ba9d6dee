"""What a user can act on, and what other libraries say in a line."""

import re
import textwrap

REASON_LENGTH = 200
"""Characters of another library's error."""


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


def reason_of(error: BaseException) -> str:
    """One line of another library's error, cut between words.

    Of weights that do not fit, the first tensor: PyTorch lists every one.
    """
    said = " ".join(str(error).split())
    if "loading state_dict" in said:
        if first := re.search(r'(Missing|Unexpected) key\(s\) in state_dict: "([^"]+)"', said):
            return f"it has {'no' if first[1] == 'Missing' else 'a'} {first[2]}"
        if first := re.search(r"size mismatch for ([^:]+):", said):
            return f"its {first[1]} has another shape"
    return textwrap.shorten(said, REASON_LENGTH, placeholder=" ...") or type(error).__name__
