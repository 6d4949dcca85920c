import { execFile, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { packIfMany } from '../../src/remotestorage/packing.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { type Serving, startServing } from '../helpers/serving.ts'

const LONG = process.env.TIMONE_TEST_LONG === '1'
const MIB = 2 ** 20
const APP = 'https://app.example'
/** Bytes by which a server may grow, whatever the size of a document. */
const GROWTH = 100 * MIB

let folder: string
let postgres: TestDatabase
let servers: Serving[]
let token: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'timone-large-'))
  postgres = await testPostgres()
  const env = {
    TIMONE_DATABASE_URL: postgres.url,
    TIMONE_DATA: join(folder, 'data'),
    TIMONE_TOKEN_SECRET: 'the secret of both servers, long enough',
    TIMONE_REMOTESTORAGE_ROOT: join(folder, 'spaces'),
    TIMONE_REMOTESTORAGE_QUOTA: '20g',
  }
  servers = [await startServing(env), await startServing(env)]
  const args = ['token', 'create', '--user', 'bob', '--client', APP, '--scope', '*:rw']
  const made = await promisify(execFile)(process.execPath, [resolve('src/main.ts'), ...args], {
    env: { PATH: process.env.PATH ?? '', ...env },
  })
  token = made.stdout.trim()
}, 60_000)
afterAll(async () => {
  for (const server of servers) await server.stop()
  await postgres.drop()
  await rm(folder, { recursive: true, force: true })
})

/** Bytes in memory now, or the most since {@link forgetPeak}. */
function memory(what: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync(`/proc/${servers[0]?.child.pid}/status`, 'utf8')
  return Number(new RegExp(`${what}:\\s+(\\d+) kB`).exec(status)?.[1]) * 1024
}
const forgetPeak = (): void => {
  spawnSync('sh', ['-c', `echo 5 > /proc/${servers[0]?.child.pid}/clear_refs`])
}

/** Bytes that are different everywhere, so that a part from another place is noticed. */
function pattern(start: number, end: number): Buffer {
  const words = new BigUint64Array(Math.ceil((end - start) / 8) + 1)
  const first = Math.floor(start / 8)
  for (let at = 0; at < words.length; at++) words[at] = BigInt(first + at) * 0x9e3779b97f4a7c15n
  const skip = start - first * 8
  return Buffer.from(words.buffer, skip, end - start)
}

function* pieces(size: number): Generator<Buffer> {
  for (let at = 0; at < size; at += MIB) yield pattern(at, Math.min(at + MIB, size))
}

interface Answer {
  status: number
  etag: string | undefined
  sha256: string
  length: number
}

function ask(
  server: Serving | undefined,
  method: string,
  path: string,
  headers: Record<string, string | number> = {},
  body?: Iterable<Buffer>,
): Promise<Answer> {
  return new Promise((done, failed) => {
    const options = {
      method,
      headers: { authorization: `Bearer ${token}`, origin: APP, ...headers },
    }
    const request = httpRequest(`${server?.url}/storage/bob${path}`, options, (response) => {
      const hash = createHash('sha256')
      let length = 0
      response.on('data', (chunk: Buffer) => {
        hash.update(chunk)
        length += chunk.length
      })
      response.once('error', failed)
      response.once('end', () =>
        done({
          status: response.statusCode ?? 0,
          etag: response.headers.etag,
          sha256: hash.digest('hex'),
          length,
        }),
      )
    })
    request.once('error', failed)
    if (body === undefined) request.end()
    else pipeline(Readable.from(body, { objectMode: false }), request).catch(failed)
  })
}

