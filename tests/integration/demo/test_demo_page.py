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
from integration.demo.desk import Desk
from integration.demo.guard import HOST
from integration.demo.models import Models
from integration.demo.picture import MAX_BYTES
from integration.demo.runs import model_folders
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


def shares(page: Any) -> dict[str, str]:
    """The legend: share by class."""
    lines = page.locator("#overlay li").all_inner_texts()
    return dict(line.split("\n") for line in lines)


def test_every_way_of_moving_the_threshold_counts_at_once(page: Any) -> None:
    page.get_by_role("button", name="Draw a scene").click()
    background = page.locator("#overlay .key--1")
    picture = page.locator("#overlay svg[role=img]")
    picture.wait_for()
    assert "background" not in shares(page)
    number = page.locator("#threshold input[type=number]")
    number.fill("1")
    number.press("Enter")  # the field keeps the focus
    api.expect(background).to_be_visible()
    high = shares(page)["background"]
    slider = page.locator("#threshold input[type=range]")
    slider.focus()
    for _ in range(20):
        slider.press("ArrowLeft")
    api.expect(background).to_have_count(0)
    assert slider.input_value() == "0"
    slider.press("End")
    api.expect(background).to_contain_text(high)
    number.fill("")  # as while another number is typed
    api.expect(background).to_have_count(0)
    api.expect(picture).to_be_visible()


def test_moving_the_threshold_leaves_at_most_one_request_waiting(runs: tuple[Path, Path]) -> None:
    from integration.demo.page import build  # needs gradio

    desk = Desk(Models(model_folders(*runs)), None, ScenesDataset(split="val", count=1, size_px=48))
    config = build(desk).config
    slider = next(one["id"] for one in config["components"] if one["type"] == "slider")
    (moved,) = (one for one in config["dependencies"] if (slider, "change") in one["targets"])
    assert moved["trigger_mode"] == "always_last"


def test_enter_segments_and_one_class_of_many_words_is_pointed_out(page: Any) -> None:
    page.get_by_role("button", name="Draw a scene").click()
    words = page.locator("#words textarea")
    words.fill("sky grass house")
    words.press("Enter")
    hint = page.locator("#overlay .told", has_text="one class, 'sky grass house'")
    api.expect(hint).to_be_visible()
    assert words.input_value() == "sky grass house"  # no line was added
    words.fill("sky, grass, house")
    words.press("Enter")
    api.expect(hint).to_have_count(0)
    assert shares(page).keys() == {"sky", "grass", "house"}  # those without a pixel too


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [("a.png", MAX_BYTES + 1, "at most 10 are read"), ("a.txt", 9, "not a picture")],
)
def test_a_file_that_is_not_sent_takes_the_place_of_what_was_shown(
    page: Any, name: str, size: int, told: str
) -> None:
    page.get_by_role("button", name="Draw a scene").click()
    page.locator("#overlay svg[role=img]").wait_for()
    drop(page, "#picture", {"name": name, "mimeType": "image/png", "buffer": bytes(size)})
    api.expect(page.locator("#overlay .wrong")).to_contain_text(told)
    api.expect(page.locator("#overlay svg[role=img]")).to_have_count(0)


def test_what_models_and_archive_know_is_said_readably(page: Any) -> None:
    page.get_by_role("tab", name="Archive").click()
    about = page.locator("#about .told")
    api.expect(about).to_contain_text("procedural scenes")
    page.get_by_role("tab", name="Segment").click()
    limits = page.locator("#limits .told")
    api.expect(limits).to_be_in_viewport()
    for note in (limits, about):
        size = note.evaluate("element => parseFloat(getComputedStyle(element).fontSize)")
        assert size >= 14


def test_what_is_said_of_a_dropped_picture_is_seen_beside_where_it_was_dropped(page: Any) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    page.get_by_role("tab", name="Archive").click()
    page.locator("#cards button").first.wait_for()
    drop(page, "#new-picture", picture(5))
    entry = page.frame_locator("#entry iframe")
    api.expect(entry.locator("h1")).to_have_text("your picture")
    assert page.evaluate("scrollY") == 0
    seen = [page.locator("#new-picture"), entry.locator(".picture"), entry.locator("h2").nth(1)]
    for one in seen:
        api.expect(one).to_be_in_viewport(ratio=1)
    frame = page.locator("#entry iframe").bounding_box()
    assert 840 < frame["y"] + frame["height"] <= 900  # no empty room below


def test_an_entry_stays_in_sight_while_the_list_is_scrolled(page: Any) -> None:
    page.set_viewport_size({"width": 1280, "height": 620})
    page.get_by_role("tab", name="Archive").click()
    page.locator("#cards button").last.wait_for()
    page.locator("#cards button").first.click()
    page.frame_locator("#entry iframe").locator("h1").wait_for()
    top = page.locator(".result").bounding_box()["y"]
    page.evaluate("scrollTo(0, 1e6)")
    scrolled = page.evaluate("scrollY")
    assert scrolled > 150
    assert page.locator(".result").bounding_box()["y"] > top - scrolled + 20
    api.expect(page.frame_locator("#entry iframe").locator(".picture")).to_be_in_viewport(ratio=1)


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
