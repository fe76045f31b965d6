export default {
  send_at: "am {at}",
  send_at_local: "um {at} nach der Uhr jedes Geräts",
  device_clock: "Uhr jedes Geräts",
  repeat: "immer wieder: {cron} ({zone})",
  until: "bis {at}",
  times: { one: "{n} Mal", other: "{n} Mal" },
  window: "nur von {from} bis {to} ({zone})",
  spread: "verteilt über {length}",
};
