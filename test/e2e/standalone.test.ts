import { existsSync } from 'node:fs'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type CiIssuer, CLAIMS, startCiIssuer } from '../helpers/ci-issuer.ts'
import { faultProxy } from '../helpers/fault-proxy.ts'
import { createFederatedRole } from '../helpers/iam.ts'
import { testS3 } from '../helpers/s3.ts'
import {
  backendSettings,
  hashTree,
  lfsObject,
  type RunningServer,
  run,
  startServer,
  World,
  writeRandom,
} from '../helpers/world.ts'

const MIB = 2 ** 20

let world: World
beforeEach(async () => {
  world = await World.create()
  const ran = await world.timone(world.folder, 'install', '--global', '--standalone')
  expect(ran).toMatchObject({
    code: 0,
    stdout: expect.stringContaining('lfs.standalonetransferagent = timone'),
  })
  // Nothing of the machine that the tests run on.
  world.env.AWS_EC2_METADATA_DISABLED = 'true'
})
afterEach(() => world.remove())

/** An origin without any LFS server, and a clone of it. */
async function repository(): Promise<{ origin: string; work: string }> {
  const origin = world.path('origin.git')
  const work = world.path('work')
  await world.git(world.folder, 'init', '-q', '--bare', origin)
  await world.git(world.folder, 'clone', '-q', origin, work)
  await world.git(work, 'lfs', 'track', '*.bin')
  await world.git(work, 'config', '--global', 'lfs.locksverify', 'false')
  await world.commit(work, 'Track large files')
  return { origin, work }
}

async function useBucket(): Promise<ReturnType<typeof testS3>> {
  const s3 = testS3()
  for (const [name, value] of Object.entries({
    bucket: s3.bucket,
    region: s3.region,
    endpoint: s3.url,
    prefix: `${s3.prefix}org/repo`,
  })) {
    await world.git(world.folder, 'config', '--global', `timone.${name}`, value)
  }
  return s3
}

/** Pushes files of every kind, clones, and compares; then pushes again with nothing to move. */
async function roundTrip(): Promise<void> {
  const { origin, work } = await repository()
  await writeRandom(join(work, 'big.bin'), 21 * MIB + 7)
  await writeRandom(join(work, 'one.bin'), 1)
  await writeRandom(join(work, 'some.bin'), 70_000)
  await writeFile(join(work, 'empty.bin'), '')
  await world.commit(work)
  await world.git(work, 'push', '-q', 'origin', 'main')
  const clone = world.path('clone')
  await world.git(world.folder, 'clone', '-q', origin, clone)
  const sent = await hashTree(work)
  expect(Object.keys(sent)).toHaveLength(4)
  expect(await hashTree(clone)).toEqual(sent)
  await world.git(clone, 'lfs', 'fsck')
  // Everything is there: each object is looked for, none is sent.
  world.env.TIMONE_LOG = world.path('agent.log')
  await world.git(work, 'lfs', 'push', '--all', 'origin')
  await rm(join(clone, '.git/lfs/objects'), { recursive: true })
  await world.git(clone, 'lfs', 'pull')
  expect(await hashTree(clone)).toEqual(sent)
}

