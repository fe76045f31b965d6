export default {
  send_at: "am {at}",
  send_at_local: "um {at} nach der Uhr jedes Geräts",
  device_clock: "Uhr jedes Geräts",
  repeat: "immer wieder: cron {cron} ({zone})",
  daily: "jeden Tag um {at} ({zone})",
  weekly: "jeden {days} um {at} ({zone})",
  monthly: "an jedem {day}. des Monats um {at} ({zone})",
  day_range: "{from} bis {to}",
  until: "bis {at}",
  times: { one: "{n} Mal", other: "{n} Mal" },
  window: "nur von {from} bis {to} ({zone})",
  spread: "verteilt über {length}",
};
