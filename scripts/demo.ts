import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { freePort } from '../test/helpers/world.ts'

const run = promisify(execFile)
const MIB = 2 ** 20
const timone = resolve('dist/timone.js')

/** Prints one step of the demonstration with the time it took. */
async function step<T>(title: string, work: () => Promise<T>, rate?: number): Promise<T> {
  process.stdout.write(`${title} … `)
  const started = performance.now()
  const result = await work()
  const seconds = (performance.now() - started) / 1000
  const speed = rate === undefined ? '' : `, ${(rate / MIB / seconds).toFixed(0)} MiB/s`
  process.stdout.write(`${seconds.toFixed(2)} s${speed}\n`)
  return result
}

/** Files of many sizes, among them one of several parts and names that trip careless programs. */
async function writeFiles(folder: string): Promise<{ objects: number; bytes: number }> {
  const sizes: [name: string, size: number][] = [
    ['video.bin', 96 * MIB],
    ['exactly one part.bin', 16 * MIB],
    ['one part and a byte.bin', 16 * MIB + 1],
    ['тимоне ☃.bin', 3 * MIB],
    ['one byte.bin', 1],
  ]
  for (let number = 0; number < 100; number++) sizes.push([`small/${number}.bin`, 1000 + number * 517])
  await mkdir(join(folder, 'small'))
  for (const [name, size] of sizes) await writeFile(join(folder, name), randomBytes(size))
  return { objects: sizes.length, bytes: sizes.reduce((sum, [, size]) => sum + size, 0) }
}

async function hashesOf(folder: string): Promise<Map<string, string>> {
  const hashes = new Map<string, string>()
  for (const name of (await readdir(folder, { recursive: true })).sort()) {
    if (!name.endsWith('.bin') || name.startsWith('.git/')) continue
    hashes.set(
      name,
      createHash('sha256')
        .update(await readFile(join(folder, name)))
        .digest('hex'),
    )
  }
  return hashes
}

async function main(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'timone-demo-'))
  let server: ChildProcess | undefined
  const cleanUp = async (): Promise<void> => {
    if (server !== undefined && server.exitCode === null) {
      const ended = once(server, 'exit')
      server.kill('SIGTERM')
      await ended
    }
    await rm(folder, { recursive: true, force: true })
  }
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.once(name, () => void cleanUp().finally(() => process.exit(130)))
  }
  try {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const env: NodeJS.ProcessEnv = {
      ...process.env,
      HOME: join(folder, 'home'),
      XDG_CONFIG_HOME: join(folder, 'home/.config'),
      GIT_CONFIG_NOSYSTEM: '1',
      GIT_TERMINAL_PROMPT: '0',
    }
    for (const name of Object.keys(env))
      if (/^(TIMONE_|GIT_(DIR|WORK_TREE|CONFIG_GLOBAL)$)/.test(name)) delete env[name]
    const git = (cwd: string, ...args: string[]): Promise<{ stdout: string }> =>
      run('git', args, { cwd, env })
    const cli = (cwd: string, ...args: string[]): Promise<{ stdout: string }> =>
      run(timone, args, { cwd, env })
    const data = join(folder, 'data')
    const [origin, work, clone] = ['origin.git', 'work', 'clone'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ]
    await mkdir(join(folder, 'home'))

    await step('start timone serve with file storage', async () => {
      const started = spawn(timone, ['serve', '--listen', `127.0.0.1:${port}`, '--data', data], {
        env,
        stdio: ['ignore', 'ignore', 'pipe'],
      })
      server = started
      let said = ''
      started.stderr.on('data', (chunk) => {
        said += chunk
      })
      for (let tries = 0; ; tries++) {
        const ready = await fetch(`${url}/readyz`).then(
          (answer) => answer.ok,
          () => false,
        )
        if (ready) break
        if (tries > 100 || started.exitCode !== null) throw new Error(`timone serve did not start:\n${said}`)
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
    })
    await step('make a token and set git up', async () => {
      const token = await cli(
        folder,
        'token',
        'create',
        '--user',
        'ada',
        '--scope',
        'lfs:demo/*:rw',
        '--expires',
        '1h',
        '--data',
        data,
      )
      await git(folder, 'config', '--global', 'user.name', 'Ada')
      await git(folder, 'config', '--global', 'user.email', 'ada@example.org')
      await git(folder, 'config', '--global', 'init.defaultBranch', 'main')
      await git(
        folder,
        'config',
        '--global',
        'credential.helper',
        `store --file=${join(folder, 'home/credentials')}`,
      )
      await writeFile(
        join(folder, 'home/credentials'),
        `http://ada:${token.stdout.trim()}@127.0.0.1:${port}\n`,
        { mode: 0o600 },
      )
      await git(folder, 'lfs', 'install', '--skip-repo')
      await cli(folder, 'install', '--global')
    })
    const { objects, bytes } = await step('make a repository with large files', async () => {
      await git(folder, 'init', '--bare', origin)
      await git(folder, 'clone', '-q', origin, work)
      await git(work, 'lfs', 'track', '*.bin')
      await cli(work, 'init', `${url}/demo/files`)
      const made = await writeFiles(work)
      await git(work, 'add', '-A')
      await git(work, 'commit', '-q', '-m', 'Add large files')
      return made
    })
    await step(
      `git push: ${objects} objects, ${bytes} bytes, through git-lfs and timone agent`,
      () => git(work, 'push', '-q', 'origin', 'main'),
      bytes,
    )
    await step('git push again: nothing to move', () => git(work, 'push', '-q', 'origin', 'main'))
    await step('git clone with the files left out', () =>
      run('git', ['clone', '-q', origin, clone], { env: { ...env, GIT_LFS_SKIP_SMUDGE: '1' } }),
    )
    await step('git lfs pull, through git-lfs and timone agent', () => git(clone, 'lfs', 'pull'), bytes)
    await step('compare every byte', async () => {
      const [sent, received] = await Promise.all([hashesOf(work), hashesOf(clone)])
      if (sent.size !== objects || received.size !== objects) throw new Error('files are missing')
      for (const [name, hash] of sent) if (received.get(name) !== hash) throw new Error(`${name} differs`)
      await git(clone, 'lfs', 'fsck')
    })
    await cleanUp()
    process.stdout.write(`demo: OK ${objects} objects, ${bytes} bytes\n`)
  } catch (error) {
    await cleanUp()
    throw error
  }
}

main().catch((error: unknown) => {
  const { message, stderr } = error as Error & { stderr?: string }
  process.stderr.write(`\ndemo: FAILED ${message}\n${stderr ?? ''}`)
  process.exitCode = 1
})
