// Reads streams in OpenAI's format with the packages of npm.
// For each line of JSON on stdin, {"reader", "url", "n", "usage"}, it writes what was read as a line on stdout.

import { createInterface } from "node:readline";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { jsonSchema, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";

const messages = [{ role: "user", content: "hi" }];
const call = ({ id, function: { name, arguments: json } }) => ({ id, name, arguments: json });
const tokens = (usage) => usage && [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens];

function ask({ n, usage }) {
    return { model: "m", messages, n, ...(usage && { stream_options: { include_usage: true } }) };
}

async function chunks({ url, ...options }) {
    const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
    const read = { choices: [], usage: null, error: null };
    try {
        for await (const chunk of await client.chat.completions.create({ ...ask(options), stream: true })) {
            read.usage = tokens(chunk.usage) ?? read.usage;
            for (const { index, delta, finish_reason } of chunk.choices) {
                const choice = (read.choices[index] ??= { text: "", reasoning: "", refusal: "", calls: [] });
                choice.text += delta.content ?? "";
                choice.reasoning += delta.reasoning_content ?? "";
                choice.refusal += delta.refusal ?? "";
                choice.finish_reason = finish_reason;
                for (const piece of delta.tool_calls ?? []) {
                    const grown = (choice.calls[piece.index] ??= { id: "", name: "", arguments: "" });
                    grown.id += piece.id ?? "";
                    grown.name += piece.function.name ?? "";
                    grown.arguments += piece.function.arguments;
                }
            }
        }
    } catch (error) {
        read.error = error.message;
    }
    return read;
}

async function helper({ url, ...options }) {
    const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
    const read = { choices: [], usage: null, error: null };
    try {
        const answer = await client.chat.completions.stream(ask(options)).finalChatCompletion();
        read.usage = tokens(answer.usage) ?? null;
        read.choices = answer.choices.map(({ message, finish_reason }) => ({
            text: message.content ?? "",
            refusal: message.refusal ?? "",
            calls: (message.tool_calls ?? []).map(call),
            finish_reason,
        }));
    } catch (error) {
        read.error = error.message;
    }
    return read;
}

async function aiSdk({ url, usage }) {
    const provider = createOpenAICompatible({ name: "ours", baseURL: url, includeUsage: usage });
    const anything = tool({ inputSchema: jsonSchema({ type: "object" }) });
    const read = { choices: [{ text: "", reasoning: "", calls: [] }], usage: null, error: null };
    const [choice] = read.choices;
    const { fullStream } = streamText({
        model: provider("m"),
        messages,
        tools: { f: anything, g: anything },
        stopWhen: stepCountIs(1),
        maxRetries: 0,
        onError: () => {},
    });
    for await (const part of fullStream) {
        if (part.type === "text-delta") choice.text += part.text;
        if (part.type === "reasoning-delta") choice.reasoning += part.text;
        if (part.type === "tool-call") {
            choice.calls.push({ id: part.toolCallId, name: part.toolName, arguments: JSON.stringify(part.input) });
        }
        if (part.type === "error") read.error ??= part.error.message;
        if (part.type === "finish") {
            choice.finish_reason = part.rawFinishReason ?? part.finishReason;
            const { inputTokens, outputTokens, totalTokens } = part.totalUsage;
            if (inputTokens !== undefined) read.usage = [inputTokens, outputTokens, totalTokens];
        }
    }
    return read;
}

const readers = { openai: chunks, "openai stream()": helper, "ai": aiSdk };

for await (const line of createInterface({ input: process.stdin })) {
    const { reader, ...options } = JSON.parse(line);
    console.log(JSON.stringify(await readers[reader](options)));
}
