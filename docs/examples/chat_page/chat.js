/**
 * The chat page. A question goes out once, by fetch and POST, and its answer is read from the reply's event stream.
 * EventSource is not used: it would connect again by itself and ask the model a second time.
 *
 * Nothing that a model wrote is ever parsed as HTML: Markdown becomes elements and text nodes, one by one.
 */

// ---------------------------------------------------------------------------------------------------------- elements

/** A new element with these attributes and children; strings become text. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Makes `old` equal to `fresh`, keeping every node that can stay, and with it selection, focus and scroll position. */
function patch(old, fresh) {
  if (old.isEqualNode(fresh)) return old;
  if (old.nodeType === Node.TEXT_NODE && fresh.nodeType === Node.TEXT_NODE) {
    if (fresh.data.startsWith(old.data)) old.appendData(fresh.data.slice(old.data.length));
    else old.data = fresh.data;
    return old;
  }
  if (!old.cloneNode(false).isEqualNode(fresh.cloneNode(false))) {
    old.replaceWith(fresh);
    return fresh;
  }
  const nodes = [...old.childNodes];
  const wanted = [...fresh.childNodes];
  wanted.forEach((child, index) => (index < nodes.length ? patch(nodes[index], child) : old.append(child)));
  nodes.slice(wanted.length).forEach((child) => child.remove());
  return old;
}

// --------------------------------------------------------------------------------------------------- Markdown, inline

