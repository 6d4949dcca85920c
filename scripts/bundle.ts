import { chmod, mkdir, writeFile } from 'node:fs/promises'
import { type BuildOptions, build, type Plugin } from 'esbuild'

/** The oldest Node that has what the agent needs: `proxyEnv` of http.Agent came with 24.5. */
const MINIMUM: [major: number, minor: number] = [24, 5]

/**
 * dist/timone.js has two halves. The first is the agent, plain code. The second is everything else, in comment lines:
 * V8 skips those far faster than it parses code, and git-lfs waits for eight starts of the agent, one after another.
 */
const DIVIDER = '//--- everything but the agent, compiled when it is needed ---'

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
function timoneRest() {
  var file = typeof __filename === "string" ? __filename : process.argv[1];
  var text = require("node:fs").readFileSync(file, "utf8");
  var code = text.slice(text.lastIndexOf("\\n${DIVIDER}\\n") + ${DIVIDER.length + 2}).replace(/^\\/\\//gm, "");
  var vm = require("node:vm");
  var module = { exports: {} };
  var load = vm.compileFunction(code, ["require", "module", "exports"], {
    filename: file + "?rest",
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
  // The second half is compiled by itself, where import() would need an experimental option of Node.
  supported: { 'dynamic-import': false },
  minify: true,
  legalComments: 'none',
  logLevel: 'warning',
  write: false,
}

/** In the first half, the import of the other commands becomes the loading of the second half. */
const restPlugin: Plugin = {
  name: 'rest',
  setup(builder) {
    builder.onResolve({ filter: /\/cli\/program\.ts$/ }, ({ path }) => ({ path, namespace: 'rest' }))
    builder.onLoad({ filter: /.*/, namespace: 'rest' }, () => ({
      contents: 'const rest = timoneRest(); export const run = rest.run',
    }))
  },
}

async function bundle(options: BuildOptions): Promise<string> {
  const { outputFiles } = await build({ ...common, ...options })
  const [file] = outputFiles ?? []
  if (file === undefined) throw new Error('esbuild wrote nothing')
  return file.text
}

const agent = await bundle({ entryPoints: ['src/main.ts'], plugins: [restPlugin] })
// Names are kept where errors and classes show in logs; the agent's half says its names itself.
const rest = await bundle({ entryPoints: ['src/cli/program.ts'], keepNames: true })
const lines = rest.replace(/\n$/, '').split('\n')
await mkdir('dist', { recursive: true })
await writeFile(
  'dist/timone.js',
  `${BANNER}${agent}${DIVIDER}\n${lines.map((line) => `//${line}\n`).join('')}`,
)
await chmod('dist/timone.js', 0o755)
// A package.json of its own, so that Node need not look for the kind of module in the repository's.
await writeFile('dist/package.json', '{"type":"commonjs"}\n')
