"use strict";
// Draws the charts of a report. All it draws is in #drawn, and Plotly, packed, in #library.

const drawn = JSON.parse(document.getElementById("drawn").textContent);
const coarse = matchMedia("(pointer: coarse)");
const DASHES = ["solid", "dash", "dot", "dashdot"];
const LONGEST_LINE = 60, MOST_NAMED = 24;
const PRINTED = { width: 680, height: 234 }; // of an A4 page, in CSS pixels
let printing = false;

// Plotly reads tags and entities in every text: what a run wrote is text alone.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const byTime = (chart) =>
  chart.axis === "time" || document.querySelector("input[name=axis]:checked")?.value === "time";

function wrapped(text) {
  const lines = [""];
  for (const word of text.match(new RegExp(`\\S{1,${LONGEST_LINE}}`, "g")) ?? []) {
    if (lines.at(-1).length + word.length >= LONGEST_LINE) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
  }
  return lines.map(plain).join("<br>");
}

function along(chart) {
  const [unit, length] = drawn.clock;
  if (!byTime(chart)) return { title: "step", hover: "step %{x}", of: (own) => own.steps };
  const title = `${unit} since the start`;
  return { title, hover: `%{x} ${title}`, of: (own) => own.seconds.map((second) => second / length) };
}

// On the time axis no line leads from one attempt to the next.
function broken(chart, own, values) {
  if (!byTime(chart)) return values;
  const edges = [0, ...own.breaks, values.length];
  return edges.slice(1).flatMap((end, place) => [...(place ? [null] : []), ...values.slice(edges[place], end)]);
}

function curveOf(chart, own, x) {
  const tone = color(`curve-${own.tone}`);
  return {
    x: broken(chart, own, x.of(own)), y: broken(chart, own, own.values), name: plain(own.name), type: "scatter",
    mode: own.marked || own.values.length === 1 ? "lines+markers" : "lines",
    line: { color: tone, width: 1.6, dash: DASHES[own.dash] }, marker: { color: tone, size: 7 },
    hovertemplate: `%{y}${chart.suffix}<extra>${plain(own.name)}</extra>`,
  };
}

function levelOf(chart, level, index, range) {
  const tone = color(index ? "dim" : "warn");
  return {
    x: range, y: [level.value, level.value], name: plain(level.name), type: "scatter", mode: "lines",
    line: { color: tone, width: 1.6, dash: index ? "dot" : "dash" },
    hovertemplate: `%{y}${chart.suffix}<extra>${plain(level.name)}</extra>`,
  };
}

// A mark at the foot that tells; a dotted line over the whole height of what needs attention.
function marksOf(chart) {
  const length = drawn.clock[1], time = byTime(chart);
  return drawn.tones.flatMap((tone) => {
    const own = drawn.marks.filter((mark) => mark.tone === tone && (time || mark.step !== null));
    if (!own.length) return [];
    const at = own.map((mark) => (time ? mark.seconds / length : mark.step));
    const common = { yaxis: "y2", type: "scatter", showlegend: false };
    const lines = {
      ...common, x: at.flatMap((x) => [x, x, null]), y: at.flatMap(() => [0, 1, null]), mode: "lines",
      hoverinfo: "skip", line: { color: color(tone), width: 1, dash: "dot" }, opacity: 0.7,
    };
    return [
      ...(tone === "calm" ? [] : [lines]),
      { ...common, x: at, y: at.map(() => 0), mode: "markers", cliponaxis: false,
        marker: { color: color(tone), size: tone === "calm" ? 7 : 10, symbol: "triangle-up" },
        text: own.map((mark) => `<b>${plain(mark.kind)}</b><br>${wrapped(`${mark.text} (${mark.clock})`)}`),
        hovertemplate: "%{text}<extra></extra>" },
    ];
  });
}

// Plotly does not make room for a legend that is placed from the figure's foot.
function legendHeight(chart, names) {
  const width = (printing ? PRINTED.width : document.getElementById(`chart-${chart.name}`).clientWidth) - 70;
  const longest = Math.max(...names.map((name) => name.length)) * 6.5 + 42;
  return 20 * Math.ceil(names.length / Math.max(1, Math.floor(width / longest)));
}

