// Slices drawn: windows, fills, outlines. `state` and `$` are those of review.js.
"use strict";

const TRUTH = "#ffb31a", PREDICTION = "#5cc8ff";  // where there is one label; else each label has a colour
const PALETTE = ["#ffb31a", "#5cc8ff", "#ee82c3", "#19c79a", "#f3e94f", "#f0763a", "#9aa8ff", "#ffffff"];  // after Okabe and Ito
const IGNORE = 255;

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const isSingle = () => (state.labels?.names.length ?? 0) < 2;

function colourOf(kind, label) {
  if (label === IGNORE) return "#7d8793";
  if (isSingle()) return kind === "truth" ? TRUTH : PREDICTION;
  return PALETTE[(label - 1) % PALETTE.length];
}

function outline(labels, width, height, value) {
  const next = new Map(), row = width + 1;  // corner -> corners, the label on the right hand
  const add = (from, to) => next.has(from) ? next.get(from).push(to) : next.set(from, [to]);
  const is = (x, y) => x >= 0 && y >= 0 && x < width && y < height && labels[y * width + x] === value;
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (labels[y * width + x] === value) {
    const corner = y * row + x;
    if (!is(x, y - 1)) add(corner, corner + 1);
    if (!is(x + 1, y)) add(corner + 1, corner + row + 1);
    if (!is(x, y + 1)) add(corner + row + 1, corner + row);
    if (!is(x - 1, y)) add(corner + row, corner);
  }
  const path = new Path2D();
  for (const [start, ways] of next) while (ways.length) {
    let at = start, before = 0;
    path.moveTo(start % row, Math.floor(start / row));
    do {
      const to = next.get(at).pop();
      if (before && to - at !== before) path.lineTo(at % row, Math.floor(at / row));
      [before, at] = [to - at, to];
    } while (at !== start);
    path.closePath();
  }
  return path;
}

function labelsIn(labels) {
  const seen = new Uint8Array(256);
  for (let n = 0; n < labels.length; n++) seen[labels[n]] = 1;
  return [...seen.keys()].filter((value) => value > 0 && seen[value]);
}

function isThin(labels, width) {  // as vessels are: edge² / inside is 4π for a disc
  let inside = 0, edge = 0;
  for (let n = width; n < labels.length - width; n++) if (labels[n]) {
    inside++;
    if (!(labels[n - 1] && labels[n + 1] && labels[n - width] && labels[n + width])) edge++;
  }
  return edge * edge > 200 * inside;
}

function paintImage(view) {
  const [width, height] = view.size, { image } = view.drawn, layer = state.image.layers[state.layer];
  const [low, high] = state.window, gain = 255 / Math.max(high - low, 1e-9), context = sized(view.image, width, height);
  const pixels = context.createImageData(width, height), data = pixels.data, step = layer.colour ? 3 : 1;
  for (let n = 0, at = 0, from = 0; n < width * height; n++, from += step, at += 4) {
    data[at] = (image[from] - low) * gain;
    data[at + 1] = layer.colour ? (image[from + 1] - low) * gain : data[at];
    data[at + 2] = layer.colour ? (image[from + 2] - low) * gain : data[at];
    data[at + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  return view.image;
}

function paintFill(view) {  // anew only where something changed: a large radiograph takes a while
  const settings = ["truth", "prediction", "entropy"].map((kind) => [$(`${kind}-shown`).checked, $(`${kind}-fill`).value]);
  const key = JSON.stringify([settings, [...state.hidden], isSingle()]);
  if (view.filled.of === view.drawn && view.filled.key === key) return view.fill;
  view.filled = { of: view.drawn, key };
  const [width, height] = view.size, context = sized(view.fill, width, height);
  const pixels = context.createImageData(width, height), data = pixels.data;
  if ($("entropy-shown").checked && view.drawn.entropy) paintEntropy(view.drawn.entropy, data);
  for (const kind of ["truth", "prediction"]) {
    const labels = view.drawn[kind], strength = Number($(`${kind}-fill`).value);
    if (!labels || !strength || !$(`${kind}-shown`).checked) continue;
    const colours = labelsIn(labels).reduce((known, label) => known.set(label, rgb(colourOf(kind, label))), new Map());
    state.hidden.forEach((label) => colours.delete(label));
    for (let n = 0, at = 0; n < labels.length; n++, at += 4) {
      const colour = labels[n] && colours.get(labels[n]);
      if (!colour) continue;
      for (let c = 0; c < 3; c++) {  // two colours on one voxel add up as light does: amber and blue are white
        data[at + c] = isSingle() && data[at + 3] ? 255 - (255 - data[at + c]) * (255 - colour[c]) / 255 : colour[c];
      }
      data[at + 3] = Math.max(data[at + 3], 255 * strength);
    }
  }
  context.putImageData(pixels, 0, 0);
  return view.fill;
}

function paintEntropy(entropy, data) {  // dark purple, pink, cream: brighter is less certain; ln 2 is a toss-up of two labels
  const most = Math.max(state.labels.entropy, Math.LN2), strength = Number($("entropy-fill").value);
  for (let n = 0, at = 0; n < entropy.length; n++, at += 4) {
    const share = Math.min(1, Math.max(0, entropy[n] / most));
    if (share < 0.02) continue;
    data[at] = 43 + 340 * share;
    data[at + 1] = share < 0.5 ? 10 + 110 * share : 65 + 324 * (share - 0.5);
    data[at + 2] = 61 + 240 * share * (1 - 0.45 * share);
    data[at + 3] = 255 * strength * Math.min(1, 0.25 + 1.5 * share);
  }
}

function sized(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  return canvas.getContext("2d");
}
