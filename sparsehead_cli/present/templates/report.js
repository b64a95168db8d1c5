"use strict";
// A click on a heading sorts by it, a second one the other way round. Equal rows keep their order; empty cells stay last.
const collator = new Intl.Collator("en", { numeric: true });

function sort(table, heads, column) {
  const sign = heads[column].getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const numeric = heads[column].classList.contains("number");
  const compare = numeric ? (a, b) => a - b : (a, b) => collator.compare(a, b);
  const keyed = [...table.tBodies[0].rows].map((row) => {
    const cell = row.cells[column];
    const text = cell.dataset.key ?? cell.textContent.trim();
    return { row, empty: text === "", key: numeric ? Number(text) : text };
  });
  keyed.sort((a, b) => a.empty - b.empty || (a.empty ? 0 : sign * compare(a.key, b.key)));
  table.tBodies[0].append(...keyed.map((entry) => entry.row));
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(table, heads, column)));
}

// Paper has no triangles to click on: everything is printed, and what was closed is closed again afterwards.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    details.dataset.opened = "";
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-opened]")) {
    details.open = false;
    delete details.dataset.opened;
  }
});
