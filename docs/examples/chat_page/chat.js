/**
 * The chat page. A question goes out once, by fetch and POST, and its answer is read from the reply's event stream.
 * EventSource is not used: it would connect again by itself and ask the model a second time.
 */

import { element, Markdown } from "./markdown.js";

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
      this.show(messages);
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
    const bubble = this.showQuestion(question);
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

  /** Shows what was said before; an answer that calls tools goes on in the messages after it. */
  show(messages) {
    let answer = null;
    for (const { role, content = "", reasoning = "", tool_calls: calls = [], stopped = false } of messages) {
      if (role === "user") {
        answer?.finish();
        answer = null;
        this.showQuestion(content);
        continue;
      }
      answer ??= new Answer(this.log);
      if (reasoning) answer.think(reasoning);
      if (content) answer.write(content);
      for (const call of calls) answer.call(call);
      if (stopped) answer.note("Stopped.");
      if (calls.length) continue;
      answer.finish();
      answer = null;
    }
    answer?.finish();
  }

  showQuestion(content) {
    const bubble = message("user", "You");
    bubble.append(element("p", { dir: "auto" }, content));
    this.log.append(bubble);
    return bubble;
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
