export default {
  of_system: "As a notification of the system, while its page is covered:",
  on_page: "On the device's page:",
  in_app: "On the device's page, and nowhere else:",
  silent: "Nothing is shown. The device's program gets:",
  command: "Nothing is shown. The device's program carries out the command:",
  opens: "Opens {url}",
  not_opened: "Devices open http and https only.",
  asks: "{action} asks: {question}",
  mute: "Mute {channel}",
  image_elsewhere: "An image of {from} is here. The device loads it; this page asks no other server.",
  image_missing: "The image is not there.",
};
