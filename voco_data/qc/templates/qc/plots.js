
// Plots on canvases: spacing, scans with their boxes, HU histograms. They show the filtered rows.

const MARGIN = {left: 52, right: 10, top: 8, bottom: 34};

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Clears a canvas and scales it to CSS pixels at the screen's resolution; null while it is hidden.
function prepareCanvas(canvas) {
  const width = canvas.clientWidth, height = canvas.clientHeight, ratio = devicePixelRatio || 1;
  if (!width || !height) return null;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "11px system-ui, sans-serif";
  return {pen, width, height};
}

// About `about` ticks in [low, high], 1, 2 or 5 times a power of ten apart.
function ticks(low, high, about) {
  const rough = (high - low) / about || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const values = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) values.push(k * step);
  return values.map((t) => Number(t.toPrecision(10)));
}

// Draws axes with labels; returns the functions from values to pixels.
function axes({pen, width, height}, x, y) {
  const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
  const toX = (v) => MARGIN.left + (v - x.low) / (x.high - x.low || 1) * (right - MARGIN.left);
  const toY = (v) => bottom - (v - y.low) / (y.high - y.low || 1) * (bottom - MARGIN.top);
  pen.strokeStyle = colour("line");
  pen.fillStyle = colour("soft");
  pen.lineWidth = 1;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const t of y.ticks || ticks(y.low, y.high, 4)) {
    const at = Math.round(toY(t)) + 0.5;
    pen.beginPath();
    pen.moveTo(MARGIN.left, at);
    pen.lineTo(right, at);
    pen.stroke();
    pen.fillText(y.format ? y.format(t) : t.toLocaleString("en"), MARGIN.left - 5, at);
  }
  pen.textAlign = "center";
  pen.textBaseline = "top";
  for (const t of x.ticks || ticks(x.low, x.high, 6)) pen.fillText(String(t).replace("-", "−"), toX(t), bottom + 6);
  pen.fillText(x.label, (MARGIN.left + right) / 2, bottom + 20);
  pen.save();
  pen.translate(9, (MARGIN.top + bottom) / 2);
  pen.rotate(-Math.PI / 2);
  pen.textBaseline = "middle";
  pen.fillText(y.label, 0, 0);
  pen.restore();
  return {toX, toY};
}

function extent(values, pad) {
  let low = Infinity, high = -Infinity;
  for (const v of values) { low = Math.min(low, v); high = Math.max(high, v); }
  const margin = Math.max((high - low) * 0.06, pad);
  return {low: Math.max(0, low - margin), high: high + margin};
}

// The series of the plots, and the position where each was drawn last, for clicks.
const SPACED = SERIES.filter((s) => s.spacing_x_mm !== null && s.spacing_z_mm !== null);
const RANGED = SERIES.filter((s) => s.scan_mm !== null && s.box_mm !== null)
  .sort((a, b) => a.scan_mm - b.scan_mm || a.index - b.index);
const MARKS = {"plot-spacing": [], "plot-range": []};

function drawSpacing(shown) {
  const area = SPACED.length && prepareCanvas(byId("plot-spacing"));
  if (!area) return;
  const {toX, toY} = axes(area,
    {...extent(SPACED.map((s) => s.spacing_x_mm), 0.02), label: "in plane (mm)"},
    {...extent(SPACED.map((s) => s.spacing_z_mm), 0.1), label: "slices (mm)"});
  const marks = MARKS["plot-spacing"] = [];
  const dot = (s, fill, radius) => {
    area.pen.fillStyle = fill;
    area.pen.beginPath();
    area.pen.arc(toX(s.spacing_x_mm), toY(s.spacing_z_mm), radius, 0, 7);
    area.pen.fill();
  };
  for (const s of SPACED) if (!shown.has(s.index)) dot(s, colour("line"), 2.5);
  const accent = colour("accent"), odd = colour("odd");
  for (const isOutlier of [false, true]) {  // outliers on top
    area.pen.globalAlpha = isOutlier || SPACED.length < 50 ? 0.9 : 0.4;  // many dots show their density
    for (const s of SPACED) {
      if (!shown.has(s.index) || s.odd !== isOutlier) continue;
      dot(s, isOutlier ? odd : accent, 3.5);
      marks.push({series: s, x: toX(s.spacing_x_mm), y: toY(s.spacing_z_mm)});
    }
  }
  area.pen.globalAlpha = 1;
}

