// One plane of a case: its slices, where they lie in the window, and what the mouse does there.
"use strict";

const NOTCH = 50;  // of a wheel that turns by steps of about 100; touchpads send many small ones

class View {
  constructor(plane, axis) {
    [this.plane, this.axis] = [plane, axis];
    [this.across, this.down] = [0, 1, 2].filter((n) => n !== (axis ?? 2));
    this.figure = $("view").content.cloneNode(true).querySelector("figure");
    this.canvas = this.figure.querySelector(".screen canvas");
    this.slider = this.figure.querySelector("input");
    this.extent = this.figure.querySelector(".extent");
    this.image = document.createElement("canvas");
    this.fill = document.createElement("canvas");
    [this.zoom, this.centre, this.drawn, this.isBusy, this.filled] = [1, null, null, false, {}];
    this.canvas.setAttribute("aria-label", `${plane} plane`);
    this.slider.setAttribute("aria-label", `Slice of the ${plane} plane`);
    this.slider.addEventListener("input", () => moveTo(this.axis, Number(this.slider.value)));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    listen(this);
  }

  get size() { return [state.image.shape[this.across], state.image.shape[this.down]]; }
  get depth() { return this.axis === null ? 1 : state.image.shape[this.axis]; }
  get index() { return this.axis === null ? 0 : state.position[this.axis]; }

  reset() {  // for another case
    [this.zoom, this.centre, this.drawn] = [1, null, null];
    this.slider.max = this.depth - 1;
    this.figure.querySelector(".scroller").hidden = this.depth < 2;
    const isScan = this.axis !== null && state.image.unit === "mm", name = this.figure.querySelector(".name");
    name.textContent = isScan ? this.plane : `${"ijk"[this.across]} ${"ijk"[this.down]}`;
    name.hidden = this.axis === null;
    const letters = isScan ? [...SIDES[this.across], ...SIDES[this.down]] : ["", "", "", ""];
    ["left", "right", "top", "bottom"].forEach((side, n) => { this.figure.querySelector(`.${side}`).textContent = letters[n]; });
    this.showExtent();
  }

  kinds() {
    const found = [`layer-${state.layer}`];
    if (state.labels?.truth) found.push("truth");
    if (state.labels?.prediction) found.push("prediction");
    if (state.labels?.entropy != null && $("entropy-shown").checked) found.push("entropy");
    return found;
  }

  async load() {  // the newest wish alone, while one is on its way
    this.slider.value = this.index;
    if (this.isBusy) return;
    this.isBusy = true;
    for (let wanted = ""; state.image && wanted !== this.wish();) {
      wanted = this.wish();
      try {
        await this.fetch(wanted);
      } catch (error) {
        if (state.image && wanted === this.wish()) tell(error.message, true);
      }
    }
    this.isBusy = false;
    if (state.image) this.fetchNear();
  }

  fetchNear() {  // what is wanted next, most likely
    for (const near of [this.index + 1, this.index - 1]) {
      if (near >= 0 && near < this.depth) this.kinds().forEach((kind) => slice(this.plane, near, kind).catch(() => {}));
    }
  }

  wish() { return JSON.stringify([state.id, this.index, this.kinds()]); }

  async fetch(wanted) {
    const [id, index, kinds] = JSON.parse(wanted);
    const found = await Promise.all(kinds.map((kind) => slice(this.plane, index, kind)));
    if (id !== state.id || !state.image) return;
    const parts = Object.fromEntries(kinds.map((kind, n) => [kind.startsWith("layer") ? "image" : kind, found[n]]));
    const [width, height] = this.size;
    const paths = ["truth", "prediction"].filter((kind) => parts[kind]).flatMap((kind) =>
      labelsIn(parts[kind]).map((label) => ({ kind, label, path: outline(parts[kind], width, height, label) })));
    this.drawn = { index, ...parts, paths };
    this.draw();
  }

  place() {  // of the image in the canvas, in its pixels
    const [width, height] = this.size, { spacing } = state.image;
    const [dx, dy] = [spacing[this.across], spacing[this.down]];
    const scale = this.zoom * Math.min(this.canvas.width / (width * dx), this.canvas.height / (height * dy));
    const [x, y] = this.centre ?? [width / 2, height / 2];
    return { kx: scale * dx, ky: scale * dy, x: this.canvas.width / 2 - x * scale * dx, y: this.canvas.height / 2 - y * scale * dy };
  }

