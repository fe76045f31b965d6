export default {
  offers: "Vorschläge",
  selects: { one: "Er trifft jetzt {n} Gerät:", other: "Er trifft jetzt {n} Geräte:" },
  devices: { one: "{n} Gerät", other: "{n} Geräte" },
};
