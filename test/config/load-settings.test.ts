import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  type LoadedSettings,
  type LoadOptions,
  loadSettings,
  readSettings,
  type SettingInForce,
} from '../../src/config/load-settings.ts'
import { isTimoneError } from '../../src/errors.ts'

const SECRET = 'a secret of more than thirty-two bytes'
let cwd: string

beforeEach(async () => {
  cwd = await mkdtemp(path.join(tmpdir(), 'timone settings-'))
})

afterEach(() => rm(cwd, { recursive: true }))

function load(options: Partial<LoadOptions> = {}): Promise<LoadedSettings> {
  return loadSettings({ cwd, ...options, env: { PATH: '/bin', TIMONE_TOKEN_SECRET: SECRET, ...options.env } })
}

async function loadToml(text: string, env: LoadOptions['env'] = {}): Promise<LoadedSettings> {
  await writeFile(path.join(cwd, 'timone.toml'), text)
  return load({ configFile: 'timone.toml', env })
}

async function complaint(loading: Promise<unknown>): Promise<string> {
  const error = await loading.then(
    () => expect.fail('accepted'),
    (thrown: unknown) => thrown,
  )
  if (!isTimoneError(error, 'config')) throw error
  return error.message
}

const S3 = { TIMONE_STORAGE: 's3', TIMONE_STORAGE_S3_BUCKET: 'lfs', TIMONE_STORAGE_S3_REGION: 'eu-west-1' }

describe('defaults', () => {
  test('with nothing set: loopback, files, a generated secret that stays', async () => {
    const { settings, warnings } = await loadSettings({ cwd, env: {} })
    expect(settings).toEqual({
      logLevel: 'info',
      listen: { host: '127.0.0.1', port: 8000 },
      url: 'http://127.0.0.1:8000',
      insecure: false,
      trustedProxies: [],
      data: path.join(cwd, 'timone-data'),
      tokenSecret: expect.stringMatching(/^[A-Za-z0-9_-]{43}$/) as string,
      secretKeys: [expect.stringMatching(/^[A-Za-z0-9_-]{43}=$/) as string],
      requireScope: false,
      publicRepositories: [],
      objectExpiresIn: 3600,
      quota: 0,
      trust: [],
      grants: [],
      signing: 'HS256',
      githubRepositories: [],
      github: { api: 'https://api.github.com' },
      providers: [],
      returnOrigins: [],
      requestsPerMinute: 0,
      storage: { driver: 'file', root: path.join(cwd, 'timone-data', 'objects') },
      databaseUrl: `sqlite:${path.join(cwd, 'timone-data', 'timone.db')}`,
    })
    expect(warnings).toEqual([])
    const again = (await loadSettings({ cwd, env: {} })).settings
    expect(again).toMatchObject({ tokenSecret: settings.tokenSecret, secretKeys: settings.secretKeys })
  })

  test('everything is frozen', async () => {
    const { settings } = await load({ env: S3 })
    for (const part of [settings, settings.listen, settings.storage, settings.publicRepositories]) {
      expect(Object.isFrozen(part)).toBe(true)
    }
  })

  test('readSettings makes no secret and no folder', async () => {
    const { settings } = await readSettings({ cwd, env: {} })
    expect(settings.tokenSecret).toBeUndefined()
    expect(await readdir(cwd)).toEqual([])
  })
})

