import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { CreateMultipartUploadCommand, ListMultipartUploadsCommand, S3Client } from '@aws-sdk/client-s3'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { BatchObject } from '../helpers/agent.ts'
import { type AgentWorld, agentWorld } from '../helpers/agent-world.ts'
import type { Fault, SeenRequest } from '../helpers/fault-proxy.ts'
import { testS3 } from '../helpers/s3.ts'
import { type Backend, type Ran, run, TIMONE } from '../helpers/world.ts'

const MIB = 2 ** 20
const PART = 5 * MIB

const isLastPart = ({ method, url }: SeenRequest): boolean =>
  method === 'PUT' && /[?&](partNumber|part)=3(&|$)/.test(url)
const REFUSED: Fault = {
  kind: 'answer',
  status: 403,
  body: '<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
}

interface Listed {
  oid: string
  size: number | null
  repository: string
  started_at: string
  stored: number | null
  busy: string | null
}

describe.each(['s3-sts', 's3-url', 'file'] as Backend[])('timone uploads, %s', (backend) => {
  let here: AgentWorld
  beforeAll(async () => {
    here = await agentWorld(backend)
    await here.world.git(here.work, 'config', 'timone.partSize', '5m')
    await here.world.git(here.work, 'config', 'timone.parallelParts', '1')
    await here.world.git(here.work, 'config', 'lfs.url', `${here.server.url}/org/repo/info/lfs`)
  })
  afterAll(() => here.close())

  const folder = (): string => join(here.work, '.git/lfs/timone')
  const states = async (): Promise<string[]> =>
    (await readdir(folder()).catch(() => [])).filter((name) => name.endsWith('.upload.json'))
  const statePath = (oid: string): string => join(folder(), `${oid}.upload.json`)

  /** An upload of which two parts of three went up. */
  async function interrupted(): Promise<{ oid: string; size: number; path: string }> {
    const object = await here.addObject(2 * PART + 1000)
    here.proxy.fault = (request) => (isLastPart(request) ? REFUSED : undefined)
    const agent = here.agent()
    await agent.init('upload')
    const [asked] = await here.batch('upload', [object])
    const answer = await agent.transfer('upload', asked as BatchObject, object.path)
    expect(answer.error?.code).toBe(403)
    await agent.terminate()
    here.proxy.fault = () => undefined
    return object
  }

  const inClone = (...args: string[]): Promise<Ran> => here.world.timone(here.work, 'uploads', ...args)
  /** As the server's operator, with its settings and outside every clone. */
  const onServer = (...args: string[]): Promise<Ran> =>
    run(TIMONE, ['uploads', ...args, '--data', here.world.path('data')], {
      cwd: here.world.folder,
      env: { ...here.world.env, ...here.storage },
    })
  const listed = async (ran: Promise<Ran>): Promise<Listed[]> => {
    const { code, stdout, stderr } = await ran
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    return JSON.parse(stdout) as Listed[]
  }

  test('nothing unfinished: says so', async () => {
    expect(await inClone('list')).toEqual({ code: 0, stdout: '', stderr: 'timone: no unfinished uploads\n' })
    expect(await onServer('list')).toEqual({ code: 0, stdout: '', stderr: 'timone: no unfinished uploads\n' })
    expect(await listed(inClone('list', '--json'))).toEqual([])
    const none = await inClone('abort', '--all')
    expect({ code: none.code, stderr: none.stderr }).toEqual({
      code: 0,
      stderr: 'timone: aborted 0 uploads\n',
    })
  })

  test('list: from the clone and from the store, for people and for programs', async () => {
    const object = await interrupted()
    const started = Date.now()
    const [mine, ...more] = await listed(inClone('list', '--json'))
    expect(more).toEqual([])
    expect(mine).toMatchObject({ oid: object.oid, size: object.size, stored: null, busy: null })
    expect(mine?.repository).toMatch(/^127\.0\.0\.1:\d+\/org\/repo$/)
    expect(Math.abs(Date.parse(mine?.started_at ?? '') - started)).toBeLessThan(60_000)
    const [checked] = await listed(inClone('list', '--check', '--json'))
    expect(checked).toMatchObject({ oid: object.oid, stored: 2 * PART })
    const [stored] = await listed(onServer('list', '--json'))
    expect(stored).toMatchObject({ oid: object.oid, repository: 'org/repo', stored: 2 * PART, busy: null })
    expect(Math.abs(Date.parse(stored?.started_at ?? '') - started)).toBeLessThan(60_000)

    const text = await inClone('list', '--check')
    expect(text.stdout).toMatch(
      new RegExp(`^${object.oid}  10\\.0 MiB of 10\\.0 MiB  \\S+Z  127\\.0\\.0\\.1:\\d+/org/repo\n$`),
    )
    expect(await listed(inClone('list', '--older-than', '1h', '--json'))).toEqual([])
    expect(await listed(onServer('list', '--older-than', '1h', '--json'))).toEqual([])
    const secrets = [here.token, JSON.parse(await readFile(statePath(object.oid), 'utf8')).uploadId as string]
    for (const secret of secrets) expect(JSON.stringify([mine, checked, stored, text])).not.toContain(secret)
    expect((await inClone('abort', object.oid)).code).toBe(0)
  })

  test('abort from the clone: the parts and the state are gone, the rest stays, and a push begins anew', async () => {
    const [one, two] = [await interrupted(), await interrupted()]
    const ran = await inClone('abort', one.oid, '--json')
    expect(ran.code).toBe(0)
    expect((JSON.parse(ran.stdout) as Listed[]).map(({ oid }) => oid)).toEqual([one.oid])
    expect(await states()).toEqual([`${two.oid}.upload.json`])
    expect((await listed(onServer('list', '--json'))).map(({ oid }) => oid)).toEqual([two.oid])

    const again = await inClone('abort', one.oid)
    expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining('no unfinished upload here') })
    await here.upload(one)
    expect((await inClone('abort', '--all')).code).toBe(0)
    expect(await states()).toEqual([])
    expect(await listed(onServer('list', '--json'))).toEqual([])
  })

  test('abort of what the server has by now, and of what its store has dropped', async () => {
    const [one, two] = [await interrupted(), await interrupted()]
    const hidden = await readFile(statePath(one.oid), 'utf8')
    // Another clone has pushed it meanwhile.
    await writeFile(statePath(one.oid), '{}')
    await here.upload(one)
    await writeFile(statePath(one.oid), hidden, { mode: 0o600 })
    expect((await onServer('abort', two.oid)).code).toBe(0)
    const ran = await inClone('abort', '--all')
    expect(ran).toMatchObject({ code: 0, stderr: 'timone: aborted 2 uploads\n' })
    expect(await states()).toEqual([])
    expect(await listed(onServer('list', '--json'))).toEqual([])
  })

  test('what a live process sends, or another machine, is left alone; a hostile state is not followed', async () => {
    const live = await interrupted()
    const elsewhere = await interrupted()
    const evil = await interrupted()
    const change = async (oid: string, how: object): Promise<void> => {
      const state = JSON.parse(await readFile(statePath(oid), 'utf8'))
      await writeFile(statePath(oid), JSON.stringify({ ...state, ...how }))
    }
    const host = hostname().replace(/[^A-Za-z0-9-]/g, '_')
    await change(live.oid, { owner: { host, pid: process.pid } })
    await change(elsewhere.oid, { owner: { host: 'another\u001b[31m', pid: spawnSync('true').pid } })
    await change(evil.oid, { target: 'http://127.0.0.1:9/a/b/info/lfs/credentials#127.0.0.1:9' })
    await writeFile(statePath(`${'0'.repeat(64)}`), '{"version":1,"target":7}')

    const shown = await inClone('list')
    expect(shown.stdout.trimEnd().split('\n')).toHaveLength(3)
    expect(shown.stdout).toContain(`process ${process.pid} is sending it`)
    expect(shown.stdout).not.toContain('\u001b')
    const ran = await inClone('abort', '--all')
    expect(ran.code).toBe(1)
    expect(ran.stderr).toContain(`${live.oid} is left alone: process ${process.pid}`)
    expect(ran.stderr).toContain(`${elsewhere.oid} is left alone: it belongs to the machine`)
    expect(ran.stderr).toContain(`${evil.oid} could not be aborted: this upload does not go to`)
    expect((await states()).length).toBe(4)
    const swept = await onServer('abort', '--all')
    expect(swept).toMatchObject({ code: 0, stderr: 'timone: aborted 3 uploads\n' })
  })

  test('only what has one of our keys is shown or touched', async () => {
    if (backend === 'file') {
      const { createFileStore } = await import('../../src/storage/file-store.ts')
      const store = createFileStore(here.storage.TIMONE_STORAGE_FILE_ROOT as string)
      await store.createUpload('other/people/file', { size: 10, partSize: 10 })
      expect(await listed(onServer('list', '--json'))).toEqual([])
      expect((await onServer('abort', '--all')).stderr).toBe('timone: aborted 0 uploads\n')
      const left: string[] = []
      for await (const { key } of store.listUploads('')) left.push(key)
      expect(left).toEqual(['other/people/file'])
      return
    }
    const { url, region, bucket, credentials } = testS3()
    const s3 = new S3Client({ endpoint: url, region, credentials, forcePathStyle: true })
    const prefix = here.storage.TIMONE_STORAGE_S3_PREFIX as string
    const oid = randomBytes(32).toString('hex')
    const foreign = [
      `${prefix}video.mp4`,
      `${prefix}org/repo/00/00/${oid.slice(0, 63)}x`,
      `${prefix}org/repo/${oid}`,
    ]
    for (const Key of foreign) await s3.send(new CreateMultipartUploadCommand({ Bucket: bucket, Key }))
    expect(await listed(onServer('list', '--json'))).toEqual([])
    expect((await onServer('abort', '--all')).stderr).toBe('timone: aborted 0 uploads\n')
    const { Uploads = [] } = await s3.send(
      new ListMultipartUploadsCommand({ Bucket: bucket, Prefix: prefix }),
    )
    expect(Uploads.map(({ Key }) => Key).sort()).toEqual([...foreign].sort())
    s3.destroy()
  })

  test('says how it is used when it is used wrongly', async () => {
    for (const [args, said] of [
      [['abort'], 'say which uploads to abort'],
      [['abort', 'x'], 'is no oid'],
      [['abort', '--all', 'a'.repeat(64)], 'not both'],
      [['list', '--older-than', 'long'], 'not a length of time'],
      [['list', '--data', 'data', '--remote', 'origin'], '--remote is for a clone'],
    ] as const) {
      const ran = await inClone(...args)
      expect(ran, args.join(' ')).toMatchObject({ code: 2, stderr: expect.stringContaining(said) })
    }
    const outside = await here.world.timone(here.world.folder, 'uploads', 'list')
    expect(outside.code).toBe(2)
    for (const name of ['list', 'abort']) {
      const help = await here.world.timone(here.world.folder, 'uploads', name, '--help')
      expect(help).toMatchObject({ code: 0, stdout: expect.stringContaining('Examples:') })
    }
  })
})
