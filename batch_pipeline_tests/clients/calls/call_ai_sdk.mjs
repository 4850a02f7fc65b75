// The Vercel AI SDK: a call, a stream, an object under a schema. It has no batches.
import { createAnthropic } from "@ai-sdk/anthropic";
import { generateText, jsonSchema, Output, streamText } from "ai";

const done = [];
const anthropic = createAnthropic({ baseURL: `${process.env.ANTHROPIC_BASE_URL}/v1`, apiKey: "any" });
const model = anthropic("claude-haiku-4-5");

const { text } = await generateText({ model, prompt: "Say hello.", maxOutputTokens: 50 });
if (!text) throw new Error("no text");
done.push("call");

let streamed = "";
const failures = [];
const { textStream } = streamText({
  model,
  prompt: "Say hello.",
  maxOutputTokens: 50,
  onError: ({ error }) => failures.push(error),
});
for await (const piece of textStream) streamed += piece;
if (failures.length || !streamed) throw failures[0] ?? new Error("no stream");
done.push("stream");

const schema = jsonSchema({
  type: "object",
  properties: { supplier: { type: "string" } },
  required: ["supplier"],
  additionalProperties: false,
});
const { output } = await generateText({
  model,
  prompt: "Supplier: Nimbus Ltd",
  output: Output.object({ schema }),
});
if (!output.supplier) throw new Error("no object");
done.push("schema");
console.log(JSON.stringify({ done }));
