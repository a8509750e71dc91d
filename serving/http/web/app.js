// Sends photos to /predict and shows each answer or problem as a card. Text is set as text, never as markup.
import { authorised } from "/web/key.js";

const AT_ONCE = 4; // requests in progress
const MOST_SURE = 0.9999;
const $ = (id) => document.getElementById(id);
const waiting = [];
let running = 0;

document.documentElement.classList.add("scripted");
$("file").multiple = true;

function take(files) {
  const photos = [...files];
  if (!photos.length) return;
  for (const file of photos) waiting.push([file, newCard(file)]);
  $("said").textContent = `${photos.length} ${photos.length === 1 ? "photo" : "photos"} sent.`;
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

async function post(path, file) {
  const form = new FormData();
  form.append("file", file);
  return authorised(path, { method: "POST", body: form });
}

async function ask(file, card) {
  try {
    const response = await post("/predict?top=5", file);
    const content = await response.json();
    if (response.ok) showAnswer(card, file, content, response.headers.get("Server-Timing") ?? "");
    else showProblem(card, file, content.title, content.detail);
  } catch {
    showProblem(card, file, "No answer", "The service cannot be reached. Try again in a moment.");
  }
}

function element(name, text = "", attributes = {}) {
  const made = Object.assign(document.createElement(name), attributes);
  made.textContent = text;
  return made;
}

function newCard(file) {
  const card = element("article", "", { className: "card waiting" });
  const photo = element("img", "", { className: "photo", alt: file.name });
  photo.src = URL.createObjectURL(file);
  photo.addEventListener("error", () => photo.remove()); // a format that the browser cannot show
  card.append(photo, element("h2", "…"));
  $("answers").prepend(card);
  return card;
}

// Never 0.00 % or 100.00 %: no model is that sure.
function percent(probability) {
  if (probability > MOST_SURE) return "> 99.99 %";
  if (probability < 1 - MOST_SURE) return "< 0.01 %";
  return `${(100 * probability).toFixed(2)} %`;
}

function verdict({ prediction, uncertain, unfamiliar }) {
  if (unfamiliar) return "Something else, it seems";
  return uncertain ? `Not sure: perhaps ${prediction}` : prediction;
}

function showAnswer(card, file, answer, timing) {
  card.classList.remove("waiting");
  card.classList.toggle("unsure", answer.uncertain || answer.unfamiliar === true);
  card.querySelector("h2").textContent = verdict(answer);
  const bars = element("dl");
  const order = Object.entries(answer.probabilities).sort(([, one], [, other]) => other - one);
  for (const [label, probability] of order) {
    const bar = element("meter", "", { value: probability, ariaLabel: `probability of ${label}` });
    const cell = element("dd");
    cell.append(bar);
    bars.append(element("dt", label), cell, element("dd", percent(probability)));
  }
  const notes = [];
  if (answer.unfamiliar) notes.push("It looks unlike any photo the model was trained on.");
  else if (answer.uncertain) notes.push("The probability is below the model's threshold.");
  const stages = timing.replaceAll(/(\w+);dur=([\d.]+)/g, (_, name, ms) => `${name} ${Number(ms).toFixed(1)} ms`);
  const spent = `${answer.latency_ms.toFixed(1)} ms in the service${stages ? ` (${stages})` : ""}`;
  card.append(bars, ...notes.map((note) => element("p", note)), element("p", spent, { className: "small" }));
  card.append(whyButton(card, file));
  $("said").textContent = `${file.name}: ${verdict(answer)}, ${percent(answer.probability)}`;
}

function whyButton(card, file) {
  const button = element("button", "Show why", { type: "button", ariaPressed: "false" });
  const photo = card.querySelector("img");
  if (!photo) return element("span");
  const plain = photo.src;
  const legend = element("p", "Orange areas support the answer; blue areas speak against it.", { className: "small" });
  let map = "";
  button.addEventListener("click", async () => {
    if (photo.src !== plain) {
      photo.src = plain;
      button.textContent = "Show why";
      button.ariaPressed = "false";
      legend.remove();
      return;
    }
    if (!map) {
      button.disabled = true;
      try {
        const response = await post("/explain", file);
        if (!response.ok) throw new Error((await response.json()).title);
        map = URL.createObjectURL(await response.blob());
      } catch (problem) {
        button.replaceWith(element("p", `No heat map: ${problem.message}.`));
        return;
      } finally {
        button.disabled = false;
      }
    }
    photo.src = map;
    button.textContent = "Show the photo";
    button.ariaPressed = "true";
    $("said").textContent = legend.textContent;
    card.append(legend);
  });
  return button;
}

function showProblem(card, file, title, detail) {
  card.classList.remove("waiting");
  card.classList.add("problem");
  card.querySelector("h2").textContent = title;
  card.append(element("p", `${file.name}: ${detail}`));
  $("said").textContent = `${file.name}: ${title}`;
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
