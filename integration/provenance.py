"""What a number was made with: machine, libraries and commit."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = (
    "conceptarchive", "groupvit", "maskcluster", "segbench", "torch", "torchvision", "triton",
    "open_clip_torch", "timm", "numpy", "scikit-learn", "faiss-gpu", "faiss-cpu", "pyarrow",
    "pillow",
)  # fmt: skip
"""Distributions whose versions are told, of those that are installed."""


def machine() -> dict[str, Any]:
    """What the run was made on."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def environment() -> dict[str, str]:
    """Machine, system, commit and the versions of `LIBRARIES`, to be shown."""
    here = machine()
    return {
        "commit": commit() or "unknown",
        "CPU": here["cpu"],
        "cores": str(os.cpu_count()),
        "threads": str(here["threads"]),
        "GPU": here["gpu"] or "none",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": here["python"],
        **_versions(),
    }


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # one of the two builds of faiss, say
            continue
    return found


def commit() -> str | None:
    """The commit of the checkout, with `+` when files differ from it; None outside of one."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        return head + ("+" if _git(here, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
