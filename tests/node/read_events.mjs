// Reads our streams with the packages of npm for server-sent events, and runs the examples of the docs' pages.
// For each line of JSON on stdin it writes what was read as a line on stdout:
// {"reader", "url"}: every message, as [name, data]; {"code", "url"}: what the example showed, and what it alerted.

import { createInterface } from "node:readline";
import { EventSource } from "eventsource";
import { createParser } from "eventsource-parser";
import { EventSourceParserStream } from "eventsource-parser/stream";

// Made for browsers alone.
globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
const { fetchEventSource } = await import("@microsoft/fetch-event-source");

const NAMES = ["start", "text", "reasoning", "refusal", "tool_call", "usage", "done", "error", "message"];

function eventSource(url) {
    return new Promise((resolve) => {
        const messages = [];
        const source = new EventSource(url);
        for (const name of NAMES) {
            source.addEventListener(name, ({ data }) => {
                messages.push([name, data ?? null]);
                if (name !== "done" && name !== "error") return;
                source.close();
                resolve(messages);
            });
        }
    });
}

async function parser(url) {
    const messages = [];
    const decoder = new TextDecoder();
    const { feed } = createParser({ onEvent: ({ event, data }) => messages.push([event ?? "message", data]) });
    for await (const bytes of (await fetch(url)).body) feed(decoder.decode(bytes, { stream: true }));
    return messages;
}

async function microsoft(url) {
    const messages = [];
    await fetchEventSource(url, {
        onmessage: ({ event, data }) => messages.push([event || "message", data]),
        onerror(error) {
            throw error;
        },
    });
    return messages;
}

/** Runs until an example has read its answer, or has closed its `EventSource`. */
async function example({ code, url }) {
    let text = "";
    let alerted = null;
    const output = { append: (words) => (text += words), replaceChildren: () => (text = "") };
    const alert = (words) => (alerted = words);
    const absolute = (path) => new URL(path, url).href;
    let closed = Promise.resolve();
    class Page extends EventSource {
        constructor(path) {
            super(absolute(path));
            closed = new Promise((resolve) => (this.ended = resolve));
        }
        close() {
            super.close();
            this.ended();
        }
    }
    const globals = {
        output,
        alert,
        question: "hi",
        key: "k",
        EventSource: Page,
        EventSourceParserStream,
        fetch: (path, options) => fetch(absolute(path), options),
        fetchEventSource: (path, options) => fetchEventSource(absolute(path), options),
    };
    const AsyncFunction = (async () => {}).constructor;
    try {
        await new AsyncFunction(...Object.keys(globals), code)(...Object.values(globals));
        await closed;
    } catch (error) {
        alerted = error.message;
    }
    return { text, alerted };
}

const readers = { "eventsource": eventSource, "eventsource-parser": parser, "@microsoft/fetch-event-source": microsoft };

for await (const line of createInterface({ input: process.stdin })) {
    const { reader, ...question } = JSON.parse(line);
    console.log(JSON.stringify(reader ? { messages: await readers[reader](question.url) } : await example(question)));
}
