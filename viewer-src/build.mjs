// Build the viewer: node build.mjs [FOLDER [ENTRY]]. Writes bundle.js and bundle.css, by default where edgewise reads them.
import { build } from "esbuild";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const folder = process.argv[2] ?? join(here, "../src/edgewise/viewer");

await build({
  absWorkingDir: here,
  entryPoints: { bundle: process.argv[3] ?? "src/main.ts" },
  outdir: folder,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome103", "firefox113", "safari16.4"], // the first with DecompressionStream
  charset: "ascii",
  legalComments: "inline",
  logLevel: "warning",
});
