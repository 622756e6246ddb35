"use strict";
const places = [...document.querySelectorAll(".figure")];
// Plotly would offer to send the data to its maker.
const options = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "" };

function dressed(layout) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const [text, muted, line] = ["--text", "--muted", "--line"].map(colour);
  const axes = Object.entries(layout)
    .filter(([key]) => /^[xy]axis/.test(key))
    .map(([key, axis]) => [key, { ...axis, gridcolor: line, linecolor: line, zerolinecolor: line }]);
  return {
    ...layout,
    ...Object.fromEntries(axes),
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: text },
    modebar: { bgcolor: "transparent", color: muted, activecolor: text },
    hoverlabel: { font: { color: text }, bgcolor: colour("--card") },
    margin: { l: 10, r: 10, t: 30, b: 50 },
  };
}

function draw(place) {
  const figure = JSON.parse(document.getElementById(place.id + "-data").textContent);
  Plotly.react(place, figure.data, dressed(figure.layout), options);
}

// Each figure takes a fraction of a second: on a page of many, only those that are looked at are drawn.
const near = new IntersectionObserver(
  (entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      near.unobserve(entry.target);
      draw(entry.target);
    }
  },
  { rootMargin: "600px" },
);
for (const place of places) near.observe(place);
addEventListener("beforeprint", () => {
  near.disconnect();
  places.forEach(draw);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  places.filter((place) => place.classList.contains("js-plotly-plot")).forEach(draw);
});
