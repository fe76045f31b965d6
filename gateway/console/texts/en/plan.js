export default {
  send_at: "on {at}",
  send_at_local: "at {at} by each device's clock",
  device_clock: "each device's clock",
  repeat: "again and again: {cron} ({zone})",
  until: "until {at}",
  times: { one: "{n} time", other: "{n} times" },
  window: "only from {from} to {to} ({zone})",
  spread: "spread over {length}",
};
