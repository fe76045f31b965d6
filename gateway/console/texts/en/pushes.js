export default {
  title: "Pushes",
  compose: "Write a push",
  none: "Nothing has been sent yet.",
  push: "Push",
  target: "For",
  sent_at: "Sent",
  targeted: "Devices",
  reached: "Reached",
  reach: { one: "{n} has it ({share})", other: "{n} have it ({share})" },
  nobody: "For nobody",
  under_way: { one: "{n} under way", other: "{n} under way" },
  not_reached: { one: "{n} did not get it", other: "{n} did not get it" },
};