/** The same by timone's own commands, with a git-lfs that is only there to be found out, were it called. */
async function ownRoundTrip(place: string): Promise<void> {
  const { origin, work } = await repository()
  const files = ['big.bin', 'one.bin', 'some.bin']
  await writeRandom(join(work, 'big.bin'), 21 * MIB + 7)
  await writeRandom(join(work, 'one.bin'), 1)
  const some = await writeRandom(join(work, 'some.bin'), 70_000)
  await world.commit(work)
  const commands = async (cwd: string, ...words: string[]): Promise<Record<string, unknown>> => {
    const called = world.path('git-lfs-was-called')
    const folder = world.path('no git-lfs')
    await mkdir(folder, { recursive: true })
    await writeFile(join(folder, 'git-lfs'), `#!/bin/sh\ntouch '${called}'\nexit 1\n`, { mode: 0o755 })
    const path = world.env.PATH
    world.env.PATH = `${folder}:${path}`
    const ran = await world.timone(cwd, ...words, '--json')
    world.env.PATH = path
    expect(existsSync(called)).toBe(false)
    const events = ran.stdout
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line))
    const summary = events.at(-1)
    expect({ ...ran, summary }).toMatchObject({ code: 0, summary: { failed: 0 } })
    return { ...summary, endpoint: events[0]?.endpoint }
  }
  expect(await commands(work, 'push')).toMatchObject({ moved: 3, skipped: 0, endpoint: place })
  expect(await commands(work, 'push', '--all')).toMatchObject({ moved: 0, skipped: 3, bytes: 0 })
  // What the bucket has need not be here.
  await rm(lfsObject(work, some))
  expect(await commands(work, 'push', '--all')).toMatchObject({ moved: 0, skipped: 3 })
  const env = { ...world.env, GIT_LFS_SKIP_PUSH: '1' }
  expect(await run('git', ['push', '-q', 'origin', 'main'], { cwd: work, env })).toMatchObject({ code: 0 })

  const clone = world.path('clone')
  const skip = { ...world.env, GIT_LFS_SKIP_SMUDGE: '1' }
  const cloned = await run('git', ['clone', '-q', origin, clone], { cwd: world.folder, env: skip })
  expect(cloned).toMatchObject({ code: 0 })
  expect(await commands(clone, 'fetch', 'origin', 'main')).toMatchObject({ moved: 3, endpoint: place })
  expect(await commands(clone, 'pull')).toMatchObject({ moved: 0, files: 3 })
  expect(await hashTree(clone)).toEqual(await hashTree(work))
  expect(Object.keys(await hashTree(clone))).toEqual(files)
  expect(await world.git(clone, 'status', '--porcelain')).toBe('')

  // An object that is nowhere is said so, and the others move.
  const lost = await writeRandom(join(work, 'lost.bin'), 5000)
  await writeRandom(join(work, 'found.bin'), 6000)
  await world.commit(work)
  await rm(lfsObject(work, lost))
  const ran = await world.timone(work, 'push')
  expect(ran).toMatchObject({ code: 1, stderr: expect.stringContaining('neither here nor on the server') })
  expect(ran.stdout + ran.stderr).toMatch(/found|1 object/)
}

