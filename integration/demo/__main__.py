"""`python -m integration.demo`: the web page, on this machine alone."""

import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import auto_cli

from integration.cocu.recipe import load_recipe
from integration.demo.desk import SCENES, Desk
from integration.demo.models import Models
from integration.demo.runs import archive_folders, check_any, model_folders, of_scenes
from integration.errors import DataMissingError
from segbench import ScenesDataset

RECIPE = "cocu-mini"
"""Whose scenes are drawn to try."""


EXTRA = ("gradio", "starlette")
"""What the extra `demo` installs."""


def demo(
    *,
    cocu: Path = Path("runs/cocu-mini"),
    pixelclip: Path = Path("runs/pixelclip-mini"),
    port: int = 7860,
) -> None:
    """Segment pictures by words and walk through an archive, in a browser on this machine.

    Args:
        cocu: results of `reproduce cocu`.
        pixelclip: results of `reproduce pixelclip`; without them its models are listed as missing.
        port: of the page, on 127.0.0.1.
    """
    check_any(cocu, pixelclip)
    check_port(port)
    world = load_recipe(RECIPE).scenes
    scenes = ScenesDataset(
        split="val",
        count=SCENES,
        size_px=world.size_px,
        difficulty=world.difficulty,
        seed=world.seed,
    )
    models = Models(model_folders(cocu, pixelclip))
    desk = Desk(models, archive_folders(cocu), scenes, of_scenes(cocu, pixelclip))
    with tempfile.TemporaryDirectory(prefix="integration-demo-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads  # read when the page is built
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        serve(desk, port, Path(uploads))


def check_port(port: int) -> None:
    """Refuse a port that is taken, before anything slow is loaded.

    Raises:
        OSError: it cannot be listened at.
    """
    from integration.demo.guard import HOST  # of the extra `demo`, as all that serves

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise OSError(f"port {port} cannot be used; choose another with --port N") from error


def serve(desk: Desk, port: int, uploads: Path) -> None:
    """Serve a desk until the process is interrupted."""
    from integration.demo.page import build, start

    blocks = build(desk)
    print(f"{start(blocks, port, uploads)}  (Ctrl+C ends it)", flush=True)
    blocks.block_thread()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page; return the exit code."""
    try:
        auto_cli(demo, args=None if argv is None else list(argv), prog="python -m integration.demo")
    except DataMissingError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a port that is taken
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        print("demo: needs gradio: pip install 'integration[demo]'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
