import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { parseLfsAddress } from '../../src/cli/lfs-address.ts'
import { isTimoneError } from '../../src/errors.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

let box: Sandbox
let server: Server
let origin: string
let seen: {
  method: string | undefined
  url: string | undefined
  headers: IncomingMessage['headers']
  body: string
}[]
let answers: Record<string, number>

beforeEach(async () => {
  box = await makeSandbox()
  seen = []
  answers = { '/healthz': 200, '/foo/bar/info/lfs/objects/batch': 401 }
  server = createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request) body += String(chunk)
    seen.push({ method: request.method, url: request.url, headers: request.headers, body })
    response
      .writeHead(answers[request.url ?? ''] ?? 404, { location: 'https://elsewhere.example/' })
      .end('{}')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  await box.git(['init', '--quiet', '.'])
})

afterEach(async () => {
  server.closeAllConnections()
  await new Promise((resolve) => server.close(resolve))
  await box.remove()
})

function lfsconfig(): Promise<string> {
  return readFile(path.join(box.cwd, '.lfsconfig'), 'utf8')
}

describe('init', () => {
  test('asks the server, without credentials, and writes .lfsconfig at the top of the work tree', async () => {
    await mkdir(path.join(box.cwd, 'a', 'b'), { recursive: true })
    const { code, stdout, stderr } = await box.timone(['init', `${origin}/foo/bar`], {
      cwd: path.join(box.cwd, 'a', 'b'),
    })
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toContain(`${path.join(box.cwd, '.lfsconfig')} points to ${origin}/foo/bar/info/lfs`)
    expect(stdout).toContain('git add .lfsconfig')
    expect(stdout).toContain('timone install')
    expect(await lfsconfig()).toBe(`[lfs]\n\turl = ${origin}/foo/bar/info/lfs\n\tlocksverify = true\n`)
    expect(seen.map(({ method, url }) => `${method} ${url}`)).toEqual([
      'GET /healthz',
      'POST /foo/bar/info/lfs/objects/batch',
    ])
    expect(seen[1]?.headers).toMatchObject({ accept: 'application/vnd.git-lfs+json' })
    expect(seen[1]?.headers.authorization).toBeUndefined()
    expect(JSON.parse(seen[1]?.body ?? '')).toMatchObject({ operation: 'download', objects: [{ size: 0 }] })
  })

  test('a second time says that all is in place', async () => {
    await box.timone(['init', `${origin}/foo/bar`])
    const before = await lfsconfig()
    const { code, stdout } = await box.timone(['init', `${origin}/foo/bar.git/info/lfs/`])
    expect(code).toBe(0)
    expect(stdout).toBe(
      `timone: ${path.join(box.cwd, '.lfsconfig')} already points to ${origin}/foo/bar/info/lfs\n`,
    )
    expect(await lfsconfig()).toBe(before)
  })

  test('replaces another address and keeps the rest of the file', async () => {
    await writeFile(
      path.join(box.cwd, '.lfsconfig'),
      '# ours\n[lfs]\n\turl = https://old.example\n\tfetchexclude = *.psd\n',
    )
    expect((await box.timone(['init', `${origin}/foo/bar`])).code).toBe(0)
    expect(await lfsconfig()).toBe(
      `# ours\n[lfs]\n\turl = ${origin}/foo/bar/info/lfs\n\tfetchexclude = *.psd\n\tlocksverify = true\n`,
    )
  })

  test('takes a public repository too', async () => {
    answers['/foo/bar/info/lfs/objects/batch'] = 200
    expect((await box.timone(['init', `${origin}/foo/bar`])).code).toBe(0)
  })

  test.each([
    ['/healthz', 404],
    ['/healthz', 301],
    ['/healthz', 503],
    ['/foo/bar/info/lfs/objects/batch', 404],
    ['/foo/bar/info/lfs/objects/batch', 302],
    ['/foo/bar/info/lfs/objects/batch', 500],
  ])('writes nothing when %s answers %d', async (url, status) => {
    answers[url] = status
    const { code, stdout, stderr } = await box.timone(['init', `${origin}/foo/bar`])
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toContain(`no timone server at ${origin}: `)
    expect(stderr).toContain(`answered ${status}. Nothing was written`)
    expect(stderr).toContain('--no-check')
    await expect(lfsconfig()).rejects.toThrow('ENOENT')
  })

  test('writes nothing when nobody answers, unless told not to ask', async () => {
    await new Promise((resolve) => server.close(resolve))
    const { code, stderr } = await box.timone(['init', `${origin}/foo/bar`])
    expect(code).toBe(1)
    expect(stderr).toMatch(/^timone: .*ECONNREFUSED.*Nothing was written.*\n$/)
    await expect(lfsconfig()).rejects.toThrow('ENOENT')
    expect((await box.timone(['init', '--no-check', `${origin}/foo/bar`])).code).toBe(0)
    expect(await lfsconfig()).toContain(`${origin}/foo/bar/info/lfs`)
  })

  test('warns about plain http', async () => {
    const { stderr } = await box.timone(['init', '--no-check', 'http://lfs.example/foo/bar'])
    expect(stderr).toContain('plain http')
  })

  test('outside a repository, and in a bare one, says so before it asks anybody', async () => {
    const outside = await box.timone(['init', `${origin}/foo/bar`], { cwd: path.dirname(box.cwd) })
    expect(outside.code).toBe(2)
    expect(outside.stderr).toContain('is not in a git repository')
    await box.git(['init', '--quiet', '--bare', 'bare.git'])
    const bare = await box.timone(['init', `${origin}/foo/bar`], { cwd: path.join(box.cwd, 'bare.git') })
    expect(bare.code).toBe(2)
    expect(bare.stderr).toContain('must be run in a work tree')
    expect(seen).toEqual([])
  })

  test('a password in the address is refused and not repeated', async () => {
    const { code, stderr } = await box.timone(['init', 'https://bob:sesame@lfs.example/foo/bar'])
    expect(code).toBe(2)
    expect(stderr).toContain('leave out user name and password')
    expect(stderr).not.toContain('sesame')
  })

  test('interrupted', async () => {
    const signal = AbortSignal.abort()
    expect((await box.timone(['init', `${origin}/foo/bar`], { signal })).code).toBe(130)
  })
})

