import { once } from 'node:events'
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { HttpClient } from '../../src/access/http-client.ts'
import { Retrier } from '../../src/access/retry.ts'
import { BatchClient, verifyUpload } from '../../src/agent/batch-client.ts'
import { GitCredential } from '../../src/agent/git-credential.ts'
import type { ConfigEntry } from '../../src/agent/git-environment.ts'
import { LfsApi } from '../../src/agent/lfs-api.ts'
import { LfsConfig } from '../../src/agent/lfs-config.ts'
import { findEndpoint, remoteAddress } from '../../src/agent/lfs-endpoint.ts'
import { lockPolicy, locksOfOthers } from '../../src/agent/lock-check.ts'
import { parseNetrc } from '../../src/agent/netrc.ts'
import { sshCommand } from '../../src/agent/ssh-authenticate.ts'
import { nullLogger } from '../../src/log.ts'
import type { Oid } from '../../src/oid.ts'

/** A real HTTP server with scripted answers; a real `git credential` with a helper that writes down what it is told. */
let folder: string
let server: http.Server
let base: string
let requests: {
  url: string
  headers: http.IncomingHttpHeaders
  body: { objects?: unknown[]; cursor?: string }
}[]
let answer: (request: (typeof requests)[number], response: ServerResponse) => void
let client: HttpClient
const signal = new AbortController().signal

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'timone-api-'))
  requests = []
  server = http.createServer(async (message: IncomingMessage, response) => {
    let text = ''
    for await (const chunk of message) text += chunk
    const request = { url: message.url ?? '', headers: message.headers, body: JSON.parse(text) }
    requests.push(request)
    answer(request, response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  base = `http://127.0.0.1:${(server.address() as { port: number }).port}`
  client = new HttpClient(async () => ({}))
})
afterEach(async () => {
  await client.close()
  server.closeAllConnections()
  server.close()
  await rm(folder, { recursive: true })
})

const json = (
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void => {
  response
    .writeHead(status, { 'content-type': 'application/vnd.git-lfs+json', ...headers })
    .end(JSON.stringify(body))
}

/** A helper that gives `password<n>` on its n-th question and keeps a log of all that it hears. */
async function helper(): Promise<{ env: NodeJS.ProcessEnv; heard: () => Promise<string> }> {
  const script = join(folder, 'helper')
  const log = join(folder, 'log')
  await writeFile(
    script,
    `#!/bin/sh\necho "== $1" >> "${log}"\ncat >> "${log}"\n[ "$1" = get ] || exit 0\necho "$$" >> "${log}.n"\n` +
      `echo "username=ada"; echo "password=password$(wc -l < "${log}.n" | tr -d ' ')"\n`,
  )
  await chmod(script, 0o755)
  const env = {
    PATH: process.env.PATH,
    HOME: folder,
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_TERMINAL_PROMPT: '0',
    GIT_CONFIG_COUNT: '1',
    GIT_CONFIG_KEY_0: 'credential.helper',
    GIT_CONFIG_VALUE_0: script,
  }
  return { env, heard: () => readFile(log, 'utf8').catch(() => '') }
}

function open(entries: ConfigEntry[], env: NodeJS.ProcessEnv, repository: ConfigEntry[] = []): LfsApi {
  const config = new LfsConfig(entries, repository)
  const endpoint = findEndpoint(config, 'upload', 'origin')
  if (endpoint.kind === 'other') throw new Error('not for this test')
  return new LfsApi({
    endpoint,
    operation: 'upload',
    remoteUrl: remoteAddress(config, 'upload', 'origin'),
    config,
    credentials: new GitCredential({ cwd: folder, env }),
    cwd: folder,
    env,
    send: client.send,
    retrier: new Retrier({ retries: 3, maxDelay: 0.01 }),
    log: nullLogger,
  })
}

const authorization = (at: number): string =>
  Buffer.from((requests[at]?.headers.authorization ?? '').replace(/^Basic /, ''), 'base64').toString()

describe('signing in', () => {
  test('the first request is anonymous; after 401 git is asked, and told that the password was good, once', async () => {
    const { env, heard } = await helper()
    const api = open([['lfs.url', `${base}/org/repo/info/lfs`]], env)
    answer = ({ headers }, response) =>
      headers.authorization === undefined
        ? json(response, 401, { message: 'who?' })
        : json(response, 200, { ok: 1 })
    expect(await api.post('objects/batch', {}, signal)).toEqual({ ok: 1 })
    expect(await api.post('objects/batch', {}, signal)).toEqual({ ok: 1 })
    await api.close()
    expect(requests.map(({ url }) => url)).toEqual(Array(3).fill('/org/repo/info/lfs/objects/batch'))
    expect(requests[0]?.headers.authorization).toBeUndefined()
    expect(authorization(1)).toBe('ada:password1')
    expect(requests[0]?.headers.accept).toBe('application/vnd.git-lfs+json')
    const log = await heard()
    expect(log.match(/^== .*/gm)).toEqual(['== get', '== store'])
    expect(log).toContain(`host=${new URL(base).host}`)
    expect(log).not.toContain('path=')
  })

  test('credential.useHttpPath adds the path, the remote’s where it is on the same host', async () => {
    const { env, heard } = await helper()
    Object.assign(env, {
      GIT_CONFIG_COUNT: '2',
      GIT_CONFIG_KEY_1: 'credential.useHttpPath',
      GIT_CONFIG_VALUE_1: 'true',
    })
    answer = ({ headers }, response) => json(response, headers.authorization === undefined ? 401 : 200, {})
    await open([['remote.origin.url', `${base}/a/b.git`]], env).post('x', {}, signal)
    expect(await heard()).toContain('path=a/b.git\n')
  })

  test('with lfs.<url>.access git is asked at once', async () => {
    const { env } = await helper()
    answer = (_, response) => json(response, 200, {})
    await open(
      [
        ['lfs.url', `${base}/x`],
        [`lfs.${base}/x.access`, 'basic'],
      ],
      env,
    ).post('y', {}, signal)
    expect(authorization(0)).toBe('ada:password1')
  })

  test('a refused password is forgotten and another asked for, three in all; then the message says what to do', async () => {
    const { env, heard } = await helper()
    answer = (_, response) => json(response, 401, {})
    const failing = open([['lfs.url', `${base}/x`]], env).post('y', {}, signal)
    await expect(failing).rejects.toMatchObject({
      code: 'unauthorized',
      message: expect.stringMatching(/does not accept user ada/),
    })
    expect(requests.map((_, at) => authorization(at))).toEqual([
      '',
      'ada:password1',
      'ada:password2',
      'ada:password3',
    ])
    expect((await heard()).match(/^== .*/gm)).toEqual([
      '== get',
      '== erase',
      '== get',
      '== erase',
      '== get',
      '== erase',
    ])
  })

  test('many requests at once ask once, and a password that runs out meanwhile is replaced once', async () => {
    const { env, heard } = await helper()
    answer = ({ headers }, response) =>
      json(
        response,
        headers.authorization?.endsWith(Buffer.from('ada:password2').toString('base64')) ? 200 : 401,
        {},
      )
    const api = open([['lfs.url', `${base}/x`]], env)
    await Promise.all(Array.from({ length: 12 }, () => api.post('y', {}, signal)))
    expect((await heard()).match(/^== (get|erase)$/gm)).toEqual(['== get', '== erase', '== get'])
  })

  test('netrc goes before the helpers, which are asked when the server refuses it', async () => {
    const { env, heard } = await helper()
    await writeFile(join(folder, '.netrc'), 'machine 127.0.0.1 login bob password "in \\"netrc"\n')
    answer = ({ headers }, response) => json(response, headers.authorization === undefined ? 401 : 200, {})
    await open([['lfs.url', `${base}/x`]], env).post('y', {}, signal)
    expect(authorization(1)).toBe('bob:in "netrc')
    expect(await heard()).toBe('')
    answer = ({ headers }, response) =>
      json(
        response,
        headers.authorization?.startsWith(`Basic ${btoa('ada:pa')}`.slice(0, 14)) ? 200 : 401,
        {},
      )
    const api = open([['lfs.url', `${base}/x`]], env)
    await api.post('y', {}, signal)
    await api.close()
    expect((await heard()).match(/^== .*/gm)).toEqual(['== get', '== store'])
  })

  test.each([
    ['machine other login a password b\nmachine host.example\n  login c\n  password d', 'c:d'],
    ['machine host.example account x login c password d machine host.example login e password f', 'c:d'],
    ['machine host.example login c\ndefault login e password f', 'e:f'],
    [
      'macdef init\nmachine host.example login no password no\n\nmachine HOST.example login c password d',
      'c:d',
    ],
    ['machine other login a password b', undefined],
    ['machine', undefined],
    ['', undefined],
  ])('netrc %j', (text, expected) => {
    const login = parseNetrc(text, 'host.example')
    expect(login && `${login.username}:${login.password}`).toBe(expected)
  })

  test('nobody knows a password: one clear error', async () => {
    const env = { PATH: process.env.PATH, HOME: folder, GIT_CONFIG_NOSYSTEM: '1', GIT_TERMINAL_PROMPT: '0' }
    answer = (_, response) => json(response, 401, {})
    await expect(open([['lfs.url', `${base}/x`]], env).post('y', {}, signal)).rejects.toThrow(
      /wants a user and a password/,
    )
  })

  test('a header from git’s configuration, and a password in the URL, are used as they are and not asked about', async () => {
    const { env, heard } = await helper()
    answer = (_, response) => json(response, 401, {})
    const header: ConfigEntry = [`http.${base}/.extraheader`, 'Authorization: Bearer token-of-the-runner']
    await expect(open([['lfs.url', `${base}/x`], header], env).post('y', {}, signal)).rejects.toThrow(
      /extraHeader/,
    )
    expect(requests[0]?.headers.authorization).toBe('Bearer token-of-the-runner')
    const url = base.replace('//', '//bob:secret@')
    const failing = open([['lfs.url', `${url}/x`]], env).post('y', {}, signal)
    await expect(failing).rejects.toThrow(expect.not.stringContaining('secret') as never)
    expect(authorization(1)).toBe('bob:secret')
    expect(requests).toHaveLength(2)
    expect(await heard()).toBe('')
  })

  test('http.extraHeader without a host does not go to a server that a stranger’s .lfsconfig names', async () => {
    const { env } = await helper()
    answer = (_, response) => json(response, 200, {})
    const header: ConfigEntry = ['http.extraheader', 'Authorization: Bearer secret']
    const mine: ConfigEntry = ['remote.origin.url', 'https://git.example/r']
    await open([mine, header], env, [['lfs.url', `${base}/x`]]).post('y', {}, signal)
    expect(requests[0]?.headers.authorization).toBeUndefined()
    await open([mine, header, ['lfs.url', `${base}/x`]], env).post('y', {}, signal)
    expect(requests[1]?.headers.authorization).toBe('Bearer secret')
  })

  test.each([
    ['hangs', 'sleep 5', { code: 'timeout', message: expect.stringContaining('does not answer') }],
    [
      'says too much',
      '{ echo username=ada; echo "password=$(head -c 2000000 /dev/zero | tr "\\\\0" x)"; }',
      { code: 'config', message: expect.stringContaining('too much') },
    ],
  ])('a helper that %s is given up, with the command that shows which', async (_name, script, error) => {
    const { env } = await helper()
    await writeFile(join(folder, 'helper'), `#!/bin/sh\n[ "$1" = get ] && ${script}\n`)
    const credential = new GitCredential({ cwd: folder, env, quiet: true, patience: 500 })
    const url = new URL(`${base}/org/repo/info/lfs`)
    const failure = await credential.fill({ url, username: undefined }).catch((reason) => reason)
    expect(failure).toMatchObject(error)
    expect(failure.message).toMatch(/credential helper of git/)
  })

  test('a helper that lies about the host gets nothing sent there', async () => {
    const { env } = await helper()
    const lie = 'echo protocol=http; echo host=evil.example; echo username=ada; echo password=wrong'
    await writeFile(join(folder, 'helper'), `#!/bin/sh\n[ "$1" = get ] && { ${lie}; }\n`)
    const api = open([['lfs.url', `${base}/org/repo/info/lfs`]], env)
    answer = (_request, response) => json(response, 401, { message: 'who?' })
    await expect(api.post('objects/batch', {}, signal)).rejects.toMatchObject({ code: 'unauthorized' })
    await api.close()
    expect(requests.length).toBeGreaterThan(1)
    for (const { headers } of requests) expect(headers.host).toBe(new URL(base).host)
  })

  test('a line break in an address never reaches a helper', async () => {
    const { env, heard } = await helper()
    const credential = new GitCredential({ cwd: folder, env })
    const url = new URL(`${base}/a%0ahost=evil.example`)
    await expect(credential.fill({ url, username: undefined })).rejects.toThrow(/line break/)
    expect(await heard()).toBe('')
  })
})

describe('ssh', () => {
  /** Stands for ssh: writes down its arguments, then does what a server's shell would. */
  async function ssh(body: string): Promise<{ env: NodeJS.ProcessEnv; args: () => Promise<string[]> }> {
    const script = join(folder, 'an ssh')
    await writeFile(
      script,
      `#!/bin/sh\nfor word in "$@"; do echo "$word"; done >> "${folder}/args"\n${body}\n`,
    )
    await chmod(script, 0o755)
    return {
      env: { PATH: process.env.PATH, GIT_SSH_COMMAND: `'${script}' -v` },
      args: async () => (await readFile(join(folder, 'args'), 'utf8')).trim().split('\n'),
    }
  }

  test('git-lfs-authenticate says where to go and what opens it, once for many requests', async () => {
    const { env, args } = await ssh(
      `echo '{"href":"${base}/over-ssh","header":{"Authorization":"RemoteAuth x"},"expires_in":3600}'`,
    )
    answer = (_, response) => json(response, 200, {})
    const api = open([['remote.origin.url', "ssh://git@host.example:22/it's/$(touch x)"]], env)
    await Promise.all([api.post('objects/batch', {}, signal), api.post('objects/batch', {}, signal)])
    expect(requests.map(({ url }) => url)).toEqual(Array(2).fill('/over-ssh/objects/batch'))
    expect(requests[0]?.headers.authorization).toBe('RemoteAuth x')
    const remote = "git-lfs-authenticate '/it'\\''s/$(touch x)' upload"
    expect(await args()).toEqual(['-v', '-p', '22', '--', 'git@host.example', remote])
  })

  test('one that the server refuses is asked for anew', async () => {
    const { env } = await ssh(
      `echo x >> "${folder}/n"; echo "{\\"href\\":\\"${base}/r\\",\\"header\\":{\\"Authorization\\":\\"t$(wc -l < "${folder}/n" | tr -d ' ')\\"}}"`,
    )
    answer = ({ headers }, response) => json(response, headers.authorization === 't2' ? 200 : 401, {})
    await open([['remote.origin.url', 'git@host.example:r']], env).post('x', {}, signal)
    expect(requests.map(({ headers }) => headers.authorization)).toEqual(['t1', 't2'])
  })

  test('what ssh says is in the error', async () => {
    const { env } = await ssh('echo "Permission denied (publickey)." >&2; exit 255')
    await expect(
      open([['remote.origin.url', 'git@host.example:r']], env).post('x', {}, signal),
    ).rejects.toThrow(/Permission denied \(publickey\)/)
  })

  test('the command: GIT_SSH_COMMAND, then GIT_SSH, then core.sshCommand; plink spells the port its way', () => {
    const place = { host: 'h', port: '22' }
    const configured = new LfsConfig([['core.sshcommand', 'ssh -i key']])
    const made = (env: NodeJS.ProcessEnv, config = configured) => sshCommand(place, 'c', { config, env })
    expect(made({})).toEqual({
      program: 'sh',
      args: ['-c', 'ssh -i key "$@"', 'ssh', '-p', '22', '--', 'h', 'c'],
    })
    expect(made({ GIT_SSH: '/bin/plink.exe' })).toEqual({
      program: '/bin/plink.exe',
      args: ['-P', '22', 'h', 'c'],
    })
    expect(made({ GIT_SSH_COMMAND: 'x', GIT_SSH_VARIANT: 'simple' }).args).toEqual([
      '-c',
      'x "$@"',
      'ssh',
      '-p',
      '22',
      'h',
      'c',
    ])
    expect(made({}, new LfsConfig([]))).toEqual({ program: 'ssh', args: ['-p', '22', '--', 'h', 'c'] })
  })
})

const oid = (n: number): Oid => n.toString(16).padStart(64, '0') as Oid
const objects = (count: number): { oid: Oid; size: number }[] =>
  Array.from({ length: count }, (_, at) => ({ oid: oid(at), size: at + 1 }))

describe('Batch', () => {
  const batch = (): BatchClient =>
    new BatchClient({
      api: open([['lfs.url', `${base}/x`]], {}),
      operation: 'upload',
      ref: 'refs/heads/main',
    })

  test('every object gets a verdict, in the order asked, whatever the server leaves out or adds', async () => {
    answer = (_, response) =>
      json(response, 200, {
        transfer: 'timone',
        objects: [
          { oid: oid(2), size: 3, error: { code: 422, message: 'too odd' } },
          { oid: oid(9), size: 3, actions: { upload: { href: `${base}/c` } } },
          {
            oid: oid(0),
            size: 1,
            actions: {
              upload: { href: `${base}/c`, header: { A: 'b', C: 1 } },
              verify: { href: `${base}/v` },
            },
          },
          { oid: oid(1), size: 2 },
        ],
      })
    const verdicts = await batch().ask(objects(4), signal)
    expect(verdicts).toMatchObject([
      { kind: 'move', action: { href: `${base}/c`, header: { A: 'b' } }, verify: { href: `${base}/v` } },
      { kind: 'present' },
      { kind: 'failed', error: { message: expect.stringContaining('too odd') } },
      { kind: 'failed', error: { message: expect.stringContaining('left the object out') } },
    ])
    expect(requests[0]?.body).toEqual({
      operation: 'upload',
      transfers: ['timone', 'basic'],
      ref: { name: 'refs/heads/main' },
      objects: objects(4),
      hash_algo: 'sha256',
    })
  })

  test('a server that takes fewer objects is asked for fewer, from then on', async () => {
    answer = ({ body }, response) => {
      const asked = body.objects ?? []
      if (asked.length > 300) json(response, 413, { message: 'too many' })
      else json(response, 200, { objects: asked })
    }
    const asking = batch()
    expect(await asking.ask(objects(1000), signal)).toHaveLength(1000)
    expect(await asking.ask(objects(500), signal)).toHaveLength(500)
    expect(requests.map(({ body }) => body.objects?.length)).toEqual([
      1000, 500, 250, 250, 250, 250, 250, 250,
    ])
  })

  test('429 is waited for; another transfer’s objects are left to git-lfs', async () => {
    answer = (_, response) => {
      if (requests.length < 3) json(response, 429, { message: 'busy' }, { 'retry-after': '0' })
      else
        json(response, 200, {
          transfer: 'basic',
          objects: [{ oid: oid(0), actions: { upload: { href: 'http://x/' } } }],
        })
    }
    expect(await batch().ask(objects(1), signal)).toEqual([{ kind: 'foreign', transfer: 'basic' }])
    expect(requests).toHaveLength(3)
  })

  test.each([
    {},
    { objects: null },
    [],
    null,
    { objects: [], transfer: 1 },
    { objects: [], hash_algo: 'md5' },
  ])('an answer of another shape, %j, is an error', async (body) => {
    answer = (_, response) => json(response, 200, body)
    await expect(batch().ask(objects(1), signal)).rejects.toMatchObject({ code: 'invalid' })
  })

  test('verify: its own header, 429 waited for, a refusal told', async () => {
    const options = {
      send: client.send,
      retrier: new Retrier({ retries: 3, maxDelay: 0.01 }),
      log: nullLogger,
    }
    const action = { href: `${base}/verify`, header: { Authorization: 'Bearer v' } }
    answer = (_, response) =>
      requests.length < 2 ? json(response, 429, {}, { 'retry-after': '0' }) : json(response, 200, {})
    await verifyUpload({ oid: oid(1), size: 7 }, action, options, signal)
    expect(requests[1]).toMatchObject({
      body: { oid: oid(1), size: 7 },
      headers: { authorization: 'Bearer v' },
    })
    answer = (_, response) => json(response, 404, { message: 'not here' })
    await expect(verifyUpload({ oid: oid(1), size: 7 }, action, options, signal)).rejects.toThrow(/not here/)
  })
})

describe('locks', () => {
  const locks = () => locksOfOthers(open([['lfs.url', `${base}/x`]], {}), 'refs/heads/main', signal)

  test('all pages are read', async () => {
    answer = ({ body }, response) => {
      const page = Number(body.cursor ?? 0)
      const theirs = [{ path: `${page}.psd`, owner: { name: 'bob' } }]
      json(response, 200, {
        ours: [{ path: 'mine', owner: { name: 'ada' } }],
        theirs,
        ...(page < 2 ? { next_cursor: String(page + 1) } : {}),
      })
    }
    expect([...((await locks())?.values() ?? [])]).toEqual(
      ['0.psd', '1.psd', '2.psd'].map((path) => ({ path, owner: 'bob' })),
    )
  })

  test('a cursor that does not move is an error, a server without locks is none', async () => {
    answer = (_, response) => json(response, 200, { theirs: [], next_cursor: 'same' })
    await expect(locks()).rejects.toMatchObject({ code: 'invalid' })
    for (const status of [404, 501]) {
      answer = (_, response) => json(response, status, {})
      expect(await locks()).toBeUndefined()
    }
  })

  test('what the settings say', () => {
    const url = new URL('https://lfs.example/x')
    const policy = (...entries: ConfigEntry[]) => lockPolicy(new LfsConfig(entries), url)
    expect(policy()).toBe('warned')
    expect(policy(['lfs.locksverify', 'true'])).toBe('enforced')
    expect(policy(['lfs.locksverify', 'true'], ['lfs.https://lfs.example/x.locksverify', 'false'])).toBe(
      'ignored',
    )
  })
})
