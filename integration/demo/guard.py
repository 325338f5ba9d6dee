"""What the server refuses, whatever the framework would do: paths, addresses, other sites.

Gradio sends an uploaded file as the path that it has on the server, and would fetch an address that
stands in its place. Here a request may name files of the upload folder alone.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
"""Where the server listens: on this machine alone."""

HOSTS = (HOST, "localhost")
"""Names that it answers to, so that no other web site can reach it under a name of its own."""

REFUSED = ("/file=", "/proxy=", "/custom_component/", "/component_server")
"""Parts of addresses that name files or other servers; the page uses none of them."""

UPLOAD = "/upload"
"""How the address ends to which files are sent; their size is limited by the framework."""

MAX_BODY = 2**20
"""Bytes of any other request."""

POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "style-src 'self' 'unsafe-inline'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""The browser loads nothing from elsewhere, and no other page frames this one."""


def middleware(uploads: Path) -> Sequence[Middleware]:
    """What stands before the page.

    Args:
        uploads: folder of the files that visitors have sent.
    """
    return [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS)),
        Middleware(Guard, uploads=uploads),
    ]


class Guard:
    """Refuses what a visitor of the page would never send, and sends `POLICY` with every answer.

    Args:
        app: what answers all other requests.
        uploads: folder of the files that visitors have sent.
    """

    def __init__(self, app: ASGIApp, uploads: Path) -> None:
        self.app = app
        self.uploads = uploads.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["content-security-policy"] = POLICY
            await send(message)

        refusal = refuse_address(scope)
        if refusal is None and scope["method"] == "POST" and not scope["path"].endswith(UPLOAD):
            body = await _read(receive, MAX_BODY)
            refusal = refuse_body(body, self.uploads)
            receive = _again(body, receive)
        answer = self.app if refusal is None else refusal
        await answer(scope, receive, send_with_policy)


def refuse_address(scope: Scope) -> PlainTextResponse | None:
    """What to answer to a request from another site, or to an address of `REFUSED`."""
    if any(part in scope["path"] for part in REFUSED):
        return PlainTextResponse("this page serves no files", status_code=403)
    origin = Headers(scope=scope).get("origin")
    if origin is not None and urlsplit(origin).hostname not in HOSTS:
        return PlainTextResponse("this page answers to itself alone", status_code=403)
    return None


def refuse_body(body: bytes, uploads: Path) -> PlainTextResponse | None:
    """What to answer to a body that is too long, is not JSON, or names a file of elsewhere.

    Args:
        body: of a request; only its first `MAX_BODY` + 1 bytes need be there.
        uploads: the only folder of which files may be named.
    """
    if len(body) > MAX_BODY:
        return PlainTextResponse(f"at most {MAX_BODY} bytes are read", status_code=413)
    try:
        named = _paths(body or b"null")
    except (ValueError, RecursionError):
        return PlainTextResponse("this is not JSON", status_code=400)
    if not all(_is_inside(path, uploads) for path in named):
        return PlainTextResponse("this page reads uploaded files alone", status_code=403)
    return None


def _paths(body: bytes) -> list[Any]:
    """All values under the name "path", at any depth, repeated names included."""
    found: list[Any] = []

    def note(members: list[tuple[str, Any]]) -> None:
        found.extend(value for name, value in members if name == "path")

    json.loads(body, object_pairs_hook=note)
    return found


def _is_inside(path: Any, folder: Path) -> bool:
    """Whether a value is the path of something in a folder, links followed."""
    if not isinstance(path, str) or "\0" in path:
        return False
    return Path(path).is_absolute() and Path(path).resolve().is_relative_to(folder)


async def _read(receive: Receive, limit: int) -> bytes:
    """The body of a request, no further than one byte past a limit."""
    body, more = b"", True
    while more and len(body) <= limit:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body[: limit + 1]


def _again(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read, then whatever follows."""
    left = [body]

    async def receive_again() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return receive_again
