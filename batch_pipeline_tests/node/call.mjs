// Makes calls with the official Node SDK: each line of JSON on stdin is one, its outcome a line on stdout.
//
//   {"call": "messages.batches.list", "args": [{"limit": 2}], "take": 3}
//
// "take": how much of what can be iterated over is taken; null: all of it.
import { createInterface } from "node:readline";
import Anthropic from "@anthropic-ai/sdk";

const settings = JSON.parse(process.argv[2]);
const client = new Anthropic({ maxRetries: 0, ...settings });

async function make({ call, args = [], take = null }) {
  const names = call.split(".");
  const method = names.pop();
  const resource = names.reduce((part, name) => part[name], client);
  const value = await resource[method](...args);
  if (typeof value?.[Symbol.asyncIterator] !== "function") return value;
  const items = [];
  for await (const item of value) {
    items.push(item);
    if (items.length === take) break;
  }
  return items;
}

function described(error) {
  // What a program would branch on: the class, and the fields that the SDK documents.
  return {
    class: error.constructor.name,
    isApiError: error instanceof Anthropic.APIError,
    status: error.status ?? null,
    type: error.type ?? null,
    requestID: error.requestID ?? null,
    message: error.message,
    body: error.error ?? null,
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  let outcome;
  try {
    outcome = { value: await make(JSON.parse(line)) };
  } catch (error) {
    outcome = { error: described(error) };
  }
  process.stdout.write(JSON.stringify(outcome) + "\n");
}
