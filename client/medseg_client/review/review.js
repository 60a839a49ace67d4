// The page of `medseg-site review`. Indices are those of the server's grid: in every plane they rise to the right and
// downwards. Slices come as raw bytes, row after row, and are drawn here, so that windowing asks the server nothing.
"use strict";

const ARRAYS = { uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, float32: Float32Array };
const HOUNSFIELD = {  // level, width
  "soft tissue": [40, 400], lung: [-600, 1500], bone: [400, 1800], brain: [40, 80], liver: [60, 160],
};
const SIDES = [["R", "L"], ["A", "P"], ["H", "F"]];  // where each axis of a scan comes from and goes to
const KEPT = 150;  // slices in the browser

const $ = (id) => document.getElementById(id);
const state = {
  cases: [], shown: [], id: "", image: null, labels: null, position: [], views: [], layer: 0, window: [0, 1],
  preset: "usual", hidden: new Set(), hasMoved: false, hasStyle: false,
};
const slices = new Map();

// ---- asking the server ---------------------------------------------------------------------------------------

async function ask(address) {
  let answer;
  try {
    answer = await fetch(address);
  } catch {
    throw new Error("medseg-site review has ended. Start it again to go on.");
  }
  if (answer.status === 422) throw new Error((await answer.json()).fault);
  if (!answer.ok) throw new Error(`The page's server answered ${answer.status}. Its terminal may say why.`);
  return answer;
}

const askJson = async (address) => (await ask(address)).json();

function slice(plane, index, kind) {
  const address = `case/${state.id}/${plane}/${index}/${kind}`;
  const type = kind.startsWith("layer") ? state.image.layers[state.layer].type : kind === "entropy" ? "float32" : "uint8";
  if (!slices.has(address)) {
    slices.set(address, ask(address).then((a) => a.arrayBuffer()).then((bytes) => new ARRAYS[type](bytes)));
    slices.get(address).catch(() => slices.delete(address));
    if (slices.size > KEPT) slices.delete(slices.keys().next().value);
  }
  return slices.get(address);
}

// ---- windows, overlays, scores -------------------------------------------------------------------------------

function presets() {  // the first is the one to begin with
  const layer = state.image.layers[state.layer], found = {};
  const isCt = layer.modality === "CT" || (layer.modality === "other" && layer.type === "int16" && layer.extremes[0] <= -900);
  if (isCt) for (const [name, [level, width]] of Object.entries(HOUNSFIELD)) found[name] = [level - width / 2, level + width / 2];
  else found.usual = layer.window;
  return { ...found, "full range": layer.extremes };
}

function setWindow(window, preset) {
  [state.window, state.preset] = [window, preset];
  $("window").textContent = `window ${tidy(window[1] - window[0])}, level ${tidy((window[0] + window[1]) / 2)}`;
  $("presets").querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", String(button.value === preset)));
  state.views.forEach((view) => view.draw());
}

function choosePreset(wanted) {
  const known = presets(), name = known[wanted] ? wanted : Object.keys(known)[0];
  setWindow(known[name], name);
}

function showLayer() {
  $("presets").replaceChildren(...Object.keys(presets()).map((name) => {
    const button = made("button", name);
    [button.type, button.value] = ["button", name];
    button.addEventListener("click", () => choosePreset(name));
    return button;
  }));
  choosePreset(state.preset || "usual");
}

function swapStyle() {
  state.hasStyle = true;
  setStyle($("prediction-outline").checked);
  state.views.forEach((view) => view.draw());
}

// Outlines; or fills, which of a single label add up to white where truth and prediction agree. Of several labels the
// truth stays an outline around the filled prediction.
function setStyle(isFilled) {
  const isMixed = isFilled && isSingle();
  [$("truth-outline").checked, $("prediction-outline").checked] = [!isMixed, !isFilled];
  [$("truth-fill").value, $("prediction-fill").value] = [isMixed ? 0.8 : 0, isFilled ? 0.8 : 0.3];
  showMixing();
}

function goToWorst() {
  const view = state.views[0], differs = view.axis === null ? null : state.labels?.along[view.axis].differs;
  if (differs) moveTo(view.axis, differs.indexOf(Math.max(...differs)));
}

