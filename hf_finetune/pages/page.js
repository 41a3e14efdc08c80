"use strict";
const images = JSON.parse(document.querySelector("script#images").textContent);

function fill(image, key) {
  image.addEventListener("load", () => image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= 64));
  image.src = images[key][0];
}

function figure(key) {
  const [source, ...lines] = images[key];
  const made = document.createElement("figure");
  const shown = document.createElement(source ? "img" : "div");
  if (source) {
    shown.alt = "";
    fill(shown, key);
  } else {
    shown.className = "absent";
    shown.textContent = "no image";
  }
  const caption = document.createElement("figcaption");
  for (const line of lines) {
    caption.appendChild(document.createElement("span")).textContent = line;
  }
  made.append(shown, caption);
  return made;
}

function close(panel) {
  panel.hidden = true;
  panel.replaceChildren();
  for (const button of panel.previousElementSibling.querySelectorAll("[aria-expanded=true]")) {
    button.setAttribute("aria-expanded", "false");
  }
}

function open(button) {
  const panel = button.closest(".wide").nextElementSibling;
  const isOpen = button.getAttribute("aria-expanded") === "true";
  close(panel);
  if (isOpen) return;
  const heading = document.createElement("p");
  heading.appendChild(document.createElement("span")).textContent = button.dataset.title;
  const closing = heading.appendChild(document.createElement("button"));
  closing.type = "button";
  closing.textContent = "Close";
  closing.addEventListener("click", () => { close(panel); button.focus(); });
  const shown = document.createElement("div");
  shown.className = "images";
  shown.append(...button.dataset.images.split(" ").map(figure));
  panel.append(heading, shown);
  panel.hidden = false;
  button.setAttribute("aria-expanded", "true");
  panel.scrollIntoView({ block: "nearest" });
}

function orderOf(cell) {
  const text = cell.dataset.order ?? cell.textContent.trim();
  if (text === "nan") return null;
  const number = Number(text);
  return text === "" || Number.isNaN(number) ? text : number;
}

function compare(first, second) {
  if (typeof first === "number" && typeof second === "number") return first - second;
  return String(first).localeCompare(String(second), undefined, { numeric: true });
}

function sort(heading) {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  const numbers = heading.classList.contains("number");
  const before = heading.getAttribute("aria-sort");
  const rising = before ? before === "descending" : !numbers;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map((row) => [orderOf(row.cells[column]), row]);
  rows.sort(([first], [second]) => {
    if (first === null || second === null) return (first === null) - (second === null);
    return rising ? compare(first, second) : compare(second, first);
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function arrange(select) {
  const table = select.closest("label").nextElementSibling.querySelector("table");
  table.initial ??= [table.tHead.rows[0], ...table.tBodies[0].rows].map((row) => [row, [...row.cells]]);
  const places = select.value.split(" ").map(Number);
  const [head, ...rows] = table.initial;
  for (const [row, cells] of table.initial) row.append(cells[0], ...places.map((place) => cells[place + 1]));
  table.tBodies[0].append(...places.map((place) => rows[place][0]));
}

for (const image of document.querySelectorAll("img[data-image]")) fill(image, image.dataset.image);
for (const button of document.querySelectorAll(".opens")) {
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => open(button));
}
for (const heading of document.querySelectorAll(".sortable th")) {
  heading.querySelector("button").addEventListener("click", () => sort(heading));
}
for (const scatter of document.querySelectorAll(".scatter")) {
  const points = [...scatter.querySelectorAll(".point")];
  const show = (point) => {
    for (const other of points) {
      other.setAttribute("tabindex", other === point ? "0" : "-1");
      other.classList.toggle("current", other === point);
    }
    scatter.querySelector(".shown").replaceChildren(figure(point.dataset.image));
  };
  for (const point of points) for (const kind of ["pointerenter", "focus"]) point.addEventListener(kind, () => show(point));
  scatter.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
    const next = step && points[points.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
}
for (const select of document.querySelectorAll(".order select")) select.addEventListener("change", () => arrange(select));
const hidden = [];
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    hidden.push(details);
    details.open = true;
  }
});
window.addEventListener("afterprint", () => {
  for (const details of hidden.splice(0)) details.open = false;
});
