import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { HttpClient, type HttpSend } from '../../src/access/http-client.ts'
import { findAwsKeys } from '../../src/agent/aws-credentials.ts'
import { LfsConfig } from '../../src/agent/lfs-config.ts'
import { standalonePlace } from '../../src/agent/standalone-config.ts'

let home: string
let server: Server
let base: string
let answer: (request: IncomingMessage, response: ServerResponse) => void
const client = new HttpClient(async () => ({}))
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'timone-aws-'))
  await mkdir(join(home, '.aws', 'sso', 'cache'), { recursive: true })
  server = createServer((request, response) => answer(request, response))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterEach(async () => {
  server.closeAllConnections()
  server.close()
  await client.close()
  await rm(home, { recursive: true })
})

const find = (env: Record<string, string>, send: HttpSend = client.send) =>
  findAwsKeys({
    env: { HOME: home, AWS_EC2_METADATA_DISABLED: 'true', ...env },
    send,
    sendLocal: client.send,
  })

const EXPIRATION = '2030-01-02T03:04:05Z'
const METADATA = JSON.stringify({
  AccessKeyId: 'ASIA1',
  SecretAccessKey: 'secret',
  Token: 'session',
  Expiration: EXPIRATION,
})
const KEYS = {
  accessKeyId: 'ASIA1',
  secretAccessKey: 'secret',
  sessionToken: 'session',
  expiresAt: Date.parse(EXPIRATION),
}

describe('AWS credentials', () => {
  test('of a profile, whose keys go before the default ones', async () => {
    await writeFile(
      join(home, '.aws', 'config'),
      '[default]\nregion = x\n[profile a]\naws_access_key_id = AKIA1\n# no\naws_secret_access_key = s\n',
    )
    expect(await find({ AWS_PROFILE: 'a' })).toMatchObject({ accessKeyId: 'AKIA1', secretAccessKey: 's' })
    await expect(find({ AWS_PROFILE: 'b' })).rejects.toThrow(/profile b/)
    await expect(find({})).rejects.toThrow(/no AWS credentials were found/)
    expect(
      await find({ AWS_ACCESS_KEY_ID: 'AKIA2', AWS_SECRET_ACCESS_KEY: 't', AWS_PROFILE: 'a' }),
    ).toMatchObject({
      accessKeyId: 'AKIA2',
    })
  })

  test('of a container, with its token', async () => {
    answer = (request, response) =>
      response.writeHead(request.headers.authorization === 'let me in' ? 200 : 401).end(METADATA)
    const env = { AWS_CONTAINER_CREDENTIALS_FULL_URI: `${base}/keys` }
    expect(await find({ ...env, AWS_CONTAINER_AUTHORIZATION_TOKEN: 'let me in' })).toEqual(KEYS)
    await expect(find(env)).rejects.toThrow(/401/)
    await expect(find({ AWS_CONTAINER_CREDENTIALS_FULL_URI: 'http://example.com/keys' })).rejects.toThrow(
      /https/,
    )
  })

  test('of the machine’s role, by version 2 of its metadata service', async () => {
    answer = ({ method, url, headers }, response) => {
      if (method === 'PUT' && url === '/latest/api/token') response.end('a token')
      else if (headers['x-aws-ec2-metadata-token'] !== 'a token') response.writeHead(401).end()
      else response.end(url?.endsWith('/role-1') ? METADATA : 'role-1\n')
    }
    const env = { AWS_EC2_METADATA_DISABLED: 'false', AWS_EC2_METADATA_SERVICE_ENDPOINT: base }
    expect(await find(env)).toEqual(KEYS)
  })

  test('of a sign-in by SSO, which may have ended', async () => {
    await writeFile(
      join(home, '.aws', 'config'),
      '[profile dev]\nsso_session = corp\nsso_account_id = 1\nsso_role_name = lfs\n[sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://corp\n',
    )
    await expect(find({ AWS_PROFILE: 'dev' })).rejects.toThrow(/aws sso login/)
    const file = join(home, '.aws', 'sso', 'cache', `${createHash('sha1').update('corp').digest('hex')}.json`)
    await writeFile(file, JSON.stringify({ accessToken: 'sso token', expiresAt: '2030-01-01T00:00:00Z' }))
    answer = ({ headers, url }, response) => {
      const good = headers['x-amz-sso_bearer_token'] === 'sso token' && url?.includes('role_name=lfs')
      const roleCredentials = {
        accessKeyId: 'ASIA1',
        secretAccessKey: 'secret',
        sessionToken: 'session',
        expiration: KEYS.expiresAt,
      }
      response.writeHead(good ? 200 : 401).end(JSON.stringify({ roleCredentials }))
    }
    const hosts: string[] = []
    // The portal's name is fixed: the request is only turned to the server of this test.
    const send: HttpSend = (request) => {
      hosts.push(request.url.host)
      return client.send({ ...request, url: new URL(request.url.pathname + request.url.search, base) })
    }
    expect(await find({ AWS_PROFILE: 'dev' }, send)).toEqual(KEYS)
    expect(hosts).toEqual(['portal.sso.eu-west-1.amazonaws.com'])
  })
})

