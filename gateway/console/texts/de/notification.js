export default {
  of_system: "Als Benachrichtigung des Systems, während die Seite verdeckt ist:",
  on_page: "Auf der Seite des Geräts:",
  in_app: "Auf der Seite des Geräts und nirgends sonst:",
  silent: "Es wird nichts gezeigt. Das Programm des Geräts bekommt:",
  command: "Es wird nichts gezeigt. Das Programm des Geräts führt den Befehl aus:",
  opens: "Öffnet {url}",
  not_opened: "Geräte öffnen nur http und https.",
  asks: "{action} fragt: {question}",
  mute: "{channel} stummschalten",
  image_elsewhere: "Hier ist ein Bild von {from}. Das Gerät lädt es; diese Seite fragt keinen anderen Server.",
  image_missing: "Das Bild ist nicht da.",
};
