"""`html` and `update` in a real browser, under the console's policy: nothing that anybody has said becomes markup."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser import Browser, Page
from tests.console.conftest import imported
from tests.end_to_end.harness import Server

ATTACKS = [
    "<script>globalThis.attacked = 1</script>",
    '<img src=x onerror="globalThis.attacked = 1">',
    '"><svg onload=globalThis.attacked=1>',
    "' onmouseover='globalThis.attacked = 1",
    "</p><iframe srcdoc='<script>parent.attacked = 1</script>'>",
    "\0",
    "${globalThis.attacked = 1}",
    "{{constructor.constructor('attacked = 1')()}}",
]


@pytest.fixture(scope="module")
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """A tab with the module's names, of the page that asks for a key."""
    with browser.context() as context:
        page = context.open(f"{server.url}/console/sign-in")
        page.wait_for("!!document.querySelector('h1')")
        page.evaluate(f"{imported('html.js')}.then((module) => Object.assign(globalThis, module)).then(() => 0)")
        yield page


def run(page: Page, body: str) -> Any:
    """What a function of this body returns; `place` is an empty element of the document."""
    return page.evaluate(
        f"(() => {{ const place = document.createElement('div'); document.body.append(place); {body} }})()"
    )


@pytest.mark.parametrize("text", ATTACKS)
def test_what_is_said_stays_text(page: Page, text: str) -> None:
    said = run(
        page,
        f"""const text = {json.dumps(text)};
        place.append(html`
          <p title=${{text}} class="a ${{text}}">${{text}}<b>${{[text]}}</b></p>
          <a href=${{text}}>x</a>`);
        const [p, a] = place.children;
        return [place.querySelectorAll("*").length, p.title, p.firstChild.data, p.lastChild.textContent,
                p.getAttributeNames().sort().join(), "attacked" in globalThis]""",
    )
    assert said == [3, text, text, text, "class,title", False]


@pytest.mark.parametrize(
    "address", ["javascript:attacked=1", " JaVaScRiPt:attacked=1", "java\nscript:attacked=1", "data:text/html,<script>"]
)
def test_a_link_that_is_a_script_is_none(page: Page, address: str) -> None:
    assert run(page, f"return html`<a href=${{{json.dumps(address)}}}>x</a>`.hasAttribute('href')") is False


@pytest.mark.parametrize(
    "address", ["/console/fleet?q=a:b", "https://shop.example/x", "mailto:a@b.example", "#x", "a:b/c?d"]
)
def test_other_links_are_kept_or_harmless(page: Page, address: str) -> None:
    kept = run(page, f"return html`<a href=${{{json.dumps(address)}}}>x</a>`.getAttribute('href')")
    assert kept in (address, None)


@pytest.mark.parametrize("word", ["constructor", "__proto__", "valueOf"])
def test_a_device_s_own_word_is_no_text_of_ours(page: Page, word: str) -> None:
    """A device gives the reason with which it dismisses: one that every object knows kept the push's page from being
    drawn."""
    shown = page.evaluate(
        f"{imported('texts.js')}.then(async ({{ load, t }}) => {{ await load('reasons');"
        f" const key = {json.dumps('reasons.' + word)}; return t.has(key) ? t(key) : key; }})"
    )
    assert shown == f"reasons.{word}"


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("html`<p style=${'color: red'}>`", "SyntaxError"),
        ("html`<p style=${'color: red'}></p>`", "TypeError"),
        ("html`<p onclick=${'attacked = 1'}></p>`", "TypeError"),
        ("html`<iframe srcdoc=${'<p>'}></iframe>`", "TypeError"),
        ("html`<p>`", "SyntaxError"),
        ("html`<p></b>`", "SyntaxError"),
    ],
)
def test_a_template_that_is_none_is_refused(page: Page, template: str, error: str) -> None:
    assert run(page, f"try {{ {template}; return '' }} catch (error) {{ return error.name }}") == error


