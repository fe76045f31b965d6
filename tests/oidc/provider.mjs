// An identity provider with people of some shops. `node provider.mjs` says its issuer in one line.
//
// Whoever gives a name at its sign-in is that person; groups are by name. PKCE is asked of everybody.

import { createServer } from "node:http";
import Provider from "oidc-provider";

const GROUPS = {
  ada: ["staff", "push-admins"],
  vera: ["staff", "push-viewers"],
  hugo: ["hotel-operators"],
  nobody: ["staff"],
};
const CALLBACK = /^http:\/\/(127\.0\.0\.1:\d+|test)\/v1\/session\/oidc\/callback$/;
const SIGN_IN = /^http:\/\/(127\.0\.0\.1:\d+|test)\/console\/sign-in$/;

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const common = {
    redirect_uris: ["http://test/v1/session/oidc/callback"],
    post_logout_redirect_uris: ["http://test/console/sign-in"],
    response_types: ["code"],
    grant_types: ["authorization_code"],
  };
  const provider = new Provider(issuer, {
    clients: [
      { client_id: "fleetpush", client_secret: "a secret: %of& the+server", token_endpoint_auth_method: "client_secret_basic", ...common },
      { client_id: "public", token_endpoint_auth_method: "none", ...common },
    ],
    pkce: { required: () => true },
    scopes: ["openid", "profile", "groups"],
    claims: { openid: ["sub"], profile: ["name"], groups: ["groups"] },
    conformIdTokenClaims: false,
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, name: `${id[0].toUpperCase()}${id.slice(1)}`, groups: GROUPS[id] ?? [] }),
    }),
    features: { devInteractions: { enabled: true }, rpInitiatedLogout: { enabled: true } },
    cookies: { keys: ["of these tests"] },
  });
  // Servers of tests are at whatever port was free.
  provider.Client.prototype.redirectUriAllowed = (uri) => CALLBACK.test(uri);
  provider.Client.prototype.postLogoutRedirectUriAllowed = (uri) => SIGN_IN.test(uri);
  server.on("request", provider.callback());
  console.log(`issuer ${issuer}`);
});