  voxelAt(event) {
    const box = this.canvas.getBoundingClientRect(), at = this.place(), ratio = this.canvas.width / box.width;
    return [((event.clientX - box.left) * ratio - at.x) / at.kx, ((event.clientY - box.top) * ratio - at.y) / at.ky];
  }

  draw() {
    const ratio = window.devicePixelRatio || 1, context = this.canvas.getContext("2d");
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (!this.drawn || !state.image) return;
    const [width, height] = this.size, at = this.place();
    const box = [at.x, at.y, width * at.kx, height * at.ky];
    context.imageSmoothingEnabled = $("smooth").checked;
    context.imageSmoothingQuality = "high";
    context.drawImage(paintImage(this), ...box);
    context.imageSmoothingEnabled = false;
    context.drawImage(paintFill(this), ...box);
    this.strokeOutlines(context, at, ratio);
    if ($("cross").checked && state.views.length > 1) this.strokeCross(context, at, ratio);
    const number = this.axis === null ? "" : `${this.drawn.index + 1} / ${this.depth}`;
    this.figure.querySelector(".place").textContent = number;
    this.slider.setAttribute("aria-valuetext", number);
  }

  strokeOutlines(context, at, ratio) {
    for (const { kind, label, path } of this.drawn.paths) {
      if (!$(`${kind}-shown`).checked || !$(`${kind}-outline`).checked || state.hidden.has(label) || label === IGNORE) continue;
      const placed = new Path2D();
      placed.addPath(path, new DOMMatrix([at.kx, 0, 0, at.ky, at.x, at.y]));
      context.setLineDash([]);
      [context.strokeStyle, context.lineWidth] = ["rgba(0, 0, 0, .45)", 3.4 * ratio];
      context.stroke(placed);
      if (kind === "prediction") context.setLineDash([5 * ratio, 3 * ratio]);
      [context.strokeStyle, context.lineWidth] = [colourOf(kind, label), 1.8 * ratio];
      context.stroke(placed);
    }
    context.setLineDash([]);
  }

  strokeCross(context, at, ratio) {
    const x = at.x + (state.position[this.across] + 0.5) * at.kx, y = at.y + (state.position[this.down] + 0.5) * at.ky;
    const [width, height] = this.size;
    [context.strokeStyle, context.lineWidth] = ["rgba(160, 185, 210, .35)", ratio];
    context.beginPath();
    context.moveTo(x, at.y); context.lineTo(x, at.y + height * at.ky);
    context.moveTo(at.x, y); context.lineTo(at.x + width * at.kx, y);
    context.stroke();
  }

  showExtent() {  // which slices hold truth (above) and prediction (below); the stronger, the more voxels
    const along = this.axis === null ? null : state.labels?.along[this.axis];
    this.extent.width = this.depth;
    const context = this.extent.getContext("2d");
    context.clearRect(0, 0, this.depth, 5);
    ["truth", "prediction"].forEach((kind, row) => {
      const counts = along?.[kind] ?? [], most = Math.max(1, ...counts);
      context.fillStyle = isSingle() ? colourOf(kind, 1) : "#b9c6d4";
      counts.forEach((count, n) => {
        context.globalAlpha = count ? 0.35 + 0.65 * count / most : 0.07;
        context.fillRect(n, 3 * row, 1, 2);
      });
    });
  }
}

// ---- mouse and keys ------------------------------------------------------------------------------------------

