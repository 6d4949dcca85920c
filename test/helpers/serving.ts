import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

export interface Serving {
  url: string
  child: ChildProcess
  /** What it logged so far. */
  log: () => string
  stop(): Promise<void>
}

/** `timone serve` in a process of its own, on a free port and a folder that is gone afterwards, unless one is given. */
export async function startServing(env: Record<string, string>, folder?: string): Promise<Serving> {
  const cwd = folder ?? (await mkdtemp(join(tmpdir(), 'timone serving ')))
  const child = spawn(process.execPath, [resolve('src/main.ts'), 'serve', '--listen', '127.0.0.1:0'], {
    cwd,
    env: { PATH: process.env.PATH ?? '', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let log = ''
  child.stderr.on('data', (chunk) => {
    log += chunk
  })
  const url = await new Promise<string>((found, failed) => {
    let out = ''
    child.stdout.on('data', (chunk) => {
      out += chunk
      const [, address] = /at (http:\S+)/.exec(out) ?? []
      if (address !== undefined) found(address)
    })
    child.once('exit', (code) => failed(new Error(`timone serve ended with ${code}: ${log}`)))
  })
  return {
    url,
    child,
    log: () => log,
    stop: async () => {
      const exit = new Promise((done) => child.once('exit', done))
      if (child.exitCode === null && child.kill('SIGKILL')) await exit
      if (folder === undefined) await rm(cwd, { recursive: true, force: true })
    },
  }
}
