"""Build the wheel of every package and import each alone in an empty environment.

    hatch run wheels

Shows that a package needs nothing that it does not declare. Environments are made and removed one
by one. `integration` depends on its four siblings, which come from the wheels just built.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import which

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("conceptarchive", "groupvit", "maskcluster", "segbench")


def run(*command: str | Path) -> None:
    """Run a command from outside the checkout; stop with its output when it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd="/")
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def uv() -> str:
    """The uv that hatch works with, installed when it is missing."""
    found = which("uv")
    if found is None:
        run(sys.executable, "-m", "pip", "install", "--quiet", "uv")
        found = which("uv")
    if found is None:
        sys.exit("uv is not on the PATH after `pip install uv`; add pip's script folder to it")
    return found


def check(name: str, wheel: Path, wheels: Path, scratch: Path) -> None:
    """Install one wheel alone and import it."""
    environment = scratch / name
    run(uv(), "venv", "--quiet", environment)
    python = environment / "bin" / "python"
    siblings = ["--find-links", wheels] if name == "integration" else []
    run(uv(), "pip", "install", "--quiet", "--python", python, *siblings, wheel)
    inside = f"import {name}; assert {str(environment)!r} in {name}.__file__, {name}.__file__"
    run(python, "-c", f"{inside}; print({name}.__version__)")
    run("rm", "-rf", environment)
    print(f"{wheel.name}: installs and imports alone", flush=True)


def main() -> None:
    """Build all, then check each."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        wheels = scratch / "wheels"
        places = {name: ROOT / "packages" / name for name in PACKAGES}
        places["integration"] = ROOT / "integration"
        for place in places.values():
            run(uv(), "build", "--quiet", "--wheel", "--out-dir", wheels, place)
        for name in places:
            check(name, next(wheels.glob(f"{name}-*.whl")), wheels, scratch)


if __name__ == "__main__":
    main()