function listen(view) {
  let from = null, rolled = 0;
  view.canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey) zoomBy(view, Math.exp(-event.deltaY / 400), view.voxelAt(event));
    else {
      rolled = rolled * event.deltaY > 0 ? rolled + event.deltaY : event.deltaY;
      if (Math.abs(rolled) < NOTCH) return;
      moveBy(view, Math.sign(rolled));
      rolled = 0;
    }
  }, { passive: false });
  view.canvas.addEventListener("pointerdown", (event) => {
    from = { x: event.clientX, y: event.clientY, window: [...state.window], voxel: view.voxelAt(event), isMoved: false };
    view.canvas.setPointerCapture(event.pointerId);
  });
  view.canvas.addEventListener("pointermove", (event) => {
    if (!state.image) return;
    if (from && event.buttons) drag(view, from, event);
    else showUnder(view, event);
  });
  view.canvas.addEventListener("pointerup", (event) => {
    if (from && !from.isMoved && view.axis !== null) goTo(view, view.voxelAt(event));
    from = null;
  });
  view.canvas.addEventListener("pointerleave", () => { $("under").textContent = ""; });
  view.canvas.addEventListener("dblclick", () => { [view.zoom, view.centre] = [1, null]; view.draw(); });
}

function drag(view, from, event) {
  const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
  from.isMoved ||= Math.hypot(dx, dy) > 3;
  if (!from.isMoved) return;
  if (event.shiftKey || event.buttons === 4) {
    const now = view.voxelAt(event), [x, y] = view.centre ?? view.size.map((n) => n / 2);
    view.centre = [x - now[0] + from.voxel[0], y - now[1] + from.voxel[1]];
    view.draw();
    return;
  }
  const { extremes } = state.image.layers[state.layer], step = (extremes[1] - extremes[0]) / 700;
  const level = (from.window[0] + from.window[1]) / 2 + dy * step;
  const width = Math.max(step, from.window[1] - from.window[0] + 2 * dx * step);
  setWindow([level - width / 2, level + width / 2], "");
}

function zoomBy(view, factor, voxel) {
  const zoom = Math.min(20, Math.max(1, view.zoom * factor)), [x, y] = view.centre ?? view.size.map((n) => n / 2);
  const [toX, toY] = voxel ?? [x, y], share = view.zoom / zoom;
  view.centre = zoom === 1 ? null : [toX + (x - toX) * share, toY + (y - toY) * share];
  view.zoom = zoom;
  view.draw();
}

function moveTo(axis, index) {
  if (axis === null || !state.image) return;
  state.hasMoved = true;
  state.position[axis] = Math.min(state.image.shape[axis] - 1, Math.max(0, Math.round(index)));
  state.views.forEach((view) => view.axis === axis ? view.load() : view.draw());
}

const moveBy = (view, count) => moveTo(view.axis, view.index + count);

function goTo(view, voxel) {
  [view.across, view.down].forEach((axis, n) => {
    state.position[axis] = Math.min(state.image.shape[axis] - 1, Math.max(0, Math.floor(voxel[n])));
  });
  state.hasMoved = true;
  refresh();
}

function showUnder(view, event) {
  const [x, y] = view.voxelAt(event).map(Math.floor), [width, height] = view.size, { drawn } = view;
  if (!drawn || x < 0 || y < 0 || x >= width || y >= height) return void ($("under").textContent = "");
  const voxel = [...state.position], n = y * width + x, layer = state.image.layers[state.layer];
  [voxel[view.across], voxel[view.down]] = [x, y];
  const value = layer.colour ? [...drawn.image.slice(3 * n, 3 * n + 3)].join(" ") : tidy(drawn.image[n]);
  const words = [`voxel ${voxel.join(" ")}`, ...world(voxel), `${layer.name} ${value}${layer.modality === "CT" ? " HU" : ""}`];
  for (const kind of ["truth", "prediction"]) if (drawn[kind]) words.push(`${kind} ${labelName(drawn[kind][n])}`);
  if (drawn.entropy) words.push(`uncertainty ${drawn.entropy[n].toFixed(2)}`);
  $("under").textContent = words.join("   ·   ");
}

function world(voxel) {
  const { unit, spacing, origin, direction, shape } = state.image, dims = shape.length;
  if (unit !== "mm" || dims < 3) return [];
  const along = (row) => voxel.reduce((sum, n, axis) => sum + direction[row * dims + axis] * spacing[axis] * n, 0);
  const place = origin.map((start, row) => start + along(row));
  return [`L ${place[0].toFixed(1)}  P ${place[1].toFixed(1)}  H ${place[2].toFixed(1)} mm`];
}

const labelName = (label) => label === 0 ? "–" : label === IGNORE ? "not annotated" : state.labels.names[label - 1];
