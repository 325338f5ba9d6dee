"""The machine and the code that figures belong to."""

import platform
import subprocess
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")


def describe_machine(device: torch.device) -> dict[str, str | int | None]:
    """Device, processor, threads, versions and commit."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def processor_name() -> str:
    """Model of the CPU where Linux says it, else its architecture."""
    if CPUINFO.is_file():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit(folder: Path = Path(__file__).parent) -> str | None:
    """Commit of the checkout that a folder is in, "-dirty" where files differ; None without one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError:  # no git
        return None
    return done.stdout.strip() or None
