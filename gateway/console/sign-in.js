/** Signing in: with a key that the page forgets at once, or where the server knows one, at an identity provider. */

import { withQuery } from "./api.js";
import { html } from "./html.js";
import { explain } from "./parts/problem.js";
import { input } from "./parts/field.js";
import { submission } from "./parts/form.js";
import { options, signIn } from "./session.js";
import { t } from "./texts.js";

const PAGE = "/console/sign-in";
const PROVIDER = "/v1/session/oidc";

/** The form. `done()` when there is a session; `to`: where the provider shall come back to. */
export function signInForm(done, to) {
  const { button, refusal, submit } = submission({
    verb: t("signin.sign_in"),
    act: async ({ key }) => {
      try {
        await signIn(key.value.trim());
      } catch (error) {
        key.select();
        throw error;
      }
      key.value = "";
      done();
    },
    refused: (error) => (error.status === 401 ? t("signin.refused") : explain(error)),
  });
  const form = html`
    <form class="sign-in" autocomplete="off" onsubmit=${submit}>
      ${input({
        label: t("signin.key"), hint: t("signin.hint"), name: "key", type: "password", required: true,
        autocomplete: "off", autocapitalize: "none", spellcheck: "false", autofocus: true,
      })}
      ${refusal}
      <div class="buttons">${button}</div>
    </form>
  `;
  options().then(
    ({ oidc }) => {
      if (!oidc) return;
      form.prepend(html`<p><a class="button primary" href=${withQuery(PROVIDER, { to })}>${t("signin.with", { name: oidc.name })}</a></p><p class="or">${t("signin.or")}</p>`);
    },
    (error) => console.warn(error.message), // a key works without
  );
  return form;
}

/** The page of it. Only paths of the console are a place to go to afterwards. */
export function signInPage(root) {
  const given = new URLSearchParams(location.search);
  const to = safeTarget(given.get("to"));
  const failed = given.get("error");
  document.title = `${t("signin.title")} – Fleetpush`;
  root.replaceChildren(html`
    <div class="screen narrow" data-screen="sign-in">
      <h1>${t("signin.title")}</h1>
      ${failed && html`<p class="problem" role="alert">${t.or(`signin.error_${failed}`, t("signin.error_other"))}</p>`}
      ${signInForm(() => location.replace(to), to)}
    </div>
  `);
  root.querySelector("input").focus();
}

/** The address of the sign-in page that comes back to where we are. */
export function signInAddress() {
  const here = location.pathname + location.search;
  return here === "/console/" || here.startsWith(PAGE) ? PAGE : withQuery(PAGE, { to: here });
}

/** A path of this console and nothing else: no other server, and not this page again. */
export function safeTarget(wanted) {
  const fallback = "/console/";
  if (!wanted) return fallback;
  let address;
  try {
    address = new URL(wanted, location.origin);
  } catch {
    return fallback;
  }
  const inside = address.origin === location.origin && address.pathname.startsWith("/console/");
  return inside && address.pathname !== PAGE ? address.pathname + address.search : fallback;
}
