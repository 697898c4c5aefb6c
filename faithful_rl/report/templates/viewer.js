/* The rollout viewer. Everything that a model, a judge or a data set wrote enters the page through textContent or as a number. */
"use strict";
(() => {
  const VERDICTS = [
    { css: "false", mark: "✗", told: "false of the image" },
    { css: "true", mark: "✓", told: "true of the image" },
    { css: "skip", mark: "–", told: "nothing to judge" },
    { css: "unscored", mark: "?", told: "the judge failed" },
  ];
  const ROW = 58; // pixels of a row of the list
  const SVG = "http://www.w3.org/2000/svg";
  const SIBLINGS_SHOWN = 16;
  const root = document.getElementById("viewer");
  const at = (name) => root.querySelector(`[data-part="${name}"]`);
  const title = (name) => name.replaceAll("_", " ");
  let data, rollouts, facts, groups, sameQuestion, shown, selected = -1;
  const chosen = { run: -1, where: -1, step: -1, preset: 0, sort: 0, query: "" };

  // ---- small helpers ----

  function el(tag, css, ...children) {
    const node = document.createElement(tag);
    if (css) node.className = css;
    for (const child of children) if (child !== null && child !== "") node.append(child); // strings become text nodes
    return node;
  }
  function svg(tag, attributes) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
    return node;
  }
  const signed = (value) => (value === null ? "–" : Math.abs(value) < 0.005 ? "0.00" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`);
  /** `step 3 · training`, or the benchmark of an evaluation, which has no steps. */
  const origin = (i) => `${data.evaluations[rollouts.run[i]] ? "" : `step ${rollouts.step[i]} · `}${data.wheres[rollouts.where[i]]}`;
  /** Why there is no value; a judge that was not asked masks nothing. */
  const missing = (i, signal) => { const reason = data.reasons[data.why_unscored[signal][i]]; return reason === "masked" && data.evaluations[rollouts.run[i]] ? "not asked" : reason; };
  const plain = (value) => (value === null ? "–" : value.toFixed(2));

  // ---- data ----

  async function unpack() {
    const packed = atob(document.getElementById("rollout-data").textContent.trim());
    const bytes = new Uint8Array(packed.length);
    for (let index = 0; index < packed.length; index++) bytes[index] = packed.charCodeAt(index);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  /** What filters and rows need of every rollout, once. */
  function derive() {
    const count = rollouts.run.length;
    const { accuracy, consistency, semantic_grounding: semantic, format } = data.values;
    facts = { right: new Uint8Array(count), inconsistent: new Uint8Array(count), wrong: new Uint16Array(count), unscored: new Uint8Array(count),
              malformed: new Uint8Array(count), disagreement: new Float64Array(count), search: new Array(count).fill(null), semantic };
    groups = new Map();
    sameQuestion = new Map();
    const failures = new Set(data.reasons.map((reason, number) => (reason.startsWith("judge") ? number : -1)));
    for (let i = 0; i < count; i++) {
      facts.right[i] = accuracy[i] > 0 ? 1 : 0;
      facts.inconsistent[i] = consistency[i] !== null && consistency[i] <= 0 ? 1 : 0;
      facts.wrong[i] = rollouts.sentences[i].filter((sentence) => sentence[2] === 0).length;
      facts.malformed[i] = format[i] !== null && format[i] <= 0 ? 1 : 0;
      facts.unscored[i] = data.signals.some((signal) => failures.has(data.why_unscored[signal][i])) ? 1 : 0;
      for (const [table, key] of [[groups, rollouts.group[i]], [sameQuestion, rollouts.question[i]]]) {
        if (!table.has(key)) table.set(key, []);
        table.get(key).push(i);
      }
    }
    for (const members of groups.values()) if (members.length > 1) disagreements(members);
  }

  /** Sum over rewards of the distance to the mean of the group; a reward that was not measured has none. */
  function disagreements(members) {
    for (const signal of data.signals) {
      if (signal === "task") continue; // accuracy and format are in it already
      const values = data.values[signal];
      const scored = members.filter((i) => values[i] !== null);
      const mean = scored.reduce((sum, i) => sum + values[i], 0) / scored.length;
      for (const i of scored) facts.disagreement[i] += Math.abs(values[i] - mean);
    }
  }

  const falling = (values) => (a, b) => (values[b] ?? -Infinity) - (values[a] ?? -Infinity) || a - b;
  const rising = (values) => (a, b) => (values[a] ?? Infinity) - (values[b] ?? Infinity) || a - b;
  const PRESETS = [
    { name: "All", why: "every rollout that was kept", test: () => true },
    { name: "Inconsistent but correct", why: "right answers that their own reasoning does not lead to", test: (i) => facts.right[i] && facts.inconsistent[i] },
    { name: "Right for a false reason", why: "right answers whose reasoning holds a sentence that is false of the image", test: (i) => facts.right[i] && facts.wrong[i] },
    { name: "Largest disagreement with group", why: "rollouts whose rewards are far from those of their siblings, farthest first", test: (i) => facts.disagreement[i] > 0, sort: 1 },
    { name: "Lowest grounding", why: "rollouts with judged sentences, the smallest true share first", test: (i) => facts.semantic[i] !== null, sort: 2 },
    { name: "Wrong answer", why: "answers that differ from the ground truth", test: (i) => !facts.right[i] },
    { name: "Judge failed", why: "rollouts with a reward that could not be measured", test: (i) => facts.unscored[i] },
    { name: "Malformed", why: "responses without exactly one think and one answer block", test: (i) => facts.malformed[i] },
  ];
  const SORTS = [
    { name: "as kept", order: () => null },
    { name: "disagreement, largest first", order: () => falling(facts.disagreement) },
    { name: "semantic grounding, lowest first", order: () => rising(facts.semantic) },
    { name: "spatial grounding, lowest first", order: () => rising(data.values.spatial_grounding) },
    { name: "advantage, lowest first", order: () => rising(rollouts.advantage) },
    { name: "advantage, highest first", order: () => falling(rollouts.advantage) },
  ];

  // ---- filters ----

  function haystack(i) {
    if (facts.search[i] === null) facts.search[i] = `${data.questions[rollouts.question[i]].text}\n${rollouts.response[i]}\n${data.questions[rollouts.question[i]].uid}`.toLowerCase();
    return facts.search[i];
  }
  function inScope(i) {
    return (chosen.run < 0 || rollouts.run[i] === chosen.run) && (chosen.where < 0 || rollouts.where[i] === chosen.where) && (chosen.step < 0 || rollouts.step[i] === chosen.step);
  }
  function apply() {
    const query = chosen.query.trim().toLowerCase();
    const counts = new Array(PRESETS.length).fill(0);
    const found = [];
    for (let i = 0; i < rollouts.run.length; i++) {
      if (!inScope(i) || (query && !haystack(i).includes(query))) continue;
      PRESETS.forEach((preset, number) => { if (preset.test(i)) counts[number]++; });
      if (PRESETS[chosen.preset].test(i)) found.push(i);
    }
    const order = SORTS[chosen.sort].order();
    shown = order ? found.sort(order) : found;
    at("presets").querySelectorAll("button").forEach((button, number) => {
      button.setAttribute("aria-pressed", String(number === chosen.preset));
      button.querySelector("span").textContent = counts[number].toLocaleString("en");
    });
    at("why").textContent = PRESETS[chosen.preset].why;
    at("count").textContent = `${shown.length.toLocaleString("en")} of ${data.kept.toLocaleString("en")} rollouts${data.found > data.kept ? ` (${data.found.toLocaleString("en")} on disk)` : ""}`;
    at("spacer").style.height = `${shown.length * ROW}px`;
    at("empty").hidden = shown.length > 0;
    if (!shown.includes(selected)) select(shown.length ? shown[0] : -1, false);
    at("list").scrollTop = Math.max(0, shown.indexOf(selected) * ROW - ROW);
    paint();
  }

  // ---- list: only the rows in sight exist ----

  function bar(i) {
    const node = el("span", "bar");
    for (const sentence of rollouts.sentences[i]) node.append(el("i", VERDICTS[sentence[2]].css));
    return node;
  }
  function marks(i) {
    const consistency = data.values.consistency[i];
    const answer = el("b", `mark ${facts.right[i] ? "true" : "false"}`, facts.right[i] ? "✓" : "✗");
    answer.title = facts.right[i] ? "right answer" : "wrong answer";
    const entails = el("b", `mark ${consistency === null ? "skip" : consistency > 0 ? "true" : "false"}`, consistency === null ? "·" : consistency > 0 ? "=" : "≠");
    entails.title = consistency === null ? "consistency was not judged" : consistency > 0 ? "the conclusion is the answer" : "the conclusion is not the answer";
    return el("span", "marks", answer, entails);
  }
  function row(place) {
    const i = shown[place];
    const node = el("div", i === selected ? "row on" : "row", marks(i),
      el("span", "what", el("span", "text", data.questions[rollouts.question[i]].text || "(no question)"),
        el("span", "soft", bar(i), origin(i), data.runs.length > 1 ? ` · ${data.runs[rollouts.run[i]]}` : "")),
      el("span", "advantage", rollouts.advantage[i] === null ? "" : signed(rollouts.advantage[i])));
    node.id = `rollout-${i}`;
    node.setAttribute("role", "option");
    node.setAttribute("aria-selected", String(i === selected));
    node.setAttribute("aria-posinset", String(place + 1));
    node.setAttribute("aria-setsize", String(shown.length));
    node.style.transform = `translateY(${place * ROW}px)`;
    node.addEventListener("click", () => { select(i, false); at("list").focus(); });
    return node;
  }
  function paint() {
    const list = at("list");
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
    const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
    const rows = [];
    for (let place = first; place < last; place++) rows.push(row(place));
    at("rows").replaceChildren(...rows);
    if (selected >= 0) list.setAttribute("aria-activedescendant", `rollout-${selected}`);
  }
  function move(by) {
    if (!shown.length) return;
    const place = Math.min(shown.length - 1, Math.max(0, shown.indexOf(selected) + by));
    const list = at("list");
    if (place * ROW < list.scrollTop) list.scrollTop = place * ROW;
    if ((place + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (place + 1) * ROW - list.clientHeight;
    select(shown[place], true);
  }
  function select(i, repaint) {
    selected = i;
    detail();
    siblings();
    paint();
    if (repaint) at("detail").scrollTop = 0;
  }

  // ---- one rollout ----

  const BOX = /<bbox>([\s\S]*?)<\/bbox>/g;
  const FOUR = /^\s*\[?\s*[-+.\deE]+(\s*,\s*[-+.\deE]+){3}\s*\]?\s*$/;

  /** Text with markup of the policy set apart; `state.box` counts the boxes that could be read, as the parser does. */
  function text(parent, from, state) {
    let cursor = 0;
    for (const found of from.matchAll(/<bbox>([\s\S]*?)<\/bbox>|<\/?(?:think|answer)>/g)) {
      parent.append(from.slice(cursor, found.index));
      cursor = found.index + found[0].length;
      const tag = el("span", "tag");
      if (found[1] !== undefined && FOUR.test(found[1]) && state.box < state.boxes) {
        state.box += 1;
        tag.dataset.box = String(state.box);
        tag.append(el("i", "", String(state.box)), state.small ? "" : " ");
      }
      if (state.small && tag.dataset.box) tag.title = found[0];
      else if (state.small && found[0] === "<answer>") tag.append(" → ");
      else if (!state.small || found[1] !== undefined) tag.append(found[0]);
      parent.append(tag);
    }
    parent.append(from.slice(cursor));
  }
  function trace(i, small) {
    const response = rollouts.response[i], state = { box: 0, boxes: rollouts.boxes[i].length, small }, node = el("div", "trace");
    let cursor = 0;
    const between = (end) => {
      const part = response.slice(cursor, end);
      if ((small ? part.replace(/<\/?(think|answer)>/g, "") : part).trim()) { const span = el("span", "sentence"); text(span, part, state); node.append(span); }
    };
    for (const [start, length, verdict, why] of rollouts.sentences[i]) {
      between(start);
      cursor = start + length;
      const kind = VERDICTS[verdict], span = el("span", `sentence ${kind.css}`, el("b", "", kind.mark));
      text(span, response.slice(start, cursor), state);
      const told = `${kind.told}${data.texts[why] ? ` — ${data.texts[why]}` : ""}`;
      if (small) span.title = told;
      else { span.tabIndex = 0; const tip = el("span", "told", told); tip.setAttribute("role", "tooltip"); span.append(tip); }
      node.append(span);
    }
    between(response.length);
    return node;
  }
  function frame(box, css, number, told) {
    const [x1, y1, x2, y2] = box, shape = { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
    const group = svg("g", { class: css });
    group.append(svg("rect", { ...shape, class: "halo" }), svg("rect", shape));
    const name = svg("title", {});
    name.textContent = told;
    group.append(name);
    if (number) group.dataset.box = String(number);
    return group;
  }
  function picture(i) {
    const question = data.questions[rollouts.question[i]], [width, height] = question.size, source = image(question.image);
    if (!source && !question.boxes.length && !rollouts.boxes[i].length) return el("p", "soft", "no image was kept");
    const node = svg("svg", { class: "scene", viewBox: `0 0 ${width} ${height}`, role: "img" });
    node.setAttribute("aria-label", `the question's image with ${rollouts.boxes[i].length} predicted and ${question.boxes.length} reference boxes`);
    if (width < 320) node.classList.add("pixels");
    if (source) node.append(svg("image", { href: source, width, height, preserveAspectRatio: "none" }));
    question.boxes.forEach((box) => node.append(frame(box, "reference", 0, "reference box")));
    rollouts.boxes[i].forEach((box, number) => {
      const drawn = frame(box, "predicted", number + 1, `predicted box ${number + 1}`);
      const size = 0.065 * Math.min(height, width * 1.5);
      const label = svg("text", { x: box[0], y: box[1] > size * 1.2 ? box[1] - size * 0.3 : box[3] + size, "font-size": size });
      label.textContent = String(number + 1);
      drawn.append(label);
      node.append(drawn);
    });
    return node;
  }
  function image(number) {
    if (number < 0) return "";
    return data.images ? data.images[number] : `image/${number}`;
  }
  function between(open, close, response) {
    const start = response.lastIndexOf(open), end = response.indexOf(close, start);
    return start < 0 ? "" : response.slice(start + open.length, end < 0 ? response.length : end).trim();
  }
  /** What the reasoning concludes: the text after its last judged sentence, else that sentence. */
  function conclusion(i) {
    const response = rollouts.response[i], close = response.indexOf("</think>"), end = close < 0 ? response.length : close;
    const inside = rollouts.sentences[i].filter(([start, length]) => start + length <= end);
    const last = inside.at(-1);
    const start = last ? last[0] + last[1] : Math.max(0, response.indexOf("<think>") + (response.includes("<think>") ? 7 : 0));
    const rest = response.slice(start, end).trim();
    return (rest || (last ? response.slice(last[0], last[0] + last[1]) : "")).replace(BOX, "▢").slice(0, 300);
  }
  function verdictLine(i) {
    const consistency = data.values.consistency[i], question = data.questions[rollouts.question[i]], said = data.texts[rollouts.why[i]];
    const answer = data.texts[rollouts.answer[i]] || between("<answer>", "</answer>", rollouts.response[i]) || "none";
    const place = answer.length === 1 ? answer.toUpperCase().charCodeAt(0) - 65 : -1;
    const written = question.options[place] === undefined ? answer : `${answer} (${question.options[place]})`;
    const sign = consistency === null ? "·" : consistency > 0 ? "=" : "≠";
    const told = consistency === null ? (missing(i, "consistency") === "not asked" ? "no judge was asked" : `not judged: ${missing(i, "consistency") || "no verdict"}`) : consistency > 0 ? "the reasoning leads to this answer" : "the reasoning leads elsewhere";
    const sense = el("b", `sign mark ${consistency === null ? "skip" : consistency > 0 ? "true" : "false"}`, sign);
    sense.title = said || told;
    return el("div", "against",
      el("div", "", el("small", "", "conclusion"), el("span", "", conclusion(i) || "none")), sense,
      el("div", "", el("small", "", "answer"), el("span", "", written)), el("b", `sign mark ${facts.right[i] ? "true" : "false"}`, facts.right[i] ? "✓" : "✗"),
      el("div", "", el("small", "", "ground truth"), el("span", "", question.truth)),
      el("p", "soft", `${facts.right[i] ? "Right" : "Wrong"} answer; ${said || told}.`));
  }
  /** Reward, why it is missing, advantage inside the group, multiplier and their product, one line per signal. */
  function rewards(i) {
    const weighed = rollouts.advantage[i] !== null; // held-out rollouts have no advantage
    const head = el("tr", "", ...["signal", "reward", ...(weighed ? ["A inside group", "λ", "λ · A"] : [])].map((name) => el("th", "", name)));
    const table = el("table", "rewards", el("thead", "", head)), body = el("tbody", "");
    const multipliers = data.multipliers[rollouts.run[i]][String(rollouts.step[i])];
    let sum = 0, known = false;
    for (const signal of new Set([...data.signals, ...Object.keys(data.advantages)])) {
      if (signal === "task" && data.evaluations[rollouts.run[i]]) continue; // a reward of training
      const value = data.values[signal]?.[i] ?? null, advantage = data.advantages[signal]?.[i] ?? null;
      const place = data.constraints.indexOf(signal);
      const weight = signal === "task" ? 1 : place >= 0 && multipliers ? multipliers[place] : null;
      const product = advantage === null || weight === null ? null : weight * advantage;
      if (product !== null) { sum += product; known = true; }
      const reward = value === null ? el("td", "missing", data.values[signal] ? missing(i, signal) || "not scored" : "") : el("td", value < 0.5 ? "low" : "", plain(value));
      const line = el("tr", place >= 0 || signal === "task" ? "" : "part", el("th", "", title(signal)), reward);
      if (weighed) line.append(el("td", "", advantage === null ? "" : signed(advantage)), el("td", "", weight === null || advantage === null ? "" : plain(weight)), el("td", "", product === null ? "" : signed(product)));
      body.append(line);
    }
    table.append(body);
    if (weighed) {
      const final = el("tr", "final", el("th", "", "final advantage"), el("td", ""), el("td", ""), el("td", "", known ? `sum ${signed(sum)}` : ""), el("td", "", signed(rollouts.advantage[i])));
      final.title = "the sum after whitening over the batch";
      table.append(el("tfoot", "", final));
    }
    return table;
  }
  function detail() {
    const pane = at("detail");
    if (selected < 0) { pane.replaceChildren(el("p", "soft", "No rollout passes these filters.")); return; }
    const i = selected, question = data.questions[rollouts.question[i]];
    const options = question.options.map((option, number) => el("span", "option", el("b", "", String.fromCharCode(65 + number)), ` ${option}`));
    pane.replaceChildren(
      el("header", "", el("p", "soft", `${data.runs[rollouts.run[i]]} · ${origin(i)}${question.type ? ` · ${title(question.type)}` : ""} · ${question.uid}`),
        el("h3", "", question.text || "(no question)"), el("p", "options", ...options)),
      el("div", "split", el("div", "left", picture(i), el("p", "boxkey soft", el("i", "dashed"), "policy", el("i", "solid"), "reference")), trace(i, false)),
      verdictLine(i), rewards(i));
    light(pane);
  }
  /** Pointing at a sentence or a box reference lights its boxes up. */
  function light(pane) {
    for (const [from, to] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
      const trace = pane.querySelector(".trace"), scene = pane.querySelector(".scene");
      if (!trace || !scene) return;
      trace.addEventListener(from, (event) => {
        const source = event.target.closest("[data-box]") ?? event.target.closest(".sentence");
        if (!source) return;
        const numbers = new Set([source, ...source.querySelectorAll("[data-box]")].map((node) => node.dataset.box));
        scene.querySelectorAll("g.predicted").forEach((node) => node.classList.toggle("lit", numbers.has(node.dataset.box)));
      });
      trace.addEventListener(to, () => scene.querySelectorAll(".lit").forEach((node) => node.classList.remove("lit")));
    }
  }

  // ---- siblings ----

  function card(i) {
    const semantic = data.values.semantic_grounding[i], spatial = data.values.spatial_grounding[i];
    const node = el("button", i === selected ? "sibling on" : "sibling",
      el("span", "head", marks(i), el("span", "soft", `S ${plain(semantic)}  G ${plain(spatial)}`), el("span", "advantage", rollouts.advantage[i] === null ? "" : `A ${signed(rollouts.advantage[i])}`)), trace(i, true));
    node.type = "button";
    if (i === selected) node.setAttribute("aria-current", "true");
    node.addEventListener("click", () => select(i, true));
    return node;
  }
  function siblings() {
    const pane = at("siblings");
    if (selected < 0) { pane.replaceChildren(); return; }
    const members = groups.get(rollouts.group[selected]), inGroup = new Set(members);
    const elsewhere = sameQuestion.get(rollouts.question[selected]).filter((i) => !inGroup.has(i));
    const parts = [];
    if (members.length > 1) parts.push(el("h4", "", data.evaluations[rollouts.run[selected]] ? `${members.length} trials that belong together` : `This group: ${members.length} rollouts of one prompt`), ...members.slice(0, SIBLINGS_SHOWN).map(card));
    if (members.length > SIBLINGS_SHOWN) parts.push(el("p", "soft", `and ${members.length - SIBLINGS_SHOWN} more`));
    if (elsewhere.length) {
      parts.push(el("h4", "", "The same question elsewhere"));
      for (const i of elsewhere.slice(0, SIBLINGS_SHOWN)) parts.push(el("p", "from soft", `${data.runs.length > 1 ? `${data.runs[rollouts.run[i]]} · ` : ""}${origin(i)}`), card(i));
    }
    if (!parts.length) parts.push(el("p", "soft", "No other rollout of this question was kept."));
    pane.replaceChildren(...parts);
    pane.scrollTop = 0;
  }

  // ---- controls ----

  function fill(name, options, change) {
    const select = at(name);
    options.forEach((option, number) => { const node = el("option", "", option); node.value = String(number - 1); select.append(node); });
    select.addEventListener("change", () => { change(Number(select.value)); apply(); });
    select.closest("label").hidden = options.length <= 2;
  }
  function controls() {
    fill("run", [data.evaluations.every(Boolean) ? "all models" : "all runs", ...data.runs], (value) => { chosen.run = value; });
    fill("where", [data.evaluations.some(Boolean) ? "everything" : "training and held-out", ...data.wheres], (value) => { chosen.where = value; });
    SORTS.forEach((sort, number) => { const node = el("option", "", sort.name); node.value = String(number); at("sort").append(node); });
    at("sort").addEventListener("change", () => { chosen.sort = Number(at("sort").value); apply(); });
    PRESETS.forEach((preset, number) => {
      const button = el("button", "", preset.name, " ", el("span", "", ""));
      button.type = "button";
      button.title = preset.why;
      button.addEventListener("click", () => { chosen.preset = number; chosen.sort = preset.sort ?? 0; at("sort").value = String(chosen.sort); apply(); });
      at("presets").append(button);
    });
    const steps = [...new Set(rollouts.step)].sort((a, b) => a - b), slider = at("step");
    slider.max = String(steps.length);
    slider.closest("label").hidden = steps.length < 2;
    slider.addEventListener("input", () => {
      chosen.step = Number(slider.value) ? steps[Number(slider.value) - 1] : -1;
      at("step-name").textContent = chosen.step < 0 ? "all steps" : `step ${chosen.step}`;
      slider.setAttribute("aria-valuetext", at("step-name").textContent);
      apply();
    });
    let waiting = 0;
    at("search").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => { chosen.query = at("search").value; apply(); }, 120);
    });
    let painting = 0;
    at("list").addEventListener("scroll", () => { cancelAnimationFrame(painting); painting = requestAnimationFrame(paint); });
    new ResizeObserver(paint).observe(at("list"));
    at("list").addEventListener("keydown", keys);
    document.addEventListener("keydown", (event) => {
      if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) { event.preventDefault(); at("search").focus(); }
    });
  }
  function keys(event) {
    const page = Math.max(1, Math.floor(at("list").clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -shown.length, End: shown.length };
    if (event.key in steps) { event.preventDefault(); move(steps[event.key]); return; }
    if ((event.key === "ArrowLeft" || event.key === "ArrowRight") && selected >= 0) {
      const members = groups.get(rollouts.group[selected]);
      event.preventDefault();
      select(members[(members.indexOf(selected) + (event.key === "ArrowRight" ? 1 : members.length - 1)) % members.length], true);
    }
  }

  /** What a reader sees first: a training rollout of the last step, which has advantages, multipliers and siblings; -1 without any. */
  function first() {
    let found = -1;
    for (let i = 0; i < rollouts.run.length; i++) {
      if (rollouts.advantage[i] !== null && (found < 0 || rollouts.step[i] > rollouts.step[found])) found = i;
    }
    return found;
  }

  async function start() {
    data = await unpack();
    rollouts = data.rollouts;
    derive();
    controls();
    at("loading").remove();
    at("body").hidden = false;
    selected = first();
    apply();
    if (selected >= 0) select(selected, false);
    root.dataset.ready = "yes";
  }
  start().catch((error) => { at("loading").textContent = `The rollouts cannot be shown: ${error.message}. A browser of 2023 or later is needed.`; });
})();
