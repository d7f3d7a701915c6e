
// Filter, sort, open: the table. Rows are never remade, only hidden and moved.

const BODY = document.querySelector("#series tbody");
const ROWS = [...BODY.rows];
const HEADS = [...document.querySelectorAll("#series thead th")].filter((th) => th.querySelector("button"));
const CHIPS = [...document.querySelectorAll(".chip")];

let order = SERIES.map((s) => s.index);  // all rows as sorted
let visible = order;                     // those that pass the filters, in that order
let room = DATA.shown;                   // how many of those are on screen

// What a column sorts by. The page comes in outlier order, so that is the score's.
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

// Ties keep the outlier order; what has no value comes last either way.
function sortBy(key, ascending) {
  const keyed = SERIES.map((s) => ({index: s.index, key: sortKey(s, key)}));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.index - b.index;
    return (ascending ? compare(a.key, b.key) : compare(b.key, a.key)) || a.index - b.index;
  });
  order = keyed.map((k) => k.index);
  const said = ascending ? "ascending" : "descending";
  for (const th of HEADS) {
    th.setAttribute("aria-sort", th.querySelector("button").dataset.key === key ? said : "none");
  }
  byId("sort").value = `${key} ${said}`;
  filter();
}

// Chips of one kind widen, kinds narrow: (refused or skipped) and (too_thin or not_ct).
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
  room = DATA.shown;
  showRows();
  byId("shown").textContent =
    `${visible.length.toLocaleString("en")} of ${SERIES.length.toLocaleString("en")} rows`;
  byId("nothing").hidden = visible.length > 0;
  byId("clear").disabled = !words.length && !Object.keys(pressed).length;
  drawAll(visible);
}

// Twenty thousand rows on screen would make every click slow: hidden ones are not even moved.
function showRows() {
  const shown = new Set(visible.slice(0, room));
  ROWS.forEach((row, index) => {
    if (row.hidden === shown.has(index)) row.hidden = !row.hidden;
  });
  let at = BODY.firstElementChild;  // where the next row belongs
  for (const index of shown) {
    while (at && at.hidden) at = at.nextElementSibling;
    if (at === ROWS[index]) at = at.nextElementSibling;
    else BODY.insertBefore(ROWS[index], at);
  }
  const left = visible.length - shown.size;
  byId("more").hidden = !left;
  byId("more").textContent = `Show ${Math.min(left, DATA.shown).toLocaleString("en")} of ${left.toLocaleString("en")} more rows`;
}

function openSeries(index) {
  openDetail(index, visible);
}

let waiting = 0;
byId("find").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(filter, 80);  // not at every key: there may be twenty thousand rows
});
byId("more").addEventListener("click", () => {
  room += DATA.shown;
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
  for (const said of ["descending", "ascending"]) {
    const option = element("option", `${th.querySelector("button").textContent}, ${said}`);
    option.value = `${key} ${said}`;
    byId("sort").append(option);
  }
  th.querySelector("button").addEventListener("click", () => {
    const now = th.getAttribute("aria-sort");
    // The oddest first, and names from A; a second click turns it round.
    const first = key === "score" ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    sortBy(key, (now === first ? second : first) === "ascending");
  });
}
byId("sort").addEventListener("change", (event) => {
  const [key, said] = event.target.value.split(" ");
  sortBy(key, said === "ascending");
});
BODY.addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row && !String(getSelection())) openSeries(Number(row.dataset.row));  // not while text is marked
});

byId("plots").hidden = !SERIES.some((s) => s.hu || s.scan_mm !== null);
byId("filters").hidden = false;
byId("sort").value = "score descending";
pointable("plot-spacing", openSeries);
pointable("plot-range", openSeries);
const redraw = () => {
  // The table's head sticks below the filters, which are as high as their chips need.
  document.documentElement.style.setProperty("--filters", `${byId("filters").offsetHeight}px`);
  drawAll(visible);
  drawDetail();
};
new ResizeObserver(redraw).observe(byId("plots"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
filter();
requestAnimationFrame(() => setTimeout(() => performance.mark("usable")));  // after the first paint