describe('straight to the bucket', () => {
  test('with keys of the environment', async () => {
    const s3 = await useBucket()
    world.env.AWS_ACCESS_KEY_ID = s3.credentials.accessKeyId
    world.env.AWS_SECRET_ACCESS_KEY = s3.credentials.secretAccessKey
    await roundTrip()
  })

  test('by timone push, fetch and pull, without git-lfs', async () => {
    const s3 = await useBucket()
    world.env.AWS_ACCESS_KEY_ID = s3.credentials.accessKeyId
    world.env.AWS_SECRET_ACCESS_KEY = s3.credentials.secretAccessKey
    await ownRoundTrip(`${s3.url}/${s3.bucket}/${s3.prefix}org/repo/`)
  })

  test('an upload that was cut off is listed, looked at and dropped', async () => {
    const s3 = await useBucket()
    world.env.AWS_ACCESS_KEY_ID = s3.credentials.accessKeyId
    world.env.AWS_SECRET_ACCESS_KEY = s3.credentials.secretAccessKey
    const proxy = await faultProxy(s3.url)
    try {
      await world.git(world.folder, 'config', '--global', 'timone.endpoint', proxy.url)
      await world.git(world.folder, 'config', '--global', 'lfs.transfer.maxretries', '1')
      const { work } = await repository()
      const oid = await writeRandom(join(work, 'big.bin'), 40 * MIB)
      await world.commit(work)
      proxy.fault = ({ method, url }) =>
        method === 'PUT' && url.includes('partNumber=3') ? { kind: 'reset' } : undefined
      expect(await world.timone(work, 'push')).toMatchObject({ code: 1 })
      proxy.fault = () => undefined
      const listed = await world.timone(work, 'uploads', 'list', '--check', '--json')
      expect(JSON.parse(listed.stdout)).toMatchObject([{ oid, stored: expect.any(Number) }])
      expect(await world.timone(work, 'uploads', 'abort', '--all')).toMatchObject({
        code: 0,
        stdout: '',
        stderr: expect.stringContaining('aborted 1 upload'),
      })
      expect(await world.timone(work, 'push')).toMatchObject({ code: 0 })
    } finally {
      await proxy.close()
    }
  })

  test('locks that the user asked for are not passed over in silence', async () => {
    await useBucket()
    const { work } = await repository()
    await world.git(work, 'config', '--global', 'lfs.locksverify', 'true')
    await writeRandom(join(work, 'one.bin'), 10)
    await world.commit(work)
    const ran = await world.timone(work, 'push')
    expect(ran).toMatchObject({ code: 2, stderr: expect.stringContaining('lfs.locksverify') })
  })

  test('with a profile of the shared files', async () => {
    const s3 = await useBucket()
    const file = world.path('home', '.aws', 'credentials')
    await mkdir(dirname(file))
    const { accessKeyId, secretAccessKey } = s3.credentials
    await writeFile(
      file,
      `[default]\naws_access_key_id = wrong\naws_secret_access_key = wrong\n\n[lfs]\naws_access_key_id=${accessKeyId}\naws_secret_access_key=${secretAccessKey}\n`,
      { mode: 0o600 },
    )
    world.env.AWS_PROFILE = 'lfs'
    await roundTrip()
  })

  test('with a role that the user’s keys may take', async () => {
    const s3 = await useBucket()
    await world.git(world.folder, 'config', '--global', 'timone.roleArn', s3.roleArn)
    world.env.AWS_ACCESS_KEY_ID = s3.credentials.accessKeyId
    world.env.AWS_SECRET_ACCESS_KEY = s3.credentials.secretAccessKey
    await roundTrip()
  })

  test('with a profile that takes a role, by keys that a program prints', async () => {
    const s3 = await useBucket()
    const { accessKeyId, secretAccessKey } = s3.credentials
    const printed = { Version: 1, AccessKeyId: accessKeyId, SecretAccessKey: secretAccessKey }
    await mkdir(world.path('home', '.aws'))
    await writeFile(world.path('home', 'printed.json'), JSON.stringify(printed), { mode: 0o600 })
    await writeFile(
      world.path('home', '.aws', 'config'),
      `[profile lfs]\nrole_arn = ${s3.roleArn}\nsource_profile = base\n[profile base]\ncredential_process = cat "${world.path('home', 'printed.json')}"\n`,
    )
    world.env.AWS_PROFILE = 'lfs'
    await roundTrip()
  })

  // The STS of another S3 cannot ask an issuer that runs here.
  const elsewhere = process.env.TIMONE_TEST_CEPH_DIR === undefined
  describe.skipIf(elsewhere)(
    `with the identity token of a CI job${elsewhere ? ', only with the Ceph of scripts/services' : ''}`,
    () => {
      let issuer: CiIssuer
      let stranger: CiIssuer
      let role: Awaited<ReturnType<typeof createFederatedRole>>
      beforeAll(async () => {
        issuer = await startCiIssuer({ certified: true })
        issuer.claims = CLAIMS.github
        stranger = await startCiIssuer({ certified: true })
        stranger.claims = { ...CLAIMS.github, iss: issuer.url }
        role = await createFederatedRole(testS3(), issuer, 'sts.amazonaws.com')
      })
      afterAll(async () => {
        await role.remove()
        await issuer.stop()
        await stranger.stop()
      })
      beforeEach(async () => {
        await useBucket()
        await world.git(world.folder, 'config', '--global', 'timone.roleArn', role.roleArn)
        Object.assign(world.env, issuer.githubEnv)
      })

      test('which the store’s STS checks at the issuer, and takes for keys of a role', async () => {
        await roundTrip()
        expect(issuer.requests).toContain('/.well-known/jwks')
      })

      test('by timone push, fetch and pull', async () => {
        const s3 = await useBucket()
        await ownRoundTrip(`${s3.url}/${s3.bucket}/${s3.prefix}org/repo/`)
      })

      test('a file with the token, as Kubernetes mounts it, and the role in the environment', async () => {
        await world.git(world.folder, 'config', '--global', '--unset', 'timone.roleArn')
        for (const name of Object.keys(issuer.githubEnv)) delete world.env[name]
        const file = world.path('home', 'token')
        await writeFile(file, await issuer.sign({ ...CLAIMS.github, aud: 'sts.amazonaws.com' }))
        Object.assign(world.env, { AWS_ROLE_ARN: role.roleArn, AWS_WEB_IDENTITY_TOKEN_FILE: file })
        await roundTrip()
      })

      test.each<[string, () => NodeJS.ProcessEnv]>([
        ['for another audience', () => ({ TIMONE_ID_TOKEN_AUDIENCE: 'https://other' })],
        ['that somebody else has signed', () => stranger.githubEnv],
      ])('a token %s is refused by STS, and said without the token', async (_name, env) => {
        Object.assign(world.env, env())
        const { work } = await repository()
        await writeRandom(join(work, 'some.bin'), 1000)
        await world.commit(work)
        const { code, stderr } = await world.tryGit(work, 'push', '-q', 'origin', 'main')
        expect(code).not.toBe(0)
        expect(stderr).toMatch(/STS at 127\.0\.0\.1:\d+ does not give arn:aws:iam:::role/)
        expect(stderr).not.toMatch(/eyJ/)
      })
    },
  )
})