function figure(chart) {
  const x = along(chart);
  const curves = chart.curves.map((own) => curveOf(chart, own, x));
  let low = Infinity, high = -Infinity;
  for (const own of curves) for (const value of own.x.filter((one) => one !== null)) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  // Around a curve that never changes Plotly shows one up and one down, whatever its size: of a learning rate, nothing.
  const values = [...curves.flatMap((own) => own.y), ...chart.levels.map((level) => level.value)].filter((one) => one !== null);
  const zero = chart.zero || values.every((one) => one === values[0]);
  const levels = chart.levels.map((level, index) => levelOf(chart, level, index, [low, high]));
  const grid = { gridcolor: color("line"), linecolor: color("line"), zeroline: false, automargin: true };
  const named = [...curves, ...levels], legend = named.length > 1 && named.length <= MOST_NAMED;
  const foot = legend ? legendHeight(chart, named.map((trace) => trace.name)) : 0;
  const logarithmic = document.querySelector(`input[data-log="${chart.name}"]`)?.checked;
  return {
    foot,
    traces: [...curves, ...levels, ...marksOf(chart)],
    layout: {
      autosize: true, uirevision: x.title, dragmode: coarse.matches ? false : "zoom",
      hovermode: curves.length > 8 ? "closest" : "x unified", showlegend: legend,
      margin: { l: 56, r: 14, t: coarse.matches || printing ? 10 : 28, b: 46 + foot }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: color("text") },
      hoverlabel: { bgcolor: color("panel"), bordercolor: color("line"), font: { color: color("text") } },
      legend: { orientation: "h", yref: "container", yanchor: "bottom", y: 0, x: 0 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: color("dim"), activecolor: color("text") },
      xaxis: { ...grid, ...(!byTime(chart) && high <= 12 ? { dtick: 1 } : {}), exponentformat: "none", title: { text: x.title, standoff: 6 }, hoverformat: byTime(chart) ? ".4~g" : ",d",
               unifiedhovertitle: { text: x.hover } },
      yaxis: { ...grid, type: logarithmic ? "log" : "linear", ticksuffix: chart.suffix, showticksuffix: "last", tickformat: chart.format,
               exponentformat: "e", showexponent: "all", rangemode: zero && !logarithmic ? "tozero" : "normal",
               hoverformat: chart.format || ".6~g" },
      yaxis2: { overlaying: "y", range: [0, 1], fixedrange: true, visible: false },
    },
  };
}

const config = () => ({
  displaylogo: false, responsive: true, displayModeBar: coarse.matches || printing ? false : "hover",
  modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
});

function draw(chart) {
  const place = document.getElementById(`chart-${chart.name}`);
  const { traces, layout, foot } = figure(chart);
  place.style.setProperty("--foot", `${foot}px`);
  const size = printing ? { autosize: false, ...PRINTED, height: PRINTED.height + foot } : {};
  return Plotly.react(place, traces, { ...layout, ...size }, config());
}

async function drawAll() {
  for (const chart of drawn.charts) await draw(chart);
}

// Everything at once, for the printer does not wait.
function forPrinter(now) {
  printing = now;
  drawn.charts.forEach(draw);
}

// The keyboard: one point of one curve at a time, told as well as shown.
function keys(chart) {
  const place = document.getElementById(`chart-${chart.name}`), said = document.getElementById(`said-${chart.name}`);
  const at = { curve: 0, point: -1 };
  const own = () => place.data[at.curve];

  function tell() {
    const curve = chart.curves[at.curve], x = own().x[at.point], y = own().y[at.point];
    Plotly.Fx.hover(place, [{ curveNumber: at.curve, pointNumber: at.point }]);
    const where = byTime(chart) ? `${x.toPrecision(4)} ${drawn.clock[0]}` : `step ${x}`;
    said.textContent = `${curve.name}, ${where}: ${Number(y.toPrecision(6))}${chart.suffix}`;
  }

  function zoom(factor) {
    const [low, high] = place.layout.xaxis.range, middle = at.point < 0 ? (low + high) / 2 : own().x[at.point];
    const half = ((high - low) * factor) / 2;
    Plotly.relayout(place, { "xaxis.range": [middle - half, middle + half] });
  }

  const actions = {
    ArrowRight: () => go(1), ArrowLeft: () => go(-1),
    Home: () => { at.point = 0; tell(); },
    End: () => { at.point = own().x.length - 1; tell(); },
    ArrowDown: () => step(1), ArrowUp: () => step(-1),
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2),
    "0": () => Plotly.relayout(place, { "xaxis.autorange": true, "yaxis.autorange": true }),
    Escape: () => Plotly.Fx.unhover(place),
  };

  function go(by) {
    const next = at.point + by;
    at.point = Math.max(0, Math.min(own().y[next] === null ? next + by : next, own().x.length - 1));
    tell();
  }

  function step(by) {
    const x = at.point < 0 ? null : own().x[at.point];
    at.curve = (at.curve + by + chart.curves.length) % chart.curves.length;
    const near = x === null ? 0 : own().x.findIndex((other) => other !== null && other >= x);
    at.point = near < 0 ? own().x.length - 1 : near;
    tell();
  }

  place.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  });
}

async function library() {
  const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

async function start() {
  await library();
  await drawAll();
  drawn.charts.forEach(keys);
  document.querySelectorAll("input[name=axis], input[data-log]").forEach((box) => {
    box.addEventListener("change", drawAll);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (!printing) drawAll(); });
  addEventListener("beforeprint", () => forPrinter(true));
  addEventListener("afterprint", () => forPrinter(false));
  document.body.dataset.drawn = drawn.charts.length;
}

start().catch((error) => {
  for (const place of document.querySelectorAll(".chart")) {
    place.classList.add("empty");
    place.textContent = `This browser draws no charts (${error.message}); the values are in the tables below them.`;
  }
  throw error;
});
