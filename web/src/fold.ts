// Events of a stream put together to the answer that they are about. Pure but for the answer, which it changes.

import type { Answer, Item, Part, StreamEvent } from "./types";

/** Change `answer` by an event; gives the index of the item that has changed, or null. */
export function fold(answer: Answer, event: StreamEvent): number | null {
  if (event.response) {
    const { output, ...rest } = event.response;
    Object.assign(answer, rest);
    if (output.length >= answer.output.length) answer.output = output;
    return null;
  }
  const index = event.output_index;
  if (index === undefined) return null;
  if (event.type === "response.output_item.added" || event.type === "response.output_item.done") {
    answer.output[index] = event.item!;
    return index;
  }
  const item = answer.output[index];
  if (!item) return null;
  switch (event.type) {
    case "response.content_part.added":
      item.content = [{ type: item.type === "reasoning" ? "reasoning_text" : "output_text", text: "", annotations: [] }];
      break;
    case "response.output_text.delta":
    case "response.reasoning_text.delta":
      first(item).text += event.delta;
      break;
    case "response.output_text.annotation.added":
      (first(item).annotations ??= []).push(event.annotation!);
      break;
    case "response.function_call_arguments.delta":
    case "response.mcp_call_arguments.delta":
      item.arguments = (item.arguments ?? "") + event.delta;
      break;
    case "response.custom_tool_call_input.delta":
      item.input = (item.input ?? "") + event.delta;
      break;
    case "response.code_interpreter_call_code.delta":
      item.code = (item.code ?? "") + event.delta;
      break;
    case "response.code_interpreter_call_code.done":
      item.code = event.code ?? item.code ?? "";
      break;
    case "response.code_interpreter_call.interpreting":
    case "response.web_search_call.searching":
      item.status = "running";
      break;
    default:
      return null;
  }
  return index;
}

function first(item: Item): Part {
  if (!Array.isArray(item.content) || !item.content[0]) item.content = [{ type: "output_text", text: "" }];
  return item.content[0]!;
}

export function textOf(item: Item): string {
  if (typeof item.content === "string") return item.content;
  return (item.content ?? []).map((part) => part.text ?? "").join("");
}

/** The calls of an answer that somebody outside of the server has to answer. */
export function openCalls(answer: Answer): Item[] {
  return answer.output.filter((item) => item.call_id !== undefined && item.type.endsWith("_call"));
}

/** The type of the item that answers a call. */
export function outputType(call: Item): string {
  return `${call.type}_output`;
}
