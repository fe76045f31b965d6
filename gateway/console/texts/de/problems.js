export default {
  unreachable: "Der Server antwortet nicht.",
  rate_limited: "Zu viele Anfragen auf einmal. Warten Sie kurz, und versuchen Sie es noch einmal.",
  busy: "Der Server ist ausgelastet. Warten Sie kurz, und versuchen Sie es noch einmal.",
  storage_full: "Die Platte des Servers ist voll: Er nimmt nichts Neues an.",
  internal_error: "Im Server ist etwas schiefgegangen. Sein Protokoll sagt mehr.",
};
