// The official JavaScript client against a node of a demo that runs; the node's folder is the only argument.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";

const notice = JSON.parse(readFileSync(join(process.argv[2], "api.json"), "utf8"));
const baseURL = `http://${notice.address}/v1`;
const client = new OpenAI({ baseURL, apiKey: notice.token, maxRetries: 0 });

const models = [];
for await (const model of client.models.list()) models.push(model.id);
assert.equal(models.length, 8);
assert.ok(models.includes("demo"));

const question = "Remind me who owns the Nevkettle.";
const whole = await client.completions.create({ model: "demo", prompt: question, temperature: 0 });
const expected = whole.choices[0].text;
assert.ok(expected.length > 0);

async function streamed() {
  const messages = [{ role: "user", content: question }];
  const stream = await client.chat.completions.create({ model: "demo", messages, temperature: 0, stream: true });
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
  return text;
}

for (const text of await Promise.all([streamed(), streamed(), streamed(), streamed()])) assert.equal(text, expected);

await assert.rejects(client.completions.create({ model: "no such model", prompt: question }), OpenAI.NotFoundError);
await assert.rejects(client.completions.create({ model: "demo", prompt: question, n: 2 }), OpenAI.BadRequestError);
const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
await assert.rejects(async () => { for await (const _ of stranger.models.list()); }, OpenAI.AuthenticationError);
console.log("the JavaScript client works:", expected.trim());
