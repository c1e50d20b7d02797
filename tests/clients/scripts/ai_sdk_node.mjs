// The ai package, with its OpenAI and its OpenAI-compatible providers.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { check, feature, finish } from "./features.mjs";

const baseURL = process.env.OPENAI_BASE_URL;
const provider = createOpenAI({ baseURL, apiKey: "none" });
const compatible = createOpenAICompatible({ name: "ours", baseURL, supportsStructuredOutputs: true });
const models = [provider.responses("m"), provider.chat("m"), compatible("m")];
const tools = {
  get_weather: tool({
    description: "Weather in a city.", inputSchema: z.object({ city: z.string() }), execute: async () => "rain",
  }),
};
await feature("answer", async () => {
  for (const model of models) check((await generateText({ model, prompt: "Say hello" })).text, "Hello!");
});
await feature("stream", async () => {
  for (const model of models) check(await streamText({ model, prompt: "Say hello" }).text, "Hello!");
});
await feature("reasoning", async () => {
  check((await generateText({ model: compatible("m"), prompt: "Say hello" })).reasoningText, "Be friendly.");
  const providerOptions = { openai: { reasoningSummary: "auto", forceReasoning: true } };
  const { reasoningText } = await generateText({ model: models[0], prompt: "Say hello", providerOptions });
  check(reasoningText, "Be friendly.");
});
await feature("tools", async () => {
  for (const model of models) {
    const prompt = "What is the weather in Oslo?";
    check((await generateText({ model, prompt, tools, stopWhen: stepCountIs(3) })).text, "It rains in Oslo.");
  }
});
await feature("structured output", async () => {
  const schema = z.object({ city: z.string(), rain: z.boolean() });
  for (const model of models) check((await generateObject({ model, schema, prompt: "A report, please" })).object.city, "Oslo");
});
finish();
