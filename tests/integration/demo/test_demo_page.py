"""The command and its page, in a browser: upload, type, look, walk through the archive."""

import http.client
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from integration.demo.__main__ import main
from integration.demo.guard import HOST
from integration.demo.picture import MAX_BYTES
from segbench import ScenesDataset

api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytest.importorskip("gradio", reason="needs gradio")

WAIT_MS = 60_000
HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{alert(3)}}"


pytestmark = pytest.mark.slow  # the command and a browser take seconds to start
api.expect.set_options(timeout=WAIT_MS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(runs: tuple[Path, Path]) -> Iterator[str]:
    """Address of the page of both runs, served by the command itself."""
    options = [f"--cocu={runs[0]}", f"--pixelclip={runs[1]}", f"--port={free_port()}"]
    command = [sys.executable, "-m", "integration.demo", *options]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[0]
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.read()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        found = str(own) if own.exists() else shutil.which("chromium") or shutil.which("chrome")
        if found is None:
            pytest.skip("needs Chromium: playwright install chromium")
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    """The page, on which nothing may ask elsewhere, open a dialog or raise an error."""
    shown = browser.new_page(viewport={"width": 1280, "height": 1000})
    shown.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    shown.on("dialog", lambda dialog: wrong.append(dialog.message))
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on(
        "request", lambda request: wrong.append(request.url) if is_elsewhere(request.url) else None
    )
    shown.goto(server)
    yield shown
    shown.close()
    assert wrong == []


def is_elsewhere(url: str) -> bool:
    return urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).hostname != HOST


def picture(index: int) -> dict[str, Any]:
    """A scene as a file to upload."""
    buffer = io.BytesIO()
    scenes = ScenesDataset(split="val", count=100, size_px=48)
    Image.fromarray(scenes[index].image).save(buffer, "PNG")
    return {"name": "scene.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def drop(page: Any, place: str, file: dict[str, Any]) -> None:
    page.locator(f"{place} input[type=file]").set_input_files(file)


def say(page: Any, words: str) -> None:
    page.locator("#words textarea").fill(words)
    page.get_by_role("button", name="Segment").click()


def seen(page: Any, words: str) -> np.ndarray[Any, Any]:
    """Pixels of the overlay, once it shows nothing but these words."""
    label = re.compile(rf"^(({words}) <?\d+%(, )?)+$")
    overlay = page.locator("#overlay svg[role=img]")
    api.expect(overlay).to_have_attribute("aria-label", label)
    page.mouse.move(0, 0)
    return np.asarray(Image.open(io.BytesIO(overlay.screenshot())).convert("RGB")).astype(int)


def hover(page: Any, path: str) -> None:
    """Point at the first place of a class in the picture."""
    left, top = map(int, path[1:].partition("h")[0].split())
    box = page.locator("#overlay svg[role=img]").bounding_box()
    one = box["width"] / 48
    page.mouse.move(box["x"] + (left + 0.5) * one, box["y"] + (top + 0.5) * one)


def test_a_dropped_picture_is_segmented_by_what_is_typed(page: Any) -> None:
    page.locator("#words textarea").fill("sky, water, sand")
    drop(page, "#picture", picture(3))
    first = seen(page, "sky|water|sand")
    say(page, "sand | beach, sky")
    second = seen(page, "sand|sky")
    assert (np.abs(first - second).max(axis=2) > 40).mean() > 0.2
    area = page.locator("#overlay path.area").first
    name = area.locator("title").text_content()
    tip = page.locator("#overlay text", has_text=name)
    assert tip.evaluate("element => getComputedStyle(element).opacity") == "0"
    hover(page, area.get_attribute("d"))
    assert tip.evaluate("element => getComputedStyle(element).opacity") == "1"
    page.get_by_label("PixelCLIP").check()
    api.expect(page.locator("#maps figcaption").first).to_contain_text("on average")


def test_hostile_words_and_pictures_are_told_and_stay_text(page: Any) -> None:
    page.get_by_role("button", name="Draw a scene").click()
    page.locator("#overlay svg[role=img]").wait_for()
    say(page, HOSTILE)
    api.expect(page.locator("#overlay li").first).to_contain_text(HOSTILE)
    huge = {**picture(0), "buffer": picture(0)["buffer"].replace(
        (48).to_bytes(4, "big") * 2, (60_000).to_bytes(4, "big") * 2, 1
    )}  # fmt: skip
    drop(page, "#picture", huge)
    api.expect(page.locator("#overlay .wrong")).to_contain_text("25,000,000 pixels")


def test_the_archive_is_searched_and_an_entry_opened(page: Any) -> None:
    page.get_by_role("tab", name="Archive").click()
    api.expect(page.locator("#span")).to_contain_text("1 to 12 of 200 pairs")
    page.get_by_role("button", name="More").click()
    api.expect(page.locator("#span")).to_contain_text("13 to 24 of 200 pairs")
    page.locator("#search input, #search textarea").fill("000000007")
    page.locator("#search input, #search textarea").press("Enter")
    api.expect(page.locator("#span")).to_contain_text("1 to 1 of 1 pairs")
    page.locator("#cards button").first.click()
    entry = page.frame_locator("#entry iframe")
    api.expect(entry.locator("h1")).to_have_text("train/00000/000000007")
    assert entry.locator("section").count() > 0
    drop(page, "#new-picture", picture(5))
    api.expect(entry.locator("h1")).to_have_text("your picture")


def answer(server: str, method: str, path: str, body: bytes = b"", **headers: str) -> int:
    """Status of an answer."""
    place = urlsplit(server)
    connection = http.client.HTTPConnection(HOST, place.port or 0, timeout=60)
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_server_answers_itself_alone_and_serves_no_file(server: str) -> None:
    assert answer(server, "GET", "/") == 200
    assert answer(server, "GET", "/", Host="evil.example") == 400
    assert answer(server, "GET", "/", Origin="https://evil.example") == 403
    assert answer(server, "GET", "/gradio_api/file=/etc/passwd") == 403
    named = {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], "fn_index": 0}
    assert answer(server, "POST", "/gradio_api/run/predict", json.dumps(named).encode()) == 403


@pytest.mark.parametrize("port", [None, 70_000])
def test_a_port_that_cannot_be_used_is_one_line(
    server: str, runs: tuple[Path, Path], port: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = port or urlsplit(server).port
    assert main([f"--cocu={runs[0]}", f"--port={wanted}"]) == 1
    told = capsys.readouterr().err
    assert told == f"demo: port {wanted} cannot be used; choose another with --port N\n"


def test_a_large_upload_is_refused(server: str) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    small = head + b"a" + b"\r\n--x--\r\n"
    large = head + bytes(MAX_BYTES + 1) + b"\r\n--x--\r\n"
    assert answer(server, "POST", "/gradio_api/upload", small, **kind) == 200
    assert answer(server, "POST", "/gradio_api/upload", large, **kind) == 413


def test_the_server_listens_on_the_loopback_device_alone(server: str) -> None:
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("needs Linux's table of sockets")
    port = f"{urlsplit(server).port:04X}"
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    listening = [row[1] for row in rows if row[1].endswith(f":{port}") and row[3] == "0A"]
    assert listening == [f"0100007F:{port}"]