def test_the_policy_refuses_what_the_sources_do_not_do(page: Page) -> None:
    attempts = """[() => document.body.innerHTML = "<b>x</b>", () => document.write("x"), () => eval("1"),
        () => new Function("return 1")(), () => setTimeout("globalThis.attacked = 1")]
        .map((attempt) => { try { attempt(); return "done" } catch (error) { return error.name } })"""
    # Not as the developer tools, which may do all of that.
    answer = page.call("Runtime.evaluate", expression=attempts, returnByValue=True, allowUnsafeEvalBlockedByCSP=False)
    assert answer["result"]["value"] == ["TypeError", "TypeError", "EvalError", "EvalError", "TypeError"]
    loaded = page.evaluate(
        """new Promise((resolve) => {
          const script = document.createElement("script");
          addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective), { once: true });
          const image = new Image();
          image.src = "http://127.0.0.1:1/elsewhere.png";
        })"""
    )
    assert loaded == "img-src"
    page.complaints.clear()


def test_templates_are_read_as_they_look(page: Page) -> None:
    assert run(
        page,
        """place.append(html`
          <ul class=${null} hidden=${false}>
            ${[1, 2].map((n) => html`<li data-key=${n}>${n} of <b>2</b></li>`)}
            ${null}${undefined}${false}
          </ul>
          <input value="a > b" disabled=${true} />
          <svg viewBox="0 0 1 1"><path d="M0 0" />${[1].map(() => html`<g><rect /></g>`)}</svg>`);
        return [place.textContent.replace(/\\s+/g, " ").trim(), place.querySelector("ul").getAttributeNames().length,
                place.querySelector("input").value,
                [...place.querySelectorAll("path, g, rect")].map((one) => one instanceof SVGElement).join()]""",
    ) == ["1 of 22 of 2", 0, "a > b", "true,true,true"]


def test_what_stays_keeps_focus_typed_text_and_its_newest_listener(page: Page) -> None:
    assert run(
        page,
        """const draw = (n, keys) => update(place, html`
          <p>${n}</p>
          <input id="typed" value=${n} oninput=${() => globalThis.heard = n} />
          <ul>${keys.map((key) => html`
            <li data-key=${key}><button onclick=${() => globalThis.pressed = [key, n]}>${key}</button></li>`)}</ul>
          <div data-keep><i>${n}</i></div>`);
        draw(1, ["a", "b", "c"]);
        const field = place.querySelector("input"), b = place.querySelector("[data-key=b]");
        field.focus(); field.value = "typed"; field.setSelectionRange(2, 3);
        draw(2, ["c", "new", "b"]);
        field.dispatchEvent(new Event("input"));
        b.firstChild.click();
        return [document.activeElement === field, field.value, field.selectionStart, heard, pressed,
                b.isConnected, [...place.querySelectorAll("li")].map((li) => li.dataset.key).join(),
                place.querySelector("p").textContent, place.querySelector("i").textContent]""",
    ) == [True, "typed", 2, 2, ["b", 2], True, "c,new,b", "2", "1"]


def test_update_gives_what_a_new_drawing_would(page: Page) -> None:
    """Lists in any order, from any order before."""
    assert (
        run(
            page,
            """let state = 7;
        const random = (n) => (state = (state * 1103515245 + 12345) % 2147483648) % n;
        const draw = () => {
          const keys = [..."abcdefgh"].filter(() => random(3) > 0).sort(() => random(3) - 1);
          const rows = keys.map((key) => random(2)
            ? html`<li data-key=${key} class=${random(2) ? key : null}>${key}${random(4)}</li>`
            : html`<li data-key=${key}><b>${key}</b>${random(2) ? html`<i></i>` : "text"}</li>`);
          return html`<h2>${random(9)}</h2>${random(2) ? html`<p>between</p>` : null}<ul>${rows}</ul>`;
        };
        for (let round = 0; round < 300; round++) {
          const wanted = draw();
          const copy = document.createElement("div");
          copy.append(wanted.cloneNode(true));
          update(place, wanted);
          if (!place.isEqualNode(copy)) return round;
        }
        return "equal" """,
        )
        == "equal"
    )