function showLabels() {
  const { labels } = state, isAny = labels.truth || labels.prediction || labels.entropy !== null;
  $("overlays").hidden = !isAny;
  $("overlays").classList.toggle("single", isSingle());
  for (const kind of ["truth", "prediction", "entropy"]) {
    const isThere = labels[kind] !== null && labels[kind] !== false;
    document.querySelectorAll(`#overlays .${kind}`).forEach((part) => { part.hidden = !isThere; });
  }
  $("legend").hidden = isSingle();
  $("legend").replaceChildren(...labels.names.map((name, n) => {
    const item = made("li"), row = made("label"), box = made("input"), swatch = made("i");
    [row.className, box.type, box.checked] = ["tick", "checkbox", !state.hidden.has(n + 1)];
    swatch.style.setProperty("--colour", colourOf("truth", n + 1));
    box.addEventListener("change", () => {
      state.hidden[box.checked ? "delete" : "add"](n + 1);
      state.views.forEach((view) => view.draw());
    });
    row.append(box, swatch, made("bdi", name));
    item.append(row);
    return item;
  }));
  showMixing();
  $("worst").hidden = !(labels.along[0].differs && state.image.shape.length > 2);
}

function showScores() {
  const { scores, truth, prediction, comparable } = state.labels, isBoth = truth && prediction && comparable;
  $("incomparable").hidden = comparable;
  $("scores").hidden = !scores.labels.length;
  const head = made("tr"), rows = scores.labels.map((row) => {
    const line = made("tr");
    line.append(header(row.name, "row"));
    if (isBoth) line.append(made("td", fixed(row.dice, 3)), made("td", fixed(row.hd95, 1)));
    if (truth) line.append(made("td", size(row.truth)));
    if (prediction) line.append(volume(row, isBoth));
    return line;
  });
  head.append(header("", "col"));
  if (isBoth) head.append(header("Dice", "col"), header(`HD95 ${state.image.unit}`, "col"));
  if (truth) head.append(header(`truth ${scores.unit}`, "col"));
  if (prediction) head.append(header(`pred. ${scores.unit}`, "col"));
  if (isBoth && rows.length > 1) {
    const mean = made("tr");
    mean.className = "mean";
    mean.append(header("mean", "row"), made("td", fixed(scores.dice, 3)), made("td"), made("td"), made("td"));
    rows.push(mean);
  }
  const [thead, tbody] = [made("thead"), made("tbody")];
  thead.append(head);
  tbody.append(...rows);
  $("scores").querySelector("table").replaceChildren(thead, tbody);
}

function volume(row, isBoth) {
  const cell = made("td", size(row.prediction));
  if (isBoth && row.volume_error !== null) {
    const percent = Math.round(100 * row.volume_error);
    cell.append(made("small", `${["−", "±", "+"][Math.sign(percent) + 1]}${Math.abs(percent)} %`));
  }
  return cell;
}

const fixed = (value, digits) => value === null || value === undefined ? "–" : value.toFixed(digits);
const size = (value) => Number.isInteger(value) || value >= 100 ? value.toFixed(0) : value.toPrecision(3);
const tidy = (value) => Number.isInteger(value) || Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));

function made(name, text = "") {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}

function header(text, scope) {
  const cell = made("th", text);
  cell.scope = scope;
  return cell;
}