const MAX_DEPTH = 12; // deeper nesting stays text: no answer needs it, and a browser's own stack is limited
const SAFE_PROTOCOLS = new Set(["http:", "https:", "mailto:"]);
const ENTITIES = {
  ...{ amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", shy: "\u00ad" },
  ...{ ndash: "–", mdash: "—", hellip: "…", bull: "•", middot: "·", laquo: "«", raquo: "»", para: "¶", sect: "§" },
  ...{ lsquo: "‘", rsquo: "’", sbquo: "‚", ldquo: "“", rdquo: "”", bdquo: "„", copy: "©", reg: "®", trade: "™" },
  ...{ larr: "←", uarr: "↑", rarr: "→", darr: "↓", harr: "↔", rArr: "⇒", check: "✓", deg: "°", micro: "µ" },
  ...{ times: "×", divide: "÷", plusmn: "±", minus: "−", le: "≤", ge: "≥", ne: "≠", asymp: "≈", infin: "∞" },
  ...{ cent: "¢", pound: "£", yen: "¥", euro: "€", frac12: "½", frac14: "¼", frac34: "¾", sup2: "²", sup3: "³" },
};

const PLAIN = /[^\\`*_~[\]!<&$\nh]+/y;
// A single dollar is more often a price or a shell's variable: its formula touches both, and no word or digit follows.
const MATH = [
  /\\\([^`]{1,2000}?\\\)/,
  /\\\[[^`]{1,2000}?\\\]/,
  /(?<!\$)\$\$(?!\s*[$),.;:!?|])[^`]{1,2000}?\$\$(?!\$)/,
  /(?<![\w$])\$(?![\s$])(?:\\[^\n`]|[^$\n`\\]){1,500}(?<!\s)\$(?:(?![\w{(])|(?=(?:th|st|nd|rd|s)\b))/,
];
const FORMULA = new RegExp(MATH.map(({ source }) => source).join("|"), "y");
const ESCAPE = /\\([!-/:-@[-`{-~])/y;
const ENTITY = /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|(\w{2,8}));/y;
const BREAK_TAG = /<br *\/?>/iy;
const ANGLE_LINK = /<((?:https?:\/\/|mailto:)[^\s<>]*)>/iy;
const BARE_LINK = /https?:\/\/(?:[^\s<>()[\]]+|\([^\s<>()[\]]*\))+/y;
const TARGET =
  /\(\s*(?:<([^<>\n]*)>|([^\s()<]+(?:\([^\s()]*\)[^\s()]*)*))(?:\s+("[^"]*"|'[^']*'|\([^()]*\)))?\s*\)/y;

/** The address if a link may go there, else null. */
function safeAddress(text) {
  try {
    const address = new URL(text);
    return SAFE_PROTOCOLS.has(address.protocol) ? address.href : null;
  } catch {
    return null;
  }
}

function link(address, ...children) {
  return element("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

/**
 * One run of text with emphasis, code, links and breaks, as a fragment. Delimiters are text nodes in the fragment until
 * their partner turns up, as in CommonMark; each is looked at a bounded number of times, whatever the text is.
 */
class Inline {
  constructor(source) {
    this.source = source;
    this.at = 0;
    this.plain = "";
    this.out = document.createDocumentFragment();
    this.delimiters = [];
    this.brackets = [];
    this.unclosed = new Set();
    this.depths = new WeakMap();
  }

  parse() {
    while (this.at < this.source.length) {
      if (!this.special(this.source[this.at])) this.plain += this.source[this.at++];
      this.plain += this.take(PLAIN)?.[0] ?? "";
    }
    this.flush();
    this.pair(0);
    this.out.normalize();
    return this.out;
  }

  /** Reads what starts with a character that may mean something; false where it is just that character. */
  special(character) {
    switch (character) {
      case "$":
        return this.math();
      case "\\":
        return this.math() || this.escape();
      case "`":
        return this.code();
      case "*":
      case "_":
      case "~":
        return this.delimiter(character);
      case "!":
        return this.source[this.at + 1] === "[" && this.open("![");
      case "[":
        return this.open("[");
      case "]":
        return this.close();
      case "<":
        return this.angle();
      case "&":
        return this.entity();
      case "\n":
        return this.lineEnd();
      case "h":
        return this.bareLink();
      default:
        return false;
    }
  }

  take(pattern) {
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.source);
    if (match) this.at = pattern.lastIndex;
    return match;
  }

  flush() {
    if (this.plain) this.out.append(this.plain);
    this.plain = "";
  }

  add(node) {
    this.flush();
    this.out.append(node);
    return true;
  }

  /** A formula stays as it was written: its backslashes and underscores are no Markdown. */
  math() {
    const match = this.take(FORMULA);
    return match !== null && this.add(element("code", { class: "math", dir: "ltr" }, match[0]));
  }

  escape() {
    if (this.source[this.at + 1] === "\n") {
      this.at += 2;
      this.add(element("br"));
      return this.add("\n");
    }
    const match = this.take(ESCAPE);
    this.plain += match?.[1] ?? "";
    return match !== null;
  }

  entity() {
    const start = this.at;
    const match = this.take(ENTITY);
    if (!match) return false;
    const [, decimal, hexadecimal, name] = match;
    if (name && !Object.hasOwn(ENTITIES, name)) {
      this.at = start;
      return false;
    }
    const point = decimal ? Number(decimal) : parseInt(hexadecimal, 16);
    this.plain += name ? ENTITIES[name] : point > 0 && point <= 0x10ffff ? String.fromCodePoint(point) : "\ufffd";
    return true;
  }

  lineEnd() {
    const kept = this.plain.trimEnd();
    const hard = this.plain.length - kept.length >= 2;
    this.plain = kept;
    if (hard) this.add(element("br"));
    this.plain += "\n";
    this.at++;
    return true;
  }

  code() {
    const mark = this.take(/`+/y)[0];
    if (!this.unclosed.has(mark.length)) {
      const runs = /`+/g;
      runs.lastIndex = this.at;
      for (let run = runs.exec(this.source); run; run = runs.exec(this.source)) {
        if (run[0].length !== mark.length) continue;
        let text = this.source.slice(this.at, run.index).replaceAll("\n", " ");
        if (text.startsWith(" ") && text.endsWith(" ") && text.trim()) text = text.slice(1, -1);
        this.at = runs.lastIndex;
        return this.add(element("code", { dir: "ltr" }, text));
      }
      this.unclosed.add(mark.length);
    }
    this.plain += mark;
    return true;
  }

  angle() {
    if (this.take(BREAK_TAG)) return this.add(element("br"));
    const match = this.take(ANGLE_LINK);
    if (!match) return false;
    const address = safeAddress(match[1]);
    return this.add(address ? link(address, match[1]) : match[0]);
  }

  bareLink() {
    if (/\w/.test(this.source[this.at - 1] ?? "")) return false;
    const start = this.at;
    const match = this.take(BARE_LINK);
    if (!match) return false;
    let text = match[0];
    while (/[.,:;"'!?*_~|`\\]/.test(text.at(-1))) text = text.slice(0, -1);
    const address = safeAddress(text);
    this.at = start + (address ? text.length : 0);
    return address !== null && this.add(link(address, text));
  }

  open(mark) {
    const node = document.createTextNode(mark);
    this.add(node);
    this.brackets.push({ node, image: mark === "![", active: true, delimiters: this.delimiters.length });
    this.at += mark.length;
    return true;
  }

  close() {
    const opener = this.brackets.pop();
    if (!opener?.active) return false;
    const start = this.at++;
    const match = this.take(TARGET);
    const address = match && safeAddress((match[1] ?? match[2]).replaceAll("&amp;", "&"));
    if (!address) {
      this.at = start;
      return false;
    }
    this.flush();
    this.pair(opener.delimiters);
    const anchor = link(address);
    if (match[3]) anchor.title = match[3].slice(1, -1);
    while (opener.node.nextSibling) anchor.append(opener.node.nextSibling);
    opener.node.remove();
    for (const inner of anchor.querySelectorAll("a")) inner.replaceWith(...inner.childNodes);
    if (opener.image) {
      anchor.className = "image";
      if (!anchor.textContent.trim()) anchor.textContent = "image";
    } else {
      // A link holds no other link.
      for (const outer of this.brackets) outer.active &&= outer.image;
    }
    this.depths.set(anchor, this.depth(anchor));
    return this.add(anchor);
  }

  delimiter(character) {
    const start = this.at;
    while (this.source[this.at] === character) this.at++;
    const length = this.at - start;
    const mark = character.repeat(length);
    const before = /.$/su.exec(this.source.slice(Math.max(0, start - 2), start))?.[0] ?? " ";
    const after = String.fromCodePoint(this.source.codePointAt(this.at) ?? 0x20);
    let opens = !/\s/.test(after);
    let closes = !/\s/.test(before);
    if (character === "_") {
      // An underscore inside a word is part of a name.
      [opens, closes] = [opens && /[\s\p{P}\p{S}]/u.test(before), closes && /[\s\p{P}\p{S}]/u.test(after)];
    }
    if (character === "~" && length !== 2) opens = closes = false;
    if (!opens && !closes) {
      this.plain += mark;
      return true;
    }
    const node = document.createTextNode(mark);
    this.delimiters.push({ node, character, length, count: length, opens, closes });
    return this.add(node);
  }

  /** Pairs the delimiters from this index on, and forgets them. */
  pair(from) {
    const openers = [];
    const bottoms = {}; // for each kind of closer, how many of the openers are known not to match
    for (const closer of this.delimiters.splice(from)) {
      const kind = `${closer.character}${closer.opens}${closer.length % 3}`;
      while (closer.closes && closer.count) {
        const bottom = bottoms[kind] ?? 0;
        let index = openers.length - 1;
        while (index >= bottom && !Inline.matches(openers[index], closer)) index--;
        if (index < bottom) {
          bottoms[kind] = openers.length;
          break;
        }
        this.emphasise(openers[index], closer);
        openers.length = index + (openers[index].count ? 1 : 0);
        for (const each in bottoms) bottoms[each] = Math.min(bottoms[each], openers.length);
      }
      if (closer.opens && closer.count) openers.push(closer);
    }
  }

  static matches(opener, closer) {
    if (opener.character !== closer.character) return false;
    // CommonMark's rule of three: **a*b** is not an emphasis that ends inside the bold.
    const inside = opener.closes || closer.opens;
    return !(inside && (opener.length + closer.length) % 3 === 0 && opener.length % 3 !== 0);
  }

  emphasise(opener, closer) {
    const marks = opener.count > 1 && closer.count > 1 ? 2 : 1;
    const node = element(opener.character === "~" ? "del" : marks === 2 ? "strong" : "em");
    let depth = 0;
    for (let each = opener.node.nextSibling; each !== closer.node; each = each.nextSibling) {
      depth = Math.max(depth, this.depths.get(each) ?? 0);
    }
    if (depth >= MAX_DEPTH) {
      opener.count = closer.count = 0;
      return;
    }
    this.depths.set(node, depth + 1);
    while (opener.node.nextSibling !== closer.node) node.append(opener.node.nextSibling);
    closer.node.before(node);
    for (const delimiter of [opener, closer]) {
      delimiter.count -= marks;
      delimiter.node.data = delimiter.character.repeat(delimiter.count);
    }
  }

  depth(node) {
    return 1 + Math.max(0, ...[...node.childNodes].map((child) => this.depths.get(child) ?? 0));
  }
}

const inline = (source) => new Inline(source).parse();

// --------------------------------------------------------------------------------------------------- Markdown, blocks

const FENCE = /^\s*(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^\s*(#{1,6})(?=\s|$)/;
const RULE = /^\s*([-*_])(?:\s*\1){2,}\s*$/;
const SETEXT = /^\s*(={2,}|-{3,})\s*$/;
const QUOTE = /^\s*>/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(?=\s|$)/;
const DISPLAY = /^\s*(\$\$(?!\$)|\\\[)(.*)$/;
const UNDERLINE = /^[\s|:=-]+$/;
const MARKERS = /^(?:\s*(?:>|(?:[-*+]|\d{1,9}[.)])(?=\s)))*\s*/;
const DELIMITER_ROW = /^[\s|:-]*-[\s|:-]*$/;

/** How many columns the line is indented; a tab reaches the next multiple of four. */
function indentation(line) {
  let columns = 0;
  for (const character of line) {
    if (character === " ") columns++;
    else if (character === "\t") columns += 4 - (columns % 4);
    else break;
  }
  return columns;
}

/** The line without up to so many columns of its indentation. */
function outdent(line, columns) {
  let at = 0;
  let gone = 0;
  for (; gone < columns && (line[at] === " " || line[at] === "\t"); at++) {
    gone += line[at] === "\t" ? 4 - (gone % 4) : 1;
  }
  return " ".repeat(Math.max(0, gone - columns)) + line.slice(at);
}

/** The blocks of these lines, each with the line that it starts at. What a block is depends on two lines at most. */
function* blocks(lines, depth = 0) {
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const [node, end] = block(lines, at, depth);
    // The outermost block only: what has a direction of its own says nothing of that of the list or quote around it.
    if (depth === 0) node.dir ||= "auto";
    yield { start: at, node };
    at = end;
  }
}

/** The block that starts at this line, and the line after it. */
function block(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return fence(lines, at);
  if (formulaEnd(line)) return formula(lines, at);
  // Models indent lists and fences too far more often than they mean such code.
  if (indentation(line) >= 4 && !ITEM.test(line) && !startsTable(lines, at)) return indentedCode(lines, at);
  if (HEADING.test(line)) return [heading(line), at + 1];
  if (RULE.test(line)) return [element("hr"), at + 1];
  if (startsTable(lines, at)) return table(lines, at);
  if (depth < MAX_DEPTH && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return list(lines, at, depth);
  return paragraph(lines, at);
}

function startsBlock(lines, at) {
  const line = lines[at];
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || formulaEnd(line)) return true;
  const item = ITEM.exec(line);
  // A line of prose may begin with a year and a full stop: only a list that starts at 1 interrupts a paragraph.
  if (item && line.length > item[0].length + 1 && /^(\D|1[.)]$)/.test(item[2])) return true;
  return startsTable(lines, at);
}

/** Reads a quote's or an item's lines one by one, and tells of each whether it is text that the next may continue. */
function textReader() {
  let closes = null; // where the line stands in code, a formula or a table: whether it is the last there
  return (line) => {
    const text = line.replace(MARKERS, "").trimEnd();
    if (closes) {
      if (closes(text)) closes = null;
      return false;
    }
    const [, mark] = FENCE.exec(text) ?? [];
    const end = formulaEnd(text);
    if (mark) closes = (next) => closesFence(next, mark);
    else if (end && !text.slice(2).includes(end)) closes = (next) => next.includes(end);
    else if (DELIMITER_ROW.test(text) && text.includes("|")) closes = (next) => !next.includes("|");
    else return text !== "" && !end && !HEADING.test(text) && !UNDERLINE.test(text) && !RULE.test(line);
    return false;
  };
}

/** Whether a line without a quote's mark or an item's indentation still continues its last paragraph. */
function continues(lines, at) {
  return !ITEM.test(lines[at]) && !UNDERLINE.test(lines[at]) && !startsBlock(lines, at);
}

function paragraph(lines, at) {
  let end = at + 1;
  let underline = null;
  while (end < lines.length && lines[end].trim()) {
    underline = SETEXT.exec(lines[end]);
    if (underline || startsBlock(lines, end)) break;
    end++;
  }
  const text = lines.slice(at, end).map((line) => line.trimStart()).join("\n");
  const name = underline ? (underline[1][0] === "=" ? "h3" : "h4") : "p";
  return [element(name, {}, inline(text.trimEnd())), underline ? end + 1 : end];
}

/** Headings start at h3: the page's own are h1 and h2. */
function heading(line) {
  const marks = HEADING.exec(line);
  const text = line.slice(marks[0].length).trim().replace(/(^|\s)#+$/, "").trimEnd();
  return element(`h${Math.min(6, marks[1].length + 2)}`, {}, inline(text));
}

function closesFence(line, mark) {
  return line.length >= mark.length && line === mark[0].repeat(line.length);
}

/** A fence that is not closed yet, or never, is code up to the end. */
function fence(lines, at) {
  const [, mark, info] = FENCE.exec(lines[at]);
  const columns = indentation(lines[at]);
  let end = at + 1;
  while (end < lines.length && !closesFence(lines[end].trim(), mark)) end++;
  const closed = end < lines.length;
  const text = lines.slice(at + 1, end).map((line) => outdent(line, columns)).join("\n");
  return [code(closed ? text : text.replace(/\n$/, ""), info.trim().split(/\s/)[0].slice(0, 40)), end + (closed ? 1 : 0)];
}

function indentedCode(lines, at) {
  let end = at + 1;
  for (let next = end; next < lines.length; next++) {
    if (!lines[next].trim()) continue;
    if (indentation(lines[next]) < 4) break;
    end = next + 1;
  }
  return [code(lines.slice(at, end).map((line) => outdent(line, 4)).join("\n"), ""), end];
}

/** What ends the formula that this line starts, else null: one that is over before its line is stands in a text. */
function formulaEnd(line) {
  const [, mark, rest] = DISPLAY.exec(line) ?? [];
  if (!mark) return null;
  const closer = mark === "$$" ? "$$" : "\\]";
  const at = rest.indexOf(closer);
  if (at >= 0) return /^[\s.,;:!?]*$/.test(rest.slice(at + 2)) ? closer : null;
  // In "\[x](address)" it was only meant not to be a link.
  return mark === "\\[" && /^[^[\]]*\]/.test(rest) ? null : closer;
}

/** Up to the end of the formula, as far as it came. Where its mark has a line of its own, it may hold empty lines. */
function formula(lines, at) {
  const closer = formulaEnd(lines[at]);
  const [, , rest] = DISPLAY.exec(lines[at]);
  let end = at + 1;
  if (!rest.includes(closer)) {
    const alone = !rest.trim();
    while (end < lines.length && !lines[end].includes(closer) && (alone || lines[end].trim())) end++;
    if (lines[end]?.includes(closer)) end++;
  }
  const columns = indentation(lines[at]);
  const text = lines.slice(at, end).map((line) => outdent(line, columns)).join("\n").trimEnd();
  const attributes = { class: "math", dir: "ltr", tabindex: "0", role: "group", "aria-label": "Formula" };
  return [element("pre", attributes, element("code", {}, text)), end];
}

function code(text, language) {
  const label = language ? `Code, ${language}` : "Code";
  return element(
    "div",
    { class: "code", dir: "ltr" },
    element(
      "div",
      { class: "code-head" },
      element("span", {}, language || "code"),
      element("button", { type: "button", class: "copy", "aria-label": "Copy code" }, "Copy"),
    ),
    element("pre", { tabindex: "0", role: "group", "aria-label": label }, element("code", {}, text)),
  );
}

function quote(lines, at, depth) {
  let end = at;
  const inner = [];
  const read = textReader();
  for (let text = false; end < lines.length; end++) {
    if (!QUOTE.test(lines[end]) && !(text && lines[end].trim() && continues(lines, end))) break;
    inner.push(lines[end].replace(/^\s*> ?/, ""));
    text = read(inner.at(-1));
  }
  const children = [...blocks(inner, depth + 1)].map(({ node }) => node);
  return [element("blockquote", {}, ...children), end];
}

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at])[2];
  const start = parseInt(first, 10);
  const node = element(start >= 0 ? "ol" : "ul", start >= 0 && start !== 1 ? { start } : {});
  let end = at;
  for (let next = at; next < lines.length; ) {
    const marker = ITEM.exec(lines[next]);
    if (marker?.[2].at(-1) !== first.at(-1) || RULE.test(lines[next])) break;
    let child;
    [child, end] = item(lines, next, marker, depth);
    node.append(child);
    next = end;
    while (next < lines.length && !lines[next].trim()) next++;
  }
  return [node, end];
}