describe('sources', () => {
  test('flags before environment before file before defaults, each with its source', async () => {
    await writeFile(
      path.join(cwd, 'timone.toml'),
      '[server]\nlisten = "127.0.0.1:1"\nlog_level = "debug"\n[lfs]\nobject_expires_in = "15m"\n',
    )
    const { settings, inForce } = await load({
      configFile: 'timone.toml',
      env: { TIMONE_LISTEN: '127.0.0.1:2', TIMONE_LOG_LEVEL: 'WARNING' },
      flags: { listen: '127.0.0.1:3' },
    })
    expect(settings).toMatchObject({ listen: { port: 3 }, logLevel: 'warn', objectExpiresIn: 900 })
    const find = (key: string): SettingInForce | undefined => inForce.find((setting) => setting.key === key)
    expect(find('server.listen')).toMatchObject({
      value: '127.0.0.1:3',
      source: { kind: 'flag', name: '--listen' },
    })
    expect(find('server.log_level')?.source).toEqual({ kind: 'environment', name: 'TIMONE_LOG_LEVEL' })
    expect(find('lfs.object_expires_in')?.source).toEqual({
      kind: 'file',
      name: path.join(cwd, 'timone.toml'),
    })
    expect(find('server.url')).toMatchObject({ value: 'http://127.0.0.1:3', source: { kind: 'default' } })
  })

  test('a whole TOML file', async () => {
    const { settings } = await loadToml(
      `[server]
       listen = "[::1]:9000"
       url = "https://lfs.example/"
       data = "data"
       insecure = false
       [auth]
       token_secret = "env:MY_SECRET"
       require_scope = true
       [lfs]
       public_repositories = ["foo/bar", "open/*"]
       object_expires_in = 900
       [database]
       url = "postgresql://lfs@db.example/timone"
       [storage]
       driver = "S3StorageDriver"
       [storage.s3]
       url = "http://127.0.0.1:9001"
       region = "default"
       bucket = "lfs"
       prefix = "a/b"
       key = "AKIA"
       secret = "env:TIMONE_MY_KEY"
       role_arn = "arn:aws:iam:::role/lfs"
       checksums = "when_supported"`,
      { MY_SECRET: 'x'.repeat(32), TIMONE_MY_KEY: 'hush', TIMONE_TOKEN_SECRET: undefined },
    )
    expect(settings).toEqual({
      logLevel: 'info',
      listen: { host: '::1', port: 9000 },
      url: 'https://lfs.example',
      insecure: false,
      trustedProxies: [],
      data: path.join(cwd, 'data'),
      tokenSecret: 'x'.repeat(32),
      secretKeys: [expect.any(String) as string],
      requireScope: true,
      publicRepositories: ['foo/bar', 'open/*'],
      objectExpiresIn: 900,
      quota: 0,
      trust: [],
      grants: [],
      signing: 'HS256',
      githubRepositories: [],
      github: { api: 'https://api.github.com' },
      providers: [],
      returnOrigins: [],
      requestsPerMinute: 0,
      storage: {
        driver: 's3',
        url: 'http://127.0.0.1:9001',
        region: 'default',
        bucket: 'lfs',
        prefix: 'a/b/',
        credentials: { accessKeyId: 'AKIA', secretAccessKey: 'hush' },
        roleArn: 'arn:aws:iam:::role/lfs',
        stsUrl: 'http://127.0.0.1:9001',
        pathStyle: true,
        checksums: 'when_supported',
      },
      databaseUrl: 'postgresql://lfs@db.example/timone',
    })
  })

  test('relative paths start at the working folder, in a file at the folder of the file', async () => {
    await writeFile(path.join(cwd, 'timone.toml'), '[server]\ndata = "d"\n[storage.file]\nroot = "../r"')
    const options = {
      cwd: '/',
      env: { TIMONE_TOKEN_SECRET: SECRET },
      configFile: path.join(cwd, 'timone.toml'),
    }
    const { settings } = await loadSettings(options)
    expect(settings.data).toBe(path.join(cwd, 'd'))
    expect(settings.storage).toEqual({ driver: 'file', root: path.join(path.dirname(cwd), 'r') })
    expect((await load({ flags: { data: 'e' } })).settings.data).toBe(path.join(cwd, 'e'))
  })

  test('empty variables count as not set', async () => {
    const { settings } = await load({
      env: { TIMONE_LISTEN: '', TIMONE_STORAGE_S3_URL: '', TIMONE_ENDPOINT_URL: '' },
    })
    expect(settings.url).toBe('http://127.0.0.1:8000')
  })

  test('variables of tests and of the client are left alone', async () => {
    await load({ env: { TIMONE_TEST_S3_URL: 'x', TIMONE_LOG: '/tmp/log', OTHER: 'x' } })
  })
})

