
// The table: filter, sort, open a series. Rows are hidden and moved, never created again.

const BODY = document.querySelector("#series tbody");
const ROWS = [...BODY.rows];
const HEADS = [...document.querySelectorAll("#series thead th")].filter((th) => th.querySelector("button"));
const CHIPS = [...document.querySelectorAll(".chip")];

let order = SERIES.map((s) => s.index);  // all rows, sorted
let visible = order;                     // the rows that pass the filters, in that order
let rowLimit = DATA.shown;               // how many of these are on screen

// The value that a column sorts by. The page is in the order of the score.
function sortKey(series, key) {
  if (key === "score") return -series.index;
  if (key === "why") return series.reason || series.why.join("; ") || null;
  if (key === "series_uid") return series.name;
  return series[key] === "" ? null : series[key];
}

function compare(a, b) {
  if (typeof a === "string" && typeof b === "string") return a < b ? -1 : a > b ? 1 : 0;
  return a - b;
}

// Ties keep the order of the score; rows without a value come last in both directions.
function sortBy(key, ascending) {
  const keyed = SERIES.map((s) => ({index: s.index, key: sortKey(s, key)}));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.index - b.index;
    return (ascending ? compare(a.key, b.key) : compare(b.key, a.key)) || a.index - b.index;
  });
  order = keyed.map((k) => k.index);
  const direction = ascending ? "ascending" : "descending";
  for (const th of HEADS) {
    th.setAttribute("aria-sort", th.querySelector("button").dataset.key === key ? direction : "none");
  }
  byId("sort").value = `${key} ${direction}`;
  filter();
}

// Chips of one column are joined by or, columns by and: (refused or skipped) and (too_thin or not_ct).
function filter() {
  const pressed = {};
  for (const chip of CHIPS) {
    if (chip.getAttribute("aria-pressed") !== "true") continue;
    (pressed[chip.dataset.column] ||= new Set()).add(chip.dataset.value);
  }
  const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const passes = (s) =>
    (!pressed.odd || s.odd) &&
    (!pressed.kind || pressed.kind.has(s.kind)) &&
    (!pressed.status || pressed.status.has(s.status)) &&
    (!pressed.reason || pressed.reason.has(s.reason)) &&
    words.every((word) => TEXT[s.index].includes(word));
  visible = order.filter((index) => passes(SERIES[index]));
  rowLimit = DATA.shown;
  showRows();
  byId("shown").textContent =
    `${visible.length.toLocaleString("en")} of ${SERIES.length.toLocaleString("en")} rows`;
  byId("nothing").hidden = visible.length > 0;
  byId("clear").disabled = !words.length && !Object.keys(pressed).length;
  drawAll(visible);
}

// Hidden rows are not moved: with twenty thousand of them every click would be slow.
function showRows() {
  const shown = new Set(visible.slice(0, rowLimit));
  ROWS.forEach((row, index) => {
    if (row.hidden === shown.has(index)) row.hidden = !row.hidden;
  });
  let at = BODY.firstElementChild;  // the next row goes before it
  for (const index of shown) {
    while (at && at.hidden) at = at.nextElementSibling;
    if (at === ROWS[index]) at = at.nextElementSibling;
    else BODY.insertBefore(ROWS[index], at);
  }
  const remaining = visible.length - shown.size;
  byId("more").hidden = !remaining;
  byId("more").textContent = `Show ${Math.min(remaining, DATA.shown).toLocaleString("en")} of ${remaining.toLocaleString("en")} more rows`;
}

function openSeries(index) {
  openDetail(index, visible);
}

let filterTimer = 0;
byId("find").addEventListener("input", () => {
  clearTimeout(filterTimer);
  filterTimer = setTimeout(filter, 80);  // once typing pauses: there may be twenty thousand rows
});
byId("more").addEventListener("click", () => {
  rowLimit += DATA.shown;
  showRows();
});
byId("clear").addEventListener("click", () => {
  for (const chip of CHIPS) chip.setAttribute("aria-pressed", "false");
  byId("find").value = "";
  filter();
  byId("find").focus();
});
for (const chip of CHIPS) {
  chip.addEventListener("click", () => {
    chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
    filter();
  });
}
for (const th of HEADS) {
  const {key} = th.querySelector("button").dataset;
  for (const direction of ["descending", "ascending"]) {
    const option = element("option", `${th.querySelector("button").textContent}, ${direction}`);
    option.value = `${key} ${direction}`;
    byId("sort").append(option);
  }
  th.querySelector("button").addEventListener("click", () => {
    const current = th.getAttribute("aria-sort");
    // The first click sorts scores descending, other columns ascending; the second reverses it.
    const first = key === "score" ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    sortBy(key, (current === first ? second : first) === "ascending");
  });
}
byId("sort").addEventListener("change", (event) => {
  const [key, direction] = event.target.value.split(" ");
  sortBy(key, direction === "ascending");
});
BODY.addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row && !String(getSelection())) openSeries(Number(row.dataset.row));  // unless text is selected
});

byId("plots").hidden = !SERIES.some((s) => s.hu || s.scan_mm !== null);
byId("filters").hidden = false;
byId("sort").value = "score descending";
openOnClick("plot-spacing", openSeries);
openOnClick("plot-range", openSeries);
const redraw = () => {
  // The table's head sticks below the filters, whose height depends on their chips.
  document.documentElement.style.setProperty("--filters", `${byId("filters").offsetHeight}px`);
  drawAll(visible);
  drawDetail();
};
new ResizeObserver(redraw).observe(byId("plots"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
filter();
requestAnimationFrame(() => setTimeout(() => performance.mark("usable")));  // after the first paint