function item(lines, at, [marked, space, marker], depth) {
  const rest = lines[at].slice(marked.length);
  const outer = indentation(space);
  const padding = rest.trim() ? indentation(rest) : 1;
  const inner = outer + marker.length + (padding > 4 ? 1 : padding);
  const task = /^\s+\[([ xX])\](?=\s)/.exec(rest);
  const body = [task ? (task[1] === " " ? "☐" : "☑") + rest.slice(task[0].length) : rest.trimStart()];
  const read = textReader();
  let text = read(body[0]);
  let end = at + 1;
  for (let next = end; next < lines.length; next++) {
    // Two columns are enough, also after "1. ": models often indent by less than CommonMark wants.
    const outside = lines[next].trim() && indentation(lines[next]) < Math.min(inner, outer + 2);
    if (outside && !(text && continues(lines, next))) break;
    body.push(outdent(lines[next], inner));
    text = read(body.at(-1));
    if (lines[next].trim()) end = next + 1;
  }
  body.length = end - at;
  const node = element("li", task ? { class: "task" } : {}, ...[...blocks(body, depth + 1)].map((each) => each.node));
  const paragraphs = [...node.children].filter((child) => child.tagName === "P");
  if (paragraphs.length === 1) paragraphs[0].replaceWith(...paragraphs[0].childNodes);
  return [node, end];
}

