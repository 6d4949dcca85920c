import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import amqplib, { type Channel, type ChannelModel, type ConsumeMessage } from 'amqplib'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { type TestBroker, testBroker } from '../helpers/rabbitmq.ts'

const KEY = 'k'.repeat(32)
let folder: string
let broker: TestBroker
let database: TestDatabase
const children: ChildProcess[] = []

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'timone-amqp-'))
  broker = await testBroker({ tls: true })
  database = await testPostgres()
}, 120_000)
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
})
afterAll(async () => {
  await broker?.stop()
  await database?.drop()
  await rm(folder, { recursive: true, force: true })
})

interface Serving {
  child: ChildProcess
  err: () => string
  exit: Promise<number | null>
}

let servers = 0
/** A server process of its own on the broker and database of this file. */
async function serve(env: Record<string, string> = {}, ready = true): Promise<Serving> {
  const program = `
    import { serve } from ${JSON.stringify(resolve('src/cli/serve.ts'))}
    const { stdout, stderr, env } = process
    process.exitCode = await serve({ listen: '127.0.0.1:0' }, { stdout, stderr, env, cwd: process.cwd() })
  `
  const cwd = join(folder, `server${servers++}`)
  await mkdir(cwd)
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', program], {
    cwd,
    env: {
      PATH: process.env.PATH ?? '',
      TIMONE_SECRET_KEYS: KEY,
      TIMONE_DATABASE_URL: database.url,
      TIMONE_AMQP_URL: broker.url,
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.push(child)
  let err = ''
  child.stderr?.on('data', (chunk) => {
    err += chunk
  })
  const exit = once(child, 'exit').then(([code]) => code as number | null)
  const serving = { child, err: () => err, exit }
  for (let turn = 0; ready && !err.includes('answers requests'); turn++) {
    if (child.exitCode !== null || turn > 600) throw new Error(`the server did not start: ${err}`)
    await new Promise((done) => setTimeout(done, 50))
  }
  return serving
}

type Answer = { result?: unknown; error?: string }

/** Sends requests from Python; gives every answer by the number of its request. */
async function call(requests: unknown[], patience = 20): Promise<Map<number, Answer[]>> {
  const answers = new Map<number, Answer[]>()
  const child = spawn('/usr/bin/python3', ['test/identity/ident_caller.py', broker.url, String(patience)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  child.stdin.end(JSON.stringify(requests))
  let out = ''
  child.stdout.on('data', (chunk) => {
    out += chunk
  })
  const [code] = await once(child, 'close')
  expect(code).toBe(0)
  for (const line of out
    .trim()
    .split('\n')
    .filter((line) => line !== '')) {
    const [index, answer] = JSON.parse(line) as [number, Answer]
    answers.set(index, [...(answers.get(index) ?? []), answer])
  }
  return answers
}

async function one(operation: string, body: unknown): Promise<Answer> {
  const answer = (await call([[operation, body]])).get(0)?.[0]
  if (answer === undefined) throw new Error('no answer')
  return answer
}

/** Everything that is published with a routing key, from now on. */
async function listen(
  key: string,
): Promise<{ heard: ConsumeMessage[]; connection: ChannelModel; channel: Channel }> {
  const connection = await amqplib.connect(broker.url)
  const channel = await connection.createChannel()
  const { queue } = await channel.assertQueue('', { exclusive: true })
  await channel.bindQueue(queue, 'amq.topic', key)
  const heard: ConsumeMessage[] = []
  await channel.consume(queue, (message) => void (message && heard.push(message)), { noAck: true })
  return { heard, connection, channel }
}

async function until(check: () => boolean): Promise<void> {
  const end = Date.now() + 10_000
  while (!check()) {
    if (Date.now() > end) throw new Error('what the test waits for did not happen')
    await new Promise((done) => setTimeout(done, 20))
  }
}

describe('a caller in Python', { timeout: 90_000 }, () => {
  test('creates, gets, patches and deletes; others hear of it, and of no token', async () => {
    const server = await serve()
    const { heard, connection } = await listen('notifications.user.#')
    const ada = {
      name: 'Ada',
      email: 'ada@example.com',
      github: { id: 2 ** 40, access_token: 'gho_very-secret' },
    }
    const created = await one('create', ada)
    const { user_id } = created.result as { user_id: number }
    expect(user_id).toBeGreaterThan(0)
    const shown = { id: user_id, name: 'Ada', email: 'ada@example.com', github: { id: 2 ** 40 } }
    expect(await one('get', { github_id: 2 ** 40 })).toEqual({ result: shown })
    const ops = [
      { op: 'replace', path: '/name', value: 'Countess' },
      { op: 'replace', path: '/github/access_token', value: 'gho_other-secret' },
    ]
    expect(await one('patch', { user_id, ops })).toEqual({ result: ops })
    expect(await one('delete', { user_id })).toEqual({ result: { user_id } })
    await until(() => heard.length >= 3)
    expect(heard.map(({ fields }) => fields.routingKey)).toEqual([
      'notifications.user.create',
      'notifications.user.patch',
      'notifications.user.delete',
    ])
    const bodies = heard.map(({ content }) => content.toString())
    expect(bodies.join()).not.toContain('secret')
    expect(bodies.slice(1).map((body) => JSON.parse(body))).toEqual([{ user_id, ops: [ops[0]] }, { user_id }])
    await connection.close()
    expect(server.err()).not.toContain('secret')
    server.child.kill('SIGTERM')
    expect(await server.exit).toBe(0)
  })

  test('gets the error codes that it knows, and the server goes on', async () => {
    const server = await serve()
    const answers = await call([
      ['get', { raw_hex: 'c1c1c1' }],
      ['get', { raw_hex: '81a95f5f70726f746f5f5f80' }],
      ['get', { fill: 50 * 2 ** 20 }],
      ['explode', {}],
      ['constructor', {}],
      ['get.more', {}],
      ['get', []],
      ['get', {}],
      ['get', { user_id: 'x' }],
      ['get', { user_id: 999_999 }],
      ['get', { email: "' or 1=1 --" }],
      ['create', { name: 'a\r\nb', email: 'x@example.com', github: { id: 1 } }],
      ['patch', { user_id: 999_999, ops: [{ op: 'remove', path: '/name' }] }],
      ['patch', { user_id: 1, ops: 'x' }],
    ])
    const codes = [...answers].sort(([a], [b]) => a - b).map(([, [answer]]) => answer?.error)
    expect(codes).toEqual([
      'decode_error',
      'decode_error',
      'decode_error',
      'operation_not_found',
      'operation_not_found',
      'operation_not_found',
      'bad_request',
      'bad_request',
      'bad_request',
      'not_found',
      'not_found',
      'bad_request',
      'not_found',
      'bad_request',
    ])
    // An answer that nobody can be sent ends nothing.
    const { connection, channel } = await listen('nothing')
    for (const replyTo of ['amq.rabbitmq.reply-to.garbage', 'no-such-queue', 'x'.repeat(255)]) {
      channel.publish('amq.topic', 'rpc.user.get', Buffer.from([0x80]), { replyTo })
    }
    const dead = await channel.checkQueue('glotpod.rpc/ident.dead')
    expect(dead.messageCount).toBe(6)
    await connection.close()
    expect(await one('get', { user_id: 999_999 })).toEqual({ error: 'not_found' })
    expect(server.child.exitCode).toBeNull()
  })

  test('1000 requests, two servers, one killed in the middle: all are answered, nobody is there twice', async () => {
    const [first, second] = [await serve(), await serve()]
    const requests = Array.from({ length: 1000 }, (_, index) => [
      'create',
      { name: `User ${index}`, email: `many${index}@example.com`, github: { id: 10_000_000 + index } },
    ])
    const answering = call(requests, 60)
    const count = async (): Promise<number> => {
      const [row] = await database.query("select count(*)::int as n from users where email like 'many%'")
      return (row as { n: number }).n
    }
    while ((await count()) < 300) await new Promise((done) => setTimeout(done, 20))
    first.child.kill('SIGKILL')
    const answers = await answering
    expect(await count()).toBe(1000)
    expect(answers.size).toBe(1000)
    const ids = new Set<number>()
    for (const all of answers.values()) {
      // Twice where the answer was sent and the request not yet taken out of the queue.
      const [id, ...more] = new Set(all.map(({ result }) => (result as { user_id: number }).user_id))
      expect(more).toEqual([])
      ids.add(id as number)
    }
    expect(ids.size).toBe(1000)
    expect(second.child.exitCode).toBeNull()
    second.child.kill('SIGTERM')
    expect(await second.exit).toBe(0)
  })

  test('a server that is told to stop under load ends what it began: each request is answered once', async () => {
    const first = await serve()
    const requests = Array.from({ length: 500 }, (_, index) => [
      'create',
      { name: `User ${index}`, email: `drain${index}@example.com`, github: { id: 20_000_000 + index } },
    ])
    const answering = call(requests, 60)
    const count = async (): Promise<number> => {
      const [row] = await database.query("select count(*)::int as n from users where email like 'drain%'")
      return (row as { n: number }).n
    }
    while ((await count()) < 100) await new Promise((done) => setTimeout(done, 10))
    first.child.kill('SIGTERM')
    expect(await first.exit).toBe(0)
    const done = await count()
    // It did not stay for the whole queue, and nobody took the rest yet.
    expect(done).toBeLessThan(500)
    const second = await serve()
    const answers = await answering
    expect(await count()).toBe(500)
    expect([...answers.values()].map((all) => all.length)).toEqual(Array(500).fill(1))
    expect([...answers.values()].every(([answer]) => answer?.error === undefined)).toBe(true)
    second.child.kill('SIGTERM')
    expect(await second.exit).toBe(0)
  })

  test.each(['PLAIN', 'AMQPLAIN'])('%s, and TLS with a certificate of our own', async (mechanism) => {
    await serve({
      TIMONE_AMQP_URL: broker.tls?.url ?? '',
      TIMONE_AMQP_CA: broker.tls?.ca ?? '',
      TIMONE_AMQP_MECHANISM: mechanism,
      TIMONE_AMQP_EXPOSE_TOKENS: 'true',
    })
    const email = `${mechanism.toLowerCase()}@example.com`
    const github = { id: mechanism.length, access_token: 'gho_shown' }
    const created = await one('create', { name: 'T', email, github })
    const { user_id } = created.result as { user_id: number }
    expect(await one('get', { user_id })).toEqual({ result: { id: user_id, name: 'T', email, github } })
  })

  test('a certificate that nobody vouches for, a wrong password, nobody there: 129', async () => {
    const nobody = new URL(broker.url)
    nobody.port = '1'
    const wrong = new URL(broker.url)
    wrong.password = 'not-the-password'
    for (const url of [broker.tls?.url ?? '', wrong.href, nobody.href]) {
      const begun = Date.now()
      const server = await serve({ TIMONE_AMQP_URL: url }, false)
      expect(await server.exit).toBe(129)
      expect(Date.now() - begun).toBeLessThan(10_000)
      expect(server.err()).toContain('the message broker at')
      expect(server.err()).not.toContain('not-the-password')
    }
  })

  test('the settings file of glotpod.ident is taken as it is', async () => {
    const [db, mq] = [new URL(database.url), new URL(broker.url)]
    const file = join(folder, 'ident.toml')
    await writeFile(
      file,
      `[database]
encryption_key = "${Buffer.from(KEY).toString('base64')}"
[database.postgres]
host = "${db.hostname}"
port = ${db.port}
database = "${db.pathname.slice(1)}"
user = "${db.username}"
password = "${db.password}"
[amqp]
ssl = false
host = "${mq.hostname}"
port = ${mq.port}
login = "${mq.username}"
password = "${mq.password}"
login_method = "AMQPLAIN"
insist = false
`,
    )
    const env = { GLOTPOD_IDENT_SETTINGS: file, TIMONE_AMQP_URL: '', TIMONE_DATABASE_URL: '' }
    const bare = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''))
    const server = await serveBare(bare)
    expect(await one('get', { user_id: 999_999 })).toEqual({ error: 'not_found' })
    server.child.kill('SIGTERM')
    expect(await server.exit).toBe(0)
  })

  /** Without the settings that all others have. */
  async function serveBare(env: Record<string, string>): Promise<Serving> {
    const none = { TIMONE_SECRET_KEYS: undefined, TIMONE_DATABASE_URL: undefined, TIMONE_AMQP_URL: undefined }
    return serve({ ...none, ...env } as unknown as Record<string, string>)
  }
})

describe('what is lost', { timeout: 120_000 }, () => {
  test('Postgres, then the broker: 129 within 10 s, for every server', async () => {
    const own = await ownPostgres()
    const other = await testBroker()
    try {
      const one = await serve({ TIMONE_DATABASE_URL: own.url })
      const [two, three] = [
        await serve({ TIMONE_AMQP_URL: other.url }),
        await serve({ TIMONE_AMQP_URL: other.url }),
      ]
      let begun = Date.now()
      await own.stop()
      expect(await one.exit).toBe(129)
      expect(Date.now() - begun).toBeLessThan(10_000)
      begun = Date.now()
      await other.stop()
      expect(await Promise.all([two.exit, three.exit])).toEqual([129, 129])
      expect(Date.now() - begun).toBeLessThan(10_000)
    } finally {
      await own.stop()
      await other.stop()
    }
  })
})

/** A Postgres of its own, from the same script that starts the one of the tests. */
async function ownPostgres(): Promise<{ url: string; stop: () => Promise<void> }> {
  const run = (arguments_: string[]): Promise<string> =>
    new Promise((done, fail) => {
      // Another S3 is not needed: that one is passed on.
      const env = { ...process.env, TIMONE_TEST_POSTGRES_URL: '' }
      execFile('scripts/services', arguments_, { env }, (error, stdout) =>
        error ? fail(error) : done(stdout),
      )
    })
  // Where the user postgres can get to.
  const place = join(tmpdir(), `timone-postgres-${process.pid}`)
  const out = await run(['start', place])
  const url = /^TIMONE_TEST_POSTGRES_URL=(\S+)$/m.exec(out)?.[1] ?? ''
  return { url, stop: async () => void (await run(['stop', place])) }
}
