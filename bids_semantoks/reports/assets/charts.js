"use strict";
/* Charts of all pages: uPlot in the colours of page.css, drawn again when light turns to dark or the page is printed. */
const charts = (() => {
  const drawn = [];
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  /* Names of page.css to functions, which uPlot calls at each drawing. */
  const colour = (name) => () => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const axis = (more) => ({ stroke: colour("soft"), font: "12px system-ui, sans-serif", grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 }, ...more });
  const redraw = () => drawn.forEach((one) => one.redraw(false));
  /* Draw into an element across its width, and follow it. */
  const plot = (element, options, data) => {
    const width = () => Math.max(element.clientWidth, 200);
    const one = new uPlot({ width: width(), legend: { show: false }, ...options }, data, element);
    let last = width();
    new ResizeObserver(() => {
      if (width() !== last) one.setSize({ width: (last = width()), height: one.height });
    }).observe(element);
    drawn.push(one);
    return one;
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", redraw);
  /* Append an element with text, never markup, and a class. */
  const make = (kind, where, text, name) => {
    const one = document.createElement(kind);
    if (text) one.textContent = text;
    if (name) one.className = name;
    where.append(one);
    return one;
  };
  return { read, make, colour, axis, plot, redraw };
})();
