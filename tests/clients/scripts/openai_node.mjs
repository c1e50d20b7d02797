// openai-node: both APIs.
import OpenAI from "openai";
import { WEATHER, WEATHER_FLAT, check, feature, finish } from "./features.mjs";

const client = new OpenAI();
const HELLO = [{ role: "user", content: "Say hello" }];
const ASK = [{ role: "user", content: "What is the weather in Oslo?" }];

await feature("answer", async () => {
  check((await client.responses.create({ model: "m", input: "Say hello" })).output_text, "Hello!");
  const chat = await client.chat.completions.create({ model: "m", messages: HELLO });
  check(chat.choices[0].message.content, "Hello!");
});
await feature("stream", async () => {
  const stream = client.responses.stream({ model: "m", input: "Say hello" });
  check((await stream.finalResponse()).output_text, "Hello!");
  const chunks = client.chat.completions.stream({ model: "m", messages: HELLO });
  check((await chunks.finalMessage()).content, "Hello!");
});
await feature("reasoning", async () => {
  const { output } = await client.responses.create({ model: "m", input: "Say hello" });
  check(output[0].content[0].text, "Be friendly.");
});
await feature("tools", async () => {
  const first = await client.responses.create({ model: "m", input: ASK, tools: [WEATHER_FLAT] });
  const call = first.output.at(-1);
  const result = { type: "function_call_output", call_id: call.call_id, output: "rain" };
  const second = await client.responses.create({
    model: "m", input: [...ASK, ...first.output, result], tools: [WEATHER_FLAT],
  });
  check(second.output_text, "It rains in Oslo.");
  const run = client.chat.completions.runTools({
    model: "m", messages: ASK,
    tools: [{ type: "function", function: { ...WEATHER.function, parse: JSON.parse, function: () => "rain" } }],
  });
  check(await run.finalContent(), "It rains in Oslo.");
});
await feature("structured output", async () => {
  const schema = {
    type: "object", properties: { city: { type: "string" }, rain: { type: "boolean" } },
    required: ["city", "rain"], additionalProperties: false,
  };
  const { output_text } = await client.responses.create({
    model: "m", input: "A report, please", text: { format: { type: "json_schema", name: "report", strict: true, schema } },
  });
  check(JSON.parse(output_text).city, "Oslo");
});
await feature("state", async () => {
  const first = await client.responses.create({ model: "m", input: "Say hello" });
  check((await client.responses.retrieve(first.id)).output_text, "Hello!");
});
finish();
