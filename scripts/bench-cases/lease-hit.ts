import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { generateKey } from '../../src/auth/secret-box.ts'
import { Tokens } from '../../src/auth/tokens.ts'
import { startFakeGitHub } from '../../test/helpers/github-app.ts'
import { testPostgres } from '../../test/helpers/postgres.ts'
import { startServing } from '../../test/helpers/serving.ts'
import { against, type BenchCase, figure } from './bench-case.ts'
import { load } from './http-load.ts'
import { processCpu } from './process-watch.ts'

/** Answers for each run, after as many to warm up as a third of them. */
const ANSWERS = 15_000
/** Requests under way at once, each on a connection that stays. */
const CLIENTS = 32
/** What must be reached: 3 000 answers a second, as milliseconds for each. */
const LIMIT = 0.333

/** A credential that is in the table already, asked for over HTTP with a token, from one server on Postgres. */
export const leaseHit: BenchCase = async ({ runs = 5 }) => {
  const name = 'lease-hit'
  const secret = 'the secret of the benchmark, long enough'
  const github = await startFakeGitHub()
  const postgres = await testPostgres()
  const folder = await mkdtemp(join(tmpdir(), 'timone bench '))
  const key = join(folder, 'key.pem')
  await writeFile(key, github.app('1', ['foo/bar']))
  const server = await startServing({
    TIMONE_DATABASE_URL: postgres.url,
    TIMONE_TOKEN_SECRET: secret,
    TIMONE_SECRET_KEYS: generateKey(),
    TIMONE_LOG_LEVEL: 'warn',
    TIMONE_GITHUB_API: github.api,
    TIMONE_GITHUB_APP_ID: '1',
    TIMONE_GITHUB_PRIVATE_KEY: key,
  })
  try {
    const tokens = new Tokens({ secret, issuer: server.url, requireScope: false })
    const token = await tokens.issueUser({ user: 'ci', scopes: ['lease:github/foo/bar:contents=read'] })
    const headers = { authorization: `Bearer ${token}` }
    const target = `${server.url}/api/foo/bar`
    const ask = (answers: number) => load(target, headers, { clients: CLIENTS, answers })
    await ask(ANSWERS / 3)
    const each: number[] = []
    const middle: number[] = []
    const slow: number[] = []
    const cpu: number[] = []
    for (let run = 0; run < runs; run++) {
      const before = processCpu(server.child.pid as number)
      const { waits, took } = await ask(ANSWERS)
      cpu.push(((processCpu(server.child.pid as number) - before) * 1000) / waits.length)
      each.push(took / waits.length)
      middle.push(waits[Math.floor(waits.length * 0.5)] as number)
      slow.push(waits[Math.floor(waits.length * 0.99)] as number)
    }
    if (github.mints.length !== 1) throw new Error(`${github.mints.length} tokens were minted, not one`)
    return [
      against(name, 'time for one answer, 32 clients', 'ms', each, LIMIT),
      figure(name, 'CPU time of the server for one answer', 'ms', cpu),
      figure(name, 'half of the answers come within', 'ms', middle),
      figure(name, '99 of 100 answers come within', 'ms', slow),
    ]
  } finally {
    await server.stop()
    await github.close()
    await postgres.drop()
    await rm(folder, { recursive: true })
  }
}
