import { chmod, writeFile } from 'node:fs/promises'
import { build } from 'esbuild'

/** The oldest Node that has what the agent needs: `proxyEnv` of http.Agent came with 24.5. */
const MINIMUM: [major: number, minor: number] = [24, 5]

/**
 * Goes before the bundle and must run on any Node, as CommonJS and as a module (a copy of the file may lie beside
 * anybody's package.json).
 */
const BANNER = `#!/usr/bin/env node
"use strict";
var timoneNode = process.versions.node.split(".").map(Number);
if (timoneNode[0] < ${MINIMUM[0]} || (timoneNode[0] === ${MINIMUM[0]} && timoneNode[1] < ${MINIMUM[1]})) {
  console.error("timone: needs Node.js ${MINIMUM.join('.')} or newer, this is " + process.versions.node + ": install a newer Node.js or timone's standalone binary");
  process.exit(2);
}
var require = typeof require === "function" ? require : process.getBuiltinModule("module").createRequire(process.argv[1]);
`

const outfile = 'dist/timone.js'
await build({
  entryPoints: ['src/main.ts'],
  outfile,
  bundle: true,
  platform: 'node',
  // Modules instead of CommonJS where a package has both: what is not used is left out, here 150 KB.
  mainFields: ['module', 'main'],
  target: 'node24',
  format: 'cjs',
  minify: true,
  keepNames: true,
  legalComments: 'none',
  banner: { js: BANNER },
  logLevel: 'warning',
})
await chmod(outfile, 0o755)
// dist has a package.json of its own so that Node need not look for the kind of module in the repository's.
await writeFile('dist/package.json', '{"type":"commonjs"}\n')
