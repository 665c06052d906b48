/**
 * Markdown that grows, as elements. markdown-it tells what is what in it; nothing that a model wrote is ever parsed as
 * HTML, for its tokens become elements and text nodes, one by one.
 */

import MarkdownIt from "./markdown-it.js";

// ---------------------------------------------------------------------------------------------------------- elements

/** A new element with these attributes and children; strings become text. */
export function element(tag, attributes = {}, ...children) {
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

// ------------------------------------------------------------------------------------------------------- what is read

const MAX_DEPTH = 24; // deeper nesting stays text: no answer needs it, and a browser's own stack is limited
const SAFE_PROTOCOLS = new Set(["http:", "https:", "mailto:"]);

const parser = new MarkdownIt({ html: false, linkify: true });
// What an address stands for would only be known at the answer's end.
parser.disable("reference");
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false }).add("ftp:", null).add("//", null);
parser.normalizeLink = safeAddress;
parser.normalizeLinkText = (text) => text;
parser.validateLink = (address) => address !== "";

/** The address if a link may go there, else nothing. */
function safeAddress(text) {
  try {
    const address = new URL(text);
    return SAFE_PROTOCOLS.has(address.protocol) ? address.href : "";
  } catch {
    return "";
  }
}

/** Like CommonMark, but "**「引用」**です" is bold: its writers put no space beside the asterisks. */
parser.inline.State = class extends parser.inline.State {
  scanDelims(start, canSplitWord) {
    const scanned = super.scanDelims(start, canSplitWord);
    if (!canSplitWord) return scanned;
    const touches = (at) => /\S/.test(this.src[at] ?? "");
    return { ...scanned, can_open: touches(start + scanned.length), can_close: touches(start - 1) };
  }
};

/** In a table's cell there is no other way to break a line. */
function lineBreak(state, silent) {
  const tag = match(/<br *\/?>/iy, state);
  if (tag && !silent) state.push("break", "br", 0);
  return tag !== null;
}

