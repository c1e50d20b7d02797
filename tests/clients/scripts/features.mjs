// What the scripts of JavaScript clients share: the tools, and a line of JSON that says what worked.
const parameters = {
  type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false,
};
const description = { name: "get_weather", description: "Weather in a city.", parameters };
export const WEATHER_FLAT = { type: "function", strict: true, ...description };
export const WEATHER = { type: "function", function: description };
const results = {};

export function check(found, wanted) {
  if (found !== wanted) throw new Error(`${JSON.stringify(found)} in place of ${JSON.stringify(wanted)}`);
}

export async function feature(name, work) {
  try {
    await work();
    results[name] = true;
  } catch (error) {
    console.error(error);
    results[name] = String(error).slice(0, 200);
  }
}

export function finish() {
  console.log("RESULT " + JSON.stringify(results));
  process.exit(0);
}