function drawRanges(shown) {
  const series = RANGED.filter((s) => shown.has(s.index));
  const area = RANGED.length && prepareCanvas(byId("plot-range"));
  if (!area) return;
  const high = Math.max(...RANGED.slice(-1).map((s) => s.scan_mm)) * 1.03;
  const count = Math.max(1, series.length);
  const {toX, toY} = axes(area,
    {low: 0, high: count, ticks: [], label: `${series.length.toLocaleString("en")} series`},
    {low: 0, high, label: "above lowest slice (mm)"});
  const step = toX(1) - toX(0), thick = Math.min(14, Math.max(0.6, step * 0.72));
  const marks = MARKS["plot-range"] = [];
  const faint = colour("faint"), accent = colour("accent"), odd = colour("odd");
  const column = (x, from, to, wide, fill) => {
    area.pen.fillStyle = fill;
    area.pen.fillRect(x - wide / 2, toY(to), wide, toY(from) - toY(to));
  };
  const draw = (s, k) => {
    const x = toX(k + 0.5), wide = s.odd ? Math.max(1.5, thick) : thick;  // outliers stay visible
    column(x, 0, s.scan_mm, wide, faint);
    column(x, s.box_above_mm, s.box_above_mm + s.box_mm, wide, s.odd ? odd : accent);
    marks.push({series: s, x, y: null});
  };
  series.forEach((s, k) => { if (!s.odd) draw(s, k); });
  series.forEach((s, k) => { if (s.odd) draw(s, k); });
}

// `filled` and `line` are shares of the voxels by bin, drawn as an area and as a line on one scale.
function drawHistogram(canvas, filled, line, fill, stroke) {
  const area = (filled || line) && prepareCanvas(canvas);
  if (!area) return;
  const high = Math.max(...(filled || [0]), ...(line || [0])) || 1;
  const {low, step} = DATA.bins, bins = (filled || line).length;
  const root = Math.sqrt(high), roots = [0];  // ticks far enough apart for their labels
  for (const share of [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1].map(Math.sqrt)) {
    if (share <= root && share - roots.at(-1) > 0.12 * root) roots.push(share);
  }
  const {toX, toY} = axes(area,
    {low, high: low + bins * step, ticks: [-1000, -500, 0, 500, 1000, 1500], label: "HU"},
    {low: 0, high: root * 1.03, label: "voxels",
     ticks: roots,
     format: (t) => `${Number((t * t * 100).toPrecision(2))} %`});
  const pen = area.pen;
  const trace = (shares) => {
    pen.beginPath();
    pen.moveTo(toX(low), toY(0));
    shares.forEach((n, k) => {
      pen.lineTo(toX(low + k * step), toY(Math.sqrt(n)));
      pen.lineTo(toX(low + (k + 1) * step), toY(Math.sqrt(n)));
    });
    pen.lineTo(toX(low + bins * step), toY(0));
  };
  if (filled) { trace(filled); pen.fillStyle = colour(fill); pen.fill(); }
  if (line) { trace(line); pen.strokeStyle = colour(stroke); pen.lineWidth = 1.5; pen.stroke(); }
}

function drawAll(visible) {
  const shown = new Set(visible);
  drawSpacing(shown);
  drawRanges(shown);
  drawHistogram(byId("plot-hu"), ALL_HU, meanHistogram(visible.map((i) => SERIES[i])), "faint", "accent");
}

// The series of the mark nearest to the pointer, within 14 px.
function nearestSeries(canvas, event) {
  const frame = canvas.getBoundingClientRect();
  const x = event.clientX - frame.left, y = event.clientY - frame.top;
  let nearest = null, minDistance = 14;
  for (const mark of MARKS[canvas.id]) {
    const distance = Math.hypot(mark.x - x, mark.y === null ? 0 : mark.y - y);
    if (distance < minDistance) { minDistance = distance; nearest = mark.series; }
  }
  return nearest;
}

function openOnClick(id, open) {
  const canvas = byId(id);
  canvas.addEventListener("mousemove", (event) => {
    const series = nearestSeries(canvas, event);
    canvas.title = series ? series.name : "";
    canvas.classList.toggle("pointing", Boolean(series));
  });
  canvas.addEventListener("click", (event) => {
    const series = nearestSeries(canvas, event);
    if (series) open(series.index);
  });
}
