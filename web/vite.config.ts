// Builds the page into the Python package: gpt_oss/server/static. File names carry a hash of what is in them, so that
// browsers may keep them for ever; the licences of what npm gave go along.
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

function licences(): Plugin {
  return {
    name: "licences",
    generateBundle() {
      const names = Object.keys(JSON.parse(readFileSync("package.json", "utf8")).dependencies);
      const texts = names.map((name) => {
        const folder = join("node_modules", name);
        const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
        const files = existsSync(folder) ? readdirSync(folder).filter((file) => /^licen[cs]e/i.test(file)) : [];
        const body = files.map((file) => readFileSync(join(folder, file), "utf8").trim()).join("\n\n");
        return `${name} ${version} (${license})\n\n${body}\n`;
      });
      this.emitFile({ type: "asset", fileName: "licences.txt", source: texts.join(`\n${"-".repeat(80)}\n\n`) });
    },
  };
}

export default defineConfig({
  base: "/page/",
  plugins: [licences()],
  build: {
    outDir: "../gpt_oss/server/static",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    rollupOptions: {
      output: {
        entryFileNames: "[name]-[hash].js",
        chunkFileNames: "[name]-[hash].js",
        assetFileNames: "[name]-[hash][extname]",
      },
    },
  },
});