// ---- keys -----------------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  const isField = event.target.matches("select, input[type=search], input[type=range]");
  if (isField || event.ctrlKey || event.metaKey || event.altKey) return;
  if (!state.image) return void (event.key === "ArrowLeft" ? stepCase(-1) : event.key === "ArrowRight" && stepCase(1));
  const view = state.views.find((each) => each.canvas === document.activeElement) ?? state.views[0];
  const toggle = (id) => () => { if ($(id).closest("[hidden]") === null) $(id).click(); };
  const act = {
    ArrowUp: () => moveBy(view, -1), ArrowDown: () => moveBy(view, 1),
    PageUp: () => moveBy(view, -10), PageDown: () => moveBy(view, 10),
    Home: () => moveTo(view.axis, 0), End: () => moveTo(view.axis, view.depth - 1),
    ArrowLeft: () => stepCase(-1), ArrowRight: () => stepCase(1),
    "+": () => zoomBy(view, 1.25), "=": () => zoomBy(view, 1.25), "-": () => zoomBy(view, 0.8), 0: () => zoomBy(view, 0),
    1: () => enlarge("axial"), 2: () => enlarge("coronal"), 3: () => enlarge("sagittal"),
    t: toggle("truth-shown"), p: toggle("prediction-shown"), u: toggle("entropy-shown"),
    o: swapStyle, e: goToWorst, w: () => choosePreset("usual"),
    "?": () => { $("keys").open = !$("keys").open; },
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (act) { event.preventDefault(); act(); }
});

// ---- cases ---------------------------------------------------------------------------------------------------

const ORDERS = {
  name: () => 0,
  dice: (a, b) => (a.dice ?? 2) - (b.dice ?? 2),
  uncertainty: (a, b) => (b.uncertainty ?? -1) - (a.uncertainty ?? -1),
};

function showList() {
  const sought = $("find").value.trim().toLowerCase(), key = $("sort").value;
  state.shown = state.cases.filter((each) => `${each.id} ${each.about}`.toLowerCase().includes(sought)).sort(ORDERS[key]);
  const value = key === "uncertainty" ? "uncertainty" : "dice";
  const hadFocus = $("list").contains(document.activeElement);
  $("list").replaceChildren(...state.shown.map((each) => {
    const item = made("li"), button = made("button");
    button.type = "button";
    const lacks = ["truth", "prediction"].filter((kind) => !each[kind]).map((kind) => `no ${kind}`);
    button.title = [each.id, each.about, ...lacks].filter(Boolean).join(", ");
    button.classList.toggle("bare", !each.truth && !each.prediction);
    button.append(made("bdi", each.id), made("small", each[value] === null ? "" : each[value].toFixed(2)));
    if (each.id === state.id) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => openCase(each.id));
    item.append(button);
    return item;
  }));
  if (hadFocus) $("list").querySelector("[aria-current]")?.focus();
  $("score").hidden = state.isScoring || !state.cases.some(isUnscored);
  const some = state.shown.length === state.cases.length ? "" : `${state.shown.length} of `;
  $("count").textContent = `${some}${state.cases.length} case${state.cases.length === 1 ? "" : "s"}`;
}

const isUnscored = (each) => each.truth && each.prediction && each.dice === null && !each.isFaulty;

async function scoreAll() {  // one after the other, while the reader looks at a case
  state.isScoring = true;
  for (let next; (next = state.cases.find(isUnscored));) {
    showList();
    $("count").textContent += `, ${state.cases.filter(isUnscored).length} to score`;
    const found = await askJson(`case/${next.id}/dice.json`).catch(() => ({ dice: null }));
    next.dice = found.dice;
    next.isFaulty = found.dice === null;
  }
  state.isScoring = false;
  $("sort").value = "dice";
  showList();
}

function stepCase(step) {
  const at = state.shown.findIndex((each) => each.id === state.id) + step;
  if (state.shown[at]) openCase(state.shown[at].id);
}

function showCurrent() {  // in the list, without moving the page
  const list = $("list"), [around, item] = [list, list.querySelector("[aria-current]") ?? list].map((each) => each.getBoundingClientRect());
  list.scrollTop += Math.min(0, item.top - around.top) + Math.max(0, item.bottom - around.bottom);
}

async function openCase(id) {
  Object.assign(state, { id, image: null, labels: null, hasMoved: false });
  slices.clear();
  location.replace(`#${id}`);
  $("title").replaceChildren(`${id} `, made("small", state.cases.find((each) => each.id === id).about));
  $("scores").hidden = true;
  $("under").textContent = "";
  showList();
  showCurrent();
  const waiting = setTimeout(() => tell("Opening"), 300);
  try {
    const image = await askJson(`case/${id}/image.json`);
    if (id !== state.id) return;
    clearTimeout(waiting);
    showPicture(image);
    if (state.cases.find((each) => each.id === id).prediction && state.predicts) tell("Segmenting");
    const labels = await askJson(`case/${id}/labels.json`);
    if (id !== state.id) return;
    tell("");
    takeLabels(labels);
  } catch (error) {
    clearTimeout(waiting);
    if (id === state.id) tell(error.message, true);
  }
}