describe('secrets', () => {
  test('are masked, wherever they come from', async () => {
    const { inForce } = await load({
      env: { ...S3, TIMONE_STORAGE_S3_KEY: 'AKIAKEY', TIMONE_STORAGE_S3_SECRET: 'hush' },
    })
    const text = JSON.stringify(inForce)
    for (const secret of [SECRET, 'AKIAKEY', 'hush']) expect(text).not.toContain(secret)
    expect(inForce.find(({ key }) => key === 'auth.token_secret')?.value).toBe('********')
  })

  test('encryption keys are a list, which may name several variables', async () => {
    await writeFile(path.join(cwd, 'timone.toml'), '[secrets]\nkeys = ["env:NEW", "env:OLD"]\n')
    const { settings, inForce } = await load({ configFile: 'timone.toml', env: { NEW: 'new', OLD: 'old' } })
    expect(settings.secretKeys).toEqual(['new', 'old'])
    expect(inForce.find(({ key }) => key === 'secrets.keys')?.value).toBe('********')
  })

  test('a generated one is shown as such', async () => {
    const { settings } = await loadSettings({ cwd, env: {} })
    const { inForce } = await readSettings({ cwd, env: {} })
    for (const secret of [settings.tokenSecret, ...settings.secretKeys])
      expect(JSON.stringify(inForce)).not.toContain(secret)
    expect(inForce.find(({ key }) => key === 'auth.token_secret')).toMatchObject({
      value: '********',
      source: { kind: 'generated', name: path.join(cwd, 'timone-data', 'token-secret') },
    })
  })

  test('a short one is warned about', async () => {
    expect((await load({ env: { TIMONE_TOKEN_SECRET: 'mykey' } })).warnings).toEqual([
      expect.stringContaining('under 32 bytes'),
    ])
  })

  test.each(['', ' ', '\n'])('an empty one (%j) is refused', async (secret) => {
    expect(await complaint(load({ env: { TIMONE_TOKEN_SECRET: secret } }))).toContain(
      'TIMONE_TOKEN_SECRET is empty',
    )
  })

  test('an empty one in a file, or a variable that is not set, is refused', async () => {
    const env = { TIMONE_TOKEN_SECRET: undefined }
    expect(await complaint(loadToml('[auth]\ntoken_secret = ""', env))).toContain('auth.token_secret')
    expect(await complaint(loadToml('[auth]\ntoken_secret = "env:NOPE"', env))).toContain(
      'NOPE, which is not set',
    )
    expect(await complaint(loadToml('[auth]\ntoken_secret = "env:E"', { ...env, E: '' }))).toContain(
      'not set',
    )
  })

  test('a broken line of a file that holds one is not shown', async () => {
    const message = await complaint(loadToml('[auth]\ntoken_secret = "sesame\n'))
    expect(message).toMatch(/timone\.toml:\d+:\d+: not valid TOML$/)
  })
})

describe('database', () => {
  const shown = async (url: string) => {
    const { inForce } = await load({ env: { TIMONE_DATABASE_URL: url } })
    return inForce.find(({ key }) => key === 'database.url')?.value
  }

  test('a SQLite file is found from where it is named', async () => {
    const { settings } = await load({ env: { TIMONE_DATABASE_URL: 'sqlite:locks.db' } })
    expect(settings.databaseUrl).toBe(`sqlite:${path.join(cwd, 'locks.db')}`)
    expect((await load({ env: { TIMONE_DATABASE_URL: 'sqlite:/var/t.db' } })).settings.databaseUrl).toBe(
      'sqlite:/var/t.db',
    )
    expect((await load({ flags: { data: 'e' } })).settings.databaseUrl).toBe(
      `sqlite:${path.join(cwd, 'e', 'timone.db')}`,
    )
  })

  test('a password is kept, and never shown', async () => {
    const url = 'postgres://lfs:s3same@db.example:5433/timone?sslmode=require&sslpassword=0pen'
    expect((await load({ env: { TIMONE_DATABASE_URL: url } })).settings.databaseUrl).toBe(url)
    const value = await shown(url)
    expect(value).toContain('db.example:5433/timone?sslmode=require')
    expect(value).not.toMatch(/s3same|0pen/)
    expect(await shown('postgres:///timone?host=/run/postgresql&password=s3same')).not.toContain('s3same')
    expect(await shown('sqlite:/var/t.db')).toBe('sqlite:/var/t.db')
  })

  test.each(['mysql://x/y', 'timone.db', 'sqlite:', 'postgres://', 'postgres://lfs:s3same@host:port/x'])(
    '%s is refused, and not repeated',
    async (url) => {
      const message = await complaint(load({ env: { TIMONE_DATABASE_URL: url } }))
      expect(message).toContain('TIMONE_DATABASE_URL: must be sqlite:PATH or postgres://')
      expect(message).not.toContain('s3same')
    },
  )
})

