import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { connect, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve, win32 } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { pipeName, privateFolder, sweepMeetingPlaces, userSecret } from '../../src/agent/meeting-place.ts'
import { becomeFront, joinFront, type Pipes } from '../../src/agent/siblings.ts'

let folder: string
let place: string
const open: (Server | ChildProcess | undefined)[] = []
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'timone-sib-'))
  place = join(folder, 'front.sock')
})
afterEach(async () => {
  for (const one of open.splice(0)) {
    if (one === undefined) continue
    if ('kill' in one) one.kill('SIGKILL')
    else one.close()
  }
  await rm(folder, { recursive: true, force: true })
})

/** A front that answers each line `x` with `x!`. */
async function echoing(): Promise<{ server: Server | undefined; came: Pipes[] }> {
  const came: Pipes[] = []
  const server = await becomeFront(place, (pipes) => {
    came.push(pipes)
    pipes.input.on('data', (data: Buffer) => pipes.output.write(`${data.toString().trim()}!\n`))
  })
  open.push(server)
  return { server, came }
}

/** What an agent does that is not the first: joins, and passes on where it must. Exits with 0 or 3 (no front). */
const JOIN = `
  const { joinFront } = await import(${JSON.stringify(resolve('src/agent/siblings.ts'))})
  const joined = await joinFront(process.argv[1])
  if (joined === undefined) process.exit(3)
  if (joined !== 'adopted') {
    process.stdin.pipe(joined)
    joined.pipe(process.stdout)
  }
`
const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`

describe('the agents of one git-lfs process', () => {
  test('one becomes the front, and its socket is the user’s alone', async () => {
    const { server } = await echoing()
    expect(server).toBeDefined()
    expect((await stat(place)).mode & 0o777).toBe(0o600)
    expect(await becomeFront(place, () => {})).toBeUndefined()
  })

  test('a further one hands its pipes over and ends, while its parent goes on talking', async () => {
    const { came } = await echoing()
    // git-lfs makes pipes; this shell gives them to a program as git-lfs does, and says when that program has ended.
    const node = `${quoted(process.execPath)} --input-type=module -e ${quoted(JOIN)} ${quoted(place)}`
    const shell = spawn('sh', ['-c', `cat | { ${node}; echo "ended $?" >&2; } | cat`], {
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    open.push(shell)
    let ended = ''
    shell.stderr.on('data', (data: Buffer) => {
      ended += data.toString()
    })
    let said = ''
    shell.stdout.on('data', (data: Buffer) => {
      said += data.toString()
    })
    await expect.poll(() => ended, { timeout: 20_000 }).toBe('ended 0\n')
    shell.stdin.write('hello\n')
    await expect.poll(() => said, { timeout: 20_000 }).toBe('hello!\n')
    expect(came).toHaveLength(1)
    const end = once(came[0]?.input as Pipes['input'], 'end')
    shell.stdin.end()
    await end
    came[0]?.output.end()
    await once(shell, 'close')
  })

  test('one whose stdin is no pipe passes everything on', async () => {
    const { came } = await echoing()
    // Node gives its children sockets, which cannot be opened a second time.
    const child = spawn(process.execPath, ['--input-type=module', '-e', JOIN, place], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    open.push(child)
    child.stdin.write('hello\n')
    const [answer] = (await once(child.stdout, 'data')) as [Buffer]
    expect(answer.toString()).toBe('hello!\n')
    expect(came).toHaveLength(1)
    expect(child.exitCode).toBeNull()
  })

  test('nobody there is said at once', async () => {
    expect(await joinFront(place)).toBeUndefined()
    await writeFile(place, '')
    expect(await joinFront(place)).toBeUndefined()
  })

  test.each([
    ['a process that is not there', 'adopt 4194304\n', 'relay\n'],
    ['no number', 'adopt ../../etc\n', ''],
    ['other words', 'hello\n', ''],
    ['no end', 'x'.repeat(10_000), ''],
  ])('%s from a stranger harms nothing', async (_name, text, answer) => {
    const { server } = await echoing()
    const stranger = connect(place)
    stranger.on('error', () => {})
    let said = ''
    stranger.on('data', (data: Buffer) => {
      said += data.toString()
    })
    stranger.write(text)
    if (answer === '') await once(stranger, 'close')
    else await expect.poll(() => said).toBe(answer)
    stranger.destroy()
    expect(said).toBe(answer)
    expect(server?.listening).toBe(true)
  })
})

describe('where they meet', () => {
  test('a folder that others can enter is not used, nor a link to one', async () => {
    const mine = privateFolder({ XDG_RUNTIME_DIR: folder })
    expect(mine).toBe(join(folder, `timone-${process.getuid?.()}`))
    expect((await stat(mine as string)).mode & 0o777).toBe(0o700)
    const { chmod, rename, symlink } = await import('node:fs/promises')
    await chmod(mine as string, 0o755)
    expect(privateFolder({ XDG_RUNTIME_DIR: folder })).not.toBe(mine)
    await chmod(mine as string, 0o700)
    await rename(mine as string, join(folder, 'elsewhere'))
    await symlink(join(folder, 'elsewhere'), mine as string)
    expect(privateFolder({ XDG_RUNTIME_DIR: folder })).not.toBe(mine)
  })

  test('sockets of processes that are gone are swept, those of others stay', async () => {
    const { readFile } = await import('node:fs/promises')
    const text = await readFile('/proc/self/stat', 'latin1')
    const started = text.slice(text.lastIndexOf(')') + 2).split(' ')[19]
    const live = `${process.pid}-${started}.sock`
    for (const name of [live, `${process.pid}-1.sock`, '4194304-1.sock', 'other']) {
      await writeFile(join(folder, name), '')
    }
    sweepMeetingPlaces(join(folder, live))
    expect((await readdir(folder)).sort()).toEqual([live, 'other'].sort())
  })

  test('on Windows the pipe’s name hangs on a secret of the user and on the repository', async () => {
    const secret = userSecret(join(folder, 'timone'))
    expect(userSecret(join(folder, 'timone'))).toBe(secret)
    expect((await stat(join(folder, 'timone', 'pipe-secret'))).mode & 0o777).toBe(0o600)
    const cwd = win32.join('C:\\Users\\Ada Lovelace', 'work')
    const name = pipeName(secret, cwd, '')
    expect(name).toMatch(/^\\\\\.\\pipe\\timone-[0-9a-f]{64}$/)
    expect(pipeName(secret, cwd, 'D:\\x.git')).not.toBe(name)
    expect(pipeName('other', cwd, '')).not.toBe(name)
    await writeFile(join(folder, 'timone', 'pipe-secret'), '')
    expect(() => userSecret(join(folder, 'timone'))).toThrow(/damaged/)
  })
})