describe('the place of objects', () => {
  const place = (
    own: [string, string][],
    repository: [string, string][] = [],
    env: Record<string, string> = {},
  ) => standalonePlace(new LfsConfig(own, repository), env)

  test('of a repository’s .lfsconfig, the place is believed and nothing else', () => {
    const repository: [string, string][] = [
      ['timone.bucket', 'b'],
      ['timone.region', 'eu-west-1'],
      ['timone.prefix', '/a/b/'],
      ['timone.rolearn', 'arn:aws:iam::1:role/evil'],
    ]
    expect(place([], repository)).toEqual({
      kind: 'bucket',
      bucket: 'b',
      region: 'eu-west-1',
      prefix: 'a/b/',
      endpoint: undefined,
      roleArn: undefined,
    })
  })

  test.each([
    'https://evil.example',
    'http://s3.eu-west-1.amazonaws.com',
    'https://evilamazonaws.com',
    'https://amazonaws.com.evil.example',
    'https://s3.amazonaws.com:8443',
    'https://s3.amazonaws.com@evil.example',
  ])('an endpoint from there is refused: %s', (endpoint) => {
    expect(() =>
      place(
        [],
        [
          ['timone.bucket', 'b'],
          ['timone.endpoint', endpoint],
        ],
      ),
    ).toThrow()
  })

  test('but not one at AWS, or one that the user has named', () => {
    const named = (endpoint: string): [string, string][] => [
      ['timone.bucket', 'b'],
      ['timone.endpoint', endpoint],
    ]
    expect(place([], named('https://s3.eu-west-1.amazonaws.com'))).toMatchObject({ kind: 'bucket' })
    const env = { AWS_ENDPOINT_URL_S3: 'https://s3.corp.example' }
    expect(place([], named('https://s3.corp.example'), env)).toMatchObject({ kind: 'bucket' })
    expect(
      place([['timone.endpoint', 'https://s3.corp.example']], named('https://evil.example')),
    ).toMatchObject({
      endpoint: 'https://s3.corp.example',
    })
  })

  test.each([
    [[['timone.bucket', 'a/b']]],
    [
      [
        ['timone.bucket', 'b'],
        ['timone.prefix', 'a/../b'],
      ],
    ],
    [
      [
        ['timone.bucket', 'b'],
        ['timone.region', 'x.evil.example/'],
      ],
    ],
    [[['timone.url', 'http://lfs.example/a/b']]],
    [[['timone.url', 'https://user:password@lfs.example/a/b']]],
    [[]],
  ] as [[string, string][]][])('nonsense is refused: %j', (own) => {
    expect(() => place(own)).toThrow()
  })
})
