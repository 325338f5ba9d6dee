"""What the server refuses before the framework sees it."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from integration.demo.guard import MAX_BODY, POLICY, Guard

Messages = list[dict[str, Any]]


def ask(
    uploads: Path,
    path: str,
    chunks: Sequence[bytes] = (b"",),
    *,
    method: str = "POST",
    origin: str | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Status and headers of an answer, and the body that the page was given."""
    given, answered = bytearray(), []  # type: bytearray, Messages
    parts = [
        {"type": "http.request", "body": chunk, "more_body": at + 1 < len(chunks)}
        for at, chunk in enumerate(chunks)
    ]

    async def page(_: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            given.extend(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: Any) -> None:
        answered.append(message)

    headers = [] if origin is None else [(b"origin", origin.encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Guard(page, uploads)(scope, receive, send))
    told = {key.decode(): value.decode() for key, value in answered[0]["headers"]}
    return answered[0]["status"], told, bytes(given)


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=/etc/passwd", "/file=http://10.0.0.1/", "/gradio_api/proxy=http://a.b/",
     "/gradio_api/component_server", "/custom_component/1/client/component/index.js"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_addresses_that_name_files_or_servers_are_refused(
    tmp_path: Path, path: str, method: str
) -> None:
    status, headers, given = ask(tmp_path, path, method=method)
    assert (status, given) == (403, b"")
    assert headers["content-security-policy"] == POLICY


@pytest.mark.parametrize(
    ("origin", "status"),
    [(None, 200), ("http://127.0.0.1:7860", 200), ("http://localhost:7860", 200),
     ("https://evil.example", 403), ("http://127.0.0.1.evil.example", 403), ("null", 403)],
)  # fmt: skip
def test_other_sites_are_refused(tmp_path: Path, origin: str | None, status: int) -> None:
    found, headers, _ = ask(tmp_path, "/", method="GET", origin=origin)
    assert found == status
    assert headers["content-security-policy"] == POLICY


def test_files_of_the_upload_folder_may_be_named(tmp_path: Path) -> None:
    file = {"path": str(tmp_path / "ab" / "dog.png"), "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": [file, "sky"], "fn_index": 0}).encode()
    assert ask(tmp_path, "/gradio_api/queue/join", [body[:9], body[9:]]) == (
        200, {"content-security-policy": POLICY}, body,
    )  # fmt: skip


def test_no_other_path_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    inside = str(tmp_path / "a.png")
    for path in ("/etc/passwd", "README.md", "http://10.0.0.1/a.png", "", None, 7,
                 f"{tmp_path}/../b.png", f"{tmp_path}/link/passwd", f"{inside}\0"):  # fmt: skip
        for body in ({"data": [{"a": [{"path": path}]}]}, [{"path": {"path": path}}]):
            status, _, given = ask(tmp_path, "/gradio_api/queue/join", [json.dumps(body).encode()])
            assert (status, given) == (403, b""), path
    twice = f'{{"path": "/etc/passwd", "path": {json.dumps(inside)}}}'.encode()
    hidden = b'{"p\\u0061th": "/etc/passwd"}'
    for text in (twice, hidden):
        assert ask(tmp_path, "/gradio_api/run/predict", [text])[0] == 403


def test_long_bodies_and_other_than_json_are_refused(tmp_path: Path) -> None:
    half = bytes(MAX_BODY // 2 + 1)
    assert ask(tmp_path, "/gradio_api/queue/join", [half, half, half])[0] == 413
    assert ask(tmp_path, "/login", [b"username=a"])[0] == 400
    assert ask(tmp_path, "/gradio_api/queue/join", [b"[" * 100_000])[0] == 400
    assert ask(tmp_path, "/gradio_api/cancel", [b""])[0] == 200
    assert ask(tmp_path, "/gradio_api/upload", [half, half, half])[0] == 200  # limited elsewhere
