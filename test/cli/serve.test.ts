import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Tokens } from '../../src/auth/tokens.ts'
import { post, sample, until } from '../server/harness.ts'

const SECRET = 'the secret of these tests, which is long enough'
let folder: string
const children: ChildProcess[] = []

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'timone serve '))
})
afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
  await rm(folder, { recursive: true, force: true })
})

interface Serving {
  child: ChildProcess
  out: () => string
  err: () => string
  /** From what it printed. */
  url: () => string
  exit: Promise<number | null>
}

/** Runs the command in a process of its own, since signals are for a process. */
function start(options: object, env: Record<string, string> = {}): Serving {
  const program = `
    import { serve } from ${JSON.stringify(resolve('src/cli/serve.ts'))}
    const { stdout, stderr, env } = process
    process.exitCode = await serve(${JSON.stringify(options)}, { stdout, stderr, env, cwd: process.cwd() })
  `
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', program], {
    cwd: folder,
    env: { PATH: process.env.PATH ?? '', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.push(child)
  let out = ''
  let err = ''
  child.stdout.on('data', (chunk) => {
    out += chunk
  })
  child.stderr.on('data', (chunk) => {
    err += chunk
  })
  const exit = once(child, 'exit').then(([code]) => code as number | null)
  return { child, out: () => out, err: () => err, url: () => /at (http:\S+)/.exec(out)?.[1] ?? '', exit }
}

async function listening(serving: Serving): Promise<Serving> {
  await until(() => serving.out().includes('timone serves') || serving.child.exitCode !== null)
  expect(serving.err()).not.toContain('Error')
  return serving
}

/** A PUT of which one byte is kept back until `finish`. */
async function slowUpload(serving: Serving) {
  const tokens = new Tokens({ secret: SECRET, issuer: serving.url(), requireScope: false })
  const object = sample(1000)
  const { json } = await post(
    `${serving.url()}/foo/bar/info/lfs/objects/batch`,
    { operation: 'upload', objects: [{ oid: object.oid, size: 1000 }] },
    `Bearer ${await tokens.issueUser({ user: 'ada' })}`,
  )
  const { upload } = json.objects[0].actions
  const request = httpRequest(upload.href, {
    method: 'PUT',
    headers: { 'content-length': '1000' },
    agent: false,
  })
  const response = once(request, 'response')
  request.write(object.bytes.subarray(0, 999))
  const temporary = join(folder, 'timone-data/objects/.timone/tmp')
  await until(async () => {
    const names = await readdir(temporary).catch(() => [])
    return names.some((name) => !name.startsWith('check-'))
  })
  return { request, response, finish: () => request.end(object.bytes.subarray(999)) }
}

const onFreePort = { listen: '127.0.0.1:0' }
const withSecret = { TIMONE_TOKEN_SECRET: SECRET }

describe('timone serve', () => {
  test('with no settings at all: makes a secret, serves, and says what to do next', async () => {
    const serving = await listening(start(onFreePort))
    expect((await fetch(`${serving.url()}/readyz`)).status).toBe(200)
    expect((await stat(join(folder, 'timone-data/token-secret'))).mode & 0o777).toBe(0o600)
    const said = serving.out()
    expect(said).toContain(
      `timone token create --user NAME --scope 'lfs:*:rw' --expires 30d --data '${folder}`,
    )
    expect(said).toContain('timone install --global')
    expect(said).toContain(`timone init ${serving.url()}/ORG/REPO`)
    const [line] = serving.err().trim().split('\n')
    expect(JSON.parse(line ?? '')).toMatchObject({ level: 'info', msg: 'listening', storage: 'file' })
    serving.child.kill('SIGTERM')
    expect(await serving.exit).toBe(0)
  })

  test('with a secret of the operator: no hints, and the secret nowhere', async () => {
    const serving = await listening(start(onFreePort, withSecret))
    expect(serving.out()).not.toContain('token create')
    expect((await stat(join(folder, 'timone-data'))).mode & 0o777).toBe(0o700)
    serving.child.kill('SIGINT')
    expect(await serving.exit).toBe(130)
    expect(serving.out() + serving.err()).not.toContain(SECRET)
  })

  test('SIGTERM: takes no more, lets the upload under way end, leaves with 0', async () => {
    const serving = await listening(start(onFreePort, withSecret))
    const { response, finish } = await slowUpload(serving)
    serving.child.kill('SIGTERM')
    await until(() => serving.err().includes('stopping'))
    await expect(fetch(`${serving.url()}/healthz`)).rejects.toThrow()
    expect(serving.child.exitCode).toBe(null)
    finish()
    const [answer] = await response
    expect(answer.statusCode).toBe(200)
    answer.resume()
    expect(await serving.exit).toBe(0)
  })

  test('a second signal: leaves at once', async () => {
    const serving = await listening(start(onFreePort, withSecret))
    const { request, response } = await slowUpload(serving)
    request.on('error', () => {})
    const broken = expect(response).rejects.toThrow()
    serving.child.kill('SIGINT')
    await until(() => serving.err().includes('stopping'))
    serving.child.kill('SIGINT')
    expect(await serving.exit).toBe(130)
    await broken
  })

  test('an address in use: says so, 1', async () => {
    const other = createServer().listen(0, '127.0.0.1')
    await once(other, 'listening')
    const { port } = other.address() as { port: number }
    const serving = start({ listen: `127.0.0.1:${port}` })
    expect(await serving.exit).toBe(1)
    expect(serving.err()).toContain(`127.0.0.1:${port} is in use`)
    expect(serving.out()).toBe('')
    other.close()
  })

  test('a bucket that cannot be reached: warns, serves, and is not ready', async () => {
    const serving = await listening(
      start(onFreePort, {
        ...withSecret,
        TIMONE_STORAGE: 's3',
        TIMONE_STORAGE_S3_URL: 'http://127.0.0.1:1',
        TIMONE_STORAGE_S3_REGION: 'default',
        TIMONE_STORAGE_S3_BUCKET: 'lfs',
        TIMONE_STORAGE_S3_KEY: 'key',
        TIMONE_STORAGE_S3_SECRET: 'hidden-storage-secret',
        TIMONE_STORAGE_S3_ROLE_ARN: 'arn:aws:iam:::role/r',
      }),
    )
    await until(() => serving.err().includes('the storage cannot be used yet'))
    expect((await fetch(`${serving.url()}/healthz`)).status).toBe(200)
    const ready = await fetch(`${serving.url()}/readyz`)
    expect(ready.status).toBe(503)
    await ready.body?.cancel()
    serving.child.kill('SIGTERM')
    expect(await serving.exit).toBe(0)
    expect(serving.err()).not.toContain('hidden-storage-secret')
  })
})
