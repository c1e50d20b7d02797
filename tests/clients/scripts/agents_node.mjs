// @openai/agents: an agent with a tool, on both APIs.
import { Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
import { check, feature, finish } from "./features.mjs";

setTracingDisabled(true);
const client = new OpenAI();
const models = [new OpenAIResponsesModel(client, "m"), new OpenAIChatCompletionsModel(client, "m")];
const weather = tool({
  name: "get_weather", description: "Weather in a city.", parameters: z.object({ city: z.string() }),
  execute: async () => "rain",
});
const runner = new Runner({ tracingDisabled: true });
await feature("answer", async () => {
  for (const model of models) {
    const agent = new Agent({ name: "a", instructions: "Help.", model });
    check((await runner.run(agent, "Say hello")).finalOutput, "Hello!");
  }
});
await feature("stream", async () => {
  for (const model of models) {
    const agent = new Agent({ name: "a", instructions: "Help.", model });
    const result = await runner.run(agent, "Say hello", { stream: true });
    for await (const event of result) void event;
    await result.completed;
    check(result.finalOutput, "Hello!");
  }
});
await feature("tools", async () => {
  for (const model of models) {
    const agent = new Agent({ name: "a", instructions: "Help.", model, tools: [weather] });
    check((await runner.run(agent, "What is the weather in Oslo?")).finalOutput, "It rains in Oslo.");
  }
});
await feature("structured output", async () => {
  for (const model of models) {
    const agent = new Agent({
      name: "a", instructions: "Help.", model, outputType: z.object({ city: z.string(), rain: z.boolean() }),
    });
    check((await runner.run(agent, "A report, please")).finalOutput.city, "Oslo");
  }
});
finish();
