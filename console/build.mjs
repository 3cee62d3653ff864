// Builds the console into market/gateway/static, or with --check compares a fresh build with the committed files.
//
// The same sources and the same lock file give the same bytes: names carry the hash of their content, nothing carries a
// time or a path of this machine.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { mkdtemp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "..", "market", "gateway", "static");

async function buildInto(folder) {
  const result = await build({
    absWorkingDir: here,
    entryPoints: { console: "src/main.tsx", style: "src/style.css" },
    outdir: folder,
    bundle: true,
    splitting: true,
    format: "esm",
    target: ["es2022"],
    minify: true,
    legalComments: "none",
    jsx: "automatic",
    jsxImportSource: "preact",
    entryNames: "[name]-[hash]",
    chunkNames: "chunk-[hash]",
    metafile: true,
    logLevel: "warning",
    define: { "process.env.NODE_ENV": '"production"' },
  });
  const named = {};
  for (const [path, made] of Object.entries(result.metafile.outputs)) {
    if (made.entryPoint) named[made.entryPoint] = path.split("/").at(-1);
  }
  const icon = await readFile(join(here, "src", "icon.svg"));
  const iconName = `icon-${createHash("sha256").update(icon).digest("hex").slice(0, 8).toUpperCase()}.svg`;
  await writeFile(join(folder, iconName), icon);
  const page = (await readFile(join(here, "src", "index.html"), "utf8"))
    .replace("SCRIPT", named["src/main.tsx"])
    .replace("STYLE", named["src/style.css"])
    .replace("ICON", iconName);
  await writeFile(join(folder, "index.html"), page);
}

async function contents(folder) {
  const found = {};
  for (const name of (await readdir(folder).catch(() => [])).sort()) found[name] = await readFile(join(folder, name));
  return found;
}

const scratch = await mkdtemp(join(tmpdir(), "console-build-"));
try {
  await buildInto(scratch);
  const fresh = await contents(scratch);
  if (process.argv.includes("--check")) {
    const kept = await contents(target);
    const names = new Set([...Object.keys(fresh), ...Object.keys(kept)]);
    const stale = [...names].filter((name) => !fresh[name] || !kept[name] || !fresh[name].equals(kept[name]));
    if (stale.length > 0) {
      console.error(`The committed console differs from its source: ${stale.sort().join(", ")}. Run \`make console\`.`);
      process.exitCode = 1;
    }
  } else {
    await rm(target, { recursive: true, force: true });
    await mkdir(target, { recursive: true });
    for (const [name, bytes] of Object.entries(fresh)) await writeFile(join(target, name), bytes);
    const total = Object.values(fresh).reduce((sum, bytes) => sum + bytes.length, 0);
    console.log(`${Object.keys(fresh).length} files, ${Math.round(total / 1024)} KiB in market/gateway/static`);
  }
} finally {
  await rm(scratch, { recursive: true, force: true });
}
