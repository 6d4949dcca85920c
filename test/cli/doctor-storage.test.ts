import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Readable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createAssumeRole, createStsClient, serverKeys } from '../../src/access/sts.ts'
import type { Finding } from '../../src/cli/doctor-report.ts'
import { testS3 } from '../helpers/s3.ts'
import { type Running, sample, startOnS3 } from '../server/harness.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

let box: Sandbox
let running: Running | undefined

beforeEach(async () => {
  box = await makeSandbox()
  await box.git(['lfs', 'install', '--skip-repo'])
  await box.git(['config', '--global', 'credential.helper', 'store'])
  await box.git(['init', '--quiet', '.'])
})

afterEach(async () => {
  await running?.stop()
  running = undefined
  await box.remove()
})

async function doctor(server: Running, level: 'r' | 'rw' = 'rw'): Promise<Record<string, Finding>> {
  running = server
  const { host } = new URL(server.url)
  const token = await server.tokens.issueUser({
    user: 'ada',
    scopes: [`lfs:org/repo:${level}`],
    expiresIn: 86_400 * 7,
  })
  await writeFile(path.join(box.env.HOME as string, '.git-credentials'), `http://ada:${token}@${host}\n`)
  await box.git(['config', 'lfs.url', `${server.url}/org/repo/info/lfs`])
  const { stdout } = await box.timone(['doctor', '--json'])
  const { checks } = JSON.parse(stdout) as { checks: Finding[] }
  for (const secret of [token, testS3().credentials.secretAccessKey]) expect(stdout).not.toContain(secret)
  return Object.fromEntries(checks.map((one) => [one.name, one]))
}

const s3Of = ({ url, region, bucket }: ReturnType<typeof testS3>) => ({
  endpoint: url,
  region,
  bucket,
  forcePathStyle: true,
})

/** What a server says of its storage, made wrong in one place. */
function brokenSite(change: { endpoint?: string; bucket?: string; roleArn?: string }) {
  const given = testS3()
  const options = { region: given.region, url: given.url, credentials: given.credentials }
  const client = createStsClient(options)
  const { roleArn = given.roleArn, ...place } = change
  const site = { ...s3Of(given), ...place, prefix: given.prefix, keys: serverKeys(options, client) }
  return { s3: { site, sts: { assumeRole: createAssumeRole(roleArn, client), roleArn } } }
}

describe('doctor with a bucket', () => {
  test('takes the credentials of an upload to the bucket, and stores nothing', async () => {
    const server = await startOnS3('sts')
    const checks = await doctor(server)
    expect(checks['storage credentials']).toMatchObject({ status: 'ok' })
    expect(checks['storage credentials']?.message).toMatch(/^for uploads under .*org\/repo\/, good for /)
    expect(checks.storage).toEqual({
      name: 'storage',
      status: 'ok',
      message: `${new URL(testS3().url).host} takes the credentials`,
    })
    const uploads = []
    for await (const upload of server.store.listUploads(server.prefix)) uploads.push(upload)
    expect(uploads).toEqual([])
  })

  test('who may only read is checked with an object of the clone', async () => {
    const server = await startOnS3('sts')
    const { oid, size, bytes } = sample(1000)
    const key = `${server.prefix}org/repo/${oid.slice(0, 2)}/${oid.slice(2, 4)}/${oid}`
    await server.store.put(key, Readable.from([bytes]), { size, sha256: oid })
    await writeFile(
      path.join(box.cwd, 'large.bin'),
      `version https://git-lfs.github.com/spec/v1\noid sha256:${oid}\nsize ${size}\n`,
    )
    await box.git(['add', '.'])
    await box.git(['-c', 'user.name=Ada', '-c', 'user.email=ada@example.org', 'commit', '-qm', 'One'])
    const checks = await doctor(server, 'r')
    expect(checks.token?.message).toContain('may read, not write')
    expect(checks['storage credentials']?.message).toMatch(/^for downloads /)
    expect(checks.storage?.status).toBe('ok')
  })

  test('without STS it reaches the host that signed URLs lead to', async () => {
    const checks = await doctor(await startOnS3('url'))
    expect(checks['storage credentials']?.message).toContain('signs a URL')
    expect(checks.storage).toMatchObject({
      status: 'ok',
      message: `${new URL(testS3().url).host} answers`,
    })
  })

  test('a storage that is away', async () => {
    const checks = await doctor(await startOnS3('sts', brokenSite({ endpoint: 'http://127.0.0.1:1' })))
    expect(checks.storage).toMatchObject({ status: 'fail' })
    expect(checks.storage?.fix).toContain('curl -v http://127.0.0.1:1')
  })

  test('a bucket that is not there', async () => {
    const checks = await doctor(await startOnS3('sts', brokenSite({ bucket: 'nobody-made-this' })))
    expect(checks.storage).toMatchObject({ status: 'fail' })
    expect(checks.storage?.fix).toContain('timone config')
  })

  test('a role that the server may not take', async () => {
    const role = 'arn:aws:iam:::role/nobody-made-this'
    const checks = await doctor(await startOnS3('sts', brokenSite({ roleArn: role })))
    expect(checks['storage credentials']).toMatchObject({ status: 'fail' })
    expect(checks['storage credentials']?.fix).toContain('timone config')
  })
})