async function passThrough(size: number, chunked: boolean): Promise<void> {
  const hash = createHash('sha256')
  for (const piece of pieces(size)) hash.update(piece)
  const sha256 = hash.digest('hex')
  // What a server needs to work at all is not counted.
  await ask(servers[0], 'PUT', '/large/warm', { 'content-length': 3 * MIB }, pieces(3 * MIB))
  await ask(servers[0], 'GET', '/large/warm')
  forgetPeak()
  const before = memory('VmRSS')
  const length: Record<string, number> = chunked ? {} : { 'content-length': size }
  const put = await ask(
    servers[0],
    'PUT',
    '/large/doc',
    { 'content-type': 'video/mp4', ...length },
    pieces(size),
  )
  expect([200, 201]).toContain(put.status)
  const got = await ask(servers[0], 'GET', '/large/doc')
  expect(got).toEqual({ status: 200, etag: put.etag, sha256, length: size })
  const growth = memory('VmHWM') - before
  expect(growth).toBeLessThan(GROWTH)
  // Parts from everywhere, also over the borders of what was stored in parts.
  for (const [start, end] of [
    [0, 10],
    [64 * MIB - 5, 64 * MIB + 5],
    [size - 3 * MIB, size - MIB + 7],
  ] as const) {
    const part = await ask(servers[0], 'GET', '/large/doc', { range: `bytes=${start}-${end - 1}` })
    const expected = createHash('sha256').update(pattern(start, end)).digest('hex')
    expect(part).toEqual({ status: 206, etag: put.etag, sha256: expected, length: end - start })
  }
  const suffix = await ask(servers[0], 'GET', '/large/doc', { range: 'bytes=-9' })
  expect(suffix.sha256).toBe(
    createHash('sha256')
      .update(pattern(size - 9, size))
      .digest('hex'),
  )
  expect((await ask(servers[0], 'GET', '/large/doc', { range: `bytes=${size}-` })).status).toBe(416)
  expect(await readdir(join(folder, 'spaces', '.incoming'))).toEqual([])
  expect((await ask(servers[0], 'DELETE', '/large/doc')).status).toBe(200)
}

test(
  'a document of 300 MiB goes in and out without filling the memory',
  () => passThrough(300 * MIB, true),
  120_000,
)

if (LONG) test('so does one of 5 GiB', () => passThrough(5 * 1024 * MIB, false), 1_800_000)

test('two servers and a packing on one file system lose nothing', async () => {
  const clients = 8
  const each = 25
  let writing = true
  let packings = 0
  const pack = async (): Promise<void> => {
    const [name] = (await readdir(join(folder, 'spaces'))).filter((file) => file.endsWith('.git'))
    const gitDir = join(folder, 'spaces', name ?? '')
    while (writing) if (await packIfMany(gitDir, 0)) packings++
  }
  const write = async (client: number): Promise<number[]> => {
    const statuses: number[] = []
    for (let turn = 0; turn < each; turn++) {
      const body = [Buffer.from(`${client} ${turn}`)]
      const path = `/two/f${turn % 3}/d${client}-${turn}`
      statuses.push(
        (await ask(servers[client % 2], 'PUT', path, { 'content-type': 'text/plain' }, body)).status,
      )
    }
    return statuses
  }
  await ask(servers[0], 'PUT', '/two/first', {}, [Buffer.from('x')])
  const packing = pack()
  const statuses = await Promise.all(Array.from({ length: clients }, (_, client) => write(client)))
  writing = false
  await packing
  expect(new Set(statuses.flat())).toEqual(new Set([201]))
  expect(packings).toBeGreaterThan(1)
  for (let client = 0; client < clients; client++)
    for (let turn = 0; turn < each; turn++) {
      const { sha256 } = await ask(servers[(client + 1) % 2], 'GET', `/two/f${turn % 3}/d${client}-${turn}`)
      expect(sha256).toBe(createHash('sha256').update(`${client} ${turn}`).digest('hex'))
    }
  const [name] = (await readdir(join(folder, 'spaces'))).filter((file) => file.endsWith('.git'))
  const git = (...args: string[]) =>
    spawnSync('git', ['--git-dir', join(folder, 'spaces', name ?? ''), ...args], { encoding: 'utf8' })
  expect(git('fsck', '--strict', '--full', '--no-progress', '--no-dangling')).toMatchObject({
    stderr: '',
    status: 0,
  })
  const puts = git('log', '--format=%s', 'main', '--', 'two').stdout.split('\n')
  expect(puts.filter((line) => /^PUT \/two\/f\d\//.test(line))).toHaveLength(clients * each)
}, 120_000)
