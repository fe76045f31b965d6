export default {
  offers: "Completions",
  selects: { one: "It selects {n} device now:", other: "It selects {n} devices now:" },
  devices: { one: "{n} device", other: "{n} devices" },
};