function cells(line) {
  const row = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return row.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function startsTable(lines, at) {
  if (at + 1 >= lines.length || !lines[at].includes("|") || !DELIMITER_ROW.test(lines[at + 1])) return false;
  const marks = cells(lines[at + 1]);
  return marks.length === cells(lines[at]).length && marks.every((mark) => /^:?-+:?$/.test(mark));
}

function table(lines, at) {
  const classes = cells(lines[at + 1]).map((mark) => {
    const [left, right] = [mark.startsWith(":"), mark.endsWith(":")];
    return right ? { class: left ? "centre" : "right" } : {};
  });
  const row = (line, tag) =>
    element("tr", {}, ...cells(line).slice(0, classes.length).map((cell, n) => element(tag, classes[n], inline(cell))));
  const body = element("tbody");
  let end = at + 2;
  for (; end < lines.length && lines[end].includes("|") && !startsBlock(lines, end); end++) {
    body.append(row(lines[end], "td"));
  }
  const node = element("table", {}, element("thead", {}, row(lines[at], "th")));
  if (body.children.length) node.append(body);
  return [element("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, node), end];
}

/**
 * Markdown that grows piece by piece. Only the blocks that the next piece may still change are made anew; those before
 * them are left alone. A slow rendering is followed by a longer pause, so that it takes a fifth of the time at most.
 */
export class Markdown {
  constructor(root) {
    this.root = root;
    this.source = "";
    this.nodes = [];
    this.frame = 0;
    this.notBefore = 0;
  }

  append(piece) {
    this.source += piece.replaceAll("\r", "");
    this.frame ||= requestAnimationFrame(() => this.tick());
  }

  tick() {
    this.frame = 0;
    if (performance.now() < this.notBefore) this.append("");
    else this.flush();
  }

  /** Show everything now. */
  flush() {
    const began = performance.now();
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const lines = this.source.split("\n");
    const found = [...blocks(lines)];
    const nodes = found.map(({ node }, index) => {
      if (index < this.nodes.length) return patch(this.nodes[index], node);
      this.root.append(node);
      return node;
    });
    this.nodes.slice(found.length).forEach((node) => node.remove());
    // A block is closed once the two lines are complete that say what comes after it.
    const open = Math.max(0, found.findLastIndex(({ start }) => start + 2 < lines.length));
    this.nodes = nodes.slice(open);
    if (open > 0) this.source = lines.slice(found[open].start).join("\n");
    this.notBefore = performance.now() + 4 * (performance.now() - began);
  }
}

// ------------------------------------------------------------------------------------------------------ event streams

/** The events of a reply's body: `{name, data}`. Comments, and an event that the end cuts off, are left out. */
export async function* events(body) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  let name = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const lines = rest.split(/\r\n|\n|\r(?!$)/); // a carriage return at the end may be half of a line end
      rest = lines.pop();
      for (const line of lines) {
        const [, field, text] = /^([^:]*)(?:: ?)?(.*)$/s.exec(line);
        if (field === "event") name = text;
        else if (field === "data") data.push(text);
        else if (!line) {
          if (data.length) yield { name: name || "message", data: data.join("\n") };
          name = "";
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// --------------------------------------------------------------------------------------------------------- the answer

const CUT_SHORT = {
  length: "The answer reached its length limit.",
  content_filter: "The answer was cut off by the content filter.",
};

const sources = new WeakMap(); // what the button below an answer copies

function message(role, title) {
  return element("article", { class: role }, element("h2", { class: "unseen" }, title));
}

/** An answer in the log: reasoning, text and tool calls in the order in which they came. */
class Answer {
  constructor(log) {
    this.article = message("assistant", "Assistant");
    this.kind = null;
    this.markdown = null;
    this.summary = null;
    this.source = "";
    this.model = "";
    this.tokens = 0;
    log.append(this.article);
  }

  get empty() {
    return this.kind === null;
  }

  /** What was answered, to be read out: a pause after each cell, item and block. */
  get text() {
    const copy = this.article.cloneNode(true);
    copy.querySelectorAll("button, .code-head").forEach((node) => node.remove());
    copy.querySelectorAll("th + th, td + td").forEach((node) => node.before(", "));
    copy.querySelectorAll("br, p, h3, h4, h5, h6, li, tr, pre").forEach((node) => {
      node.before("\n");
      node.after("\n");
    });
    const parts = [...copy.querySelectorAll(":scope > .markdown")].map((node) => node.textContent);
    return parts.join("\n").replace(/\n\s+/g, "\n").trim();
  }

  write(delta) {
    // What a tool call divides are two texts.
    if (this.source && this.kind !== "text") this.source += "\n\n";
    this.source += delta;
    this.begin("text", (node) => this.article.append(node));
    this.markdown.append(delta);
  }

  think(delta) {
    this.begin("reasoning", (node) => {
      this.summary = element("summary", {}, "Thinking…");
      this.article.append(element("details", { class: "reasoning" }, this.summary, node));
    });
    this.markdown.append(delta);
  }

  call({ name, arguments: given }) {
    this.settle();
    this.kind = "tool";
    const text = typeof given === "string" ? given : JSON.stringify(given ?? {}, null, 2);
    const summary = element("summary", {}, "Used ", element("code", {}, String(name)));
    const attributes = { dir: "ltr", tabindex: "0", role: "group", "aria-label": "Arguments" };
    const code = element("pre", attributes, element("code", {}, text));
    this.article.append(element("details", { class: "tool" }, summary, code));
  }

  /** A remark of the page itself below the answer. */
  note(text) {
    this.article.append(element("p", { class: "note" }, text));
  }

  streaming() {
    this.article.classList.add("streaming");
    // Word by word nobody wants to hear it; the status says it when it is whole.
    this.article.setAttribute("aria-live", "off");
  }

  finish() {
    this.settle();
    this.article.classList.remove("streaming");
    this.article.removeAttribute("aria-live");
    const facts = [this.model, this.tokens ? `${this.tokens.toLocaleString("en")} tokens` : ""].filter(Boolean);
    const foot = element("div", { class: "foot" });
    if (this.source) {
      const button = element("button", { type: "button", class: "copy", "aria-label": "Copy answer" }, "Copy");
      sources.set(button, this.source);
      foot.append(button);
    }
    if (facts.length) foot.append(element("p", { class: "facts" }, facts.join(" · ")));
    if (foot.firstChild) this.article.append(foot);
  }

  begin(kind, place) {
    if (this.kind === kind) return;
    this.settle();
    this.kind = kind;
    const node = element("div", { class: "markdown" });
    this.markdown = new Markdown(node);
    place(node);
  }

  settle() {
    this.markdown?.flush();
    this.markdown = null;
    if (this.summary) this.summary.textContent = "Reasoning";
    this.summary = null;
  }
}

// ----------------------------------------------------------------------------------------------------------- the page

/** A failure whose message is meant for the reader. */
class Failure extends Error {}

async function request(url, options, unreachable) {
  let response;
  try {
    response = await fetch(url, { cache: "no-store", ...options });
  } catch (error) {
    if (options.signal?.aborted && error.name === "AbortError") throw error;
    throw new Failure(unreachable);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const said = body?.error?.message;
  throw new Failure(typeof said === "string" && said ? said : `The server answered with an error (${response.status}).`);
}

/** A text that outlives a reload of this tab; where the browser keeps nothing, it does not. */
class Kept {
  constructor(name) {
    this.name = name;
  }

  get text() {
    try {
      return sessionStorage.getItem(this.name) ?? "";
    } catch {
      return "";
    }
  }

  set text(text) {
    try {
      if (text) sessionStorage.setItem(this.name, text);
      else sessionStorage.removeItem(this.name);
    } catch {}
  }
}

class Chat {
  constructor(main) {
    this.urls = main.dataset;
    for (const id of ["log", "welcome", "status", "problem", "retry", "dismiss", "composer", "question", "send", "stop"]) {
      this[id] = document.getElementById(id);
    }
    this.latest = document.getElementById("latest");
    this.dialog = document.getElementById("confirm");
    this.alert = this.problem.querySelector("[role=alert]");
    this.kept = new Kept(`draft of ${this.urls.chatUrl}`);
    this.asked = new Kept(`question of ${this.urls.chatUrl}`); // while its answer has not come
    this.turn = null; // the AbortController of the answer that is coming
    this.settled = Promise.resolve();
    this.following = true;
    this.top = scrollY;
    this.listen();
    this.question.value ||= this.kept.text;
    this.grow();
    this.loaded = this.load();
  }

  listen() {
    this.composer.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.question.addEventListener("keydown", (event) => {
      // Enter that ends the input of a Chinese or Japanese word is not the end of the message.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      this.submit();
    });
    this.question.addEventListener("input", () => this.drafted());
    this.stop.addEventListener("click", () => this.abort());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.isComposing && !this.dialog.open) this.abort();
    });
    this.welcome.addEventListener("click", (event) => {
      const suggestion = event.target.closest(".suggestion");
      if (suggestion) this.draft(suggestion.textContent);
    });
    this.log.addEventListener("click", (event) => {
      const button = event.target.closest(".copy");
      if (button) this.copy(button);
      // Whoever opens a fold wants to read it, and not be carried on.
      if (event.target.closest("summary")) this.follow(false);
    });
    this.retry.addEventListener("click", () => {
      this.clearProblem();
      this.again();
    });
    this.dismiss.addEventListener("click", () => {
      this.clearProblem();
      this.giveUp();
      this.question.focus();
    });
    document.getElementById("new-chat").addEventListener("click", () => {
      if (this.log.children.length) this.dialog.showModal();
      else this.question.focus();
    });
    document.getElementById("keep").addEventListener("click", () => this.dialog.close());
    document.getElementById("forget").addEventListener("click", () => {
      this.dialog.close();
      this.reset();
    });
    this.latest.addEventListener("click", () => {
      this.toEnd();
      this.question.focus({ preventScroll: true });
    });
    // A scroll event may come after what grew below it: only a reader who moves up stops following.
    document.addEventListener("scroll", () => {
      const moved = scrollY - this.top;
      this.top = scrollY;
      this.follow(this.atEnd() || (this.following && moved >= 0));
    });
    new ResizeObserver(() => {
      if (this.turn && this.following) this.toEnd();
      else this.follow(this.following && this.atEnd());
    }).observe(this.log);
    new ResizeObserver(() => {
      if (this.following) this.toEnd();
    }).observe(document.getElementById("dock"));
  }

  // --- what the server keeps

  async load() {
    // What was said before is not news: it is not read out.
    this.log.setAttribute("aria-live", "off");
    try {
      const asked = this.asked.text;
      const unknown = (all) => asked && all.findLast(({ role }) => role === "user")?.content !== asked;
      let messages = await this.history();
      // A reload cut its answer off, and the server may take a moment until it has kept what there was of it.
      for (let again = 0; again < 2 && unknown(messages); again++) {
        await new Promise((done) => setTimeout(done, 500));
        messages = await this.history();
      }
      for (const message of messages) this.show(message);
      if (unknown(messages) && !this.question.value) this.draft(asked);
      this.asked.text = "";
    } catch (error) {
      const why = error instanceof Failure ? ` ${error.message}` : "";
      this.fail(`The conversation so far could not be loaded.${why}`, () => location.reload());
    }
    this.refresh();
    this.toEnd();
    requestAnimationFrame(() => this.log.setAttribute("aria-live", "polite"));
  }

  async history() {
    const options = { signal: AbortSignal.timeout(20000) };
    const response = await request(this.urls.historyUrl, options, "The server could not be reached.");
    return (await response.json()).messages;
  }

  async reset() {
    this.abort();
    await this.settled;
    this.clearProblem();
    try {
      const options = { method: "POST", headers: this.headers() };
      await request(this.urls.resetUrl, options, "The server could not be reached.");
    } catch (error) {
      this.fail(`The conversation could not be deleted. ${error.message}`, () => this.reset());
      return;
    }
    this.asked.text = "";
    this.log.replaceChildren();
    this.refresh();
    this.say("New chat");
    this.question.focus();
  }

  headers() {
    const token = this.urls.csrfToken;
    return token ? { "X-CSRFToken": token } : {};
  }

  // --- a turn

  submit() {
    const question = this.question.value.trim();
    this.question.focus();
    if (!question || this.turn) return;
    this.draft("");
    this.settled = this.ask(question);
  }

  async ask(question) {
    const turn = new AbortController();
    this.turn = turn;
    this.clearProblem();
    this.refresh();
    await this.loaded;
    this.asked.text = question;
    const bubble = this.show({ role: "user", content: question });
    const answer = new Answer(this.log);
    answer.streaming();
    this.log.setAttribute("aria-busy", "true");
    this.refresh();
    this.toEnd();
    this.say("Answering…");
    let failure = null;
    try {
      await this.receive(question, answer, turn.signal);
    } catch (error) {
      failure = error;
    }
    this.turn = null;
    const stopped = turn.signal.aborted && failure !== null;
    if (stopped) answer.note(answer.empty ? "Stopped before the answer began." : "Stopped.");
    else if (failure) answer.note(answer.empty ? "No answer came." : "The answer broke off here.");
    answer.finish();
    this.log.setAttribute("aria-busy", "false");
    if (failure && !stopped) {
      this.say("");
      const message = failure instanceof Failure ? failure.message : "The page could not show the answer.";
      // The server keeps nothing of a turn that failed: neither does the page, where it is asked anew.
      const forget = () => {
        bubble.remove();
        answer.article.remove();
      };
      const again = () => {
        forget();
        this.question.focus();
        this.settled = this.ask(question);
      };
      const giveUp = () => {
        this.asked.text = "";
        if (!answer.empty || this.question.value) return;
        forget();
        this.draft(question);
        this.refresh();
      };
      this.fail(message, again, giveUp);
    } else {
      this.asked.text = "";
      this.say(stopped ? "Stopped." : `Answer complete. ${answer.text}`);
    }
    this.refresh();
    if (this.following) this.toEnd();
  }

  async receive(question, answer, signal) {
    const headers = { "Content-Type": "application/json", Accept: "text/event-stream", ...this.headers() };
    const options = { method: "POST", headers, body: JSON.stringify({ message: question }), signal };
    const response = await request(this.urls.chatUrl, options, "The server could not be reached.");
    if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
      throw new Failure("The server did not answer with a stream.");
    }
    let ended = false;
    try {
      for await (const { name, data } of events(response.body)) {
        ended = this.hear(answer, name, data) || ended;
      }
    } catch (error) {
      // Once the answer is whole, the way in which the connection ends no longer matters.
      if (ended && !(error instanceof Failure)) return;
      if (signal.aborted || error instanceof Failure) throw error;
      throw new Failure("The connection was lost before the answer was complete.");
    }
    if (!ended) throw new Failure("The connection was lost before the answer was complete.");
  }

  /** Shows one event; true if it was the last. */
  hear(answer, name, data) {
    let value;
    try {
      value = Object(JSON.parse(data));
    } catch {
      throw new Failure("The server sent something that this page does not understand.");
    }
    if (name === "text") answer.write(String(value.delta ?? ""));
    else if (name === "reasoning") answer.think(String(value.delta ?? ""));
    else if (name === "tool_call") answer.call(value);
    else if (name === "usage") answer.tokens = Number(value.total_tokens) || 0;
    else if (name === "error") throw new Failure(String(value.message || "The server reported an error."));
    else if (name === "done") {
      answer.model = String(value.model ?? "");
      if (Object.hasOwn(CUT_SHORT, value.finish_reason)) answer.note(CUT_SHORT[value.finish_reason]);
      else if (value.truncated) answer.note("The answer broke off here.");
      return true;
    }
    return false;
  }

  abort() {
    this.turn?.abort();
  }

  // --- what the reader sees

  show({ role, content = "", reasoning = "", stopped = false }) {
    if (role === "user") {
      const bubble = message("user", "You");
      bubble.append(element("p", { dir: "auto" }, content));
      this.log.append(bubble);
      return bubble;
    }
    const answer = new Answer(this.log);
    if (reasoning) answer.think(reasoning);
    if (content) answer.write(content);
    if (stopped) answer.note("Stopped.");
    answer.finish();
    return answer.article;
  }

  /** Shows the buttons that can be used now. */
  refresh() {
    const hadFocus = document.activeElement === (this.turn ? this.send : this.stop);
    this.send.hidden = Boolean(this.turn);
    this.stop.hidden = !this.turn;
    this.welcome.hidden = this.log.children.length > 0 || Boolean(this.turn);
    if (hadFocus) this.question.focus();
  }

  fail(message, again, giveUp = () => {}) {
    this.again = again;
    this.giveUp = giveUp;
    this.problem.hidden = false;
    this.alert.textContent = message;
  }

  clearProblem() {
    this.problem.hidden = true;
    this.alert.textContent = "";
  }

  /** Has it read out, once: whoever reads through the page later does not come upon it again. */
  say(text) {
    clearTimeout(this.said);
    this.status.textContent = text;
    this.said = setTimeout(() => (this.status.textContent = ""), 5000);
  }

  draft(text) {
    this.question.value = text;
    this.drafted();
    this.question.focus();
  }

  drafted() {
    this.kept.text = this.question.value;
    this.grow();
  }

  grow() {
    this.question.style.height = "auto";
    this.question.style.height = `${this.question.scrollHeight}px`;
    if (this.following) this.toEnd();
  }

  atEnd() {
    const { scrollHeight } = document.documentElement;
    return scrollHeight - innerHeight - scrollY < 60;
  }

  follow(following) {
    this.following = following;
    this.latest.hidden = following;
  }

  toEnd() {
    scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
    this.follow(true);
  }

  async copy(button) {
    const text = sources.get(button) ?? button.closest(".code").querySelector("code").textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without HTTPS there is no clipboard; what is selected can still be copied.
      const area = element("textarea", { class: "unseen", readonly: "" });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = "Copied";
    this.say("Copied");
    setTimeout(() => (button.textContent = "Copy"), 2000);
  }
}

new Chat(document.querySelector("main"));
