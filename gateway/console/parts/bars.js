/** Bars of the last minutes: how much there was in each, the last one under way. */

import { html } from "../html.js";
import { language, t } from "../texts.js";

const HEIGHT = 40;
const clock = new Intl.DateTimeFormat(language, { timeStyle: "short" });
const compact = new Intl.NumberFormat(language, { notation: "compact", maximumFractionDigits: 1 });

/** A number as short as it can be read: 12, 1.3K. */
export function short(n) {
  return compact.format(n);
}

/**
 * A picture of `values`, oldest first; `from`: when the first of them began; `step`: seconds of each; `length`: how many
 * there could be, those before the first are not known. A screen reader hears `label`, the last value and the largest; a
 * pointer finds the value of each minute.
 */
export function bars({ label, values, from, step, length = values.length }) {
  const most = Math.max(1, ...values);
  const begin = new Date(from).getTime();
  const at = (number) => clock.format(begin + number * step * 1000);
  const unknown = length - values.length;
  const summary = t("common.bars", { label, now: values.at(-1) ?? 0, most: Math.max(0, ...values), n: values.length });
  return html`
    <svg class="bars" viewBox=${`0 0 ${length * 4} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label=${summary}>
      ${values.map((value, number) => {
        const height = value === 0 ? 0.75 : Math.max(2, (value / most) * HEIGHT);
        const x = (unknown + number) * 4;
        return html`
          <g>
            <title>${`${at(number)}: ${t.number(value)}`}</title>
            <rect class="hit" x=${x} width="4" height=${HEIGHT} />
            <rect class=${value === 0 ? "bar none" : "bar"} x=${x + 0.4} y=${HEIGHT - height} width="3.2" height=${height} />
          </g>`;
      })}
    </svg>
  `;
}
