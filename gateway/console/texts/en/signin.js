export default {
  title: "Sign in",
  key: "Key",
  hint: "A key of your app, as “fleetpush keys add” shows it once. This page does not keep it.",
  sign_in: "Sign in",
  with: "Sign in with {name}",
  or: "or with a key",
  refused: "This key is not valid.",
  ended: "Your session has ended",
  again: "Sign in again to go on where you are.",
  error_other: "Signing in did not work. Try again, or ask whoever runs this server.",
};
