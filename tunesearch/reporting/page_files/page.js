// Draws the figures in the page's colours, and again when they change: by the system, by the button, for paper.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll("[data-figure]")];
  const button = document.getElementById("theme");
  const themes = { "": "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
  const config = { displaylogo: false, responsive: false,
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };

  const widths = new Map();
  let paper = false;

  function look(narrow) {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: color("--grid"), linecolor: color("--line"), zerolinecolor: color("--line"),
      automargin: true, ticks: "", title: { standoff: 8 } };
    return { layout: {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: narrow ? 11 : 13, color: color("--text") },
      xaxis: axis, yaxis: axis, modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--soft"), activecolor: color("--accent") },
      hoverlabel: { bgcolor: color("--panel"), font: { color: color("--text") } },
      annotationdefaults: { font: { size: 11, color: color("--soft") } },
    } };
  }

  function draw(place) {
    const figure = figures[place.dataset.figure];
    const small = Boolean(place.closest(".small"));
    const narrow = !paper && place.clientWidth < 560;
    const layout = { ...figure.layout, template: look(narrow), autosize: true, dragmode: narrow ? false : "zoom",
      margin: small ? { l: 44, r: 8, t: 10, b: 30 } : { l: narrow ? 48 : 64, r: narrow ? 12 : 28, t: 34, b: 48 } };
    if (!small && layout.showlegend !== false) {
      layout.legend = { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", ...(layout.legend || {}) };
    }
    if (paper) { layout.width = small ? 210 : 680; }  // A4 and Letter less their margins, in CSS pixels
    widths.set(place, place.clientWidth);
    return Plotly.react(place, figure.data, layout, { ...config, displayModeBar: narrow || small ? false : "hover" });
  }

  function drawAll() { places.forEach(draw); }

  function choose(theme) {
    if (theme) { document.documentElement.dataset.theme = theme; } else { delete document.documentElement.dataset.theme; }
    button.textContent = themes[theme];
  }

  let chosen = "";
  button.hidden = false;
  button.addEventListener("click", () => {
    chosen = chosen === "" ? "dark" : chosen === "dark" ? "light" : "";
    choose(chosen);
    drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { paper = true; choose("light"); drawAll(); });
  addEventListener("afterprint", () => { paper = false; choose(chosen); drawAll(); });

  // Plotly itself would only hear of the window.
  const sizes = new ResizeObserver((changed) => {
    for (const { target } of changed) {
      if (widths.has(target) && target.clientWidth && target.clientWidth !== widths.get(target)) { draw(target); }
    }
  });
  places.forEach((place) => sizes.observe(place));

  // One figure a turn: the page can be read and scrolled meanwhile.
  const waiting = [...places];
  (function next() {
    const place = waiting.shift();
    if (!place) { document.documentElement.dataset.drawn = String(places.length); return; }
    draw(place);
    setTimeout(next, 0);
  })();
})();
