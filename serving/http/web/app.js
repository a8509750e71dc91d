// Takes photos (chosen, taken, dropped, pasted or an example) and sends them, a few at a time; each becomes a card.
import { failed, newCard, show } from "./card.js";
import { authorised, root } from "./key.js";

const AT_ONCE = 4; // requests in progress
const UNREACHABLE = ["No answer", "The service cannot be reached. Try again in a moment."];
const $ = (id) => document.getElementById(id);
const waiting = [];
let running = 0;

document.documentElement.classList.add("scripted");
$("file").multiple = true;
$("choose").textContent = "Choose photos";

function take(files) {
  const photos = [...files];
  if (!photos.length) return;
  const cards = photos.map((file) => newCard(file));
  $("answers").prepend(...cards);
  photos.forEach((file, i) => waiting.push([file, cards[i]]));
  say(`${photos.length} ${photos.length === 1 ? "photo" : "photos"} sent.`);
  cards[0].scrollIntoView({ block: "nearest" });
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    ask(...waiting.shift()).finally(() => {
      running -= 1;
      next();
    });
  }
}

function say(text) {
  $("said").textContent = text;
}

function post(path, file) {
  const form = new FormData();
  form.append("file", file);
  return authorised(path, { method: "POST", body: form });
}

async function ask(file, card) {
  try {
    const response = await post("./", file);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const answer = page.querySelector("#answers .card");
    if (answer) show(card, answer, () => post("explain", file));
    else failed(card, "No answer", `The service answered with status ${response.status}. Try again in a moment.`);
  } catch {
    failed(card, ...UNREACHABLE);
  }
  say(`${file.name}: ${card.querySelector("h2").innerText}. ${card.querySelector("h2 + p").innerText}`);
}

for (const input of [$("file"), $("camera")]) {
  input.addEventListener("change", () => {
    take(input.files);
    input.value = ""; // the same photo may be chosen again
  });
}

document.addEventListener("paste", (event) => take(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}

for (const button of document.querySelectorAll("[data-photo]")) {
  const name = button.dataset.photo.split("/").pop();
  button.addEventListener("click", async () => {
    try {
      const picture = await fetch(new URL(button.dataset.photo, root));
      take([new File([await picture.blob()], name)]);
    } catch {
      const card = newCard(new File([], name));
      $("answers").prepend(card);
      failed(card, ...UNREACHABLE);
    }
  });
}
