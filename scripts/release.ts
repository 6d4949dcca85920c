import { execFileSync } from 'node:child_process'
import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import manifest from '../package.json' with { type: 'json' }
import { commandTree } from '../src/cli/commands.ts'
import { completionScript } from '../src/cli/completion.ts'
import { bundledPackages, cycloneDx, thirdParty } from './bundled-packages.ts'
import { manPage } from './man-page.ts'
import nodes from './node-binaries.json' with { type: 'json' }

/** Fills the folder of a release from what scripts/build --bin has made; see scripts/release. */
const target = process.argv[2]
if (target === undefined) throw new TypeError('scripts/release.ts needs the folder')
const at = (...names: string[]): string => join(target, ...names)
for (const folder of ['bin', 'man', 'completions']) await mkdir(at(folder), { recursive: true })

await copyFile('dist/timone.js', at('timone.js'))
for (const name of await readdir('dist/bin'))
  if (!name.startsWith('.')) await copyFile(join('dist/bin', name), at('bin', name))
for (const name of ['LICENSE', 'README.md', 'CHANGELOG.md']) await copyFile(name, at(name))
for (const name of ['action.yml', 'setup']) await copyFile(join('scripts/action', name), at(name))

const io = { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr, env: {}, cwd: '/' }
const root = commandTree(io, () => {})
for (const [shell, file] of [
  ['bash', 'timone.bash'],
  ['zsh', '_timone'],
  ['fish', 'timone.fish'],
] as const)
  await writeFile(at('completions', file), completionScript(shell, root))
// Of the commit, so that it is the same for whoever builds it.
const date = execFileSync('git', ['log', '-1', '--format=%cs'], { encoding: 'utf8' }).trim()
await writeFile(at('man', 'timone.1'), manPage(root, manifest.version, date))

const inputs = JSON.parse(await readFile('dist/parts/inputs.json', 'utf8')) as string[]
const packages = await bundledPackages('.', inputs)
const versions = [...new Set(Object.values(nodes).map(({ version }) => version))].sort()
await writeFile(at('sbom.cdx.json'), cycloneDx(packages, manifest, versions))
const nodeLicense = await readFile('dist/parts/node-license.txt', 'utf8')
await writeFile(at('THIRD-PARTY.txt'), thirdParty(packages, nodeLicense))
