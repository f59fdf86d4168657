"""Serve the page of generate.py --explore to browsers on this machine.

Only this module and page.py import gradio; if it is not installed, importing this module raises
UserError. What gradio keeps on the disk (uploads, pictures that browsers fetch) is in a temporary
folder, which is removed when the server ends.
"""

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

# Set before gradio is imported, so that it and its libraries report no usage data.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from dnnlib.util import UserError

try:
    import gradio
    import uvicorn
    from fastapi import FastAPI
except ModuleNotFoundError as missing:
    if missing.name.partition(".")[0] not in ("gradio", "uvicorn", "fastapi"):
        raise
    raise UserError("--explore: gradio is not installed; install it with: pip install -r "
                    "requirements-explore.txt") from None

from generation.explore import page
from generation.explore.networks import Networks

HOST = "127.0.0.1"
PORTS = range(7860, 7960)  # the first free one is used
# Browsers load nothing from elsewhere, whatever a page requests.
_POLICY = ("default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
           "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
           "connect-src 'self' data: blob:; worker-src 'self' blob:; frame-ancestors 'none'; "
           "form-action 'self'; base-uri 'self'")


def serve(networks: Networks, out: Path) -> None:
    """Serve the page until Ctrl-C, SIGTERM or SIGHUP.

    Args:
        out: folder in which pairs are saved.

    Raises:
        UserError: no port is free.
    """
    listener = open_port(PORTS)
    port = listener.getsockname()[1]
    for ending in (signal.SIGTERM, signal.SIGHUP):
        # uvicorn raises these signals again when it ends: as Ctrl-C's exception, they let the
        # temporary folder be removed.
        signal.signal(ending, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="explore-") as folder, listener:
        os.environ["GRADIO_TEMP_DIR"] = folder
        # At Ctrl-C uvicorn would log an error for every browser that is still connected; gradio
        # prints the errors of handlers.
        server = uvicorn.Server(uvicorn.Config(
            make_app(networks, out, port), log_level="critical", timeout_graceful_shutdown=1))
        print(f"explore: http://{HOST}:{port} (open it on this machine); Ctrl-C ends it",
              flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # the normal end
            server.run(sockets=[listener])


def make_app(networks: Networks, out: Path, port: int) -> "LocalOnly":
    """Return the ASGI application of the page; see `serve`."""
    app = gradio.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None), page.build_page(networks, out),
        path="/", server_name=HOST, server_port=port, footer_links=[], run_history=False,
        show_error=False, max_file_size="20mb", ssr_mode=False, enable_monitoring=False,
        mcp_server=False, theme=page.theme(), css=page.css())
    return LocalOnly(app)


def open_port(ports: Sequence[int]) -> socket.socket:
    """Return a socket that listens on the first free port of this machine's own address.

    Raises:
        UserError: none is free.
    """
    for port in ports:
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, port))
            listener.listen()
            return listener
        except OSError:  # in use
            listener.close()
    raise UserError(f"--explore: all ports from {ports[0]} to {ports[-1]} are in use")


class LocalOnly:
    """An ASGI application for browsers on this machine and its own pages: it refuses requests under
    other host names, and requests from other sites."""

    def __init__(self, app: Callable):
        self._app = app

    async def __call__(self, scope, receive, send):
        """Answer a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if host.partition(":")[0] not in (HOST, "localhost") or (
                origin not in (None, f"http://{host}")):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            return await send({"type": "http.response.body", "body": b"only from this machine\n"})

        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (
                    b"content-security-policy", _POLICY.encode())]
            await send(message)
        return await self._app(scope, receive, send_with_policy)
