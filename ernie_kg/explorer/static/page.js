"use strict";
// Everything that comes from a graph, a text or a model becomes text nodes: nothing here parses markup.

const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const STEPS = 260, WIDTH = 640, HEIGHT = 440;
let about = { models: [] }, text = "", mentions = [], chosen = null, walk = 0;

function make(tag, content, attributes) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  for (const part of [content].flat()) if (part !== undefined && part !== null) element.append(part);
  return element;
}

function draw(tag, attributes, content) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (content !== undefined) element.textContent = content;
  return element;
}

const show = (place, ...parts) => at(place).replaceChildren(...parts);
const short = (words, most) => (words.length > most ? words.slice(0, most - 1) + "…" : words);
const same = (a, b) => a.toLowerCase() === b.toLowerCase();
const counted = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;
const number = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(3));

async function ask(address, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(address, options);
  const data = await answer.json();
  if (answer.ok) return data;
  throw new Error(typeof data.detail === "string" ? data.detail : `the request was refused (${answer.status})`);
}

async function during(button, words, work) {
  at("state").className = "soft";
  at("state").textContent = words;
  button.disabled = true;
  try {
    await work();
    at("state").textContent = "";
  } catch (error) {
    at("state").className = "fault";
    at("state").textContent = error.message;
  } finally {
    button.disabled = false;
  }
}

async function linkText() {
  text = at("text").value;
  mentions = (await ask("api/link", { text })).mentions;
  chosen = null;
  at("why").hidden = true;
  showLinks();
  fillRoles();
  const first = mentions.find((mention) => mention.entity);
  if (first) choose(mentions.indexOf(first));
  if (at("model").value && first) await predict();
}

function showLinks() {
  const points = Array.from(text); // offsets count code points, JavaScript's strings do not
  const parts = [];
  let done = 0;
  mentions.forEach((mention, place) => {
    if (mention.start < done) return;
    parts.push(points.slice(done, mention.start).join(""));
    const best = mention.entity ? mention.candidates[0] : null;
    const name = best && !same(best.label, mention.surface) ? `${short(best.label, 40)} ` : ""; // its own name says nothing
    const note = best ? make("small", name + mention.score.toFixed(2)) : null;
    const button = make("button", [mention.surface, note ? " " : null, note],
      { type: "button", "data-place": place, title: best ? best.description : "" });
    button.classList.toggle("nil", !mention.entity);
    for (const event of ["mouseenter", "focus"]) button.addEventListener(event, () => explain(mention));
    button.addEventListener("click", () => choose(place));
    parts.push(button);
    done = mention.end;
  });
  parts.push(points.slice(done).join(""));
  show("linked", ...parts);
  if (!mentions.length) show("linked", make("span", "No name of the graph stands in this text.", { class: "soft" }));
}

function explain(mention) {
  const terms = Object.keys(mention.candidates[0] ? mention.candidates[0].contributions : {})
    .filter((term) => mention.candidates.some((candidate) => Math.abs(candidate.contributions[term]) >= 0.005));
  const head = make("tr", ["candidate", "score", ...terms].map((name, i) => make("th", name, { scope: "col", class: i ? "n" : "" })));
  const rows = mention.candidates.map((candidate) => {
    const title = candidate.description ? `${candidate.id}: ${candidate.description}` : candidate.id;
    const about = candidate.description || (candidate.id === candidate.label ? "" : candidate.id);
    const name = make("td", [short(candidate.label, 40), about ? make("small", ` ${short(about, 80)}`) : null], { title });
    const cells = [name,
      make("td", number(candidate.score), { class: "n" }),
      ...terms.map((term) => make("td", (candidate.contributions[term] >= 0 ? "+" : "") + candidate.contributions[term].toFixed(2),
        { class: "n", title: `${term} = ${candidate.terms[term].toFixed(4)}` }))];
    const row = make("tr", cells);
    row.classList.toggle("best", candidate.id === mention.entity);
    return row;
  });
  rows.push(make("tr", [make("td", "none of them"), make("td", number(mention.nil), { class: "n" })]));
  const outcome = mention.entity ? `linked, score ${mention.score.toFixed(3)}` : "left unlinked";
  at("why").hidden = false;
  show("why", make("h3", `${short(mention.surface, 60)}: ${outcome}`),
    make("p", "Each column is what a term adds to a candidate's logit; terms that add nothing to any are left out.", { class: "soft" }),
    make("table", [make("thead", head), make("tbody", rows)]),
    mention.more ? make("p", `and ${mention.more} more candidates`, { class: "soft" }) : "");
}

