"""Keys, apps and the audit log: an admin's, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.console.conftest import EVIL_IMAGE, Desk
from tests.end_to_end.harness import Api


def test_a_key_is_shown_once_and_revoked_by_name(console: Callable[..., Desk], api: Api, app: str) -> None:
    desk = console("admin")
    page = desk.open("keys?new=1")
    desk.fill("input[name=name]", EVIL_IMAGE)
    desk.click_text("read: look at everything but keys and the audit log")
    desk.click_text("Make the key")
    desk.shows("Choose at least one", "form.card > .error")
    desk.click_text("send: pushes, schedules, campaigns, calls")
    desk.click_text("Make the key")
    secret = page.wait_for("document.querySelector('dialog .once')?.textContent")
    desk.shows("with the scopes send", "dialog")
    desk.accessible()
    desk.click_text("I have kept it", "dialog")
    desk.shows(EVIL_IMAGE, "tbody")
    assert secret not in page.evaluate("document.documentElement.outerHTML")
    authorization = {"Authorization": f"Bearer {secret}"}
    assert api.request("GET", "/v1/pushes", headers=authorization).status_code == 403
    key = next(key for key in api.items("/v1/keys") if key["name"] == EVIL_IMAGE)
    page.click(f"tr[data-key={key['id']}] button")
    desk.shows(f"{EVIL_IMAGE} ({key['id']}, {app}: send)", "dialog .names")
    desk.click_text("Revoke 1 key", "dialog")
    page.wait_for(f"!document.querySelector('tr[data-key={key['id']}] button')")
    assert api.request("GET", "/v1/pushes", headers=authorization).status_code == 401
    assert "owned" not in page.evaluate("document.title")


@pytest.mark.full_only
def test_apps_and_their_first_key(console: Callable[..., Desk]) -> None:
    desk = console("admin", app="default")
    page = desk.open("keys?tab=apps&new=1")
    desk.fill("input[name=id]", "hotel")
    desk.click_text("Make the app")
    desk.click_text("hotel", "tbody")
    desk.shows("Keys of the app hotel.")
    desk.shows("No keys.")
    desk.click_text("New key")
    desk.fill("input[name=name]", "the front desk")
    desk.click_text("Make the key")
    desk.shows("For the app hotel", "dialog")
    desk.click_text("I have kept it", "dialog")
    desk.shows("the front desk", "tbody")
    assert page.evaluate("location.search") == "?app=hotel"
    theirs = console("admin", app="hotel")
    theirs.open("keys")
    theirs.shows("the front desk", "tbody")
    assert theirs.page.evaluate("document.querySelector('.chips')") is None
    assert theirs.asks("GET", "/v1/keys?app=default") == 403


@pytest.mark.full_only
def test_the_audit_log_is_filtered_by_its_address(console: Callable[..., Desk], api: Api) -> None:
    api.enrol("audited-1", name=EVIL_IMAGE)
    api.call("DELETE", "/v1/devices/audited-1", 204)
    desk = console("admin")
    page = desk.open("audit?object=device:audited-1")
    page.wait_for("document.querySelectorAll('tbody tr').length === 2")
    assert desk.asks("GET", page.evaluate("document.querySelector('#evidence').getAttribute('href')")) == 200
    desk.click_text("device.remove", "tbody")
    page.wait_for("new URLSearchParams(location.search).get('action') === 'device.remove'")
    desk.shows("The chain")
    desk.fill("input[name=action]", "nothing.*")
    desk.click_text("Apply")
    desk.shows("No entry is like that.")
    assert page.evaluate("new URLSearchParams(location.search).get('action')") == "nothing.*"
    desk.go("audit")
    desk.accessible()
    desk.fits_a_phone()


@pytest.mark.full_only
def test_others_have_no_way_there(console: Callable[..., Desk], api: Api) -> None:
    desk = console("operator")
    page = desk.open("keys")
    desk.shows("Your role does not permit this")
    assert page.evaluate("document.querySelector('#nav :is([data-place=keys], [data-place=audit])')") is None
    for method, path in (("GET", "/v1/keys"), ("POST", "/v1/keys"), ("GET", "/v1/apps"), ("GET", "/v1/audit")):
        assert desk.asks(method, path) == 403
    desk.go("audit")
    desk.shows("Your role does not permit this")
