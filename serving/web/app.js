// Send the chosen photo to /predict and show the answer or the problem, as text and never as markup.
const $ = (id) => document.getElementById(id);
let latest = 0;
let key = ""; // asked for if the service wants one

async function ask(file) {
  const turn = ++latest; // an answer that a newer photo has overtaken is not shown
  URL.revokeObjectURL($("photo").src);
  $("photo").src = URL.createObjectURL(file);
  $("photo").hidden = false;
  show("…", [], "");
  const form = new FormData();
  form.append("file", file);
  try {
    const response = await fetch("/predict", {
      method: "POST",
      body: form,
      headers: key ? { "X-API-Key": key } : {},
    });
    if (response.status === 401) {
      key = prompt("This service wants an API key.") ?? "";
      if (key) return ask(file);
    }
    const content = await response.json();
    if (turn !== latest) return;
    if (response.ok) showAnswer(content, response.headers.get("Server-Timing"));
    else show(content.title, [], content.detail);
  } catch {
    if (turn === latest) show("No answer", [], "The service cannot be reached. Try again in a moment.");
  }
}

function showAnswer(answer, timing) {
  const verdict = answer.uncertain ? `Not sure, perhaps a ${answer.prediction}` : `A ${answer.prediction}`;
  const stages = (timing ?? "").replaceAll(";dur=", " ").replaceAll(",", " ms,");
  const { name, version } = answer.model;
  show(
    verdict,
    Object.entries(answer.probabilities),
    `${answer.latency_ms.toFixed(1)} ms in the service (${stages} ms), model ${name} ${version}`,
  );
}

function show(verdict, probabilities, detail) {
  $("answer").hidden = false;
  $("verdict").textContent = verdict;
  $("detail").textContent = detail;
  $("probabilities").replaceChildren(
    ...probabilities.flatMap(([label, probability]) => {
      const term = document.createElement("dt");
      term.textContent = label;
      const bar = document.createElement("meter");
      bar.value = probability;
      const cell = document.createElement("dd");
      cell.append(bar);
      const figure = document.createElement("dd");
      figure.textContent = `${(100 * probability).toFixed(2)} %`;
      return [term, cell, figure];
    }),
  );
}

$("file").addEventListener("change", (event) => {
  if (event.target.files[0]) ask(event.target.files[0]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files[0]) ask(event.clipboardData.files[0]);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) ask(event.dataTransfer.files[0]);
  });
}