describe('parseLfsAddress', () => {
  test.each([
    ['https://h/foo/bar', 'https://h/foo/bar/info/lfs', 'https://h'],
    ['https://h/foo/bar/', 'https://h/foo/bar/info/lfs', 'https://h'],
    ['https://h/foo/bar.git', 'https://h/foo/bar/info/lfs', 'https://h'],
    ['https://h:8443/foo/bar.git/info/lfs', 'https://h:8443/foo/bar/info/lfs', 'https://h:8443'],
    ['http://[::1]:8000/foo/bar/info/lfs/', 'http://[::1]:8000/foo/bar/info/lfs', 'http://[::1]:8000'],
    ['https://h/under/here/foo/bar', 'https://h/under/here/foo/bar/info/lfs', 'https://h/under/here'],
  ])('%s', (text, url, server) =>
    expect(parseLfsAddress(text)).toMatchObject({ url, server, repository: 'foo/bar' }),
  )

  test.each([
    '',
    'foo/bar',
    'h/foo/bar',
    'git@h:foo/bar',
    'ssh://h/foo/bar',
    'file:///foo/bar',
    'https://h',
    'https://h/foo',
    'https://h/info/lfs',
    'https://h/foo/',
    'https://h//bar',
    'https://h/api/bar',
    'https://h/foo/.bar',
    'https://h/foo/b%20r',
    'https://h/foo/bar?x=1',
    'https://h/foo/bar#x',
    'https://bob@h/foo/bar',
  ])('refuses %j', (text) => {
    expect(() => parseLfsAddress(text)).toThrow(expect.toSatisfy((error) => isTimoneError(error, 'config')))
  })
})