describe('timone.url', () => {
  let server: RunningServer
  let folder: World
  beforeAll(async () => {
    folder = await World.create()
    server = await startServer(folder.path('data'), backendSettings('s3-sts', folder.path('data')))
  })
  afterAll(async () => {
    await server.stop()
    await folder.remove()
  })

  test('a server gives credentials without the Batch API', async () => {
    await world.signIn(server)
    await world.git(world.folder, 'config', '--global', 'timone.url', `${server.url}/org/alone`)
    await roundTrip()
    expect(server.log()).not.toContain('objects/batch')
  })

  test('to timone push, fetch and pull as well', async () => {
    await world.signIn(server)
    await world.git(world.folder, 'config', '--global', 'timone.url', `${server.url}/org/own`)
    await ownRoundTrip(`${server.url}/org/own/info/lfs`)
    expect(server.log()).not.toContain('objects/batch')
  })
})

describe('a hostile .lfsconfig', () => {
  let heard: string[]
  let hostile: Server
  let address: string
  beforeAll(async () => {
    hostile = createServer((request, response) => {
      heard.push(JSON.stringify([request.url, request.headers]))
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end()
    })
    await new Promise<void>((resolve) => hostile.listen(0, '127.0.0.1', resolve))
    address = `http://127.0.0.1:${(hostile.address() as AddressInfo).port}`
  })
  afterAll(() => {
    hostile.closeAllConnections()
    hostile.close()
  })

  test.each<[string, (url: string) => Record<string, string>]>([
    ['names storage', (url) => ({ bucket: 'lfs', endpoint: url, roleArn: 'arn:aws:iam::1:role/x' })],
    ['names a server', (url) => ({ url: `${url}/org/repo` })],
  ])('that %s elsewhere gets no credential', async (_name, settings) => {
    heard = []
    const { work } = await repository()
    for (const [name, value] of Object.entries(settings(address)))
      await world.git(work, 'config', '-f', '.lfsconfig', `timone.${name}`, value)
    await writeRandom(join(work, 'some.bin'), 1000)
    await world.commit(work)
    const token = 'eyJhbGciOiJub25lIn0.eyJhdWQiOiJodHRwczovL2xmcy5leGFtcGxlIn0.AAAA'
    Object.assign(world.env, {
      AWS_ACCESS_KEY_ID: 'AKIAEXAMPLE',
      AWS_SECRET_ACCESS_KEY: 'a-secret-key',
      AWS_SESSION_TOKEN: 'a-session-token',
      TIMONE_ID_TOKEN: token,
    })
    const { code, stderr } = await world.tryGit(work, 'push', '-q', 'origin', 'main')
    expect(code).not.toBe(0)
    expect(stderr).toMatch(/credentials may not be meant for it|wants a token/)
    for (const command of ['push', 'fetch']) {
      if (command === 'fetch') await rm(join(work, '.git/lfs/objects'), { recursive: true })
      const own = await world.timone(work, command)
      expect(own.code).not.toBe(0)
      expect(own.stderr).toMatch(/credentials may not be meant for it|wants a token/)
    }
    expect(heard).toEqual([])
  })

  test('cannot name a role or a program', async () => {
    const { work } = await repository()
    await writeFile(
      join(work, '.lfsconfig'),
      '[timone]\n\troleArn = arn:aws:iam::1:role/x\n\tcacheDir = /tmp/evil\n[lfs]\n\tstandalonetransferagent = evil\n',
    )
    await writeRandom(join(work, 'some.bin'), 1000)
    await world.commit(work)
    const { code, stderr } = await world.tryGit(work, 'push', '-q', 'origin', 'main')
    expect(code).not.toBe(0)
    expect(stderr).toMatch(/no bucket is named/)
    expect(await world.timone(work, 'push')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('no bucket is named'),
    })
  })
})
