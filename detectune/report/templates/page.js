// Two conveniences; the page is complete without them. A pointer over a chart reads its values; a click enlarges a picture.
function readChart(svg) {
  const data = JSON.parse(svg.dataset.chart);
  const figure = svg.closest("figure");
  const values = [...figure.querySelectorAll("b[data-series]")];
  const last = values.map((value) => value.textContent);
  const at = figure.querySelector(".at");
  const cross = svg.querySelector(".cross");
  const clear = () => {
    cross.style.visibility = "hidden";
    at.hidden = true;
    values.forEach((value, i) => { value.textContent = last[i]; });
  };
  const nearest = (points, x) => points.reduce((a, b) => (Math.abs(b[2] - x) < Math.abs(a[2] - x) ? b : a));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const picked = data.series.map((series) => nearest(series.points, x));
    const anchor = picked.reduce((a, b) => (Math.abs(b[2] - x) < Math.abs(a[2] - x) ? b : a));
    cross.setAttribute("x1", anchor[2]);
    cross.setAttribute("x2", anchor[2]);
    cross.style.visibility = "visible";
    at.hidden = false;
    at.textContent = `${data.name} ${anchor[0]}`;
    picked.forEach((point, i) => { values[i].textContent = String(point[1]); });
  });
  svg.addEventListener("pointerleave", clear);
}
const dialog = document.querySelector("dialog");
document.addEventListener("click", (event) => {
  const image = event.target.closest("button.zoom")?.querySelector("img");
  if (!image) return;
  const large = dialog.querySelector("img");
  large.src = image.src;
  large.alt = image.alt;
  dialog.showModal();
});
dialog.addEventListener("click", (event) => { if (event.target === dialog || event.target.tagName === "IMG") dialog.close(); });
const readCharts = () => document.querySelectorAll("svg[data-chart]").forEach(readChart);
readCharts();
document.addEventListener("parts", readCharts); // `live.js` has put in new ones
