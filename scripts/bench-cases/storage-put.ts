import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startServing } from '../../test/helpers/serving.ts'
import { addOwners, type Owner, StorageClient } from '../../test/helpers/storage-client.ts'
import { type BenchCase, figure, pairs } from './bench-case.ts'
import { FLUSHING, IsomorphicStorage, PLAIN } from './isomorphic-storage.ts'
import { processCpu } from './process-watch.ts'

/** Three folders deep, with so many documents in the last one. */
const FOLDER = '/notes/2026/november'
const ENTRIES = 1000
/** PUTs of a round, by each of those that are measured in turn. */
const PUTS = 100
const SIZE = 1024
/** At least so many times as fast as isomorphic-git. */
const MUST = 2

/** PUTs of a round with several clients. */
const SHARED = 320

const path = (n: number): string => `${FOLDER}/document-${n % ENTRIES}.txt`

/** Small PUTs over HTTP, flushed to the disk, against isomorphic-git that makes the same commits in its own process. */
export const storagePut: BenchCase = async ({ runs = 5 }) => {
  const name = 'storage-put'
  const folder = await mkdtemp(join(tmpdir(), 'timone bench '))
  const root = join(folder, 'spaces')
  const database = `sqlite:${join(folder, 'timone.db')}`
  const owners = await addOwners(
    database,
    Array.from({ length: 64 }, (_, n) => `user${n}`),
  )
  const [first] = owners as [Owner, ...Owner[]]
  const server = await startServing({
    TIMONE_DATABASE_URL: database,
    TIMONE_TOKEN_SECRET: 'the secret of the benchmark, long enough',
    TIMONE_REMOTESTORAGE_ROOT: root,
    TIMONE_LOG_LEVEL: 'warn',
  })
  const clients = owners.map((owner) => new StorageClient(server.url, owner))
  const shared = Array.from({ length: 16 }, () => new StorageClient(server.url, first))
  try {
    const gitDir = join(root, `${first.id}.git`)
    await spread(shared, ENTRIES, (client, n) => client.put(path(n), randomBytes(SIZE)))
    execFileSync('git', ['--git-dir', gitDir, 'repack', '-adq'])
    const rivals = { plain: PLAIN, flushing: FLUSHING }
    const copies = await Promise.all(
      Object.entries(rivals).map(async ([which, system]) => {
        const copy = join(folder, `${which}.git`)
        await cp(gitDir, copy, { recursive: true })
        return new IsomorphicStorage(copy, system)
      }),
    )
    const [plain, flushing] = copies as [IsomorphicStorage, IsomorphicStorage]
    const client = clients[0] as StorageClient
    let n = 0
    const round = async (put: (at: string, content: Buffer) => Promise<unknown>): Promise<number> => {
      const contents = Array.from({ length: PUTS }, () => randomBytes(SIZE))
      // Nobody pays for what another has not flushed.
      execFileSync('sync')
      const started = performance.now()
      for (const content of contents) await put(path(n++), content)
      return (performance.now() - started) / PUTS
    }
    const ours: number[] = []
    const theirs: number[] = []
    const flushed: number[] = []
    const cpu: number[] = []
    for (let run = -1; run < runs; run++) {
      const pid = server.child.pid as number
      const before = processCpu(pid)
      const one = await round((at, content) => client.put(at, content))
      const took = processCpu(pid) - before
      const two = await round((at, content) => plain.put(at, content, 'text/plain'))
      const three = await round((at, content) => flushing.put(at, content, 'text/plain'))
      process.stderr.write(
        `  ${run < 0 ? 'warm-up' : `round ${run + 1} of ${runs}`}: ${one.toFixed(1)} ms, isomorphic-git ${two.toFixed(1)} ms, flushing ${three.toFixed(1)} ms\n`,
      )
      if (run < 0) continue
      ours.push(one)
      theirs.push(two)
      flushed.push(three)
      cpu.push((took * 1000) / PUTS)
    }
    const oneUser: number[] = []
    const manyUsers: number[] = []
    for (let run = -1; run < runs; run++) {
      const one = await spread(shared, SHARED, (each, at) => each.put(path(at), randomBytes(SIZE)))
      const many = await spread(clients, SHARED, (each, at) => each.put(path(at), randomBytes(SIZE)))
      if (run < 0) continue
      oneUser.push(SHARED / one)
      manyUsers.push(SHARED / many)
    }
    return [
      {
        ...pairs(
          name,
          'one PUT of 1 KB over HTTP, flushed',
          'ms',
          ours,
          theirs,
          'isomorphic-git, not flushed',
        ),
        atLeast: MUST,
      },
      pairs(name, 'the same', 'ms', ours, flushed, 'isomorphic-git, flushed'),
      figure(name, 'CPU time of the server for it', 'ms', cpu),
      figure(name, 'PUTs of 16 clients, one user', '1/s', oneUser),
      figure(name, 'PUTs of 64 clients, as many users', '1/s', manyUsers),
    ]
  } finally {
    for (const one of [...clients, ...shared]) one.close()
    await server.stop()
    await rm(folder, { recursive: true })
  }
}

/** Does `count` things, each client one after another. Gives the seconds it took; the first failure ends it. */
async function spread(
  clients: StorageClient[],
  count: number,
  put: (client: StorageClient, n: number) => Promise<unknown>,
): Promise<number> {
  let next = 0
  const started = performance.now()
  await Promise.all(
    clients.map(async (client) => {
      for (let n = next++; n < count; n = next++) await put(client, n)
    }),
  )
  return (performance.now() - started) / 1000
}