describe('standalone mode', () => {
  const s3 = testS3()
  async function bucket(env: Record<string, string>, settings: Record<string, string> = {}) {
    const all = { bucket: s3.bucket, region: s3.region, endpoint: s3.url, prefix: s3.prefix, ...settings }
    for (const [name, value] of Object.entries(all)) await box.git(['config', `timone.${name}`, value])
    await box.git(['config', 'lfs.standalonetransferagent', 'timone'])
    await box.git(['remote', 'add', 'origin', 'https://git.example/org/repo'])
    const keys = {
      AWS_ACCESS_KEY_ID: s3.credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: s3.credentials.secretAccessKey,
    }
    const { stdout } = await box.timone(['doctor', '--json'], {
      env: { ...box.env, AWS_EC2_METADATA_DISABLED: 'true', ...keys, ...env },
    })
    expect(stdout).not.toContain(s3.credentials.secretAccessKey)
    const { checks } = JSON.parse(stdout) as { checks: Finding[] }
    return Object.fromEntries(checks.map((one) => [one.name, one]))
  }

  test('the bucket takes the credentials, one’s own and those of a role', async () => {
    const own = await bucket({})
    expect(own.server).toMatchObject({ status: 'skip', message: expect.stringContaining(s3.bucket) })
    expect(own['storage credentials']).toMatchObject({ status: 'ok' })
    expect(own.storage).toMatchObject({ status: 'ok' })
    await box.git(['remote', 'remove', 'origin'])
    const role = await bucket({}, { roleArn: s3.roleArn })
    expect(role['storage credentials']).toMatchObject({
      status: 'ok',
      message: expect.stringContaining('good for'),
    })
    expect(role.storage).toMatchObject({ status: 'ok' })
  })

  test.each<[string, Record<string, string>, Record<string, string>, Record<string, RegExp>]>([
    [
      'no credentials',
      { AWS_ACCESS_KEY_ID: '' },
      {},
      { 'storage credentials': /no AWS credentials were found/ },
    ],
    ['wrong ones', { AWS_SECRET_ACCESS_KEY: 'wrong' }, {}, { storage: /./ }],
    ['no such bucket', {}, { bucket: 'no-such-bucket-here' }, { storage: /bucket/ }],
    ['a store that is away', {}, { endpoint: 'http://127.0.0.1:9' }, { storage: /127\.0\.0\.1:9/ }],
  ])('%s: said, with what mends it', async (_name, env, settings, wanted) => {
    const found = await bucket(env, settings)
    for (const [name, message] of Object.entries(wanted))
      expect(found[name]).toMatchObject({ status: 'fail', message: expect.stringMatching(message) })
    for (const { status, fix } of Object.values(found))
      if (status === 'fail' || status === 'warn') expect(fix).toMatch(/./)
  })
})
