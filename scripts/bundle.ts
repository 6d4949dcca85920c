import { chmod, mkdir, writeFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { type BuildOptions, build, type Plugin } from 'esbuild'

/** The oldest Node that has what the agent needs: `proxyEnv` of http.Agent came with 24.5. */
const MINIMUM: [major: number, minor: number] = [24, 5]

/**
 * dist/timone.js has three parts. The first is the agent, plain code. The others are in comment lines: V8 skips those
 * far faster than it parses code, and git-lfs waits for eight starts of the agent, one after another. The second is
 * everything else, the third what push, pull and fetch need of it, in a seventh of the size. Lines of the code may begin
 * with dashes too, as those of PEM files: so a divider says whose it is.
 */
const DIVIDERS = {
  program: '//--- timone: everything but the agent, compiled when it is needed ---',
  'transfer-program': '//--- timone: push, pull and fetch, compiled when they are needed ---',
}

/**
 * Goes before the bundle and must run on any Node, as CommonJS and as a module (a copy of the file may lie beside
 * anybody's package.json).
 */
const BANNER = `#!/usr/bin/env node
"use strict";
var timoneNode = process.versions.node.split(".").map(Number);
if (timoneNode[0] < ${MINIMUM[0]} || (timoneNode[0] === ${MINIMUM[0]} && timoneNode[1] < ${MINIMUM[1]})) {
  console.error("timone: needs Node.js ${MINIMUM.join('.')} or newer, this is " + process.versions.node + ": install a newer Node.js");
  process.exit(2);
}
var require = typeof require === "function" ? require : process.getBuiltinModule("module").createRequire(process.argv[1]);
function timonePart(divider) {
  var file = typeof __filename === "string" ? __filename : process.argv[1];
  var text = require("node:fs").readFileSync(file, "utf8");
  var start = text.lastIndexOf("\\n" + divider + "\\n") + divider.length + 2;
  var end = text.indexOf("\\n//--- timone: ", start);
  var code = text.slice(start, end < 0 ? text.length : end).replace(/^\\/\\//gm, "");
  var vm = require("node:vm");
  var module = { exports: {} };
  var load = vm.compileFunction(code, ["require", "module", "exports"], {
    filename: file + "?" + divider.replace(/[^a-z]+/g, "-"),
  });
  load(require, module, module.exports);
  return module.exports;
}
`

const common: BuildOptions = {
  bundle: true,
  platform: 'node',
  target: 'node24',
  format: 'cjs',
  // Modules instead of CommonJS where a package has both: what is not used is left out, here 150 KB.
  mainFields: ['module', 'main'],
  // The later parts are compiled by themselves, where import() would need an experimental option of Node.
  supported: { 'dynamic-import': false },
  minify: true,
  legalComments: 'none',
  logLevel: 'warning',
  write: false,
}

/** The same for a standalone binary, which holds the later parts as assets of their own. */
const BINARY_BANNER = `"use strict";
function timonePart(divider, name) {
  var code = require("node:sea").getAsset(name, "utf8");
  var vm = require("node:vm");
  var module = { exports: {} };
  var load = vm.compileFunction(code, ["require", "module", "exports"], { filename: "timone-" + name });
  load(require, module, module.exports);
  return module.exports;
}
`

/** In the first part, the import of another becomes its loading. */
const partsPlugin: Plugin = {
  name: 'parts',
  setup(builder) {
    builder.onResolve({ filter: /\/cli\/(transfer-)?program\.ts$/ }, ({ path }) => ({
      path,
      namespace: 'parts',
    }))
    builder.onLoad({ filter: /.*/, namespace: 'parts' }, ({ path }) => {
      const name = basename(path, '.ts') as keyof typeof DIVIDERS
      const which = [DIVIDERS[name], name].map((word) => JSON.stringify(word)).join(', ')
      return { contents: `const part = timonePart(${which}); export const run = part.run` }
    })
  },
}

/** The third part knows what the other commands say in `--help`, but not what they do: it is never asked to. */
const transfersOnlyPlugin: Plugin = {
  name: 'transfers-only',
  setup(builder) {
    builder.onResolve({ filter: /^\.\/[a-z-]+\.ts$/ }, ({ path, kind, importer }) => {
      if (kind !== 'dynamic-import' || !/\/cli\/commands(-[a-z]+)?\.ts$/.test(importer)) return undefined
      return /\/(push|pull|fetch)\.ts$/.test(path) ? undefined : { path, namespace: 'absent' }
    })
    builder.onLoad({ filter: /.*/, namespace: 'absent' }, ({ path }) => ({
      contents: `throw new Error(${JSON.stringify(`${path} is not in this part`)})`,
    }))
  },
}

/** Every file that something was taken from. */
const inputs = new Set<string>()

async function bundle(options: BuildOptions): Promise<string> {
  const { outputFiles, metafile } = await build({ ...common, ...options, metafile: true })
  for (const output of Object.values(metafile.outputs))
    for (const [path, { bytesInOutput }] of Object.entries(output.inputs))
      if (bytesInOutput > 0) inputs.add(path)
  const [file] = outputFiles ?? []
  if (file === undefined) throw new Error('esbuild wrote nothing')
  return file.text
}

const agent = await bundle({ entryPoints: ['src/main.ts'], plugins: [partsPlugin] })
// Names are kept where errors and classes show in logs; the agent's part says its names itself.
const parts = {
  program: await bundle({ entryPoints: ['src/cli/program.ts'], keepNames: true }),
  'transfer-program': await bundle({
    entryPoints: ['src/cli/transfer-program.ts'],
    keepNames: true,
    plugins: [transfersOnlyPlugin],
  }),
}
let text = `${BANNER}${agent}`
for (const [name, code] of Object.entries(parts)) {
  text += `${DIVIDERS[name as keyof typeof DIVIDERS]}\n`
  for (const line of code.replace(/\n$/, '').split('\n')) text += `//${line}\n`
}
await mkdir('dist', { recursive: true })
if (process.argv.includes('--bin')) {
  // What scripts/binaries.ts puts into Node's binaries.
  await mkdir('dist/parts', { recursive: true })
  await writeFile('dist/parts/main.js', `${BINARY_BANNER}${agent}`)
  for (const [name, code] of Object.entries(parts)) await writeFile(`dist/parts/${name}.js`, code)
  await writeFile('dist/parts/inputs.json', JSON.stringify([...inputs].sort()))
}
await writeFile('dist/timone.js', text)
await chmod('dist/timone.js', 0o755)
// A package.json of its own, so that Node need not look for the kind of module in the repository's.
await writeFile('dist/package.json', '{"type":"commonjs"}\n')
