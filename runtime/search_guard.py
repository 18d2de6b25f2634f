"""Who may ask the page's server for what: this machine's own page, by the page's own methods?"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Around an app: refuses other names of this machine and what other pages post, and names what a page may load."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = _refuse(scope["method"], Headers(scope=scope))
        if refusal is not None:
            await JSONResponse({"error": refusal}, 403)(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)


def _refuse(method: str, headers: Headers) -> str | None:
    """Why a request is not answered: a name that a stranger's DNS gave this machine, or a page of a stranger."""
    host = headers.get("host", "")
    if host.partition(":")[0] not in HOSTS:
        return f"this server is called {' or '.join(HOSTS)}, and by no other name"
    if method not in ("GET", "HEAD") and headers.get("origin") != f"http://{host}":
        return "only the page of this server may send anything"
    return None
