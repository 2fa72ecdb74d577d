"use strict"; // What answers to the reader: charts, sorting, hiding models, enlarging pictures, the slider of steps.
(() => {
  const all = (selector, each, root = document) => root.querySelectorAll(selector).forEach(each);
  const data = (id) => JSON.parse(document.getElementById(id)?.textContent ?? "null");
  const media = matchMedia("(prefers-color-scheme: dark)"), colours = data("colours"), hidden = new Set();
  let printing = false;

  // Charts are drawn when they come near the screen, and again when colours change or models are hidden.
  const plain = (text) => String(text ?? "").replace(/_<br>/g, "_").replace(/<br>|&nbsp;/g, " ").replace(/<\/?b>/g, "")
    .replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
  function save(text, name) {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([text])), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
  }
  function csv(graph) {
    const cell = (value) => (/[",\n]/.test(plain(value)) ? `"${plain(value).replace(/"/g, '""')}"` : plain(value));
    const rows = graph._fullData.flatMap((trace) =>
      Array.from(trace.x ?? [], (x, i) => [trace.name, x, trace.y?.[i]].map(cell).join(",")).filter((row, i) => trace.x[i] !== null));
    save(["name,x,y", ...rows].join("\n"), graph.parentElement.dataset.file + ".csv");
  }
  function draw(box) {
    let text = box.querySelector("script").textContent;
    if (media.matches && !printing) text = text.replace(/#[0-9a-f]{6}/g, (colour) => colours[colour] ?? colour);
    const { data: traces, layout } = JSON.parse(text);
    for (const trace of traces) if (hidden.has(trace.meta)) trace.visible = false;
    const graph = box.querySelector(".graph") ?? box.appendChild(Object.assign(document.createElement("div"), { className: "graph" }));
    Plotly.react(graph, traces, layout, {
      displaylogo: false, responsive: true, plotlyServerURL: "", // sendChartToCloud would give the chart to a website
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"],
      toImageButtonOptions: { filename: box.dataset.file, scale: 2 },
      modeBarButtonsToAdd: [{ name: "Download as CSV", icon: Plotly.Icons.disk, click: csv }],
    });
    if (!box.drawn) graph.on("plotly_legendclick", (event) => {
      const model = traces[event.curveNumber].meta;
      const choice = document.querySelector(`[data-toggle="${model}"]`);
      choice?.click();
      return !choice;
    });
    box.drawn = true;
    all(".main-svg", (svg) => svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`), graph);
  }
  const redraw = () => all(".plot", (box) => box.drawn && draw(box));
  const near = new IntersectionObserver((seen) => {
    for (const { isIntersecting, target } of seen) if (isIntersecting && !target.drawn) draw(target);
  }, { rootMargin: "600px" });
  all(".plot", (box) => near.observe(box));
  media.addEventListener("change", redraw);
  for (const [event, state] of [["beforeprint", true], ["afterprint", false]]) addEventListener(event, () => {
    printing = state;
    all(".plot", (box) => (box.drawn || state) && box.offsetWidth && draw(box));
  });

  // Models are hidden everywhere at once.
  all("[data-toggle]", (choice) => choice.addEventListener("change", () => {
    const model = Number(choice.dataset.toggle);
    hidden[choice.checked ? "delete" : "add"](model);
    all(`[data-model="${model}"]`, (part) => (part.hidden = hidden.has(model)));
    redraw();
  }));

  // Tables are sorted by the first number of a cell, else by its text; what belongs to a model moves with it.
  const key = (row, column) => {
    const text = (row.rows?.[0] ?? row).cells[column]?.textContent.trim() ?? "";
    const number = parseFloat(text.replace(/,/g, "").replace("−", "-").replace(/^[^\d-]+(?=\d)/, ""));
    return [Number.isNaN(number) ? (/[a-z]/i.test(text) ? 1 : 2) : 0, number, text];
  };
  function sort(head) {
    const table = head.closest("table"), column = head.cellIndex, up = head.getAttribute("aria-sort") !== "ascending";
    const groups = [...table.tBodies].filter((body) => !body.querySelector(".floor"));
    const rows = groups.length > 1 ? groups : [...table.tBodies[0].rows];
    const asText = head.classList.contains("pin") && !head.dataset.number;
    const keyed = rows.map((row) => [row, key(row, column)]);
    keyed.sort(([, a], [, b]) => asText ? a[2].localeCompare(b[2], undefined, { numeric: true }) * (up ? 1 : -1)
      : a[0] - b[0] || (a[0] ? a[2].localeCompare(b[2]) : a[1] - b[1]) * (up ? 1 : -1));
    const after = table.querySelector(".floor")?.parentElement ?? null;
    for (const [row] of keyed) row.parentElement.insertBefore(row, row.tagName === "TBODY" ? after : null);
    all("th", (other) => other.removeAttribute("aria-sort"), table.tHead);
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  }
  all("table.sortable thead th", (head) => {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "sort" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(head));
  });

  // A picture enlarges; the arrow keys go to its neighbours, Escape closes.
  const box = document.getElementById("look");
  let shown = null;
  function look(button) {
    const [from, to] = [button.querySelector("img"), box.querySelector("img")];
    [shown, to.src, to.alt, box.querySelector("p").textContent] = [button, from.src, from.alt, from.alt];
    if (!box.open) box.showModal();
  }
  all("button.look", (button) => button.addEventListener("click", () => look(button)));
  box.addEventListener("click", (event) => event.target !== box.querySelector("img") && box.close());
  box.addEventListener("close", () => shown?.focus());
  box.addEventListener("keydown", ({ key }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key], here = [...document.querySelectorAll("button.look")].filter((b) => b.offsetWidth);
    if (step) look(here.at((here.indexOf(shown) + step) % here.length));
  });

  // One slider for the grids of all models.
  const frames = data("frames"), slider = document.getElementById("step");
  slider?.addEventListener("input", () => all("[data-frames]", (tile) => {
    const [step, source] = frames[tile.dataset.frames][slider.value], picture = tile.querySelector("img");
    [picture.src, picture.alt] = [source, `${picture.dataset.name} at step ${step}`];
    tile.querySelector("output").textContent = `step ${step}`;
    slider.setAttribute("aria-valuetext", `step ${step}`);
  }));
})();
