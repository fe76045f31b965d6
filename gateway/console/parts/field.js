/** Fields of forms: a label that is one, a hint and an error that screen readers read with it. */

import { html, listen } from "../html.js";

let number = 0;

/**
 * A labelled field. `control(attributes)` makes the input, select or textarea with them: {id, "aria-describedby",
 * "aria-invalid"}. `hint`, `error`: sentences, or null.
 */
export function field({ label, hint = null, error = null, control, id = `field-${++number}` }) {
  const described = [hint && `${id}-hint`, `${id}-error`].filter(Boolean).join(" ");
  return html`
    <div class="field">
      <label for=${id}>${label}</label>
      ${control({ id, "aria-describedby": described, "aria-invalid": error ? "true" : null })}
      ${hint && html`<p class="hint" id=${`${id}-hint`}>${hint}</p>`}
      <p class="error" id=${`${id}-error`} role="alert">${error}</p>
    </div>
  `;
}

/** An input of one line. Everything else than the above is an attribute of it: name, type, value, required, .. */
export function input({ label, hint, error, id, ...attributes }) {
  return field({ label, hint, error, id, control: (given) => filled(html`<input />`, { ...attributes, ...given }) });
}

export function textarea({ label, hint, error, id, value = "", ...attributes }) {
  return field({
    label, hint, error, id,
    control: (given) => filled(html`<textarea>${value}</textarea>`, { ...attributes, ...given }),
  });
}

/** `options`: [[value, text], ..]. */
export function select({ label, hint, error, id, value, options, ...attributes }) {
  return field({
    label, hint, error, id,
    control: (given) =>
      filled(
        html`<select>${options.map(([is, text]) => html`<option value=${is} selected=${is === value}>${text}</option>`)}</select>`,
        { ...attributes, ...given },
      ),
  });
}

export function checkbox({ label, hint = null, checked = false, id = `field-${++number}`, ...attributes }) {
  return html`
    <div class="field check">
      ${filled(html`<input type="checkbox" checked=${checked} />`, { ...attributes, id })}
      <label for=${id}>${label}</label>
      ${hint && html`<p class="hint">${hint}</p>`}
    </div>
  `;
}

/** Say at a field, or take back, what is wrong with it. `control`: the input itself. */
export function setError(control, sentence) {
  const place = document.getElementById(`${control.id}-error`);
  place.textContent = sentence ?? "";
  if (sentence) control.setAttribute("aria-invalid", "true");
  else control.removeAttribute("aria-invalid");
}

/** The words of a field that takes several, with blanks, commas or line breaks between them. */
export function wordsIn(text) {
  return text.split(/[\s,]+/).filter((word) => word !== "");
}

function filled(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") listen(element, name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  return element;
}