describe('refused', () => {
  test.each([
    [{ TIMONE_LISTNE: 'x' }, 'unknown setting TIMONE_LISTNE in the environment. Did you mean TIMONE_LISTEN?'],
    [{ TIMONE_XYZZY: 'x' }, 'unknown setting TIMONE_XYZZY in the environment'],
    [{ TIMONE_LISTEN: 'nowhere' }, 'TIMONE_LISTEN: must be HOST:PORT'],
    [{ TIMONE_LISTEN: '127.0.0.1:65536' }, 'must be HOST:PORT'],
    [{ TIMONE_LISTEN: '::1:8000' }, 'must be HOST:PORT'],
    [{ TIMONE_ENDPOINT_URL: 'ftp://x' }, 'must be an address'],
    [{ TIMONE_ENDPOINT_URL: 'https://u:p@x' }, 'without user name'],
    [{ TIMONE_ENDPOINT_URL: 'https://x/?a' }, 'without ?'],
    [{ TIMONE_LOG_LEVEL: 'loud' }, 'must be one of trace, debug'],
    [{ TIMONE_REQUIRE_SCOPE: 'maybe' }, 'must be true or false'],
    [{ TIMONE_STORAGE: 'ftp' }, 'TIMONE_STORAGE: must be one of file, s3'],
    [{ TIMONE_OBJECT_EXPIRESIN: '59' }, 'must be 60 to 43200'],
    [{ TIMONE_OBJECT_EXPIRESIN: '43201' }, 'must be 60 to 43200'],
    [{ TIMONE_OBJECT_EXPIRESIN: 'soon' }, 'length of time'],
    [{ TIMONE_TRUSTED_PROXIES: 'proxy.example' }, '10.0.0.0/8'],
    [{ TIMONE_TRUSTED_PROXIES: '10.0.0.0/33' }, '10.0.0.0/8'],
    [{ TIMONE_TRUSTED_PROXIES: '127.0.0.1, 0.0.0.0/0' }, '10.0.0.0/8'],
    [{ TIMONE_TRUSTED_PROXIES: 'fe80::1%eth0' }, '10.0.0.0/8'],
    [{ TIMONE_PUBLIC_REPOSITORIES: 'foo' }, 'org/repo'],
    [{ TIMONE_PUBLIC_REPOSITORIES: 'foo/bar,*/*' }, 'org/repo'],
    [{ TIMONE_PUBLIC_REPOSITORIES: 'api/*' }, 'org/repo'],
    [{ TIMONE_STORAGE: 's3', TIMONE_STORAGE_S3_REGION: 'x' }, 'set TIMONE_STORAGE_S3_BUCKET'],
    [{ TIMONE_STORAGE: 's3', TIMONE_STORAGE_S3_BUCKET: 'x' }, 'set TIMONE_STORAGE_S3_REGION'],
    [{ ...S3, TIMONE_STORAGE_S3_BUCKET: 'a*' }, 'name of a bucket'],
    [{ ...S3, TIMONE_STORAGE_S3_BUCKET: 'a/b' }, 'name of a bucket'],
    [{ ...S3, TIMONE_STORAGE_S3_REGION: 'eu west' }, 'name of a region'],
    [{ ...S3, TIMONE_STORAGE_S3_KEY: 'x' }, 'or neither'],
    [{ ...S3, TIMONE_STORAGE_S3_SECRET: 'x' }, 'or neither'],
    [{ ...S3, TIMONE_STORAGE_S3_ROLE_ARN: 'lfs' }, 'arn:aws:iam::'],
    [{ ...S3, TIMONE_STORAGE_S3_PREFIX: '../x' }, 'none of them . or ..'],
    [{ ...S3, TIMONE_STORAGE_S3_PREFIX: 'a/../b' }, 'none of them . or ..'],
    [{ ...S3, TIMONE_STORAGE_S3_PREFIX: '/a' }, 'names separated by /'],
    [{ ...S3, TIMONE_STORAGE_S3_PREFIX: 'a//b' }, 'names separated by /'],
    [{ ...S3, TIMONE_STORAGE_S3_PREFIX: 'a*' }, 'names separated by /'],
    [
      { ...S3, TIMONE_STORAGE_S3_URL: 'https://key:secret@s3.example' },
      'TIMONE_STORAGE_S3_URL: must be an address',
    ],
  ])('%j', async (env, message) => {
    const said = await complaint(load({ env }))
    expect(said).toContain(message)
    expect(said).not.toMatch(/\n|key:secret/)
  })

  test.each([
    ['[server]\nlistn = "x"', 'unknown setting server.listn. Did you mean server.listen?'],
    ['[sever]\nlisten = "x"', 'unknown setting sever. Did you mean server?'],
    ['listen = "x"', 'unknown setting listen'],
    ['storage = "s3"', 'unknown setting storage'],
    ['[storage.s3.bucket]\nname = "x"', 'storage.s3.bucket must be text'],
    ['[server]\nlisten = 1979-05-27', 'server.listen must be text'],
    ['[auth]\nrequire_scope = "maybe"', 'auth.require_scope in '],
    ['[lfs]\nobject_expires_in = 3600.5', 'lfs.object_expires_in in '],
    ['[__proto__]\nx = 1', 'unknown setting __proto__'],
  ])('in a file: %j', async (text, message) => expect(await complaint(loadToml(text))).toContain(message))

  test('a file that is not there', async () => {
    expect(await complaint(load({ configFile: 'nope.toml' }))).toContain('(ENOENT)')
  })
})

