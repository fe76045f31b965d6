export default {
  send_at: "on {at}",
  send_at_local: "at {at} by each device's clock",
  device_clock: "each device's clock",
  repeat: "again and again: cron {cron} ({zone})",
  daily: "every day at {at} ({zone})",
  weekly: "every {days} at {at} ({zone})",
  monthly: "on day {day} of every month at {at} ({zone})",
  day_range: "{from} to {to}",
  until: "until {at}",
  times: { one: "{n} time", other: "{n} times" },
  window: "only from {from} to {to} ({zone})",
  spread: "spread over {length}",
};
