/**
 * A push as the device draws it (client_sim/web/banners.js): a card on its page, and for an alert the notification of its
 * system, which has title and text only.
 *
 * Everything in it is somebody's text: addresses are shown and lead nowhere, buttons are drawn and do nothing. Images of
 * this server are shown; those of others are named, because this page asks no other server.
 */

import { path } from "../api.js";
import { html } from "../html.js";
import { t } from "../texts.js";

const ATTACHMENT = /^attachment:([0-9a-f]{64})$/;
const OF_THIS_SERVER = /\/v1\/attachments\/([0-9a-f]{64})$/;

/** The card. `push`: {kind, priority, notification, channel, data}, as the API or the preview has it. `api`: of the view. */
export function drawNotification(push, api) {
  const { kind, notification } = push;
  if (!notification) {
    return html`
      <div class="drawn">
        <p class="quiet">${t(kind === "command" ? "notification.command" : "notification.silent")}</p>
        <pre class="code">${push.data === undefined ? "" : JSON.stringify(push.data, null, 2)}</pre>
      </div>
    `;
  }
  return html`
    <div class="drawn" data-kind=${kind}>
      ${kind === "alert" && systemNotification(notification)}
      <p class="quiet">${t(kind === "alert" ? "notification.on_page" : "notification.in_app")}</p>
      ${card(push, api)}
    </div>
  `;
}

/** The id of the attachment of this server that an address is of; undefined for others. */
export function attachmentOf(address) {
  return ATTACHMENT.exec(address)?.[1] ?? OF_THIS_SERVER.exec(address)?.[1];
}

function systemNotification({ title, body }) {
  return html`
    <p class="quiet">${t("notification.of_system")}</p>
    <div class="system-notification">
      <b dir="auto">${title || body}</b>
      ${title && body ? html`<span dir="auto">${body}</span>` : null}
    </div>
  `;
}

function card({ priority, channel, notification }, api) {
  const { title, body, image, url, attachment, actions = [] } = notification;
  return html`
    <article class="banner" data-priority=${priority ?? "normal"}>
      ${image ? picture(image, api) : null}
      <div class="banner-words">
        ${title ? html`<strong dir="auto">${title}</strong>` : null}
        ${body ? html`<span class="banner-body" dir="auto">${body}</span>` : null}
        ${url ? address(url, "notification.opens") : null}
      </div>
      ${attachment?.url ? html`<p class="banner-file" dir="auto">📎 ${attachment.name || lastPart(attachment.url)}</p>` : null}
      ${actions?.length > 0 && html`<div class="banner-actions">${actions.map((action) => html`
        <span class="banner-action" dir="auto">${action.title || action.id}</span>`)}</div>`}
      ${actions?.filter((action) => action.url).map((action) => html`
        <p class="banner-note">${action.title || action.id}: ${address(action.url, "notification.opens")}</p>`)}
      ${actions?.filter((action) => action.input).map((action) => html`
        <p class="banner-note">${t("notification.asks", { action: action.title || action.id, question: action.input })}</p>`)}
      ${channel ? html`<p class="banner-note">${t("notification.mute", { channel })}</p>` : null}
      <span class="banner-close" aria-hidden="true">×</span>
    </article>
  `;
}

/** What an address opens; that devices do not open it, where they do not. */
function address(url, key) {
  const opened = isWebAddress(url);
  return html`<span class="banner-address">${t(key, { url })}${opened ? null : html` <b class="error">${t("notification.not_opened")}</b>`}</span>`;
}

function isWebAddress(text) {
  if (!URL.canParse(text)) return false;
  const { protocol } = new URL(text);
  return protocol === "https:" || protocol === "http:";
}

function picture(image, api) {
  const id = attachmentOf(image);
  if (id === undefined) {
    const from = isWebAddress(image) ? new URL(image).host : image;
    return html`<p class="banner-absent">${t("notification.image_elsewhere", { from })}</p>`;
  }
  const place = html`<div class="banner-image" data-key=${`image-${id}`} data-keep></div>`;
  void load(place, id, api);
  return place;
}

async function load(place, id, api) {
  try {
    const blob = await api.get(path`/v1/attachments/${id}`);
    if (!(blob instanceof Blob) || !blob.type.startsWith("image/")) throw new Error("no image");
    const source = URL.createObjectURL(blob);
    const shown = html`<img alt="" />`;
    shown.onload = () => URL.revokeObjectURL(source);
    shown.src = source;
    place.replaceChildren(shown);
  } catch (error) {
    if (error.name !== "AbortError") place.replaceChildren(t("notification.image_missing"));
  }
}

function lastPart(url) {
  if (!URL.canParse(url)) return url;
  const { pathname, hostname } = new URL(url);
  return pathname.split("/").at(-1) || hostname || url;
}
