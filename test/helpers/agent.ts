import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { type RunningServer, TIMONE } from './world.ts'

export interface Answer {
  event?: string
  oid?: string
  path?: string
  bytesSoFar?: number
  bytesSinceLast?: number
  error?: { code: number; message: string }
}

export interface BatchObject {
  oid: string
  size: number
  actions?: Record<string, { href: string; header?: Record<string, string>; expires_in?: number }>
  error?: { code: number; message: string }
}

/** Asks Batch as git-lfs does, and gives its objects. */
export async function batch(
  server: RunningServer,
  token: string,
  operation: 'upload' | 'download',
  objects: { oid: string; size: number }[],
  repository = 'org/repo',
  transfers = ['basic', 'timone'],
): Promise<BatchObject[]> {
  const answer = await fetch(`${server.url}/${repository}/info/lfs/objects/batch`, {
    method: 'POST',
    headers: {
      accept: 'application/vnd.git-lfs+json',
      'content-type': 'application/vnd.git-lfs+json; charset=utf-8',
      authorization: `Basic ${Buffer.from(`ada:${token}`).toString('base64')}`,
    },
    body: JSON.stringify({
      operation,
      transfers,
      objects: objects.map(({ oid, size }) => ({ oid, size })),
      hash_algo: 'sha256',
    }),
  })
  if (!answer.ok) throw new Error(`batch answered ${answer.status}: ${await answer.text()}`)
  return ((await answer.json()) as { objects: BatchObject[] }).objects
}

/** The agent as a process of its own, spoken to as git-lfs does: one request, then its answer. */
export class AgentProcess {
  readonly process: ChildProcessWithoutNullStreams
  readonly answers: Answer[] = []
  stderr = ''
  #waiting: (() => void)[] = []

  constructor(cwd: string, env: NodeJS.ProcessEnv) {
    this.process = spawn(TIMONE, ['agent'], { cwd, env })
    this.process.stdin.on('error', () => {})
    this.process.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text
    })
    let buffered = ''
    this.process.stdout.setEncoding('utf8').on('data', (text: string) => {
      buffered += text
      const lines = buffered.split('\n')
      buffered = lines.pop() ?? ''
      for (const line of lines) this.answers.push(JSON.parse(line) as Answer)
      for (const wake of this.#waiting.splice(0)) wake()
    })
    this.process.on('close', () => {
      for (const wake of this.#waiting.splice(0)) wake()
    })
  }

  say(message: unknown): void {
    this.process.stdin.write(`${JSON.stringify(message)}\n`)
  }

  /** The first answer from `from` on that `wanted` accepts. */
  async answer(wanted: (answer: Answer) => boolean, limit = 90_000): Promise<Answer> {
    const deadline = Date.now() + limit
    for (;;) {
      const found = this.answers.find(wanted)
      if (found !== undefined) return found
      if (this.process.exitCode !== null)
        throw new Error(`the agent ended with ${this.process.exitCode}\n${this.stderr}`)
      if (Date.now() > deadline) throw new Error(`no answer within ${limit} ms\n${this.stderr}`)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 250)
        this.#waiting.push(() => {
          clearTimeout(timer)
          resolve()
        })
      })
    }
  }

  async init(operation: 'upload' | 'download'): Promise<void> {
    this.say({ event: 'init', operation, remote: 'origin', concurrent: true, concurrenttransfers: 8 })
    await this.answer((answer) => answer.event === undefined)
  }

  /** Requests one object and waits for its `complete`. */
  async transfer(
    event: 'upload' | 'download',
    object: BatchObject,
    path?: string,
    limit?: number,
  ): Promise<Answer> {
    const action = object.actions?.[event]
    this.say({
      event,
      oid: object.oid,
      size: object.size,
      ...(path === undefined ? {} : { path }),
      action:
        action === undefined
          ? null
          : { href: action.href, header: action.header, expires_at: '0001-01-01T00:00:00Z' },
    })
    return this.answer((answer) => answer.event === 'complete' && answer.oid === object.oid, limit)
  }

  /** Process id of the engine that moves bytes for this agent, once it was started. */
  async enginePid(): Promise<number> {
    const { pid } = this.process
    const deadline = Date.now() + 10_000
    for (;;) {
      const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'latin1')
      const [engine] = children.trim().split(' ')
      if (engine !== undefined && engine !== '') return Number(engine)
      if (Date.now() > deadline) throw new Error('the agent has not started its engine')
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }

  /** `terminate`, then both pipes closed at once, as git-lfs does. Gives the exit code. */
  async terminate(): Promise<number | null> {
    const ended = this.process.exitCode === null ? once(this.process, 'close') : undefined
    this.say({ event: 'terminate' })
    this.process.stdin.end()
    this.process.stdout.destroy()
    await ended
    return this.process.exitCode
  }

  async kill(signal: NodeJS.Signals): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return
    const ended = once(this.process, 'close')
    this.process.kill(signal)
    await ended
  }
}