describe('public addresses', () => {
  const refusal = 'TIMONE_ENDPOINT_URL'

  test.each(['0.0.0.0:80', '[::]:80', '192.0.2.1:80', 'lfs.example:80', '[2001:db8::1]:80'])(
    '%s with plain http is refused, unless insecure',
    async (listen) => {
      expect(await complaint(load({ flags: { listen } }))).toContain(refusal)
      expect(
        await complaint(load({ flags: { listen }, env: { TIMONE_ENDPOINT_URL: 'http://a.b' } })),
      ).toContain(refusal)
      const insecure = await load({ flags: { listen, insecure: true } })
      expect(insecure.settings.insecure).toBe(true)
      expect(insecure.warnings.join()).toContain('anyone on the way can read the tokens')
      expect((await load({ flags: { listen }, env: { TIMONE_INSECURE: 'true' } })).settings.insecure).toBe(
        true,
      )
      const safe = await load({ flags: { listen }, env: { TIMONE_ENDPOINT_URL: 'https://lfs.example' } })
      expect(safe.warnings).toEqual([])
    },
  )

  test.each(['127.0.0.1:80', '127.9.9.9:80', '[::1]:80', 'localhost:80', '8080'])(
    '%s is private',
    async (listen) => {
      expect((await load({ flags: { listen } })).warnings).toEqual([])
    },
  )

  test('an origin for storage alone is another one, without a path, and no less safe', async () => {
    const from = (origin: string) =>
      load({
        env: {
          TIMONE_ENDPOINT_URL: 'https://lfs.example',
          TIMONE_REMOTESTORAGE_ROOT: '/spaces',
          TIMONE_REMOTESTORAGE_ORIGIN: origin,
        },
      })
    const { settings } = await from('https://storage.example')
    expect(settings.remoteStorage).toMatchObject({ root: '/spaces', origin: 'https://storage.example' })
    for (const wrong of [
      'https://lfs.example',
      'https://storage.example/x',
      'http://storage.example',
      'storage',
    ])
      expect(await complaint(from(wrong))).toContain('TIMONE_REMOTESTORAGE_ORIGIN')
  })

  test('links never begin with a wildcard address', async () => {
    const { settings, warnings } = await load({ flags: { listen: '0.0.0.0:80', insecure: true } })
    expect(settings.url).toBe('http://localhost:80')
    expect(warnings.join()).toContain('TIMONE_ENDPOINT_URL')
    expect((await load({ flags: { listen: '[::1]:80' } })).settings.url).toBe('http://[::1]:80')
  })

  test('a proxy that takes plain http is warned about', async () => {
    const { warnings } = await load({ env: { TIMONE_ENDPOINT_URL: 'http://lfs.example' } })
    expect(warnings).toEqual([expect.stringContaining('plain http')])
  })
})

