"use strict";
/* The page of all runs. Its table is the data: read once, then sorted, filtered and drawn. Names go into the page as text
   only. */
(() => {
  const FIRST = 200;
  const root = document.documentElement;
  root.classList.add("scripted");
  const suffix = document.body.dataset.suffix || "";
  const table = document.querySelector(".runs table"), body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const keys = heads.map((head) => head.dataset.key);
  const isText = heads.map((head) => "text" in head.dataset);
  const rows = [...body.rows].map((element, place) => {
    const cells = [...element.cells];
    const texts = cells.map((cell) => cell.textContent);
    const link = cells[0].firstElementChild;
    const run = { element, place, texts, link, name: texts[0] };
    run.values = texts.map((text, i) => (isText[i] || text === "" ? NaN : Number(text)));
    run.levels = cells.map((cell) => cell.className);
    run.search = texts.filter((_, i) => isText[i]).join(" ").toLowerCase();
    if (link) {
      run.stem = texts[0] + suffix;
      link.hash = "#" + run.stem;
    }
    return run;
  });

  /* Columns by name, common alias or prefix of the name. */
  const names = { fd: "mean_fd", motion: "mean_fd", kept: "kept_seconds", scrubbed: "scrubbed_share", tr: "repetition_time", absent: "n_absent_parcels", networks: "n_masked_networks", similarity: "window_similarity", distance: "cohort_distance", volumes: "num_volumes", fit: "input_fit", warnings: "n_warnings" };
  const findColumn = (word) => {
    const low = word.toLowerCase();
    const exact = keys.indexOf(low) >= 0 ? keys.indexOf(low) : keys.indexOf(names[low]);
    return exact >= 0 ? exact : keys.findIndex((key) => key.startsWith(low));
  };

  /* fd>0.3 failed -sub-01: all terms must match; a leading minus negates a term. */
  const readTerm = (term) => {
    const isNot = term.length > 1 && term.startsWith("-");
    const bare = isNot ? term.slice(1) : term;
    const found = /^([A-Za-z_]+)(>=|<=|!=|==|=|>|<)(.*)$/.exec(bare);
    if (!found) {
      const low = bare.toLowerCase();
      return (run) => run.search.includes(low) !== isNot;
    }
    const [, word, operator, text] = found, column = findColumn(word);
    if (column < 0) throw new Error("Unknown column " + word + ". Columns: " + keys.join(", ") + ".");
    if (text === "") throw new Error("The term " + bare + " has no value.");
    if (isText[column] || Number.isNaN(Number(text))) {
      if (!["=", "==", "!="].includes(operator)) throw new Error(keys[column] + " must be compared with a number, or with = or !=.");
      const low = text.toLowerCase();
      return (run) => (run.texts[column].toLowerCase().includes(low) === (operator !== "!=")) !== isNot;
    }
    const limit = Number(text);
    const compare = { ">": (x) => x > limit, ">=": (x) => x >= limit, "<": (x) => x < limit, "<=": (x) => x <= limit, "=": (x) => x === limit, "==": (x) => x === limit, "!=": (x) => x !== limit }[operator];
    return (run) => !Number.isNaN(run.values[column]) && compare(run.values[column]) !== isNot;
  };

  const input = document.querySelector("#filter"), problem = document.querySelector("#problem");
  const count = document.querySelector("#count"), more = document.querySelector("#more");
  let shown = rows, sorted = rows, column = -1, isDown = true, limit = FIRST;

  const fill = () => {
    body.replaceChildren(...shown.slice(0, limit).map((run) => run.element));
    body.classList.add("ready");
    more.hidden = shown.length <= limit;
    more.textContent = "Show all " + shown.length;
    const all = rows.length === 1 ? "1 run" : rows.length + " runs";
    count.textContent = shown.length === rows.length ? all : shown.length + " of " + all;
  };
  const sort = () => {
    sorted = rows;
    if (column >= 0) {
      const sign = isDown ? -1 : 1;
      const compare = isText[column]
        ? (a, b) => sign * a.texts[column].localeCompare(b.texts[column], "en", { numeric: true })
        : (a, b) => sign * (a.values[column] - b.values[column]);
      const known = rows.filter((run) => isText[column] || !Number.isNaN(run.values[column]));
      const unknown = rows.filter((run) => !isText[column] && Number.isNaN(run.values[column]));
      sorted = [...known.sort((a, b) => compare(a, b) || a.place - b.place), ...unknown];
    }
    heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  };
  const filter = () => {
    problem.textContent = "";
    try {
      const terms = (input.value.match(/\S+/g) || []).map(readTerm);
      shown = sorted.filter((run) => terms.every((holds) => holds(run)));
    } catch (error) {
      problem.textContent = error.message;
      shown = sorted;
    }
    const inside = new Set(shown);
    rows.forEach((run) => (run.isShown = inside.has(run)));
    fill();
    strips.forEach((strip) => strip.draw());
  };

  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.title = head.title;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      // Worst values first, which are the lowest for some measures.
      isDown = column === i ? !isDown : !(isText[i] || head.dataset.worse === "low");
      column = i;
      sort();
      filter();
    });
  });
  let waiting = 0;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { limit = FIRST; filter(); }, 80);
  });
  more.addEventListener("click", () => { limit = rows.length; fill(); });
  document.querySelector("#clear").addEventListener("click", () => {
    input.value = "";
    column = -1;
    limit = FIRST;
    sort();
    filter();
  });

  const save = (name, lines) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/plain" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const cell = (text) => text.replace(/\s+/g, " ") || "n/a";
  document.querySelector("#save-table").addEventListener("click", () => {
    const lines = shown.map((run) => [run.stem || run.name, ...run.texts.slice(1).map(cell)].join("\t"));
    save("runs.tsv", [keys.join("\t"), ...lines]);
  });
  document.querySelector("#save-list").addEventListener("click", () => {
    save("runs.txt", shown.map((run) => run.stem || run.name));
  });

  /* Strips: every run as a mark on the axis of one measure. */
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const show = (x) => String(Number(x.toPrecision(4)));

  const buildStrip = (canvas) => {
    const at = keys.indexOf(canvas.dataset.key), isLog = "log" in canvas.dataset;
    const limits = ["amber", "red"].map((name) => [name, Number(canvas.dataset[name])]).filter(([, x]) => !Number.isNaN(x));
    const runs = rows.filter((run) => !Number.isNaN(run.values[at]));
    const values = runs.map((run) => run.values[at]);
    const positive = values.filter((x) => x > 0);
    const floor = isLog && positive.length ? positive.reduce((a, b) => Math.min(a, b)) : 0;
    const scale = (x) => (isLog ? Math.log(Math.max(x, floor || 1e-9)) : x);
    const unscale = (x) => (isLog ? Math.exp(x) : x);
    const least = values.reduce((a, b) => Math.min(a, b), Infinity), most = values.reduce((a, b) => Math.max(a, b), -Infinity);
    let low = scale(least), high = scale(most);
    // Nearby limits are included in the range.
    for (const [, x] of limits) {
      const span = high - low || 1;
      if (scale(x) < high + 0.5 * span && scale(x) > low - 0.5 * span) {
        low = Math.min(low, scale(x));
        high = Math.max(high, scale(x));
      }
    }
    const margin = 0.03 * (high - low) || Math.abs(high) * 0.05 || 1;
    low -= margin;
    high += margin;
    let places = [], drag = null, width = 0;
    const toX = (value) => ((scale(value) - low) / (high - low)) * width;
    const toValue = (x) => unscale(low + (x / width) * (high - low));

    const draw = () => {
      const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
      const style = getComputedStyle(root), colour = (name) => style.getPropertyValue(name).trim();
      if (!box.width) return;
      width = box.width;
      const height = box.height, base = height - 13, middle = base / 2 + 1;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      const context = canvas.getContext("2d");
      context.scale(ratio, ratio);
      context.fillStyle = colour("--back");
      context.fillRect(0, 0, width, base);
      context.font = "10px system-ui, sans-serif";
      context.textBaseline = "bottom";
      const label = (text, x, name) => {
        context.fillStyle = colour(name);
        const half = context.measureText(text).width / 2;
        context.fillText(text, Math.min(Math.max(x - half, 0), width - 2 * half), height);
        return [x - half - 4, x + half + 4];
      };
      const taken = [];
      for (const [name, x] of limits) {
        const there = toX(x);
        if (there < 0 || there > width) continue;
        context.strokeStyle = name === "red" ? "#d55e00" : "#e69f00";
        context.setLineDash([3, 3]);
        context.beginPath();
        context.moveTo(there, 0);
        context.lineTo(there, base);
        context.stroke();
        context.setLineDash([]);
        taken.push(label(show(x), there, "--soft"));
      }
      for (const value of new Set([least, most])) {
        const there = toX(value);
        if (taken.every(([from, to]) => there < from - 14 || there > to + 14)) label(show(value), there, "--soft");
      }
      /* Marks of a column are stacked around the middle, closer where there are many. */
      const columns = new Map();
      places = runs.map((run, i) => {
        const x = toX(values[i]), key = Math.round(x / 3);
        if (!columns.has(key)) columns.set(key, 0);
        const nth = columns.get(key);
        columns.set(key, nth + 1);
        return { run, x, key, nth, i };
      });
      for (const place of places) {
        const step = Math.min(4, (base - 6) / columns.get(place.key));
        place.y = middle + (place.nth % 2 ? 1 : -1) * Math.ceil(place.nth / 2) * step;
      }
      const paint = (place) => {
        const level = place.run.levels[at];
        context.fillStyle = level.includes("r") ? colour("--orange") : level.includes("a") ? "#e69f00" : level.includes("o") ? colour("--blue") : colour("--ink");
        context.beginPath();
        context.arc(place.x, place.y, level ? 2.6 : 2.1, 0, 7);
        context.fill();
      };
      const isPart = rows.some((run) => run.isShown === false);
      context.globalAlpha = 0.12;
      if (isPart) places.filter((place) => !place.run.isShown).forEach(paint);
      context.globalAlpha = runs.length > 1000 ? 0.6 : 0.85;
      places.filter((place) => !isPart || place.run.isShown).forEach(paint);
      context.globalAlpha = 1;
      if (drag) {
        context.fillStyle = colour("--blue");
        context.globalAlpha = 0.2;
        context.fillRect(Math.min(drag[0], drag[1]), 0, Math.abs(drag[1] - drag[0]), base);
        context.globalAlpha = 1;
      }
    };
    const find = (event) => {
      const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      let best = null, nearest = 64;
      for (const place of places) {
        const away = (place.x - x) ** 2 + (place.y - y) ** 2;
        if (away < nearest && place.run.isShown !== false) [best, nearest] = [place, away];
      }
      return [x, best];
    };
    const shorten = (x) => Number(x.toPrecision(3));
    const select = (from, to) => {
      const key = keys[at];
      const others = (input.value.match(/\S+/g) || []).filter((term) => !new RegExp("^" + key + "[<>]").test(term));
      const [a, b] = [toValue(Math.min(from, to)), toValue(Math.max(from, to))];
      input.value = [...others, key + ">=" + shorten(a), key + "<=" + shorten(b)].join(" ");
      limit = FIRST;
      filter();
    };
    canvas.addEventListener("pointerdown", (event) => {
      const [x] = find(event);
      drag = [x, x];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, best] = find(event);
      if (drag) {
        drag[1] = Math.min(Math.max(x, 0), width);
        draw();
      }
      tip.hidden = !best;
      canvas.style.cursor = best ? "pointer" : "crosshair";
      if (best) {
        tip.textContent = best.run.name + ": " + best.run.texts[at];
        tip.style.left = Math.max(Math.min(event.clientX + 12, innerWidth - 300), 4) + "px";
        tip.style.top = event.clientY + 16 + "px";
      }
    });
    canvas.addEventListener("pointerleave", () => (tip.hidden = true));
    canvas.addEventListener("pointercancel", () => { drag = null; draw(); });
    canvas.addEventListener("pointerup", (event) => {
      const [, best] = find(event), [from, to] = drag || [0, 0];
      drag = null;
      if (Math.abs(to - from) > 4) select(from, to);
      else if (best && best.run.link) location.href = best.run.link.href;
      else draw();
    });
    return { draw };
  };
  const strips = [...document.querySelectorAll("canvas[data-key]")].map(buildStrip);

  const redraw = () => strips.forEach((strip) => strip.draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let resizing = 0;
  addEventListener("resize", () => { cancelAnimationFrame(resizing); resizing = requestAnimationFrame(redraw); });
  filter();
})();
