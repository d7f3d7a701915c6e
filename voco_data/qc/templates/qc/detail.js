
// The dialog of one series: larger planes, its HU histogram, all values of the ledger.

const DIALOG = byId("detail");
let openRow = null;
let sequence = [];  // the rows that the buttons previous and next step through

function openDetail(index, rows) {
  sequence = rows;
  openRow = index;
  if (!DIALOG.open) DIALOG.showModal();
  fillDetail();
  byId("detail-name").focus();
}

function fillDetail() {
  const series = SERIES[openRow], at = sequence.indexOf(openRow);
  byId("detail-name").textContent = series.name;
  byId("place").textContent = at < 0 ? "" : `${(at + 1).toLocaleString("en")} of ${sequence.length.toLocaleString("en")}`;
  byId("previous").disabled = at <= 0;
  byId("next").disabled = at < 0 || at === sequence.length - 1;
  const status = DIALOG.querySelector(".status");
  status.className = `status ${series.status}`;
  status.textContent = series.status;
  DIALOG.querySelector("#detail-state .text").textContent =
    [series.reason, series.detail].filter(Boolean).join(": ");
  byId("detail-why").replaceChildren(...series.why.map((words) => element("li", words)));
  fillPlanes(ROWS[openRow].querySelector("img"), series.boxes);
  byId("detail-hu").hidden = !series.hu;
  drawDetail();
  byId("detail-ledger").replaceChildren(...ledgerPairs(series));
  DIALOG.scrollTop = 0;
}

// Each plane is the picture of the row, cropped to one of its slots by the viewBox.
function fillPlanes(picture, boxes) {
  byId("detail-planes").hidden = !picture;
  byId("detail-unpictured").hidden = Boolean(picture);
  if (!picture) return;
  DIALOG.querySelectorAll("#detail-planes svg").forEach((svg, k) => {
    svg.querySelector("image").setAttribute("href", picture.src);
    ["x", "y", "width", "height"].forEach((name, n) => svg.querySelector("rect").setAttribute(name, boxes[k][n]));
  });
}

function drawDetail() {
  if (!DIALOG.open || !SERIES[openRow].hu) return;
  const own = SERIES[openRow].hu.map((n) => n / DATA.unit);
  drawHistogram(DIALOG.querySelector("canvas"), own, ALL_HU, "accent", "ink");
}

function ledgerPairs(series) {
  const names = [...DATA.columns, ...DATA.measures, "score"];
  return names.filter((name) => series[name] !== null && series[name] !== "").map((name) => {
    const pair = element("div", "");
    pair.append(element("dt", name), element("dd", String(series[name])));
    return pair;
  });
}

function element(tag, text) {
  const node = document.createElement(tag);
  node.textContent = text;
  return node;
}

function stepDetail(by) {
  const at = sequence.indexOf(openRow);
  const to = sequence[at + by];
  if (at < 0 || to === undefined) return;
  openRow = to;
  fillDetail();
}

function showBoxes(shown) {
  byId("boxes").checked = shown;
  byId("detail-planes").classList.toggle("unboxed", !shown);
}

byId("previous").addEventListener("click", () => stepDetail(-1));
byId("next").addEventListener("click", () => stepDetail(1));
byId("close").addEventListener("click", () => DIALOG.close());
byId("boxes").addEventListener("change", (event) => showBoxes(event.target.checked));
DIALOG.addEventListener("click", (event) => {
  if (event.target === DIALOG) DIALOG.close();  // the backdrop
});
DIALOG.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const action = {
    ArrowLeft: () => stepDetail(-1), ArrowRight: () => stepDetail(1),
    k: () => stepDetail(-1), j: () => stepDetail(1), b: () => showBoxes(!byId("boxes").checked),
  }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
// Focus returns to the row of the series that was open last.
DIALOG.addEventListener("close", () => {
  const button = ROWS[openRow].querySelector(".open");
  button.scrollIntoView({block: "nearest"});
  button.focus();
});
