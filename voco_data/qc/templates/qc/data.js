
"use strict";
// The page's data, and what every part of the script needs.

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

// One object a row: ledger values and measures by name, as the page's rows are numbered.
const SERIES = DATA.rows.map((row, index) => {
  const value = {index, score: row.score, why: row.why, boxes: row.boxes, hu: row.hu};
  DATA.columns.forEach((name, k) => { value[name] = row.ledger[k]; });
  DATA.measures.forEach((name, k) => { value[name] = row.measures[k]; });
  value.name = value.series_uid || value.source;
  value.odd = row.score > 0;
  return value;
});

const TEXT = SERIES.map((s) =>
  [s.series_uid, s.patient_id, s.source, s.status, s.reason, s.detail, s.flags, s.why.join(" ")]
    .join("\n").toLowerCase());

// Mean share of each HU bin over some series; null if none has a histogram.
function meanHistogram(series) {
  const held = series.filter((s) => s.hu);
  if (!held.length) return null;
  const sum = new Float64Array(held[0].hu.length);
  for (const s of held) s.hu.forEach((n, k) => { sum[k] += n; });
  return sum.map((n) => n / held.length / DATA.per);
}

const ALL_HU = meanHistogram(SERIES);
