// node node.mjs URL [FOLDER]: all calls; with a FOLDER of packages, its EventSource as well.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { callAll, follow } from "./calls.mjs";

const [url, folder] = process.argv.slice(2);
const report = (name, text) => console.log(`${name}\t${text}`);

if (folder) {
  const path = createRequire(`${folder}/`).resolve("eventsource");
  const { EventSource } = await import(pathToFileURL(path));
  await follow(EventSource, url, report);
} else {
  await callAll(url, report);
}