function showPicture(image) {
  tell("");
  state.image = image;
  state.position = image.shape.map((n) => Math.floor(n / 2));
  state.layer = Math.min(state.layer, image.layers.length - 1);
  $("layer").replaceChildren(...image.layers.map((layer, n) => {
    return Object.assign(made("option", layer.name), { value: n, selected: n === state.layer });
  }));
  $("layer-row").hidden = image.layers.length < 2;
  const planes = Object.entries(image.planes), large = state.views[0]?.plane;
  planes.sort(([a], [b]) => (b === large) - (a === large));
  if (planes.map(([plane]) => plane).join() !== state.views.map((view) => view.plane).join()) {
    state.views = planes.map(([plane, axis]) => new View(plane, axis));
    $("views").replaceChildren(...state.views.map((view) => view.figure));
    $("views").className = planes.length === 3 ? "three" : "";
  }
  $("cross-row").hidden = planes.length < 2;
  state.views.forEach((view) => view.reset());
  showLayer();
  refresh();
}

async function takeLabels(labels) {
  state.labels = labels;
  if (isSingle()) state.hidden.clear();
  if (!state.hasMoved) state.position = [...labels.start];
  const listed = state.cases.find((each) => each.id === state.id);
  if (listed.dice === null && labels.scores.dice !== null) {
    listed.dice = labels.scores.dice;
    showList();
  }
  const [view] = state.views, kind = labels.truth ? "truth" : "prediction";
  if (!state.hasStyle) setStyle(labels[kind] && view.axis === null && isThin(await slice(view.plane, 0, kind), view.size[0]));
  if (state.labels !== labels) return;
  showLabels();
  showScores();
  state.views.forEach((each) => each.showExtent());
  refresh();
}

function showMixing() {
  const isFilled = (kind) => state.labels?.[kind] && $(`${kind}-shown`).checked && Number($(`${kind}-fill`).value) > 0;
  $("mixing").hidden = !(isFilled("truth") && isFilled("prediction") && isSingle());
}

function refresh() { state.views.forEach((view) => { view.load(); view.draw(); }); }

function enlarge(plane) {
  const view = state.views.find((each) => each.plane === plane);
  if (!view) return;
  state.views = [view, ...state.views.filter((each) => each !== view)];
  $("views").replaceChildren(...state.views.map((each) => each.figure));
  refresh();
}

function tell(text, isFault = false) {
  $("message").textContent = text;
  $("message").hidden = !text;
  $("message").classList.toggle("fault", isFault);
}

for (const kind of ["truth", "prediction", "entropy"]) {
  for (const part of ["shown", "outline", "fill"]) {
    $(`${kind}-${part}`)?.addEventListener("input", () => {
      state.hasStyle ||= part !== "shown";
      showMixing();
      refresh();
    });
  }
}
for (const id of ["smooth", "cross"]) $(id).addEventListener("input", refresh);
$("layer").addEventListener("change", () => {
  [state.layer, state.preset] = [Number($("layer").value), "usual"];
  showLayer();
  refresh();
});
$("worst").addEventListener("click", goToWorst);
$("score").addEventListener("click", scoreAll);
$("find").addEventListener("input", showList);
$("sort").addEventListener("change", showList);

askJson("cases.json").then(({ cases, predicts }) => {
  Object.assign(state, { cases, predicts });
  const has = (key) => cases.some((each) => each[key] !== null);
  $("sort").querySelector("[value=uncertainty]").disabled = !has("uncertainty");
  $("sort").value = has("dice") ? "dice" : has("uncertainty") ? "uncertainty" : "name";
  showList();
  openCase((cases.find((each) => each.id === location.hash.slice(1)) ?? state.shown[0]).id);
}, (error) => tell(error.message, true));
