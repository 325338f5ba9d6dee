import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conceptarchive.building.ray_engine import connect
from conceptarchive.errors import UsageError
from conceptarchive.options import EngineConfig

SCRIPT = Path(__file__).parent / "ray_cluster.py"


@pytest.mark.slow
def test_cluster_that_loses_a_node_builds_the_same_archive(tmp_path: Path) -> None:
    environment = os.environ | {"RAY_DEDUP_LOGS": "0", "PYTHONWARNINGS": "default"}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)],
        capture_output=True, text=True, timeout=300, env=environment, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    seen = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("{")))
    assert seen["workers"] == 2
    assert 0 < seen["shards at the kill"] < seen["shards"] == 150  # the node died in the middle
    for alone, cluster in (("alone", "ray"), ("embedded-alone", "embedded-ray")):
        first, second = (files(tmp_path / name) for name in (alone, cluster))
        assert first == second
        assert len(first) > 6


def files(folder: Path) -> dict[Path, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in found}


def test_ray_is_asked_for_by_name_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install ray"):
        connect(None)


def test_one_engine_at_a_time() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        EngineConfig(kind="ray", shard_count=2).load()
