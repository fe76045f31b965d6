export default {
  title: "Anmelden",
  key: "Schlüssel",
  hint: "Ein Schlüssel Ihrer App, wie ihn „fleetpush keys add“ einmal zeigt. Diese Seite behält ihn nicht.",
  sign_in: "Anmelden",
  with: "Anmelden mit {name}",
  or: "oder mit einem Schlüssel",
  refused: "Dieser Schlüssel gilt nicht.",
  ended: "Ihre Sitzung ist zu Ende",
  again: "Melden Sie sich noch einmal an, dann geht es hier weiter.",
  error_other: "Die Anmeldung hat nicht geklappt. Versuchen Sie es noch einmal, oder fragen Sie den Betreiber dieses Servers.",
};
