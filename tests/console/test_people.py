"""People sign in at a real identity provider, in a real browser; pages of other origins try to use their session."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.browser import Browser, Page
from tests.console.conftest import seat
from tests.end_to_end.harness import Server, StartFailed
from tests.oidc.provider import ROLES, SECRET, OidcProvider

PUSH = {"target": {"all": True}}


@pytest.fixture(scope="module")
def company(provider: OidcProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that people of a company sign in at."""
    folder = tmp_path_factory.mktemp("company")
    (folder / "client.secret").write_text(SECRET)
    options = [f"--oidc-roles={role}" for role in ROLES]
    options += [f"--oidc-issuer={provider.issuer}", "--oidc-client-id=fleetpush", "--oidc-name=Example Ltd"]
    options += [f"--oidc-client-secret={folder / 'client.secret'}", "--oidc-scopes=groups"]
    with Server(folder / "data", *options, "--oidc-networks=127.0.0.1/32") as server:
        yield server


def sign_in(page: Page, name: str) -> None:
    """From the console's sign-in through the provider's forms."""
    page.wait_for("!!document.querySelector('form.sign-in a.button')")
    assert page.text("form.sign-in a.button") == "Sign in with Example Ltd"
    page.click("form.sign-in a.button")
    page.wait_for("!!document.querySelector('input[name=login]')")
    page.click("input[name=login]")
    page.type(name)
    page.click("input[name=password]")
    page.type("any")
    page.click("button[type=submit]")
    page.wait_for("!!document.querySelector('[name=prompt][value=consent]')")
    page.click("button[type=submit]")


@pytest.mark.full_only
def test_a_viewer_comes_by_the_provider_to_the_page_that_was_wanted(browser: Browser, company: Server) -> None:
    with browser.context() as context:
        desk = seat(context, company, None)
        page = desk.open("overview?x=1", ready=False)
        sign_in(page, "vera")
        page.wait_for(f"location.href === '{desk.origin}/console/overview?x=1'")
        desk.ready(page)
        session = page.evaluate("fetch('/v1/session').then((answer) => answer.json())")
        assert (session["name"], session["role"], session["sign_in"]) == ("Vera", "viewer", "oidc")
        assert page.evaluate("document.cookie") == ""
        assert desk.asks("GET", "/v1/devices") == 200
        assert desk.asks("POST", "/v1/pushes", PUSH) == 403

        page.click("#sign-out")
        page.wait_for("document.body?.innerText.includes('Do you want to sign-out')")
        page.call("Page.navigate", url=f"{desk.origin}/console/overview")
        page.wait_for("!!document.querySelector('form.sign-in')")


@pytest.mark.full_only
def test_who_has_no_role_is_told_so(browser: Browser, company: Server) -> None:
    with browser.context() as context:
        desk = seat(context, company, None)
        page = desk.open("sign-in", ready=False)
        sign_in(page, "nobody")
        page.wait_for("document.querySelector('[role=alert]')?.innerText.includes('a role here')")
        assert desk.asks("GET", "/v1/session") == 401


ATTACKS = """
  const to = (path) => %r + path;
  const push = JSON.stringify({target: {all: true}, data: "attack"});
  const headers = {"Content-Type": "application/json", "Fleetpush-Console": "1"};
  const tries = [
    () => fetch(to("/v1/pushes"), {method: "POST", credentials: "include", headers, body: push}),
    () => fetch(to("/v1/pushes"), {method: "POST", credentials: "include", mode: "no-cors", body: push}),
    () => fetch(to("/v1/session"), {method: "DELETE", credentials: "include", headers}),
    () => fetch(to("/v1/devices"), {credentials: "include"}).then((answer) => answer.text()),
    () => new Promise((resolve) => {
      const form = document.createElement("form");
      Object.assign(form, {method: "POST", action: to("/v1/pushes"), enctype: "text/plain"});
      form.append(Object.assign(document.createElement("input"), {name: push.slice(0, -2), value: '"}'}));
      const frame = Object.assign(document.createElement("iframe"), {name: "sink", onload: resolve});
      document.body.append(frame, form);
      form.target = "sink";
      form.submit();
    }),
  ];
  Promise.all(tries.map((attempt) => attempt().then((answer) => typeof answer, () => "refused")))
"""


@contextmanager
def page_of_another_origin() -> Iterator[str]:
    """An empty page at another port of the same host: another origin, and the same site, so `Strict` lets it pass."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title><body></body>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_page_of_another_origin_can_do_nothing_with_the_session(browser: Browser, company: Server) -> None:
    with browser.context() as context, page_of_another_origin() as evil:
        desk = seat(context, company, None)
        ours = desk.open("overview", ready=False)
        sign_in(ours, "ada")
        desk.ready(ours)
        theirs = context.open(evil)
        outcomes = theirs.evaluate(ATTACKS % desk.origin)
        # What cannot be read may have been sent all the same (`no-cors`, a form): it is refused by the server.
        assert [outcomes[number] for number in (0, 2, 3)] == ["refused"] * 3
        assert company.api.call("GET", "/v1/pushes", 200)["items"] == []
        assert desk.asks("GET", "/v1/session") == 200, "nor was the person signed out"
        assert desk.asks("POST", "/v1/pushes", PUSH) == 202, "the page of ours may"


@pytest.mark.full_only
def test_the_server_says_which_secret_it_cannot_read(tmp_path: Path) -> None:
    options = ("--oidc-issuer=https://id.example", "--oidc-client-id=x", "--oidc-roles=a=admin")
    server = Server(tmp_path / "data", *options, f"--oidc-client-secret={tmp_path / 'missing'}")
    with pytest.raises(StartFailed, match="oidc_client_secret"):
        server.start()
