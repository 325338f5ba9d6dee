import re

import maskcluster


def test_version_is_semantic() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", maskcluster.__version__)
