"use strict";
const places = [...document.querySelectorAll(".figure")];

function colours(layout) {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text").trim();
  const line = style.getPropertyValue("--line").trim();
  const changes = {
    "font.color": text,
    "modebar.color": style.getPropertyValue("--muted").trim(),
    "modebar.activecolor": text,
    "hoverlabel.font.color": text,
    "hoverlabel.bgcolor": style.getPropertyValue("--card").trim(),
  };
  for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
    changes[`${axis}.gridcolor`] = line;
    changes[`${axis}.linecolor`] = line;
    changes[`${axis}.zerolinecolor`] = line;
  }
  return changes;
}

for (const place of places) {
  const figure = JSON.parse(document.getElementById(place.id + "-data").textContent);
  const layout = {
    ...figure.layout,
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13 },
    modebar: { bgcolor: "transparent" },
    margin: { l: 10, r: 10, t: 30, b: 50 },
  };
  // Plotly would offer to send the data to its maker.
  const options = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "" };
  Plotly.newPlot(place, figure.data, layout, options).then(() => Plotly.relayout(place, colours(layout)));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const place of places) Plotly.relayout(place, colours(place.layout));
});
