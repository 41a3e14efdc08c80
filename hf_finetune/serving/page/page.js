// Sends each image in a request of its own, a few at a time; the server puts them into batches.
"use strict";

const AT_A_TIME = 4;
const TRIES = 20; // of an image while the server says that it is busy
const drop = document.getElementById("drop");
const results = document.getElementById("results");
const status = document.getElementById("status");
const download = document.getElementById("download");
const clear = document.getElementById("clear");
const explains = fetch("/openapi.json").then((answer) => answer.json())
  .then(({ paths }) => "/v1/explain" in paths).catch(() => false);
const waiting = [];
let answers = [];
let running = 0;
let shown = 0;

function add(files) {
  for (const file of files) {
    const item = document.getElementById("result").content.cloneNode(true).firstElementChild;
    const image = item.querySelector("img");
    show(image, file, file.name);
    image.onload = () => URL.revokeObjectURL(image.src);
    image.onerror = () => { image.removeAttribute("src"); image.alt = ""; };
    item.querySelector("h2").textContent = file.name;
    results.append(item);
    const answer = { name: file.name, predictions: [], error: "" };
    answers.push(answer);
    waiting.push({ file, item, answer });
    shown += 1;
  }
  work();
}

function show(image, blob, text) {
  image.src = URL.createObjectURL(blob);
  image.alt = text;
}

function work() {
  while (running < AT_A_TIME && waiting.length) {
    running += 1;
    classify(waiting.shift()).finally(() => { running -= 1; work(); });
  }
  const left = waiting.length + running;
  status.textContent = !shown ? "" : left ? `${shown - left} of ${shown} classified` : `${shown} classified`;
  download.disabled = clear.disabled = !shown || left > 0;
}

async function classify({ file, item, answer }) {
  const note = item.querySelector(".note");
  try {
    const body = await ask("/v1/classify", file);
    answer.predictions = body.images[0].predictions;
    note.remove();
    for (const { label, score } of answer.predictions) {
      const line = document.getElementById("class").content.cloneNode(true).firstElementChild;
      line.querySelector(".label").textContent = line.title = label;
      line.querySelector(".fill").style.width = `${100 * score}%`;
      line.querySelector(".score").textContent = `${(100 * score).toFixed(1)} %`;
      item.querySelector(".classes").append(line);
    }
    offerMap(file, item);
  } catch (error) {
    answer.error = error.message;
    note.textContent = error.message;
    note.classList.add("bad");
  }
}

async function offerMap(file, item) {
  const button = item.querySelector(".map");
  const image = item.querySelector("img");
  const note = document.createElement("p");
  note.className = "note";
  button.addEventListener("click", async () => {
    note.remove();
    if (button.getAttribute("aria-pressed") === "true") {
      button.setAttribute("aria-pressed", "false");
      show(image, file, file.name);
      return;
    }
    button.disabled = true;
    try {
      const [found] = (await ask("/v1/explain", file)).images;
      const bytes = Uint8Array.from(atob(found.overlay), (letter) => letter.charCodeAt(0));
      show(image, new Blob([bytes], { type: "image/png" }), `Heat map of ${file.name}`);
      button.setAttribute("aria-pressed", "true");
      note.textContent = found.nothing_found ? `Nothing in the image speaks for ${found.label}.`
        : found.method === "rollout" ? "Yellow: what the network attends to most."
          : `Yellow: where the network finds ${found.label}.`;
    } catch (error) {
      note.textContent = error.message;
    }
    button.disabled = false;
    button.after(note);
  });
  button.hidden = !(await explains);
}

async function ask(path, file) {
  for (let attempt = 1; ; attempt += 1) {
    const form = new FormData();
    form.append("images", file, file.name);
    let response;
    try {
      response = await fetch(path, { method: "POST", body: form });
    } catch {
      throw new Error("The server does not answer, or the file is too large.");
    }
    const body = await response.json();
    if (response.ok) return body;
    if (response.status !== 429 || attempt === TRIES) throw new Error(body.error);
    await new Promise((done) => setTimeout(done, 500 * attempt));
  }
}

function cell(value) {
  const text = String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;  // no formula of a spreadsheet
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csv() {
  const rows = [["file", "rank", "label", "score", "error"]];
  for (const { name, predictions, error } of answers) {
    if (!predictions.length) rows.push([name, "", "", "", error]);
    predictions.forEach(({ label, score }, rank) => rows.push([name, rank + 1, label, score.toFixed(6), ""]));
  }
  return rows.map((row) => row.map(cell).join(",") + "\n").join("");
}

download.addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  URL.revokeObjectURL(link.href);
});
clear.addEventListener("click", () => {
  results.replaceChildren();
  answers = [];
  shown = 0;
  work();
});
document.getElementById("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});
drop.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") document.getElementById("files").click();
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, () => drop.classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
