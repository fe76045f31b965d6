export default {
  title: "Pushes",
  compose: "Push schreiben",
  none: "Es wurde noch nichts gesendet.",
  push: "Push",
  target: "Für",
  sent_at: "Gesendet",
  targeted: "Geräte",
  reached: "Erreicht",
  reach: { one: "{n} hat ihn ({share})", other: "{n} haben ihn ({share})" },
  nobody: "Für niemanden",
  under_way: { one: "{n} unterwegs", other: "{n} unterwegs" },
  not_reached: { one: "{n} hat ihn nicht bekommen", other: "{n} haben ihn nicht bekommen" },
};
