"""Packages that only some models need."""

import importlib
from types import ModuleType


def needed(module: str, package: str) -> ModuleType:
    """Import a package when a model that needs it is made.

    Args:
        module: what is imported, such as "open_clip".
        package: what is installed, such as "open_clip_torch".

    Raises:
        ModuleNotFoundError: it is not installed; one line that says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ModuleNotFoundError(
            f"this model needs {module}: pip install {package}", name=module
        ) from error