describe('s3', () => {
  test('on AWS needs bucket and region only', async () => {
    expect((await load({ env: S3 })).settings.storage).toEqual({
      driver: 's3',
      region: 'eu-west-1',
      bucket: 'lfs',
      prefix: '',
      pathStyle: false,
      checksums: 'when_supported',
    })
  })

  test('elsewhere asks for no checksums and puts the bucket into the path, unless told', async () => {
    const env = { ...S3, TIMONE_STORAGE_S3_URL: 'https://s3.example' }
    expect((await load({ env })).settings.storage).toMatchObject({
      pathStyle: true,
      checksums: 'when_required',
    })
    const told = { TIMONE_STORAGE_S3_PATH_STYLE: 'no', TIMONE_STORAGE_S3_CHECKSUMS: 'when_supported' }
    expect((await load({ env: { ...env, ...told } })).settings.storage).toMatchObject({
      pathStyle: false,
      checksums: 'when_supported',
    })
  })

  test.each([
    ['a', 'a/'],
    ['a/', 'a/'],
    ['a/b//', 'a/b/'],
    ['/', ''],
  ])('the prefix %j becomes %j', async (given, prefix) => {
    const { settings } = await load({ env: { ...S3, TIMONE_STORAGE_S3_PREFIX: given } })
    expect(settings.storage).toMatchObject({ prefix })
  })

  test('settings of the other driver are warned about', async () => {
    expect((await load({ env: { ...S3, TIMONE_STORAGE: undefined } })).warnings).toEqual([
      expect.stringContaining('TIMONE_STORAGE_S3_BUCKET'),
    ])
    expect((await load({ env: { ...S3, TIMONE_STORAGE_FILE_ROOT: 'x' } })).warnings).toEqual([
      expect.stringContaining('TIMONE_STORAGE_FILE_ROOT'),
    ])
  })
})

describe('other providers to sign in with', () => {
  const hub = `[provider.hub]
client_id = "x"
authorization_endpoint = "https://hub.example/authorize"
token_endpoint = "https://hub.example/token"
`
  test('an OpenID provider by its issuer, a plain one by its userinfo_endpoint', async () => {
    const text = `${hub}sign_in = true\nuserinfo_endpoint = "https://api.hub.example/user"\n
[provider.idp1]\nissuer = "https://idp.example"\nclient_id = "y"\nsign_in = true\n
[provider.idp2]\nissuer = "https://idp.example"\nclient_id = "z"\n`
    const { providers } = (await loadToml(text)).settings
    expect(providers.map(({ id, signIn, userinfoEndpoint }) => [id, signIn, userinfoEndpoint])).toEqual([
      ['hub', true, 'https://api.hub.example/user'],
      ['idp1', true, undefined],
      ['idp2', false, undefined],
    ])
  })

  test.each([
    ['sign_in = true', 'sign_in needs issuer, or userinfo_endpoint'],
    ['sign_in = "yes"', 'sign_in must be true or false'],
    [
      'sign_in = true\nuserinfo_endpoint = "http://hub.example/user"',
      'userinfo_endpoint must be an https address',
    ],
  ])('%s is refused', async (lines, why) => {
    expect(await complaint(loadToml(`${hub}${lines}\n`))).toContain(why)
  })

  test.each(['', 'TOKENSTORE_'])("tokenstore's %sOIDC_* say where people sign in", async (prefix) => {
    const { settings } = await load({
      env: {
        [`${prefix}OIDC_DISCOVERY_URL`]: 'https://idp.example/realms/a/.well-known/openid-configuration',
        [`${prefix}OIDC_CLIENT_ID`]: 'local',
        [`${prefix}OIDC_CLIENT_SECRET`]: 'hidden',
      },
    })
    expect(settings.login).toMatchObject({
      issuer: 'https://idp.example/realms/a',
      clientId: 'local',
      clientSecret: 'hidden',
    })
  })
})