function choose(place) {
  chosen = place;
  for (const button of at("linked").querySelectorAll("button"))
    button.classList.toggle("chosen", Number(button.dataset.place) === place);
  const mention = mentions[place];
  explain(mention);
  const select = at("roles").querySelector('select[name="mention"]');
  if (select) select.value = String(place);
  const entity = mention.entity || (mention.candidates[0] && mention.candidates[0].id);
  if (entity) during(at("look"), "reading the graph …", () => visit(entity));
}

async function visit(name) {
  const turn = ++walk;
  const entity = await ask(`api/entity?name=${encodeURIComponent(name)}`);
  const near = await ask(`api/nearest?name=${encodeURIComponent(entity.id)}`);
  if (turn !== walk) return; // another entity was chosen in the meantime
  const identifier = entity.id === entity.label ? "" : short(entity.id, 80);
  const facts = [identifier, entity.types.join(", "), counted(entity.triples, "triple")].filter(Boolean).join(" · ");
  const others = entity.aliases.filter((alias) => !same(alias, entity.label));
  show("entity", make("h3", `${entity.label} `, { id: "entity-name" }), make("p", [entity.description || "no description"]),
    make("p", facts, { class: "soft" }),
    others.length ? make("p", `also: ${others.join(", ")}`, { class: "soft" }) : "");
  drawGraph(entity);
  const lists = near.reason ? [make("p", near.reason, { class: "soft" })]
    : [nearList("Nearest by cosine", near.cosine), nearList("Nearest by translation, |h + r − t|", near.translation)];
  show("nearest", ...lists);
}

function nearList(title, rows) {
  const items = rows.map((row) => {
    const button = make("button", short(row.label, 60), { type: "button", title: `${row.id}: ${row.description}` });
    button.addEventListener("click", () => during(at("look"), "reading the graph …", () => visit(row.id)));
    const way = row.relation ? ` ${row.outward ? "→" : "←"} ${row.relation}` : "";
    return make("li", [button, ` ${row.score.toFixed(3)}${way}${row.linked ? " · in the graph" : ""}`]);
  });
  return make("div", [make("h3", title), make("ol", items)]);
}

function drawGraph(entity) {
  const places = layout(entity.nodes.length, entity.edges.map((edge) => [edge.head, edge.tail].map(
    (id) => entity.nodes.findIndex((node) => node.id === id))));
  const graph = at("graph");
  graph.toggleAttribute("hidden", false);
  graph.replaceChildren();
  const of = new Map(entity.nodes.map((node, i) => [node.id, places[i]]));
  for (const edge of entity.edges) {
    const [from, to] = [of.get(edge.head), of.get(edge.tail)];
    const line = draw("line", { x1: from.x, y1: from.y, x2: to.x, y2: to.y });
    line.append(draw("title", {}, `${edge.head} — ${edge.relation} → ${edge.tail}`));
    graph.append(line, draw("text", { x: (from.x + to.x) / 2, y: (from.y + to.y) / 2, class: "relation", "text-anchor": "middle" }, short(edge.relation, 24)));
  }
  entity.nodes.forEach((node, i) => {
    const group = draw("g", { class: i ? "node" : "node centre", tabindex: 0, role: "button", "aria-label": node.label, "data-id": node.id });
    const right = places[i].x < WIDTH / 2;
    group.append(draw("circle", { cx: places[i].x, cy: places[i].y, r: i ? 6 : 9 }),
      draw("text", { x: places[i].x + (right ? 10 : -10), y: places[i].y + 4, "text-anchor": right ? "start" : "end" }, short(node.label, 26)),
      draw("title", {}, `${node.label} (${node.id}) ${node.description}`));
    const go = () => during(at("look"), "reading the graph …", () => visit(node.id));
    group.addEventListener("click", go);
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      go();
    });
    graph.append(group);
  });
}

