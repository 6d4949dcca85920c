import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { HttpClient, type HttpSend } from '../../src/access/http-client.ts'
import { findAwsKeys } from '../../src/agent/aws-credentials.ts'
import { fromProfile } from '../../src/agent/aws-profile.ts'
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
    sts: { url: new URL(base), region: 'eu-west-1' },
  })

const config = (text: string): Promise<void> => writeFile(join(home, '.aws', 'config'), text)

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
    const file = join(home, 'container-token')
    await writeFile(file, 'let me in\n')
    expect(await find({ ...env, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: file })).toEqual(KEYS)
    await expect(find({ ...env, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: `${file}-not` })).rejects.toThrow(
      /AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE/,
    )
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

describe('AWS credentials of a command', () => {
  const printed = { Version: 1, ...JSON.parse(METADATA), SessionToken: 'session' }

  test('that the profile names', async () => {
    const file = join(home, 'keys with space.json')
    await writeFile(file, JSON.stringify(printed))
    await config(`[profile p]\ncredential_process = cat "${file}"\n`)
    expect(await find({ AWS_PROFILE: 'p', PATH: process.env.PATH ?? '' })).toEqual(KEYS)
  })

  test.each<[string, RegExp, Record<string, unknown> | string]>([
    ['fails', /failed \(3\): run it by hand/, 'echo a-secret >&2; exit 3'],
    ['prints no JSON', /Version 1/, 'echo a-secret'],
    ['prints another version', /Version 1/, { ...printed, Version: 2 }],
    ['prints no keys', /no AWS credentials/, { Version: 1, AccessKeyId: 'a-secret' }],
    ['prints old keys', /expired/, { ...printed, Expiration: '2020-01-01T00:00:00Z' }],
  ])('which %s is said without its output', async (_name, message, what) => {
    const file = join(home, 'printed.json')
    await writeFile(file, JSON.stringify(what))
    const command = typeof what === 'string' ? what : `cat ${file}`
    await config(`[profile p]\ncredential_process = ${command}\n`)
    const failure = await find({ AWS_PROFILE: 'p', PATH: process.env.PATH ?? '' }).catch((error) => error)
    expect(failure.message).toMatch(message)
    expect(failure.message).not.toContain('a-secret')
  })
})

