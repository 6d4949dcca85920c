import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createRepository } from '../../src/remotestorage/create-repository.ts'
import { printLine } from '../../src/remotestorage/document-line.ts'
import { startServing } from '../../test/helpers/serving.ts'
import { addOwners, type Owner, StorageClient } from '../../test/helpers/storage-client.ts'
import { against, type BenchCase, figure, pairs, peakMemory } from './bench-case.ts'

const DOCUMENTS = 20_000
/** What must be reached: milliseconds, and MiB that the server takes on top. */
const LIMIT = { time: 100, memory: 20 }
/** Requests after which the server has the memory that it takes anyway. */
const WARM_UP = 3000

/** The description of a folder with 20 000 documents over HTTP, against `git ls-tree`, which knows half as much of each. */
export const storageList: BenchCase = async ({ runs = 15 }) => {
  const name = 'storage-list'
  const folder = await mkdtemp(join(tmpdir(), 'timone bench '))
  const root = join(folder, 'spaces')
  const database = `sqlite:${join(folder, 'timone.db')}`
  const [owner] = (await addOwners(database, ['ada'])) as [Owner]
  const gitDir = join(root, `${owner.id}.git`)
  await createRepository(gitDir)
  const git = (args: string[], input?: string): Buffer =>
    execFileSync('git', ['--git-dir', gitDir, ...args], { input, maxBuffer: 2 ** 28 })
  git(['fast-import', '--quiet'], manyDocuments())
  const server = await startServing({
    TIMONE_DATABASE_URL: database,
    TIMONE_TOKEN_SECRET: 'the secret of the benchmark, long enough',
    TIMONE_REMOTESTORAGE_ROOT: root,
    TIMONE_LOG_LEVEL: 'warn',
  })
  const client = new StorageClient(server.url, owner)
  try {
    const pid = server.child.pid as number
    const list = async (path: string): Promise<{ took: number; bytes: Buffer }> => {
      const started = performance.now()
      const { status, body: bytes } = await client.ask('GET', path)
      const took = performance.now() - started
      if (status !== 200) throw new Error(`GET ${path} was answered ${status}`)
      return { took, bytes }
    }
    for (let n = 0; n < WARM_UP; n++) await list('/')
    // From now on the highest is that of what follows (proc(5), clear_refs).
    writeFileSync(`/proc/${pid}/clear_refs`, '5')
    const before = peakMemory(pid)
    const cold = await list('/notes/')
    const count = Object.keys(JSON.parse(cold.bytes.toString()).items).length
    if (count !== DOCUMENTS) throw new Error(`${count} documents were listed`)
    const ours: number[] = []
    const theirs: number[] = []
    for (let run = -3; run < runs; run++) {
      const { took } = await list('/notes/')
      const started = performance.now()
      git(['ls-tree', 'main:notes'])
      const other = performance.now() - started
      if (run < 0) continue
      ours.push(took)
      theirs.push(other)
    }
    return [
      against(name, '20 000 documents, warm', 'ms', ours, LIMIT.time),
      pairs(name, 'the same', 'ms', ours, theirs, 'git ls-tree'),
      figure(name, 'the first time', 'ms', [cold.took]),
      against(name, 'memory on top, first time and after', 'MiB', [peakMemory(pid) - before], LIMIT.memory),
    ]
  } finally {
    client.close()
    await server.stop()
    await rm(folder, { recursive: true })
  }
}

/** A stream for `git fast-import`: one commit with all documents, as the server would have them. */
function manyDocuments(): string {
  const lines: string[] = []
  const out = ['commit refs/heads/main\ncommitter Ada <ada> 1700000000 +0000\ndata 5\nfiles\n']
  const add = (path: string, text: string): void => {
    out.push(`M 100644 inline notes/${path}\ndata ${Buffer.byteLength(text)}\n${text}\n`)
  }
  for (let n = 0; n < DOCUMENTS; n++) {
    const document = `document-${n}.json`
    const text = `{"number":${n}}`
    const facts = { type: 'application/json; charset=UTF-8', length: text.length, large: false }
    add(document, text)
    lines.push(printLine(document, { ...facts, modified: 1_700_000_000_000 + n * 1000 }))
  }
  add('.gitattributes', `${lines.join('\n')}\n`)
  return `${out.join('')}done\n`
}
