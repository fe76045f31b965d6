/** The webhooks of the app: where its events are sent, and whether they are taken. `?new=1`: one is being made. */

import { html, update } from "../html.js";
import { badge } from "../parts/badge.js";
import { webhookForm, webhookState } from "../parts/webhook.js";
import { pages, table } from "../parts/table.js";
import { showOnce } from "../parts/secret.js";
import { time } from "../parts/time.js";

export const texts = ["webhooks"];
export const styles = ["fleet", "lists"];

const POLL_SECONDS = 5;
/** All there can be of an app. */
const ROWS = 20;

export async function open(view) {
  const { root, t, api, query, session, href, signal } = view;
  const making = query.get("new") !== null && session.may("admin");
  const list = html`<div data-keep></div>`;
  const made = async (fields) => {
    const webhook = await api.post("/v1/webhooks", fields);
    await showOnce({ title: t("webhooks.made_title"), sentence: t("webhooks.secret_for", { url: webhook.url }), secret: webhook.secret, signal });
    view.go(`webhooks/${webhook.id}`);
  };
  update(
    root,
    html`
      <header class="head">
        <h1>${t("webhooks.title")}</h1>
        ${session.may("admin") && !making && html`<a class="button primary" href=${href("webhooks", { new: 1 })}>${t("webhooks.make")}</a>`}
      </header>
      <p class="quiet">${t("webhooks.about")}</p>`,
    making && webhookForm({ t, webhook: null, save: made, back: href("webhooks") }),
    list,
  );
  await view.every(POLL_SECONDS, async () => {
    const page = await api.get("/v1/webhooks", { limit: ROWS, cursor: query.get("cursor") });
    update(
      list,
      table({
        caption: t("webhooks.title"), rows: page.items, key: ({ id }) => id, empty: t("webhooks.none"),
        columns: [
          { label: t("webhooks.url"), cell: ({ id, url, description }) => html`<a class="device" href=${href(`webhooks/${id}`)}>${url}</a>${description && html`<span class="quiet id">${description}</span>`}` },
          { label: t("webhooks.state"), cell: (webhook) => badge(webhookState(webhook)) },
          { label: t("webhooks.types"), cell: ({ types }) => html`<span class="code">${types.join(", ")}</span>` },
          { label: t("webhooks.succeeded"), cell: ({ succeeded_at }) => time(succeeded_at) },
          { label: t("webhooks.last_error"), cell: ({ last_error, failed_at }) => (last_error === null ? "–" : html`<span class="last-error">${last_error}</span> <span class="quiet">${time(failed_at)}</span>`) },
        ],
      }),
      pages(view, page.next_cursor),
    );
  });
}
