"use strict";
/* The charts of the group page with one mark per participant: drawn on a canvas over the still image, with zoom and the one
   under the pointer. Names go into the page as text only. */
(() => {
  const OKABE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A900", "#7a7f87"];
  const VIRIDIS = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725"];
  const LISTED = 12, NEAR = 12;

  const { make } = charts;
  const unpack = (packed) => packed.at.map((at) => packed.low + (at / 1000) * (packed.high - packed.low));
  const show = (value) => String(Number(value.toPrecision(4)));

  /* Colours and labels of the points, by the chosen variable. */
  const build = (colouring, n) => {
    if (!colouring) return { colours: () => charts.colour("orange")(), say: () => "", keys: [] };
    if (colouring.numbers) {
      const known = colouring.numbers.filter((value) => value !== null).sort((a, b) => a - b);
      /* Between the 2nd and 98th percentile, so that outliers do not dominate the colour scale. */
      const low = known[Math.floor(0.02 * (known.length - 1))], high = known[Math.ceil(0.98 * (known.length - 1))];
      const place = (value) => VIRIDIS[Math.min(Math.max(Math.floor((8 * (value - low)) / (high - low || 1)), 0), 7)];
      return {
        colours: (i) => (colouring.numbers[i] === null ? charts.colour("line")() : place(colouring.numbers[i])),
        say: (i) => colouring.name + " " + (colouring.numbers[i] === null ? "unknown" : show(colouring.numbers[i])),
        keys: [[show(low)], ...VIRIDIS.map((colour) => ["", colour]), [show(high)]],
      };
    }
    return {
      colours: (i) => (colouring.codes[i] < 0 ? charts.colour("line")() : OKABE[colouring.codes[i] % OKABE.length]),
      say: (i) => colouring.name + " " + (colouring.codes[i] < 0 ? "unknown" : colouring.levels[colouring.codes[i]]),
      keys: [
        ...colouring.levels.slice(0, LISTED).map((level, code) => [level, OKABE[code % OKABE.length]]),
        ...(colouring.levels.length > LISTED ? [["and " + (colouring.levels.length - LISTED) + " more"]] : []),
      ],
    };
  };

  const draw = (box) => {
    const page = charts.read(box.dataset.from);
    const x = unpack(page.x), y = unpack(page.y);
    const order = x.map((_, i) => i).sort((a, b) => x[a] - x[b]);
    const whole = { x: [page.x.low, page.x.high], y: [page.y.low, page.y.high] };
    const range = { x: whole.x, y: whole.y };
    const still = box.querySelector("img");
    if (still) still.hidden = true;
    const tools = make("div", box, "", "tools");
    let style = build(page.colourings && page.colourings[0]);
    const keys = document.createElement("span");
    const list = () => {
      keys.textContent = "";
      keys.className = "tools";
      style.keys.forEach(([text, colour]) => {
        const key = make("span", keys, "", "key");
        if (colour) make("i", key).style.background = colour;
        if (text) key.append(text);
      });
    };
    if (page.colourings && page.colourings.length) {
      const label = make("label", tools, "Colour by ");
      const select = make("select", label);
      page.colourings.forEach((one) => make("option", select, one.name));
      select.addEventListener("change", () => {
        style = build(page.colourings[select.selectedIndex]);
        list();
        chart.redraw(false);
      });
      tools.append(keys);
      list();
    }
    const holder = make("div", box);
    const hint = page.names.length + " points; drag to zoom, double-click to reset.";
    const output = make("output", box, hint);
    let near = -1;

    const points = (u) => {
      const context = u.ctx, { left, top, width, height } = u.bbox, size = 3.2 * devicePixelRatio;
      context.save();
      context.beginPath();
      context.rect(left, top, width, height);
      context.clip();
      if (page.diagonal) {
        context.strokeStyle = charts.colour("grey")();
        context.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
        context.beginPath();
        context.moveTo(u.valToPos(whole.x[0], "x", true), u.valToPos(whole.x[0], "y", true));
        context.lineTo(u.valToPos(whole.x[1], "x", true), u.valToPos(whole.x[1], "y", true));
        context.stroke();
      }
      context.globalAlpha = x.length > 1500 ? 0.45 : 0.75;
      for (const i of order) {
        context.fillStyle = style.colours(i);
        context.beginPath();
        context.arc(u.valToPos(x[i], "x", true), u.valToPos(y[i], "y", true), size, 0, 2 * Math.PI);
        context.fill();
      }
      context.restore();
    };
    const point = (u) => {
      const { left, top } = u.cursor;
      let best = NEAR * NEAR;
      near = -1;
      if (left >= 0) {
        for (let i = 0; i < x.length; i++) {
          const across = u.valToPos(x[i], "x") - left, down = u.valToPos(y[i], "y") - top;
          if (across * across + down * down < best) {
            best = across * across + down * down;
            near = i;
          }
        }
      }
      output.textContent = near < 0 ? hint
        : [page.names[near], page.labels[0] + " " + show(x[near]), page.labels[1] + " " + show(y[near]), style.say(near)].filter(Boolean).join(" · ");
    };
    const chart = charts.plot(holder, {
      height: 430,
      cursor: {
        drag: { x: true, y: true, setScale: false },
        points: { show: false },
        bind: {
          dblclick: (u) => () => {
            range.x = whole.x;
            range.y = whole.y;
            u.setScale("x", { min: range.x[0], max: range.x[1] });
            u.setScale("y", { min: range.y[0], max: range.y[1] });
          },
        },
      },
      scales: { x: { time: false, auto: false, range: () => range.x }, y: { auto: false, range: () => range.y } },
      series: [{}, { paths: () => null, points: { show: false } }],
      axes: [charts.axis({ label: page.labels[0], labelSize: 20, size: 34 }), charts.axis({ label: page.labels[1], labelSize: 22, size: 52 })],
      hooks: {
        draw: [points],
        setCursor: [point],
        setSelect: [(u) => {
          const { left, top, width, height } = u.select;
          if (width > 6 && height > 6) {
            range.x = [u.posToVal(left, "x"), u.posToVal(left + width, "x")];
            range.y = [u.posToVal(top + height, "y"), u.posToVal(top, "y")];
            u.setScale("x", { min: range.x[0], max: range.x[1] });
            u.setScale("y", { min: range.y[0], max: range.y[1] });
          }
          u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        }],
      },
    }, [order.map((i) => x[i]), order.map((i) => y[i])]);
  };
  document.querySelectorAll(".scatter").forEach(draw);
})();
