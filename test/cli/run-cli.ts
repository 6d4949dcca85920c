import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, realpath, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Readable, Writable } from 'node:stream'
import { promisify } from 'node:util'
import type { Io } from '../../src/cli/io.ts'
import { run } from '../../src/cli/program.ts'

export interface Outcome {
  code: number
  stdout: string
  stderr: string
}

/** A home folder, git configuration and working folder of its own: nothing reaches those of this machine. */
export interface Sandbox {
  /** Working folder; not in a git repository. */
  cwd: string
  env: Record<string, string>
  timone: (args: readonly string[], options?: Partial<Io> & { input?: string }) => Promise<Outcome>
  git: (args: readonly string[], cwd?: string) => Promise<string>
  remove: () => Promise<void>
}

export async function makeSandbox(): Promise<Sandbox> {
  const root = await realpath(await mkdtemp(path.join(tmpdir(), 'timone cli-')))
  const cwd = path.join(root, 'work')
  await mkdir(cwd)
  const env = {
    PATH: process.env.PATH ?? '',
    HOME: root,
    GIT_CONFIG_GLOBAL: path.join(root, 'gitconfig'),
    GIT_CONFIG_SYSTEM: path.join(root, 'system-gitconfig'),
    GIT_CEILING_DIRECTORIES: root,
  }
  const program = {
    execPath: '/opt/node 24/bin/node',
    script: '/opt/timone/dist/timone.js',
    platform: 'linux',
  }
  return {
    cwd,
    env,
    remove: () => rm(root, { recursive: true }),
    git: async (args, folder = cwd) => (await promisify(execFile)('git', args, { cwd: folder, env })).stdout,
    timone: async (args, { input = '', ...options } = {}) => {
      const stdout = collect()
      const stderr = collect()
      const io: Io = {
        stdin: Readable.from([Buffer.from(input)]),
        stdout,
        stderr,
        env,
        cwd,
        program,
        ...options,
      }
      const code = await run(args, io)
      return { code, stdout: stdout.text(), stderr: stderr.text() }
    },
  }
}

function collect(): Writable & { text: () => string } {
  const chunks: Buffer[] = []
  const stream = new Writable({
    write(chunk: Buffer, _encoding, done) {
      chunks.push(chunk)
      done()
    },
  })
  return Object.assign(stream, { text: () => Buffer.concat(chunks).toString('utf8') })
}
