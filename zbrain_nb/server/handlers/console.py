"""The console's pages: one empty page for all addresses, the modules that fill it, and the frame for outputs.

The pages hold nothing of a job: all that they show they ask of the API. They come through Jupyter's relay, behind
its login, or straight from the host to a browser that `zbrain dashboard` sent here.
"""

from __future__ import annotations

from pathlib import Path

from tornado import web

from zbrain_nb.model.errors import NotFound, Unauthorized
from zbrain_nb.server.handlers.answers import LoginCode
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import PERSONS, OpenTo, operation
from zbrain_nb.server.identity import cookie_name
from zbrain_nb.server.sessions import SESSION_SECS

#: Where the modules lie: the notebook's view and the console are made of the same.
VIEW = Path(__file__).parents[2] / "notebook" / "view"
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
#: Scripts and styles only from here, none inline, nothing evaluated, no text parsed as HTML (Trusted Types); shown in
#: a frame by the same origin alone: JupyterLab does.
PAGE_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "frame-src 'self'",
        "frame-ancestors 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
#: What a job's HTML may do: run its own scripts in an origin of its own, and reach nothing by network.
FRAME_POLICY = "; ".join(
    [
        "sandbox allow-scripts",
        "default-src 'none'",
        "script-src 'unsafe-inline' 'unsafe-eval' blob: data:",
        "style-src 'unsafe-inline' data:",
        "img-src data: blob:",
        "font-src data:",
        "media-src data: blob:",
        "worker-src blob:",
        "frame-ancestors 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>zbrain</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{root}static/zbrain.css">
<link rel="stylesheet" href="{root}static/dashboard/dashboard.css">
<link rel="stylesheet" href="{root}static/console/console.css">
<script type="module" src="{root}static/console/console.js"></script>
</head>
<body>
<noscript>The console needs JavaScript. <code>zbrain ls</code> shows the jobs without.</noscript>
</body>
</html>
"""
_FRAME = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Output</title></head>
<body>
<script>
addEventListener("message", ({source, data}) => {
  if (source !== parent) return;
  document.open();
  document.write(data.html);
  document.close();
}, {once: true});
parent.postMessage({zbrainFrame: "ready"}, "*");
</script>
</body>
</html>
"""
_LOGIN = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>zbrain</title></head>
<body>
<h1>This browser is not known here</h1>
<p>Run <code>zbrain dashboard</code> in a terminal: it opens this page with a code that works once.
In Jupyter, open the console at <code>zbrain</code> under Jupyter's own address.</p>
</body>
</html>
"""


class _ConsoleHandler(ApiHandler):
    admits = PERSONS

    def set_default_headers(self) -> None:
        """Give away nothing of the address, and let no other site load what is here."""
        super().set_default_headers()
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", PAGE_POLICY)
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")

    def is_same_origin(self) -> bool:
        """Let links on other pages lead here: a page alone tells nothing and does nothing."""
        return True


class PageHandler(_ConsoleHandler):
    """``GET /zbrain`` and ``GET /zbrain/jobs/{id}``."""

    async def get(self, job_id: str = "") -> None:
        """Send the page; its module reads from the address what to show."""
        self.finish(_PAGE.format(root="../" if job_id else "" if self.request.path.endswith("/") else "zbrain/"))

    def write_error(self, status_code: int, **kwargs: object) -> None:
        """Tell a person without a session how to get one."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None  # type: ignore[index]
        if isinstance(error, Unauthorized):
            self.set_status(error.status)
            self.finish(_LOGIN)
        else:
            super().write_error(status_code, **kwargs)


class ModuleHandler(_ConsoleHandler, web.StaticFileHandler):
    """``GET /zbrain/static/{path}``: the modules and styles of the view."""

    def initialize(self) -> None:  # type: ignore[override]
        """Serve one folder."""
        super().initialize(str(VIEW))

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        """Serve what browsers load as modules and styles, and nothing else of the folder."""
        path = Path(absolute_path)
        if path.suffix not in _TYPES or not path.is_file() or not path.resolve().is_relative_to(VIEW.resolve()):
            raise NotFound(f"There is nothing at {self.request.path}.")
        return absolute_path

    def get_content_type(self) -> str:
        """Name the type, for browsers are told not to guess."""
        return _TYPES[Path(self.absolute_path or "").suffix]

    def set_extra_headers(self, path: str) -> None:
        """Let browsers keep it, and ask whether it changed."""
        self.set_header("Cache-Control", "no-cache")


class FrameHandler(_ConsoleHandler):
    """``GET /zbrain/frame``: an empty page of no origin, which shows the HTML that its parent posts to it."""

    def get(self) -> None:
        """Send the page."""
        self.set_header("Content-Security-Policy", FRAME_POLICY)
        self.finish(_FRAME)


class SessionsHandler(ApiHandler):
    """``POST sessions``: for who shows the token; not relayed, for Jupyter has a login of its own."""

    def takes_session(self) -> bool:
        """Let no session make another."""
        return False

    @operation(admits=PERSONS, act="open console", answers={201: LoginCode}, open_to=OpenTo.TOKEN)
    def post(self) -> None:
        """Give out a code that opens the console once, within a minute; 201. The relay does not show this route."""
        self.reply({"login": f"zbrain/login?code={self.context.sessions.offer(self.principal)}"}, 201)


class LoginHandler(_ConsoleHandler):
    """``GET /zbrain/login?code=``: makes of a code a session."""

    async def authenticate(self) -> None:
        """Admit everybody: the code is the proof."""

    def get(self) -> None:
        """Set the cookie and go on to the page."""
        session = self.context.sessions.begin(self.get_query_argument("code", ""))
        if session is None:
            self.set_status(Unauthorized.status)
            self.finish(_LOGIN)
            return
        self.set_cookie(
            cookie_name(self.request),
            session,
            path="/zbrain",
            httponly=True,
            samesite="Strict",
            max_age=int(SESSION_SECS),
        )
        # Not a redirect: a person may come from another site, whose navigation carries no such cookie.
        self.set_header("Refresh", "0; url=/zbrain")
        self.finish("<!doctype html><title>zbrain</title>")
