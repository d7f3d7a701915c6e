
"use strict";
// The data of the page, shared by all parts of the script.

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

// One object for each row of the page, in its order: ledger values and measures by name.
const SERIES = DATA.rows.map((row, index) => {
  const value = {index, score: row.score, why: row.why, boxes: row.boxes, hu: row.hu};
  DATA.columns.forEach((name, k) => { value[name] = row.ledger[k]; });
  DATA.measures.forEach((name, k) => { value[name] = row.measures[k]; });
  value.name = value.series_uid || value.source;
  value.odd = row.score > 0;
  return value;
});

// What the search field looks into, by row.
const TEXT = SERIES.map((s) =>
  [s.series_uid, s.patient_id, s.source, s.status, s.reason, s.detail, s.flags, s.why.join(" ")]
    .join("\n").toLowerCase());

// Mean share of each HU bin over `series`; null if none has a histogram.
function meanHistogram(series) {
  const counted = series.filter((s) => s.hu);
  if (!counted.length) return null;
  const sum = new Float64Array(counted[0].hu.length);
  for (const s of counted) s.hu.forEach((n, k) => { sum[k] += n; });
  return sum.map((n) => n / counted.length / DATA.unit);
}

const ALL_HU = meanHistogram(SERIES);
