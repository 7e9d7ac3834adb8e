"use strict";
// The record reader and the training curves. Texts of records enter the document only by `textContent`.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 100, ALIKE = 0.5, LONGEST = 4000;
  const CONTROL = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g;
  const $ = (id) => document.getElementById(id);

  // An element with attributes and children; strings become text.
  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
    }
    element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== ""));
    return element;
  }
  // Text with control and direction characters spelled out.
  const visible = (text) => String(text).replaceAll("\r\n", "\n").replace(CONTROL, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  const block = (text) => make("div", { class: "text", dir: "auto" }, visible(text));
  const dim = (text) => make("p", { class: "dim" }, visible(text));
  const number = (value) => (typeof value === "number" && !Number.isInteger(value) ? value.toFixed(Math.abs(value) >= 20 ? 1 : 3) : String(value));
  const list = (value) => (Array.isArray(value) ? value : value === null || value === undefined ? [] : [value]);
  const probabilities = (found) => Object.entries(found).map(([name, p]) => `${name} ${number(p)}`).join(", ");
  const content = (message) => (typeof message === "string" ? message : message.content);
  const last = (values) => values[values.length - 1];

  // ---- What the filters and the order read, once per record ----

  const answer = (r) => {
    const rounds = list(r.rounds).filter((round) => round.revision !== undefined);
    if (rounds.length) return last(rounds).revision;
    if (r.response !== undefined) return r.response;
    return r.chosen !== undefined ? content(last(list(r.chosen))) : list(r.responses)[0];
  };
  function strings(value, found) {
    if (typeof value === "string") found.push(value);
    else if (value && typeof value === "object") for (const one of Object.values(value)) strings(one, found);
    return found;
  }
  // How much the score grew: over the rounds, or from the first answer to the last that the same model scored.
  function gained(entries) {
    const revised = entries.find((entry) => entry.x.first !== undefined && entry.x.score !== undefined);
    const scored = entries.filter((entry) => entry.r.response !== undefined && entry.x.score !== undefined && !entry.r.rounds);
    const same = scored.filter((entry) => entry.x.scorer === scored[0].x.scorer);
    if (same.length > 1) return last(same).x.score - same[0].x.score;
    return revised ? revised.x.score - revised.x.first : undefined;
  }
  const rows = data.records.map((record, index) => {
    const entries = record.entries.map((entry) => ({ file: entry.f, ...entry.x }));
    return { index, record, entries, gain: gained(record.entries), prompt: list(record.prompt).map(content).join("\n"), text: null };
  });
  // What a search looks through. It is made after the page is shown, or by the first search.
  const searchable = (row) => (row.text ??= [row.record.id, row.prompt, ...strings(row.record.entries.map((entry) => entry.r), [])].join("\n").toLowerCase());
  // The sorted distinct values that `pick` gives of each entry; it gives a list.
  function distinct(pick) {
    const found = new Set();
    for (const row of rows) for (const entry of row.entries) for (const one of pick(entry, row)) found.add(one);
    found.delete(undefined), found.delete(null);
    return [...found].sort();
  }
  const criteria = distinct((entry) => Object.keys(entry.grades || {}));
  const highest = (name) => (row) => row.entries.map((entry) => entry[name]).filter((value) => value !== undefined).sort((a, b) => b - a)[0];
  const graded = (name) => (row) => row.entries.map((entry) => (entry.grades || {})[name]).filter((p) => p !== undefined).sort((a, b) => b - a)[0];
  const ORDERS = {
    "as in the files": (row) => row.index, id: (row) => row.record.id, score: highest("score"),
    "score: last answer minus first": (row) => row.gain, "certainty of the label": highest("certainty"),
    "difference between the orders": highest("position"), "length of the answer": highest("length"),
    ...Object.fromEntries(criteria.map((name) => [`grade ${name}`, graded(name)])),
  };

  // ---- Filters ----

  const choices = {
    kind: ["Kind", distinct((entry, row) => [row.record.kind])],
    file: ["File", distinct((entry) => [data.files[entry.file].name])],
    principle: ["Principle", distinct((entry) => entry.principles || [])],
    flag: ["Flag", distinct((entry) => entry.flags || [])],
    refusal: ["Refusal", distinct((entry) => entry.refusal || [])],
    grade: ["Grade", criteria],
  };
  const controls = {};
  function control(name, label, element) {
    element.id = `filter-${name}`;
    controls[name] = element;
    return make("div", {}, make("label", { for: element.id }, label), element);
  }
  const options = (names, any) => [make("option", { value: "" }, any), ...names.map((name) => make("option", { value: name }, visible(name)))];
  function build() {
    const form = $("filters");
    form.append(control("search", "Search", make("input", { type: "search", autocomplete: "off" })));
    for (const [name, [label, values]] of Object.entries(choices))
      if (values.length) form.append(control(name, label, make("select", {}, options(values, "any"))));
    if (criteria.length)
      form.append(control("least", "Grade at least", make("input", { type: "number", min: 0, max: 1, step: 0.05, value: 0.5 })));
    const usable = Object.keys(ORDERS).filter((name) => rows.some((row) => ORDERS[name](row) !== undefined));
    form.append(control("order", "Order", make("select", {}, usable.map((name) => make("option", { value: name }, name)))));
    form.append(control("direction", "Direction", make("select", {}, make("option", { value: "" }, "rising"), make("option", { value: "falling" }, "falling"))));
    form.append(make("button", { type: "reset" }, "Clear"));
    form.addEventListener("input", () => update());
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(update));
  }
  const value = (name) => (controls[name] ? controls[name].value : "");

  let matching = rows, page = 0, chosen = null;
  function fits(entry, wanted) {
    return (!wanted.file || data.files[entry.file].name === wanted.file)
      && (!wanted.principle || list(entry.principles).includes(wanted.principle))
      && (!wanted.flag || list(entry.flags).includes(wanted.flag))
      && (!wanted.refusal || list(entry.refusal).includes(wanted.refusal))
      && (!wanted.grade || (entry.grades || {})[wanted.grade] >= wanted.least);
  }
  function update() {
    const began = performance.now();
    const wanted = Object.fromEntries(Object.keys(choices).map((name) => [name, value(name)]));
    wanted.least = Number(value("least"));
    const search = value("search").toLowerCase(), any = ["file", "principle", "flag", "refusal", "grade"].some((name) => wanted[name]);
    matching = rows.filter((row) => (!wanted.kind || row.record.kind === wanted.kind)
      && (!any || row.entries.some((entry) => fits(entry, wanted))) && (!search || searchable(row).includes(search)));
    const key = ORDERS[value("order")] || ORDERS["as in the files"], sign = value("direction") ? -1 : 1;
    if (value("order") !== "as in the files" || sign < 0) {
      const keyed = matching.map((row) => [key(row), row]);
      const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
      keyed.sort(([a, x], [b, y]) => (a === undefined) - (b === undefined) || (a === undefined ? 0 : sign * compare(a, b)) || x.index - y.index);
      matching = keyed.map(([, row]) => row);
    }
    page = 0;
    draw();
    remember();
    document.documentElement.dataset.filtered = (performance.now() - began).toFixed(1);
  }

  // ---- The list ----

  function draw() {
    const shown = matching.slice(page * PAGE, (page + 1) * PAGE), by = value("order"), key = ORDERS[by];
    const extra = by && by !== "as in the files" && by !== "id";
    $("count").textContent = `${matching.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} records`;
    const head = make("thead", {}, make("tr", {}, ["Record", "Kind", ...(extra ? [by] : []), "Prompt"].map((name) => make("th", { scope: "col" }, name))));
    const body = make("tbody", {}, shown.map((row) => make("tr", { "aria-current": row === chosen ? "true" : null },
      make("td", {}, make("button", { type: "button", onclick: () => open(row, true) }, visible(row.record.id))),
      make("td", {}, visible(row.record.kind ?? "")),
      extra ? make("td", { class: "number" }, key(row) === undefined ? "" : number(key(row))) : null,
      make("td", {}, visible(row.prompt.slice(0, 120))))));
    $("list").replaceChildren(make("caption", {}, "Matching records"), head, body);
    const pages = Math.ceil(matching.length / PAGE);
    const turn = (step, label) => make("button", { type: "button", disabled: page + step < 0 || page + step >= pages ? "" : null,
      onclick: () => { page += step; draw(); } }, label);
    $("pages").replaceChildren(...(pages > 1 ? [turn(-1, "Previous page"), `Page ${page + 1} of ${pages}`, turn(1, "Next page")] : []));
  }

  // ---- One record ----

  // Words that `after` adds and removes, as [kind, text]; null if the two have little in common or are very long.
  function difference(before, after) {
    const a = before.split(/(\s+)/).filter(Boolean), b = after.split(/(\s+)/).filter(Boolean);
    if (a.length > LONGEST || b.length > LONGEST) return null;
    const width = b.length + 1, table = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        table[i * width + j] = a[i] === b[j] ? table[(i + 1) * width + j + 1] + 1 : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    const words = (all) => all.filter((token) => token.trim());
    let common = 0;
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (a[i] === b[j]) { common += a[i].trim() ? 1 : 0; i++; j++; }
      else if (table[(i + 1) * width + j] >= table[i * width + j + 1]) i++;
      else j++;
    }
    if (2 * common < ALIKE * (words(a).length + words(b).length)) return null;
    const parts = [];
    const add = (kind, text) => (parts.length && last(parts)[0] === kind ? (last(parts)[1] += text) : parts.push([kind, text]));
    let i = 0, j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) { add("same", a[i++]); j++; }
      else if (j >= b.length || (i < a.length && table[(i + 1) * width + j] >= table[i * width + j + 1])) add("del", a[i++]);
      else add("ins", b[j++]);
    }
    return parts;
  }
  // What a revision says about itself, and its text, with the changed words marked if the two texts have much in common.
  function revised(before, after, score) {
    const parts = before === undefined ? null : difference(before, after), title = score === undefined ? "Revision" : `Revision, score ${number(score)}`;
    if (before === after) return [dim(`${title}: the same text`), block(after)];
    if (!parts) return [dim(`${title}: rewritten, so no words are marked`), block(after)];
    return [dim(`${title}: removed and added words are marked`),
      make("div", { class: "text", dir: "auto" }, parts.map(([kind, text]) => (kind === "same" ? visible(text) : make(kind, {}, visible(text)))))];
  }
  const origin = (entry) => `${data.files[entry.f].name}, line ${entry.l}`;
  function principle(id, kind) {
    const text = (data.principles[id] || {})[kind];
    return make("p", { class: "dim" }, `Principle ${visible(id)}${text ? ": " : ""}`, make("em", {}, visible(text || "")));
  }
  const reasoning = (text) => (text ? make("details", {}, make("summary", {}, "Reasoning"), block(text)) : null);

  const messages = (turns) => list(turns).flatMap((turn) => (typeof turn === "string" ? [block(turn)] : [dim(turn.role), block(turn.content)]));
  // The conversation of an entry, if it is not the one that stands above all entries.
  const own = (r) => (r.prompt ? make("details", {}, make("summary", {}, "Its conversation"), messages(r.prompt)) : null);

  function answers(entries) {
    const shown = entries.filter((entry) => entry.r.response !== undefined && entry.r.step === undefined);
    if (!shown.length) return [];
    return [make("h3", {}, shown.length > 1 ? "Answers side by side" : "Answer"), make("div", { class: "answers" }, shown.map((entry) => {
      const r = entry.r, file = data.files[entry.f], count = list(r.rounds).length;
      const maker = [entry.f, ...entry.from.map(([before]) => before)].map((i) => data.files[i]).find((one) => ["sample", "revise"].includes(one.step));
      const facts = [maker && maker.model && `model ${maker.model}`];
      if (count) facts.push(`after ${count} round${count > 1 ? "s" : ""}`);
      if (entry.x.score !== undefined) facts.push(`score ${number(entry.x.score)}`);
      const made = count ? ((last(r.rounds).meta || {}).revision || {}) : ((r.meta || {}).response || {});
      if (made.finish === "length") facts.push("cut at --max-tokens");
      facts.push(...(entry.x.refusal || []));
      return make("div", {}, make("h4", {}, visible(file.name)), dim(facts.filter(Boolean).join(" · ")),
        own(r), reasoning(typeof r.reasoning === "string" ? r.reasoning : ""), block(answer(r)), grades(r));
    }))];
  }
  function grades(r) {
    return Object.entries(r.grades || {}).flatMap(([name, found]) =>
      list(found).map((one, i) => dim(`${name}${Array.isArray(found) ? `, answer ${i + 1}` : ""}: ${probabilities(one)}`)));
  }
  function rounds(entry) {
    const scores = (entry.r.scores || {}).rounds || [];
    let before = entry.r.response;
    const parts = list(entry.r.rounds).flatMap((round, i) => {
      const why = round.reasoning || {}, flags = list(round.flags).length ? ` · flags: ${round.flags.join(", ")}` : "";
      const made = [make("h4", {}, `Round ${i + 1}${flags}`), principle(round.principle, "critique")];
      if (round.critique !== undefined) made.push(dim("Critique"), reasoning(why.critique), block(round.critique));
      if (round.revision !== undefined) {
        made.push(reasoning(why.revision), ...revised(before, round.revision, scores[i]));
        before = round.revision;
      }
      return made;
    });
    return parts.length ? [make("h3", {}, `Rounds: ${origin(entry)}`), dim(entry.x.first === undefined ? "Response" : `Response, score ${number(entry.x.first)}`), block(entry.r.response ?? ""), ...parts] : [];
  }
  // The texts that an entry compares, each as [title, messages, score].
  function compared(r, label) {
    const scores = r.scores || {}, per = scores.responses || [];
    if (r.responses) {
      const right = r.judged && r.judged.correct;
      return r.responses.map((text, i) => [[`answer ${i + 1}`, r.models && r.models[i], label && label.pair && label.pair[0] === i && "first of the label",
        label && label.pair && label.pair[1] === i && "second of the label", right === i && "right"], [text], per[i]]);
    }
    return ["chosen", "rejected"].filter((side) => r[side] !== undefined).map((side) => {
      const p = side === "chosen" && r.p_chosen !== undefined && !(r.label || {}).identical && `p ${number(r.p_chosen)}`;
      return [[side, p], r.prompt || typeof r[side] === "string" ? [content(last(list(r[side])))] : r[side], scores[side]];
    });
  }
  function comparison(entry, prompt) {
    const r = entry.r, named = [["Label", r.label], ["Choice", r.judged], ...Object.entries(r.comparisons || {})];
    const labels = named.filter(([, label]) => label && label.orders);
    if (!labels.length && !r.responses && r.chosen === undefined) return [];
    const shown = compared(prompt ? { ...r, prompt } : r, r.label), judged = r.judged || {};
    const facts = [judged.p_correct !== undefined && `p of the right answer ${number(judged.p_correct)}`,
      judged.p_correct_per_byte !== undefined && `per byte ${number(judged.p_correct_per_byte)}`,
      judged.log_likelihoods && `log-likelihoods ${judged.log_likelihoods.map(number).join(", ")}`].filter(Boolean);
    return [
      make("h3", {}, `Comparison: ${origin(entry)}`), own(r),
      make("div", { class: "answers" }, shown.map(([titles, turns, score]) => make("div", {},
        dim([...titles, score !== undefined && score !== null && `score ${number(score)}`].filter(Boolean).join(" · ")), messages(turns)))),
      facts.length ? dim(facts.join("; ")) : null,
      ...labels.flatMap(([name, label]) => [
        dim(`${name}: p of the first answer ${number(label.p_first)}${Object.keys(label.orders).length ? `; by order: ${probabilities(label.orders)}` : ""}`
          + (label.by_principle ? `; by principle: ${probabilities(label.by_principle)}` : "") + (label.identical ? "; the two are the same text" : "")),
        ...list(label.principles).map((id) => principle(id, "compare")),
        ...list(label.reasoning).map((one) => make("details", {},
          make("summary", {}, `The judge's reasoning by ${visible(one.principle)}, order ${one.order}, p of the first ${number(one.p_first)}`), block(one.text))),
      ]),
      ...(r.response === undefined ? grades(r) : []),
    ];
  }
  function conversation(entry) {
    const turns = [...list(entry.r.messages), ...list(entry.r.completion)];
    return turns.length ? [make("h3", {}, `Conversation: ${origin(entry)}`), own(entry.r), ...messages(turns)] : [];
  }
  function samples(entries) {
    const shown = entries.filter((entry) => entry.r.step !== undefined && entry.r.response !== undefined);
    return shown.length ? [make("details", {}, make("summary", {}, `Answers during RL: ${shown.length}`), shown.flatMap((entry) =>
      [dim(`${origin(entry)} · step ${entry.r.step} · reward ${number(entry.r.reward)}`), block(entry.r.response)]))] : [];
  }
  function lineage(entries) {
    return [make("h3", {}, "Lineage"), make("ul", {}, entries.map((entry) => make("li", {}, visible([[entry.f, entry.l], ...entry.from].map(
      ([file, line]) => `${data.files[file].name}:${line}${data.files[file].step ? ` (cai ${data.files[file].step})` : ""}`).join(" ← ")))))];
  }
  function open(row, focus) {
    chosen = row;
    const { record } = row, entries = record.entries, place = matching.indexOf(row);
    const go = (step, label) => make("button", { type: "button", disabled: matching[place + step] ? null : "",
      onclick: () => { page = Math.floor((place + step) / PAGE); open(matching[place + step], true); } }, label);
    const shown = make("div", {},
      make("h3", {}, visible(`${record.id}${record.kind ? ` · ${record.kind}` : ""}`)), make("p", {}, go(-1, "Previous record"), " ", go(1, "Next record")),
      ...messages(record.prompt),
      ...answers(entries), ...entries.flatMap(rounds), ...entries.flatMap((entry) => comparison(entry, record.prompt)), ...entries.flatMap(conversation), ...samples(entries), ...lineage(entries),
      make("details", {}, make("summary", {}, "JSON"), make("pre", { tabindex: 0 }, visible(JSON.stringify(record, null, 2)))));
    $("record").replaceChildren(shown);
    draw();
    remember();
    if (focus) $("record").focus();
  }

  // ---- The address holds the filters and the record, so that a link and a reload keep them ----

  function remember() {
    const state = new URLSearchParams();
    for (const name of Object.keys(controls)) if (value(name) && value(name) !== controls[name].dataset.first) state.set(name, value(name));
    if (chosen) state.set("record", chosen.record.id);
    history.replaceState(null, "", state.size ? `#${state}` : location.pathname + location.search);
  }
  function restore() {
    const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const [name, element] of Object.entries(controls)) {
      element.dataset.first = element.value;
      if (state.has(name)) element.value = state.get(name);
    }
    return rows.find((row) => row.record.id === state.get("record"));
  }

  // ---- Training curves ----

  const brief = (value) => (value && Math.abs(value) < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(4))));
  function curves() {
    const color = getComputedStyle(document.body).color, line = getComputedStyle(document.documentElement).getPropertyValue("--line");
    const link = getComputedStyle(document.documentElement).getPropertyValue("--link");
    for (const { name, columns } of data.curves) {
      const holder = make("div", { class: "model" });
      $("curves").append(make("h3", {}, visible(name)), holder);
      for (const [metric, values] of Object.entries(columns)) {
        const known = values.filter((one) => one !== null);
        if (["step", "tokens", "seconds"].includes(metric) || !known.length) continue;
        const label = `${metric} of ${name}: ${number(known[0])} at first, ${number(last(known))} at last, from ${number(Math.min(...known))} to ${number(Math.max(...known))}`;
        const place = make("div", { role: "img", "aria-label": visible(label) });
        holder.append(place);
        const axis = { stroke: color, grid: { stroke: line }, ticks: { stroke: line }, size: 60, values: (_, ticks) => ticks.map((tick) => brief(tick)) };
        new uPlot({
          title: metric, width: Math.min(420, Math.max(260, holder.clientWidth / Math.max(1, Math.floor(holder.clientWidth / 330)) - 10)), height: 190,
          scales: { x: { time: false }, y: { range: (_, low, high) => (low === high ? [low - 1, high + 1] : uPlot.rangeNum(low, high, 0.1, true)) } }, legend: { live: true }, cursor: { sync: { key: name } }, axes: [axis, axis],
          series: [{ label: "step" }, { label: metric, value: (_, found) => (found === null ? "" : brief(found)), stroke: link, width: 1.5, spanGaps: true, points: { show: known.length < 40 } }],
        }, [columns.step, values], place);
      }
    }
  }
  // Loads the page again when the run has changed: at once if nobody is reading, else when the button is pressed.
  function follow() {
    $("changed").querySelector("button").addEventListener("click", () => location.reload());
    const timer = setInterval(async () => {
      const found = await fetch("version").then((reply) => reply.text()).catch(() => data.version);
      if (found === data.version) return;
      clearInterval(timer);
      const reading = chosen || window.scrollY > 50 || document.activeElement !== document.body || document.querySelector("details[open]");
      if (reading) $("changed").hidden = false;
      else location.reload();
    }, 3000);
  }

  build();
  addEventListener("hashchange", () => location.hash.includes("=") || remember()); // a link to a section must not lose the filters
  const asked = restore();
  update();
  if (asked) {
    page = Math.max(0, Math.floor(matching.indexOf(asked) / PAGE));
    open(asked, false);
  }
  document.documentElement.dataset.opened = performance.now().toFixed(0);
  setTimeout(curves);
  setTimeout(() => rows.forEach(searchable));
  if (data.version && location.protocol.startsWith("http")) follow();
})();
