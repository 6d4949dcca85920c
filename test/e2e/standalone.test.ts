import { mkdir, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import { decodeJwt } from 'jose'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { createAssumeRole, createStsClient } from '../../src/access/sts.ts'
import { type CiIssuer, CLAIMS, startCiIssuer } from '../helpers/ci-issuer.ts'
import { testS3 } from '../helpers/s3.ts'
import {
  backendSettings,
  hashTree,
  type RunningServer,
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

describe('straight to the bucket', () => {
  test('with keys of the environment', async () => {
    const s3 = await useBucket()
    world.env.AWS_ACCESS_KEY_ID = s3.credentials.accessKeyId
    world.env.AWS_SECRET_ACCESS_KEY = s3.credentials.secretAccessKey
    await roundTrip()
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

  describe('with the identity token of a CI job', () => {
    let issuer: CiIssuer
    let sts: Server
    let asked: URLSearchParams[]
    beforeAll(async () => {
      issuer = await startCiIssuer()
      issuer.claims = CLAIMS.github
      const s3 = testS3()
      const client = createStsClient({ region: s3.region, url: s3.url, credentials: s3.credentials })
      const assume = createAssumeRole(s3.roleArn, client)
      const policy = JSON.stringify({
        Version: '2012-10-17',
        Statement: [{ Effect: 'Allow', Action: 's3:*', Resource: '*' }],
      })
      // STS as AWS documents it: it checks the token, not a signature, and gives keys of the role that the store knows.
      sts = createServer(async (request, response) => {
        let text = ''
        for await (const chunk of request) text += chunk
        const form = new URLSearchParams(text)
        asked.push(form)
        const claims = decodeJwt(form.get('WebIdentityToken') ?? '')
        if (
          claims.aud !== 'sts.amazonaws.com' ||
          claims.iss !== issuer.url ||
          request.headers.authorization
        ) {
          response.writeHead(403, { 'content-type': 'text/xml' })
          response.end(
            '<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized</Message></Error></ErrorResponse>',
          )
          return
        }
        const keys = await assume({ policy, duration: 3600, sessionName: 'test' })
        response.writeHead(200, { 'content-type': 'text/xml' })
        response.end(
          `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>${keys.accessKeyId}</AccessKeyId><SecretAccessKey>${keys.secretAccessKey}</SecretAccessKey><SessionToken>${keys.sessionToken}</SessionToken><Expiration>${new Date(keys.expiresAt).toISOString()}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
        )
      })
      await new Promise<void>((resolve) => sts.listen(0, '127.0.0.1', resolve))
    })
    afterAll(async () => {
      sts.closeAllConnections()
      sts.close()
      await issuer.stop()
    })
    beforeEach(async () => {
      asked = []
      const s3 = await useBucket()
      await world.git(world.folder, 'config', '--global', 'timone.roleArn', s3.roleArn)
      world.env.AWS_ENDPOINT_URL_STS = `http://127.0.0.1:${(sts.address() as AddressInfo).port}`
      Object.assign(world.env, issuer.githubEnv)
    })

    test('which STS takes for keys of a role', async () => {
      await roundTrip()
      expect(asked[0]?.get('Action')).toBe('AssumeRoleWithWebIdentity')
    })

    test('a token that STS does not take is said without the token', async () => {
      world.env.TIMONE_ID_TOKEN_AUDIENCE = 'https://other'
      const { work } = await repository()
      await writeRandom(join(work, 'some.bin'), 1000)
      await world.commit(work)
      const { code, stderr } = await world.tryGit(work, 'push', '-q', 'origin', 'main')
      expect(code).not.toBe(0)
      expect(stderr).toMatch(/AccessDenied/)
      expect(stderr).not.toMatch(/eyJ/)
    })
  })
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
  })
})