describe('AWS credentials of a role that a profile names', () => {
  let asked: { form: Record<string, string>; authorization: string | undefined }[]
  beforeEach(() => {
    asked = []
    answer = async (request, response) => {
      if (request.url !== '/')
        return void response.end(request.url?.endsWith('/role-1') ? METADATA : 'role-1')
      let text = ''
      for await (const chunk of request) text += chunk
      asked.push({
        form: Object.fromEntries(new URLSearchParams(text)),
        authorization: request.headers.authorization,
      })
      response.end(
        `<R><Credentials><AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>session</SessionToken><Expiration>${EXPIRATION}</Expiration></Credentials></R>`,
      )
    }
  })
  const ROLE = 'arn:aws:iam::1:role/lfs'

  test('with the keys of another profile', async () => {
    await writeFile(
      join(home, '.aws', 'credentials'),
      '[base]\naws_access_key_id = AKIA1\naws_secret_access_key = s\n',
    )
    await config(
      `[profile r]\nrole_arn = ${ROLE}\nsource_profile = base\nexternal_id = e1\nrole_session_name = ada\nduration_seconds = 900\n`,
    )
    expect(await find({ AWS_PROFILE: 'r' })).toEqual(KEYS)
    expect(asked).toEqual([
      {
        form: {
          Action: 'AssumeRole',
          Version: '2011-06-15',
          RoleArn: ROLE,
          RoleSessionName: 'ada',
          DurationSeconds: '900',
          ExternalId: 'e1',
        },
        authorization: expect.stringMatching(
          /^AWS4-HMAC-SHA256 Credential=AKIA1\/\d{8}\/eu-west-1\/sts\/aws4_request, /,
        ),
      },
    ])
  })

  test('through several, and with its own keys', async () => {
    await config(
      `[profile a]\nrole_arn = ${ROLE}-a\nsource_profile = b\n[profile b]\nrole_arn = ${ROLE}-b\nsource_profile = b\naws_access_key_id = AKIA1\naws_secret_access_key = s\n`,
    )
    expect(await find({ AWS_PROFILE: 'a' })).toEqual(KEYS)
    expect(asked.map(({ form }) => form.RoleArn)).toEqual([`${ROLE}-b`, `${ROLE}-a`])
    expect(asked[1]?.authorization).toContain('Credential=ASIA1/')
  })

  test.each<[string, Record<string, string>]>([
    ['Environment', { AWS_ACCESS_KEY_ID: 'AKIA1', AWS_SECRET_ACCESS_KEY: 's' }],
    ['EcsContainer', { AWS_CONTAINER_CREDENTIALS_FULL_URI: 'BASE/role-1' }],
    [
      'Ec2InstanceMetadata',
      { AWS_EC2_METADATA_DISABLED: 'false', AWS_EC2_METADATA_SERVICE_ENDPOINT: 'BASE' },
    ],
  ])('with credential_source %s', async (kind, env) => {
    await config(`[profile r]\nrole_arn = ${ROLE}\ncredential_source = ${kind}\n`)
    const real = Object.entries(env).map(([name, value]) => [name, value.replace('BASE', base)])
    const keys = await findAwsKeysOfProfile('r', Object.fromEntries(real))
    expect(keys).toEqual(KEYS)
    expect(asked).toHaveLength(1)
    expect(asked[0]?.authorization).toMatch(/Credential=(AKIA1|ASIA1)\//)
  })

  test('with an identity token', async () => {
    const file = join(home, 'token')
    await writeFile(file, 'a.b.c\n')
    await config(`[profile r]\nrole_arn = ${ROLE}\nweb_identity_token_file = ${file}\n`)
    expect(await find({ AWS_PROFILE: 'r' })).toEqual(KEYS)
    expect(asked[0]).toMatchObject({
      form: { Action: 'AssumeRoleWithWebIdentity', WebIdentityToken: 'a.b.c' },
      authorization: undefined,
    })
  })

  test.each([
    ['source_profile = a', /name each other/],
    ['source_profile = b', /name each other/],
    ['source_profile = nobody', /where there are none/],
    ['credential_source = Moon', /must be Environment/],
    ['credential_source = Environment', /where there are none/],
    ['source_profile = keys\nmfa_serial = arn:aws:iam::1:mfa/ada', /mfa_serial/],
    ['source_profile = keys\nduration_seconds = 1', /900 to 43200/],
    ['web_identity_token_file = /nowhere', /web_identity_token_file/],
  ])('nonsense is said: %s', async (text, message) => {
    await config(
      `[profile a]\nrole_arn = ${ROLE}\n${text}\n[profile b]\nrole_arn = ${ROLE}\nsource_profile = a\n[profile keys]\naws_access_key_id = AKIA1\naws_secret_access_key = s\n`,
    )
    await expect(find({ AWS_PROFILE: 'a' })).rejects.toThrow(message)
    expect(asked).toEqual([])
  })

  test('a refusal says the reason, and no secret', async () => {
    await config(
      `[profile r]\nrole_arn = ${ROLE}\nsource_profile = r\naws_access_key_id = AKIA1\naws_secret_access_key = a-secret\n`,
    )
    answer = (_request, response) =>
      response.writeHead(403).end('<E><Code>AccessDenied</Code><Message>no, a-secret</Message></E>')
    const failure = await find({ AWS_PROFILE: 'r' }).catch((error) => error)
    expect(failure).toMatchObject({ code: 'denied' })
    expect(failure.message).toMatch(/AccessDenied.*trust policy/)
    expect(failure.message).not.toContain('a-secret')
  })
})

/** The environment's keys go before a profile in the chain; here only the profile is asked. */
function findAwsKeysOfProfile(profile: string, env: Record<string, string>): Promise<unknown> {
  return fromProfile({
    env: { HOME: home, AWS_EC2_METADATA_DISABLED: 'true', AWS_PROFILE: profile, ...env },
    send: client.send,
    sendLocal: client.send,
    sts: { url: new URL(base), region: 'eu-west-1' },
  })
}

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
      role: undefined,
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

  test('a role of git’s configuration is taken by any credentials, one of the environment by a token only', () => {
    const own: [string, string][] = [['timone.bucket', 'b']]
    const arn = 'arn:aws:iam::1:role/lfs'
    expect(place(own, [], { AWS_ROLE_ARN: arn })).toMatchObject({ role: { arn, byTokenOnly: true } })
    expect(place([...own, ['timone.rolearn', arn]], [], { AWS_ROLE_ARN: 'x' })).toMatchObject({
      role: { arn, byTokenOnly: false },
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
