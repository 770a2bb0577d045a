"use strict";
// Sorting: a click on a header sorts by its column, a second one turns the order round. Empty cells stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  const said = table.closest("section").querySelector("[aria-live]");
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const first = head.dataset.first;
      const other = first === "ascending" ? "descending" : "ascending";
      const order = now === first ? other : first;
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column].dataset.v;
      const rows = Array.from(body.rows);
      const compare = (a, b) => {
        const x = value(a), y = value(b);
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        return sign * (head.dataset.kind === "text" ? x.localeCompare(y) : Number(x) - Number(y));
      };
      rows.sort(compare);
      body.append(...rows);
      said.textContent = "Sorted by " + button.textContent.trim() + ", " + order + ".";
    });
  });
}
// A table that goes on to the right says so.
for (const scroll of document.querySelectorAll(".scroll")) {
  const look = () =>
    scroll.parentElement.toggleAttribute("data-more", scroll.scrollLeft + scroll.clientWidth < scroll.scrollWidth - 4);
  scroll.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(scroll);
  look();
}
// Names of languages, where the browser knows them.
try {
  const names = new Intl.DisplayNames(["en"], { type: "language" });
  for (const spot of document.querySelectorAll("[data-language]")) {
    const code = spot.dataset.language;
    try {
      const name = names.of(code);
      if (name && name !== code) spot.textContent = name;
    } catch { /* not a language tag: the code stands alone */ }
  }
} catch { /* an old browser: the codes stand alone */ }
// On paper, everything is open.
let closed = [];
addEventListener("beforeprint", () => {
  closed = Array.from(document.querySelectorAll("details:not([open])"));
  closed.forEach((d) => (d.open = true));
});
addEventListener("afterprint", () => closed.forEach((d) => (d.open = false)));
