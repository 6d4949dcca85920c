import { readdir, readFile } from 'node:fs/promises'
import { dirname, join, relative, resolve, sep } from 'node:path'

/** What each room of src may import, besides itself and the root leaves. `*`: everything. */
const ROOMS: Record<string, readonly string[] | '*'> = {
  agent: ['access', 'auth', 'storage'],
  access: ['auth', 'database', 'storage'],
  auth: [],
  cli: '*',
  config: [],
  database: [],
  git: [],
  identity: ['auth', 'database'],
  leases: ['auth', 'database', 'identity'],
  lfs: ['access', 'auth', 'database', 'storage'],
  remotestorage: ['auth', 'identity', 'storage'],
  // Routes, and the types that they are made of; not the settings, which the composition root hands in.
  server: ['access', 'auth', 'database', 'identity', 'leases', 'lfs', 'remotestorage', 'storage'],
  storage: [],
}

/** The agent must start in milliseconds: none of these may be loaded on its path, not even through another file. */
const NOT_IN_AGENT = ['@aws-sdk/', 'commander', 'hono', '@hono/', 'jose', 'kysely', 'pino', 'zod']

const source = resolve('src')
const IMPORT =
  /(?:^|\n)\s*(?:import|export)\b[^'"\n]*?(?:\{[^}]*\}[^'"]*?)?['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]\s*\)/g
/** Type-only imports vanish before anything is loaded. */
const TYPE_ONLY = /(?:import|export)\s+type\b/

interface Import {
  specifier: string
  typeOnly: boolean
}

function importsOf(text: string): Import[] {
  return [...text.matchAll(IMPORT)].map((match) => ({
    specifier: (match[1] ?? match[2]) as string,
    typeOnly: TYPE_ONLY.test(match[0]),
  }))
}

const roomOf = (file: string): string => {
  const parts = relative(source, file).split(sep)
  return parts.length === 1 ? '' : (parts[0] as string)
}

const files = (await readdir(source, { recursive: true }))
  .filter((name) => name.endsWith('.ts'))
  .map((name) => join(source, name))
const imports = new Map<string, Import[]>()
for (const file of files) imports.set(file, importsOf(await readFile(file, 'utf8')))

const problems: string[] = []
for (const [file, list] of imports) {
  const room = roomOf(file)
  const name = relative('.', file)
  if (room !== '' && ROOMS[room] === undefined)
    problems.push(`${name}: src/${room} is no room that scripts/check-imports.ts knows`)
  for (const { specifier } of list) {
    if (!specifier.startsWith('.')) continue
    const target = resolve(dirname(file), specifier)
    const other = roomOf(target)
    if (!imports.has(target)) {
      if (!target.endsWith('.json')) problems.push(`${name}: ${specifier} does not exist`)
      continue
    }
    const allowed = room === '' && name !== join('src', 'main.ts') ? [] : room === '' ? ['cli'] : ROOMS[room]
    if (other === '' || other === room || allowed === '*' || allowed?.includes(other)) continue
    problems.push(`${name}: ${room === '' ? 'a root leaf' : room} may not import ${other}`)
  }
}

/** Everything that is loaded once `file` is. */
function reached(file: string, seen = new Set<string>()): Set<string> {
  if (seen.has(file)) return seen
  seen.add(file)
  for (const { specifier, typeOnly } of imports.get(file) ?? []) {
    if (typeOnly || !specifier.startsWith('.')) continue
    const target = resolve(dirname(file), specifier)
    if (imports.has(target)) reached(target, seen)
  }
  return seen
}
const agentFiles = [...reached(join(source, 'cli/agent.ts'))]
for (const file of agentFiles) {
  for (const { specifier, typeOnly } of imports.get(file) ?? []) {
    if (
      !typeOnly &&
      NOT_IN_AGENT.some(
        (name) => specifier === name || specifier.startsWith(name.endsWith('/') ? name : `${name}/`),
      )
    ) {
      problems.push(`${relative('.', file)}: the agent's path may not load ${specifier}`)
    }
  }
}

for (const problem of problems) process.stderr.write(`check-imports: ${problem}\n`)
process.stdout.write(
  `check-imports: ${files.length} files, ${agentFiles.length} on the agent's path, ${problems.length} problems\n`,
)
process.exitCode = problems.length === 0 ? 0 : 1
