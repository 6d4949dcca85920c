import { readdir, readFile, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { type RunningServer, run, startServer, TIMONE, World } from '../helpers/world.ts'

let world: World
let server: RunningServer
let folder: World
let token: string
beforeAll(async () => {
  folder = await World.create()
  // Without an OpenID provider: user name and token are typed in.
  server = await startServer(folder.path('data'), {})
})
afterAll(async () => {
  await server.stop()
  await folder.remove()
})
beforeEach(async () => {
  world = await World.create()
  token = await world.signIn(server)
  await rm(world.path('home', 'credentials'))
  // What signIn keeps is what login is to write.
  await world.git(world.folder, 'config', '--global', 'credential.helper', `store --file=${kept()}`)
})
afterEach(() => world.remove())

const kept = (): string => world.path('home', 'kept')

interface Seen {
  output: string
  code: number | null
  echo: boolean
  canonical: boolean
}

/** `timone login` on a real terminal, where each text that is shown is answered. */
async function login(dialogue: [shown: string, typed: string][], ...options: string[]): Promise<Seen> {
  const script = resolve('test/helpers/on_terminal.py')
  const args = [script, JSON.stringify(dialogue), TIMONE, 'login', server.url, ...options]
  const ran = await run('/usr/bin/python3', args, { cwd: world.folder, env: { ...world.env, TERM: 'xterm' } })
  expect(ran).toMatchObject({ code: 0, stderr: '' })
  return JSON.parse(ran.stdout)
}

test('user name and token are typed in; the token is never shown', async () => {
  const seen = await login([
    ['User name', 'aba\u007f\u007fda\r'],
    ['Token:', `${token}\r`],
  ])
  expect(seen).toMatchObject({ code: 0, echo: true, canonical: true })
  expect(seen.output).toContain('signed in to')
  expect(seen.output).toContain('as ada')
  expect(seen.output).not.toContain(token.slice(0, 10))
  expect(seen.output).not.toContain('*')
  expect(await readFile(kept(), 'utf8')).toContain(`ada:${token}@`)
  // git's helper has it, and nobody else.
  const holders: string[] = []
  for (const entry of await readdir(world.folder, { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name)
    if (entry.isFile() && (await readFile(file, 'utf8')).includes(token)) holders.push(file)
  }
  expect(holders).toEqual([kept()])
})

test('with --user the token alone is asked for; mistakes can be taken back', async () => {
  const seen = await login([['Token:', `x${token}y\u007f\u0001\u001b[3~\r`]], '--user', 'ada')
  expect(seen).toMatchObject({ code: 0, echo: true })
})

test.each<[string, [string, string][]]>([
  ['user name', [['User name', 'ad\u0003']]],
  [
    'token',
    [
      ['User name', 'ada\r'],
      ['Token:', 'eyJhb\u0003'],
    ],
  ],
  [
    'token, by end of file',
    [
      ['User name', 'ada\r'],
      ['Token:', '\u0004'],
    ],
  ],
])(
  'Ctrl-C in the middle of the %s: 130, the terminal echoes again, nothing is kept',
  async (_name, dialogue) => {
    const seen = await login(dialogue)
    expect(seen).toMatchObject({ code: 130, echo: true, canonical: true })
    expect(seen.output).not.toContain('eyJhb')
    expect(await readFile(kept(), 'utf8').catch(() => '')).toBe('')
  },
)

test('a signal in the middle of the token leaves the terminal as it was', async () => {
  const seen = await login([
    ['User name', 'ada\r'],
    ['Token:', 'SIGTERM'],
  ])
  expect(seen).toMatchObject({ echo: true, canonical: true })
  expect(seen.code).not.toBe(0)
})

test('a token that the server does not take is not kept, and not shown', async () => {
  const seen = await login([
    ['User name', 'ada\r'],
    ['Token:', 'not-a-good-token\r'],
  ])
  expect(seen).toMatchObject({ code: 1, echo: true })
  expect(seen.output).toContain('does not take this token')
  expect(seen.output).not.toContain('not-a-good-token')
})

test('nobody types anything in where there is no terminal', async () => {
  const ran = await world.timone(world.folder, 'login', server.url)
  expect(ran).toMatchObject({ code: 2, stderr: expect.stringContaining('--token-stdin') })
})
