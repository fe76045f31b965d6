// A device on MQTT.js in node, as a person would write it from the README: shows each push, says so, names it on stdout.
// Its argument is JSON: {module, url, clientId, username, password?, topics, ca?, cert?, key?}.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { module, url, clientId, username, password, topics, ...files } = JSON.parse(process.argv[2]);
const { default: mqtt } = await import(pathToFileURL(module));
const tls = Object.fromEntries(Object.entries(files).map(([name, path]) => [name, readFileSync(path)]));
const client = mqtt.connect(url, { clientId, username, password, clean: false, reconnectPeriod: 0, ...tls });

client.on("error", (error) => {
  console.log(`error ${error.message}`);
  process.exit(1);
});
client.on("connect", async () => {
  await client.subscribeAsync(topics.push, { qos: 1 });
  console.log("ready");
});
client.on("message", async (topic, payload) => {
  const { push_id } = JSON.parse(payload);
  await client.publishAsync(topics.receipts, JSON.stringify({ push_id, event: "displayed" }), { qos: 1 });
  console.log(push_id);
});
