// Codex: an answer, and a file that it really edits, with its own tool; then the same by --oss.
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { check, feature, finish } from "./features.mjs";

const home = mkdtempSync(join(process.env.CLIENTS_HOME, "codex-"));
const temporary = join(home, "tmp");
mkdirSync(temporary);
writeFileSync(join(home, "config.toml"), `
model = "gpt-oss-20b"
model_provider = "ours"
sandbox_mode = "danger-full-access"
approval_policy = "never"
[model_providers.ours]
name = "ours"
base_url = "${process.env.OPENAI_BASE_URL}"
wire_api = "responses"
`);

function codex(folder, ...words) {
  const program = join(process.env.CLIENTS_NODE, "node_modules", ".bin", "codex");
  const env = { ...process.env, CODEX_HOME: home, TMPDIR: temporary, HOME: home };
  const output = execFileSync(program, ["exec", "--skip-git-repo-check", ...words], {
    cwd: folder, env, stdio: ["ignore", "pipe", "inherit"], timeout: 120_000,
  });
  return output.toString().trim();
}

await feature("answer", async () => check(codex(home, "Say hello").endsWith("Hello!"), true));
await feature("tools", async () => {
  const folder = mkdtempSync(join(home, "work-"));
  writeFileSync(join(folder, "main.py"), "print('old')\n");
  codex(folder, "Please edit main.py: old becomes new");
  check(readFileSync(join(folder, "main.py"), "utf8"), "print('new')\n");
});
await feature("free-form tools", async () => {
  // Codex's apply_patch, in its own grammar, is there for models of which its catalog says so.
  const program = join(process.env.CLIENTS_NODE, "node_modules", ".bin", "codex");
  const known = JSON.parse(execFileSync(program, ["debug", "models"], { env: { ...process.env, CODEX_HOME: home }, maxBuffer: 1e8 }));
  const model = { ...known.models.find(({ slug }) => slug === "gpt-5.5"), slug: "gpt-oss-20b", base_instructions: "Help." };
  const catalog = join(home, "catalog.json");
  writeFileSync(catalog, JSON.stringify({ ...known, models: [model] }));
  const folder = mkdtempSync(join(home, "work-"));
  writeFileSync(join(folder, "main.py"), "print('old')\n");
  codex(folder, "-c", `model_catalog_json="${catalog}"`, "Please patch main.py");
  check(readFileSync(join(folder, "main.py"), "utf8"), "print('new')\n");
});
await feature("WebSocket", async () => {
  check(codex(home, "-c", "model_providers.ours.supports_websockets=true", "Say hello").endsWith("Hello!"), true);
});
await feature("structured output", async () => {
  const file = join(home, "schema.json");
  writeFileSync(file, JSON.stringify({
    type: "object", properties: { city: { type: "string" }, rain: { type: "boolean" } },
    required: ["city", "rain"], additionalProperties: false,
  }));
  const said = codex(home, "--output-schema", file, "A report, please");
  check(JSON.parse(said.split("\n").at(-1)).city, "Oslo");
});
await feature("--oss", async () => {
  process.env.CODEX_OSS_BASE_URL = process.env.OPENAI_BASE_URL;
  check(codex(home, "--oss", "--local-provider", "ollama", "Say hello").endsWith("Hello!"), true);
});
finish();
