// Sends a photo as a form, then as a stream, as Node's fetch (undici) does.
import { readFile } from "node:fs/promises";

const [address, path] = process.argv.slice(2);
const photo = await readFile(path);
const form = new FormData();
form.append("file", new Blob([photo]), "dog.jpg");
const stream = new Blob([photo]).stream();
for (const options of [{ body: form }, { body: stream, duplex: "half" }]) {
  const answer = await fetch(address, { method: "POST", ...options });
  console.log(answer.status, await answer.text());
}