// A single dollar is more often a price or a shell's variable: its formula touches both, and no word or digit follows.
const MATH = [
  /\\\([^`]{1,2000}?\\\)/,
  /\\\[[^`]{1,2000}?\\\]/,
  /(?<!\$)\$\$(?!\s*[$),.;:!?|])[^`]{1,2000}?\$\$(?!\$)/,
  /(?<![\w$])\$(?![\s$])(?:\\[^\n`]|[^$\n`\\]){1,500}(?<!\s)\$(?:(?![\w{(])|(?=(?:th|st|nd|rd|s)\b))/,
];
const FORMULA = new RegExp(MATH.map(({ source }) => source).join("|"), "y");
const DISPLAY = /^(\$\$(?!\$)|\\\[)(.*)$/;

/** A formula stays as it was written: its backslashes and underscores are no Markdown. */
function math(state, silent) {
  const text = match(FORMULA, state);
  if (text !== null && !silent) state.push("math", "code", 0).content = text;
  return text !== null;
}

/** What the pattern finds where the parser stands, and the parser behind it; else null. */
function match(pattern, state) {
  pattern.lastIndex = state.pos;
  const [text = null] = pattern.exec(state.src) ?? [];
  state.pos += text?.length ?? 0;
  return text;
}

/** A formula up to its end, as far as it came. Where its mark has a line of its own, it may hold empty lines. */
function formula(state, start, limit, silent) {
  const line = lineAt(state, start);
  const closer = state.sCount[start] - state.blkIndent < 4 ? formulaEnd(line) : null;
  if (silent || !closer) return closer !== null;
  const rest = line.slice(2);
  const alone = !rest.trim();
  let end = start + 1;
  for (let closed = rest.includes(closer); !closed && end < limit; end++) {
    if (state.isEmpty(end) ? !alone : state.sCount[end] < state.blkIndent) break;
    closed = lineAt(state, end).includes(closer);
  }
  state.line = end;
  const token = state.push("formula", "pre", 0);
  token.map = [start, end];
  token.content = state.getLines(start, end, state.sCount[start], false).trimEnd();
  return true;
}

function lineAt(state, line) {
  return state.src.slice(state.bMarks[line] + state.tShift[line], state.eMarks[line]);
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

/** Where the nesting is too deep, each line is text. */
function tooDeep(state, line, limit, silent) {
  if (silent || state.level < MAX_DEPTH) return false;
  state.line = line + 1;
  state.push("paragraph_open", "p", 1);
  Object.assign(state.push("inline", "", 0), { content: lineAt(state, line), children: [] });
  state.push("paragraph_close", "p", -1);
  return true;
}

/** A dash or two that end the text so far are no underline: more often a list begins there. */
function unfinished(state) {
  const at = state.tokens.findLastIndex(({ type }) => type === "heading_open");
  const [mark] = /(?<![-=])[-=]{1,2} *$/.exec(state.src) ?? [];
  if (at < 0 || !mark) return;
  const [open, text, close] = state.tokens.slice(at, at + 3);
  if (open.markup !== mark[0] || open.map[1] < state.src.split("\n").length) return;
  open.tag = close.tag = "p";
  text.content += `\n${mark.trimEnd()}`;
}

parser.core.ruler.after("block", "unfinished", unfinished);
parser.inline.ruler.before("escape", "math", math);
parser.inline.ruler.before("autolink", "break", lineBreak);
parser.block.ruler.before("table", "too_deep", tooDeep);
parser.block.ruler.after("fence", "formula", formula, { alt: ["paragraph", "blockquote", "list"] });

// ------------------------------------------------------------------------------------------------------ what is shown

// Headings start at h3: the page's own are h1 and h2.
const TAGS = { h1: "h3", h2: "h4", h3: "h5", h4: "h6", h5: "h6", s: "del" };

/** Appends what these tokens describe to a node that is itself so deep. */
function build(root, tokens, depth = 0) {
  const open = [root];
  for (const token of tokens) {
    const parent = open.at(token.nesting < 0 ? -2 : -1);
    if (token.nesting > 0) open.push(opened(token, depth + open.length));
    else if (token.nesting < 0) parent.append(closed(open.pop(), token));
    else parent.append(...whole(token, depth + open.length));
  }
  return root;
}

const fragment = (...children) => {
  const node = document.createDocumentFragment();
  node.append(...children);
  return node;
};

function opened(token, depth) {
  switch (token.type) {
    case "em_open":
    case "strong_open":
    case "s_open":
      return depth > MAX_DEPTH ? fragment(token.markup) : element(TAGS[token.tag] ?? token.tag);
    case "link_open":
      return link(token.attrGet("href"), token.attrGet("title"));
    case "th_open":
    case "td_open": {
      const [, side] = /(right|center)/.exec(token.attrGet("style")) ?? [];
      return element(token.tag, side ? { class: side === "right" ? "right" : "centre" } : {});
    }
    case "ordered_list_open":
      return element("ol", Object.fromEntries(token.attrs ?? []));
    default:
      return element(TAGS[token.tag] ?? token.tag);
  }
}

function closed(node, token) {
  switch (token.type) {
    case "em_close":
    case "strong_close":
    case "s_close":
      if (node.nodeType === Node.DOCUMENT_FRAGMENT_NODE) node.append(token.markup);
      return node;
    case "link_close":
      return unlinked(node);
    case "list_item_close":
      return item(node);
    case "table_close":
      return element("div", { class: "table", ...group("Table") }, node);
    default:
      return node;
  }
}

function whole(token, depth) {
  const { content } = token;
  switch (token.type) {
    case "inline":
      return [build(fragment(), token.children, depth)];
    case "text":
      return [content];
    case "softbreak":
      return ["\n"];
    case "hardbreak":
      return [element("br"), "\n"];
    case "code_inline":
      return [element("code", { dir: "ltr" }, content)];
    case "math":
      return [element("code", { class: "math", dir: "ltr" }, content)];
    case "image":
      return [image(token, depth)];
    case "fence":
      return [code(content, token.info.trim().split(/\s/)[0].slice(0, 40))];
    case "code_block":
      return [code(content, "")];
    case "formula":
      return [element("pre", { class: "math", dir: "ltr", ...group("Formula") }, element("code", {}, content))];
    default:
      return [element(token.tag)];
  }
}

/** For what may be wider than the page: the keyboard scrolls it, and a screen reader says what it is. */
const group = (label) => ({ tabindex: "0", role: "group", "aria-label": label });

/** Without an address, just what would be its text. */
function link(address, title) {
  if (!address) return fragment();
  const attributes = { href: address, target: "_blank", rel: "noopener noreferrer nofollow" };
  return element("a", title ? { ...attributes, title } : attributes);
}

/** Nothing is loaded from elsewhere: an image is a link to it. */
function image(token, depth) {
  const node = build(link(token.attrGet("src"), token.attrGet("title")), token.children, depth);
  node.className = "image";
  if (!node.textContent.trim()) node.append("image");
  return unlinked(node);
}

/** A link holds no other link. */
function unlinked(node) {
  for (const inner of node.querySelectorAll("a")) inner.replaceWith(...inner.childNodes);
  return node;
}

function code(content, language) {
  const text = content.replace(/\n$/, "");
  const label = language ? `Code, ${language}` : "Code";
  const button = element("button", { type: "button", class: "copy", "aria-label": "Copy code" }, "Copy");
  return element(
    "div",
    { class: "code", dir: "ltr" },
    element("div", { class: "code-head" }, element("span", {}, language || "code"), button),
    element("pre", group(label), element("code", {}, text)),
  );
}

/** An item with one paragraph is not spaced out; that of a task has its box. */
function item(node) {
  const paragraphs = [...node.children].filter(({ localName }) => localName === "p");
  const text = paragraphs[0]?.previousSibling ? null : paragraphs[0]?.firstChild;
  const [box, mark] = (text?.nodeType === Node.TEXT_NODE && /^\[([ xX])\](?=\s)/.exec(text.data)) || [];
  if (box) {
    node.className = "task";
    text.data = (mark === " " ? "☐" : "☑") + text.data.slice(box.length);
  }
  if (paragraphs.length === 1) paragraphs[0].replaceWith(...paragraphs[0].childNodes);
  return node;
}

/** The blocks of a text, each with the line that it starts at. */
function* blocks(source) {
  let tokens = [];
  for (const token of parser.parse(source, {})) {
    tokens.push(token);
    if (token.level > 0 || token.nesting > 0) continue;
    const [node] = build(fragment(), tokens).children;
    // The outermost block only: what has a direction of its own says nothing of that of the list or quote around it.
    node.dir ||= "auto";
    yield { start: tokens[0].map[0], node };
    tokens = [];
  }
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
    const found = [...blocks(this.source)];
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

