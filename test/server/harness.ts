import { createHash, randomBytes } from 'node:crypto'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createAssumeRole, createStsClient, serverKeys } from '../../src/access/sts.ts'
import { Tokens } from '../../src/auth/tokens.ts'
import { connect, type Database } from '../../src/database/connect.ts'
import { type Logger, nullLogger } from '../../src/log.ts'
import { createServer, type ServerOptions, type TimoneServer } from '../../src/server/server.ts'
import { createFileStore } from '../../src/storage/file-store.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'
import { createS3Store, type S3Store } from '../../src/storage/s3-store.ts'
import { testS3 } from '../helpers/s3.ts'

export const SECRET = 'the secret of the server tests, long enough'
export const SECRET_KEY = 'cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4='

export interface Running {
  url: string
  tokens: Tokens
  store: ObjectStore
  database: Database
  server: TimoneServer
  /** Authorization header of a user, `lfs:*:rw` unless told otherwise; `full`: a token without scopes. */
  as(user: string, scope?: string | 'full'): Promise<string>
  stop(): Promise<void>
}

type Overrides = Partial<ServerOptions>
type Given = Omit<ServerOptions, 'database'> & Pick<Overrides, 'database'>

async function run(given: Given, cleanUp: () => Promise<void>): Promise<Running> {
  const database = given.database ?? (await connect('sqlite::memory:'))
  const options: ServerOptions = { ...given, database }
  const server = createServer(options)
  const url = await server.listen({ host: '127.0.0.1', port: 0 })
  const tokens = new Tokens({ secret: SECRET, issuer: url, requireScope: false })
  return {
    url,
    tokens,
    store: options.store,
    database,
    server,
    as: async (user, scope = 'lfs:*:rw') =>
      `Bearer ${await tokens.issueUser(scope === 'full' ? { user } : { user, scopes: [scope] })}`,
    stop: async () => {
      server.destroy()
      await database.close()
      await cleanUp()
    },
  }
}

const DEFAULTS = {
  tokenSecret: SECRET,
  secretKeys: [SECRET_KEY],
  requireScope: false,
  publicRepositories: ['open/source', 'public/*'],
  objectExpiresIn: 3600,
  quota: 0,
  requestsPerMinute: 0,
  logger: nullLogger as Logger,
}

/** A server on a file store in a folder of its own. */
export async function startOnFiles(overrides: Overrides = {}): Promise<Running & { root: string }> {
  const root = await mkdtemp(join(tmpdir(), 'timone-server-'))
  const store = createFileStore(root)
  const running = await run({ ...DEFAULTS, store, ...overrides }, () =>
    rm(root, { recursive: true, force: true }),
  )
  return { ...running, root }
}

/** A server on the S3 store of the tests, with scoped credentials by STS or with signed URLs. */
export async function startOnS3(
  kind: 'sts' | 'url',
  overrides: Overrides = {},
): Promise<Running & { store: S3Store; prefix: string }> {
  const { url, region, bucket, credentials, roleArn, prefix } = testS3()
  const store = createS3Store({
    url,
    region,
    bucket,
    credentials,
    forcePathStyle: true,
    checksums: 'when_required',
  })
  const options = { region, url, credentials }
  const client = createStsClient(options)
  const site = { ...store.location, prefix, keys: serverKeys(options, client) }
  const sts = kind === 'sts' ? { sts: { assumeRole: createAssumeRole(roleArn, client), roleArn } } : {}
  const running = await run({ ...DEFAULTS, store, s3: { site, ...sts }, ...overrides }, async () => {})
  return { ...running, store, prefix }
}

/** A store that does what `methods` say, and nothing else. */
export function fakeStore(methods: Partial<ObjectStore>): ObjectStore {
  const unexpected = (name: string) => () => {
    throw new Error(`the test did not expect ${name}`)
  }
  return {
    driver: 'file',
    head: unexpected('head'),
    get: unexpected('get'),
    put: unexpected('put'),
    createUpload: unexpected('createUpload'),
    putPart: unexpected('putPart'),
    listParts: unexpected('listParts'),
    completeUpload: unexpected('completeUpload'),
    abortUpload: unexpected('abortUpload'),
    remove: unexpected('remove'),
    listObjects: unexpected('listObjects'),
    listUploads: unexpected('listUploads'),
    check: unexpected('check'),
    ...methods,
  }
}

export interface Answer {
  status: number
  headers: Headers
  // biome-ignore lint/suspicious/noExplicitAny: the tests assert on the shape
  json: any
}

/** One POST of JSON, as git-lfs sends it. */
export async function post(url: string, body: unknown, authorization?: string): Promise<Answer> {
  const response = await fetch(url, {
    method: 'POST',
    headers: {
      accept: 'application/vnd.git-lfs+json',
      'content-type': 'application/vnd.git-lfs+json; charset=utf-8',
      ...(authorization === undefined ? {} : { authorization }),
    },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })
  const text = await response.text()
  return {
    status: response.status,
    headers: response.headers,
    json: text === '' ? undefined : JSON.parse(text),
  }
}

/** A request whose target is sent exactly as written: fetch would resolve dot segments. */
export function raw(
  base: string,
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body?: Buffer | string,
): Promise<{ status: number; headers: IncomingHttpHeaders; body: Buffer }> {
  const { hostname, port } = new URL(base)
  return new Promise((resolve, reject) => {
    const request = httpRequest({ hostname, port, method, path, headers, agent: false }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) }),
      )
    })
    request.on('error', reject)
    request.end(body)
  })
}

export interface Sample {
  oid: string
  size: number
  bytes: Buffer
}

/** Bytes that nobody has stored yet, from some ten bytes on: of one byte there are only 256. */
export function sample(size: number): Sample {
  const bytes = randomBytes(size)
  return { oid: createHash('sha256').update(bytes).digest('hex'), size, bytes }
}

/** Every file below a folder, for tests that nothing was left. */
export async function filesIn(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
}

/** Waits until `check` holds; fails after five seconds. */
export async function until(check: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 5_000
  while (!(await check())) {
    if (Date.now() > deadline) throw new Error('what the test waits for did not happen')
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
