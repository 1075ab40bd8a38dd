"use strict";
/* The page of a participant: timelines with one cursor, and values under the pointer. Everything drawn here is text and
   numbers of the page's data; names go into the page as text only. */
(() => {
  const page = charts.read("page");
  const LEFT = 116, RIGHT = 62;

  const { make } = charts;

  /* Pixels of an image as positions in a palette, -1 where transparent. */
  const readImage = (image) => {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return (column, row) => {
      const [r, g, b, a] = context.getImageData(column, row, 1, 1).data;
      return a ? [r, g, b].map((c) => c.toString(16).padStart(2, "0")).join("") : "";
    };
  };
  const load = (source) => {
    const image = new Image();
    image.src = source;
    return image;
  };
  const readValue = (palette, pixel) => {
    const [colours, low, high] = page.palettes[palette];
    const at = colours.indexOf(pixel);
    return at < 0 ? null : low + ((at + 0.5) * (high - low)) / colours.length;
  };
  const show = (value, digits = 3) => (value === null || value === undefined ? "unknown" : String(Number(value.toPrecision(digits))));
  const networkOf = (run, parcel) => {
    let name = "";
    for (const [label, first] of run.networks) if (first <= parcel) name = label;
    return name;
  };
  const nameParcels = (run, row, rows) => {
    const first = row * rows, last = Math.min(first + rows, run.parcels.length) - 1;
    return run.parcels[first] + (last > first ? " to " + run.parcels[last] : "") + " (" + networkOf(run, first) + ")";
  };

  /* Values under the pointer on still pictures. */
  const tip = make("div", document.body, "", "tip");
  tip.hidden = true;
  const follow = (element, describe) => {
    element.addEventListener("pointermove", (event) => {
      const box = element.getBoundingClientRect();
      const text = describe((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
      tip.hidden = !text;
      tip.textContent = text;
      tip.style.left = Math.min(event.clientX + 14, innerWidth - 260) + "px";
      tip.style.top = event.clientY + 16 + "px";
    });
    element.addEventListener("pointerleave", () => (tip.hidden = true));
  };
  const locate = (share, n) => Math.min(Math.max(Math.floor(share * n), 0), n - 1);

  const describeMaps = (section, run, maps) => {
    for (const element of section.querySelectorAll("[data-map]")) {
      const map = maps[element.dataset.map];
      if (!map) continue;
      if (map.values) {
        const n = map.names.length;
        follow(element, (x, y) => {
          const i = locate(y, n), j = locate(x, n);
          return map.names[i] + ", " + map.names[j] + ": " + map.what + " " + show(map.values[i][j]);
        });
        continue;
      }
      const image = load(element.getAttribute("href"));
      let pixel = null;
      follow(element, (x, y) => {
        if (!image.complete) return "";
        pixel = pixel || readImage(image);
        const row = locate(y, image.naturalHeight), column = locate(x, image.naturalWidth);
        const value = readValue(map.palette, pixel(column, row));
        return nameParcels(run, row, map.rows) + ", " + nameParcels(run, column, map.rows) + ": " + map.what + " about " + show(value, 2);
      });
    }
    for (const element of section.querySelectorAll("[data-bars]")) {
      follow(element, (x) => {
        const i = locate(x, run.parcels.length);
        const snr = run.tsnr[i] === null ? "" : ", temporal SNR " + show(run.tsnr[i]);
        return nameParcels(run, i, 1) + ": coverage " + show(run.coverage[i]) + snr;
      });
    }
  };

  /* One timeline: lanes that share their axis, zoom and cursor. */
  const draw = (section, run) => {
    const box = section.querySelector(".timeline");
    const times = Array.from({ length: run.volumes }, (_, i) => (i + 0.5) * run.step);
    const duration = run.volumes * run.step;
    const windows = Object.entries(run.windows);
    const end = Math.max(duration, ...windows.flatMap(([, all]) => all.map((one) => one.onset + one.duration)));
    const scrubbed = new Set(run.scrubbed);
    const isKept = (i) => i >= run.dummy && i < run.volumes - run.padding && !scrubbed.has(i);
    const tools = make("div", box, "", "tools");
    const output = make("output", tools, "Drag to zoom, double-click to reset; keyboard: arrows, + and -, Escape.");
    const reset = make("button", tools, "Whole run");
    reset.type = "button";
    const lanes = [];
    let range = [0, end], isMoving = false;

    const zoom = (low, high) => {
      const least = 4 * run.step;
      const width = Math.min(Math.max(high - low, least), end);
      low = Math.min(Math.max(low, 0), end - width);
      range = [low, low + width];
      isMoving = true;
      lanes.forEach((lane) => lane.setScale("x", { min: range[0], max: range[1] }));
      isMoving = false;
    };
    reset.addEventListener("click", () => zoom(0, end));

    /* Dropped volumes, under the lines. */
    const shade = (u) => {
      const { left, top, width, height } = u.bbox, context = u.ctx;
      const at = (seconds) => u.valToPos(seconds, "x", true);
      const fill = (from, to, name) => {
        context.fillStyle = charts.colour(name)();
        context.fillRect(at(from * run.step), top, Math.max(at(to * run.step) - at(from * run.step), 1), height);
      };
      context.save();
      context.beginPath();
      context.rect(left, top, width, height);
      context.clip();
      context.globalAlpha = 0.28;
      if (run.dummy) fill(0, run.dummy, "grey");
      if (run.padding) fill(run.volumes - run.padding, run.volumes, "grey");
      run.scrubbed.forEach((i) => fill(i, i + 1, "orange"));
      context.restore();
    };

    let pointed = null;
    const tell = (u) => {
      const i = u.cursor.idx;
      if (i === null || i === undefined || u.cursor.left < 0) return;
      const state = i < run.dummy ? ", dummy" : isKept(i) ? "" : ", dropped";
      const words = [times[i].toFixed(1) + " s, volume " + (i + 1) + state];
      const names = { fd: "FD", fd_filtered: "filtered FD", dvars_before: "DVARS before", dvars_after: "after", global_before: "global signal before", global_after: "after" };
      for (const [key, name] of Object.entries(names)) {
        if (run.traces[key]) words.push(name + " " + show(run.traces[key][i]) + (key.startsWith("fd") ? " mm" : ""));
      }
      if (pointed && pointed.u === u && pointed.describe) words.push(pointed.describe(u));
      output.textContent = words.join(" · ");
    };

    const lane = (title, keys, height, options, data) => {
      const holder = make("div", box, "", "lane");
      const head = make("span", holder, title);
      keys.forEach(([name, colour]) => make("i", head, name, colour));
      const u = charts.plot(holder, {
        height,
        padding: [6, options.right ? 0 : RIGHT, options.time ? 0 : 6, 0],
        cursor: {
          sync: { key: run.id, setSeries: false },
          drag: { x: true, y: false, setScale: true },
          points: { size: 6 },
          bind: { dblclick: () => () => zoom(0, end) },
          y: Boolean(options.describe),
        },
        scales: { x: { time: false, auto: false, range: () => range }, ...options.scales },
        series: [{}, ...options.series],
        axes: [charts.axis({ show: Boolean(options.time), size: options.time ? 34 : 0, values: (_, all) => all.map((x) => x + " s") }), ...options.axes],
        hooks: {
          drawClear: options.shade === false ? [] : [shade],
          draw: options.draw ? [options.draw] : [],
          setCursor: [tell],
          setScale: [(u, key) => {
            if (key === "x" && !isMoving && lanes.includes(u)) {
              const { min, max } = u.scales.x;
              if (min !== range[0] || max !== range[1]) zoom(min, max);
            }
          }],
          setSelect: [(u) => {
            if (u.select.width > 4) zoom(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x"));
            u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          }],
        },
      }, data);
      u.cursor.drag.setScale = false;
      u.over.addEventListener("pointermove", () => (pointed = { u, describe: options.describe }));
      lanes.push(u);
      return u;
    };

    /* Limits of an axis: those of kept volumes, since dummy volumes may be ten times as bright. */
    const limit = (all, floor) => {
      const kept = all.flatMap((values) => values.filter((value, i) => value !== null && isKept(i)));
      if (!kept.length) return [0, 1];
      const low = kept.reduce((a, b) => Math.min(a, b)), high = kept.reduce((a, b) => Math.max(a, b));
      const margin = 0.08 * (high - low || Math.abs(high) || 1);
      return [floor === undefined ? low - margin : floor, high + margin];
    };
    const line = (name, scale = "y") => ({ scale, stroke: charts.colour(name), width: 1.2, points: { show: false }, spanGaps: false });
    const leftAxis = (colour = "soft") => charts.axis({ scale: "y", size: LEFT, stroke: charts.colour(colour), space: 24 });
    const rightAxis = () => charts.axis({ scale: "z", side: 1, size: RIGHT, stroke: charts.colour("blue"), grid: { show: false }, space: 24 });

    const drawn = run.traces;
    if (drawn.fd || drawn.fd_filtered) {
      const shown = [["fd", "ink", "unfiltered"], ["fd_filtered", "blue", "filtered"]].filter(([key]) => drawn[key]);
      const all = shown.map(([key]) => drawn[key]);
      const keys = shown.map(([, colour, name]) => [name, colour]);
      const top = Math.max(0.5, run.threshold || 0, ...all.flat().filter((x) => x !== null)) * 1.05;
      const series = shown.map(([, colour]) => line(colour));
      const data = [times, ...all];
      if (run.threshold) {
        keys.push(["scrubbed above " + run.threshold + " mm", "orange"]);
        series.push({ ...line("orange"), dash: [4, 4] });
        data.push(times.map(() => run.threshold));
      }
      lane("Framewise displacement (mm)", keys, 110, { series, scales: { y: { range: () => [0, top] } }, axes: [leftAxis()] }, data);
    }
    for (const [name, title, floor] of [["dvars", "DVARS", 0], ["global", "Global signal", undefined]]) {
      const before = drawn[name + "_before"], after = drawn[name + "_after"];
      if (!before && !after) continue;
      if (before && after) {
        const scales = { y: { range: () => limit([before], floor) }, z: { range: () => limit([after], floor) } };
        lane(title, [["before denoising (left axis)", "grey"], ["after (right axis)", "blue"]], 110,
          { series: [line("grey"), line("blue", "z")], scales, axes: [leftAxis(), rightAxis()], right: true }, [times, before, after]);
      } else {
        const one = after || before;
        lane(title, [], 110, { series: [line("blue")], scales: { y: { range: () => limit([one], floor) } }, axes: [leftAxis()] }, [times, one]);
      }
    }

    const nothing = times.map(() => null);
    const spread = (places, gap, low, high) => {
      const placed = [];
      places.forEach((x) => placed.push(Math.max(x, placed.length ? placed[placed.length - 1] + gap : low)));
      let top = high;
      for (let i = placed.length - 1; i >= 0; i--) { placed[i] = Math.min(placed[i], top); top = placed[i] - gap; }
      return placed;
    };
    const nameNetworks = (u) => {
      const n = run.parcels.length, context = u.ctx, ratio = devicePixelRatio || 1, { left, top, height } = u.bbox;
      if (run.networks.length > 24) return;
      const middles = run.networks.map(([, first], k) => top + ((first + (k + 1 < run.networks.length ? run.networks[k + 1][1] : n)) / 2 / n) * height);
      const places = spread(middles, 13 * ratio, top + 6 * ratio, top + height - 6 * ratio);
      context.save();
      context.fillStyle = context.strokeStyle = charts.colour("soft")();
      context.font = 12 * ratio + "px system-ui, sans-serif";
      context.textAlign = "right";
      context.textBaseline = "middle";
      context.lineWidth = 0.7 * ratio;
      run.networks.forEach(([name], k) => {
        context.beginPath();
        context.moveTo(left - ratio, middles[k]);
        context.lineTo(left - 8 * ratio, places[k]);
        context.stroke();
        context.fillText(name.length > 16 ? name.slice(0, 8) + "…" + name.slice(-7) : name, left - 11 * ratio, places[k], left - 14 * ratio);
      });
      context.restore();
    };
    for (const still of section.querySelectorAll(".still")) {
      const element = still.querySelector(".map"), image = load(element.getAttribute("href"));
      let pixel = null;
      const across = () => image.naturalWidth * run.carpets.step * run.step;
      const paint = (u) => {
        const { left, top, width, height } = u.bbox, context = u.ctx;
        context.save();
        context.beginPath();
        context.rect(left, top, width, height);
        context.clip();
        context.imageSmoothingEnabled = false;
        const from = u.valToPos(0, "x", true);
        if (image.complete && image.naturalWidth) context.drawImage(image, from, top, u.valToPos(across(), "x", true) - from, height);
        context.restore();
        nameNetworks(u);
      };
      const describe = (u) => {
        if (!image.complete || u.cursor.top < 0) return "";
        pixel = pixel || readImage(image);
        const row = locate(u.cursor.top / (u.bbox.height / (devicePixelRatio || 1)), image.naturalHeight);
        const column = locate(u.posToVal(u.cursor.left, "x") / across(), image.naturalWidth);
        return nameParcels(run, row, run.carpets.rows) + ": z about " + show(readValue("grey", pixel(column, row)), 2);
      };
      const u = lane(still.querySelector("h4").textContent, [], 220, {
        series: [{ scale: "y", points: { show: false } }],
        scales: { y: { range: () => [0, run.parcels.length], auto: false } },
        axes: [charts.axis({ scale: "y", size: LEFT, values: () => [], grid: { show: false }, ticks: { show: false } })],
        draw: paint,
        describe,
      }, [times, nothing]);
      u.over.setAttribute("role", "img");
      u.over.setAttribute("aria-label", still.querySelector("svg").getAttribute("aria-label"));
      const caption = still.querySelector("figcaption");
      if (caption) make("figcaption", u.root.parentNode, caption.textContent);
      image.addEventListener("load", () => u.redraw(false));
    }

    windows.forEach(([model, all], k) => {
      const paint = (u) => {
        const context = u.ctx, ratio = devicePixelRatio || 1, { left, top, width, height } = u.bbox, step = height / all.length;
        context.save();
        context.beginPath();
        context.rect(left, top, width, height);
        context.clip();
        context.font = 11 * ratio + "px system-ui, sans-serif";
        context.textAlign = "left";
        context.textBaseline = "middle";
        all.forEach((one, i) => {
          const from = u.valToPos(one.onset, "x", true), y = top + (i + 0.15) * step;
          const real = u.valToPos(Math.min(one.onset + one.duration, duration), "x", true);
          const to = u.valToPos(one.onset + one.duration, "x", true);
          context.globalAlpha = 0.35 + 0.65 * one.kept;
          context.fillStyle = charts.colour("blue")();
          context.fillRect(from, y, real - from, 0.7 * step);
          context.globalAlpha = 1;
          context.strokeStyle = charts.colour("blue")();
          context.strokeRect(from, y, to - from, 0.7 * step);
          context.fillStyle = charts.colour("paper")();
          const label = i + 1 + ": " + Math.round(100 * one.kept) + " % kept";
          if (real - from > 90 * ratio) context.fillText(label, Math.max(from, left) + 6 * ratio, y + 0.37 * step);
        });
        context.restore();
      };
      lane("Windows of " + model, [], 22 * all.length + 14 + (k + 1 === windows.length ? 34 : 0), {
        series: [{ scale: "y", points: { show: false } }],
        scales: { y: { range: () => [0, 1], auto: false } },
        axes: [charts.axis({ scale: "y", size: LEFT, values: () => [], grid: { show: false }, ticks: { show: false } })],
        draw: paint,
        time: k + 1 === windows.length,
      }, [times, nothing]);
    });
    if (!windows.length) {
      lane("", [], 40, { series: [{ scale: "y", points: { show: false } }], scales: { y: { range: () => [0, 1], auto: false } }, axes: [charts.axis({ scale: "y", size: LEFT, values: () => [], grid: { show: false }, ticks: { show: false } })], time: true }, [times, nothing]);
    }

    box.addEventListener("keydown", (event) => {
      const u = lanes[0];
      const now = u.cursor.idx === null || u.cursor.idx === undefined || u.cursor.left < 0 ? Math.floor(run.volumes / 2) : u.cursor.idx;
      const middle = times[now], width = range[1] - range[0];
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (move) {
        const i = Math.min(Math.max(now + move * (event.shiftKey ? 10 : 1), 0), run.volumes - 1);
        if (times[i] < range[0] || times[i] > range[1]) zoom(times[i] - width / 2, times[i] + width / 2);
        lanes.forEach((one) => one.setCursor({ left: one.valToPos(times[i], "x"), top: 10 }));
      } else if (event.key === "+" || event.key === "=") zoom(middle - width / 4, middle + width / 4);
      else if (event.key === "-") zoom(middle - width, middle + width);
      else if (event.key === "Escape") zoom(0, end);
      else return;
      event.preventDefault();
    });
  };

  document.body.classList.add("scripted");
  for (const section of document.querySelectorAll("[data-run]")) {
    const number = Number(section.dataset.run), run = page.runs[number];
    if (!run) continue;
    draw(section, run);
    describeMaps(section, run, page.maps[number]);
  }
  /* The page has grown since the browser went to its anchor. */
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target) target.scrollIntoView();
})();
