"""The view of a job of a real server, on a page of that server that holds nothing else."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, Route

from tests.browser.stub import VIEW
from tests.jupyter import Lab

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>a view</title>
<link rel="stylesheet" href="/base/views/zbrain.css">
<script id="jupyter-config-data" type="application/json">{"baseUrl": "/base/"}</script><main></main>
<script type="module">
import { ServerFeed, apiOfPage, render } from '/base/views/index.js';
const saved = { id: location.search.slice(1), name: 'a job', state: 'pending' };
window.feed = new ServerFeed(apiOfPage(), saved).start();
render(document.querySelector('main'), feed);
</script></html>"""


def open_view(page: Page, lab: Lab, job_id: str) -> Locator:
    """Open the page, logged in to Jupyter, and return its view."""
    home = f"{lab.url}views"
    # Chromium holds an answered request for one to a public site, which may not open sockets to this machine.
    page.context.grant_permissions(["local-network-access"])
    page.goto(f"{lab.url}login")  # gives Jupyter's cookie against forgery
    page.goto(f"{lab.url}api/status?token={lab.token}")  # gives that of who is logged in
    page.route(f"{home}?*", lambda route: route.fulfill(content_type="text/html", body=PAGE))
    page.route(f"{home}/**", _give_file)
    page.goto(f"{home}?{job_id}")
    return page.locator(".zb")


def _give_file(route: Route) -> None:
    path = VIEW / route.request.url.partition("/views/")[2]
    route.fulfill(path=path, content_type="text/css" if path.suffix == ".css" else "text/javascript")