// Springs along edges, repulsion between nodes (Fruchterman & Reingold 1991), from a circle, always the same.
function layout(count, edges) {
  const centre = { x: WIDTH / 2, y: HEIGHT / 2 }, wide = 0.9 * Math.sqrt((WIDTH * HEIGHT) / Math.max(count, 2));
  const places = Array.from({ length: count }, (_, i) => ({
    x: centre.x + (i ? 150 * Math.cos(i * 2.39996) : 0), y: centre.y + (i ? 150 * Math.sin(i * 2.39996) : 0),
  }));
  for (let step = 0; step < STEPS; step++) {
    const moves = places.map(() => ({ x: 0, y: 0 })), reach = 24 * (1 - step / STEPS);
    for (let i = 0; i < count; i++) for (let j = i + 1; j < count; j++)
      push(moves, places, i, j, (distance) => (wide * wide) / distance);
    for (const [i, j] of edges) if (i !== j) push(moves, places, i, j, (distance) => -(distance * distance) / wide);
    for (let i = 1; i < count; i++) {
      const length = Math.hypot(moves[i].x, moves[i].y) || 1;
      places[i].x = Math.min(WIDTH - 30, Math.max(30, places[i].x + (moves[i].x / length) * Math.min(length, reach)));
      places[i].y = Math.min(HEIGHT - 16, Math.max(16, places[i].y + (moves[i].y / length) * Math.min(length, reach)));
    }
  }
  return places;
}

function push(moves, places, i, j, force) {
  const x = places[i].x - places[j].x, y = places[i].y - places[j].y, distance = Math.max(Math.hypot(x, y), 1);
  const strength = force(distance) / distance;
  moves[i].x += x * strength; moves[i].y += y * strength;
  moves[j].x -= x * strength; moves[j].y -= y * strength;
}

const model = () => about.models.find((entry) => entry.name === at("model").value);

function fillRoles() {
  const entry = model();
  at("headline").textContent = entry ? `${entry.task}: ${entry.headline}` : "This run has no task model.";
  const linked = mentions.map((mention, place) => ({ mention, place })).filter(({ mention }) => mention.entity);
  const selects = (entry ? entry.roles : []).map((role, i) => {
    const options = linked.map(({ mention, place }) => make("option", short(mention.surface, 40), { value: place }));
    const select = make("select", options, { name: role, "aria-label": role });
    if (linked[i]) select.value = String(linked[i].place);
    return make("label", [`${role} `, select]);
  });
  show("roles", ...selects);
}

async function predict() {
  const entry = model();
  if (!entry || !text) return;
  const place = ({ start, end }) => ({ start, end });
  const spans = [...at("roles").querySelectorAll("select")].filter((select) => select.value !== "")
    .map((select) => ({ ...place(mentions[Number(select.value)]), role: select.name }));
  const links = mentions.filter((mention) => mention.entity).map((mention) => ({ ...place(mention), entity: mention.entity }));
  const { rows } = await ask("api/predict", { text, model: entry.name, spans, links });
  show("answers", ...rows.map(answerCard));
}

function answerCard(row) {
  const bars = row.labels.map(({ label, probability }) => make("div", [
    make("span", label, { title: label }), make("meter", "", { value: probability, min: 0, max: 1, "aria-label": label }),
    make("span", `${(100 * probability).toFixed(1)} %`)], { class: "bar" }));
  const given = row.entities ? `, ${row.entities} entities` : "";
  return make("div", [make("h3", row.model), make("p", `${row.how}${given} · ${row.milliseconds.toFixed(2)} ms`, { class: "soft" }), ...bars],
    { class: "answer", "data-how": row.how });
}

async function begin() {
  about = await ask("api/about");
  const entities = about.entities === 1 ? "1 entity" : `${about.entities.toLocaleString("en")} entities`;
  at("about").textContent = `${about.folder}: ${entities}, ${counted(about.triples, "triple")}, ` +
    `${about.vectors ? "vectors" : "no vectors"}, ${counted(about.models.length, "task model")}`;
  at("text").maxLength = about.max_text;
  show("model", ...about.models.map((entry) => make("option", entry.name, { value: entry.name })));
  fillRoles();
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  during(at("go"), "linking …", linkText);
});
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
});
at("name").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  at("look").click();
});
at("look").addEventListener("click", () => during(at("look"), "reading the graph …", () => visit(at("name").value)));
at("model").addEventListener("change", fillRoles);
at("ask").addEventListener("click", () => during(at("ask"), "asking the models …", predict));
during(at("go"), "loading …", begin);
