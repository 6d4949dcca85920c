import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { type BenchCase, pairs } from './bench-case.ts'

const INIT =
  '{"event":"init","operation":"download","remote":"origin","concurrent":true,"concurrenttransfers":8}\n'

/** Made by scripts/build --bin; it is measured where it is there. */
const BINARY = 'dist/bin/timone-linux-x64'

/** Seconds from the start of the agent to its answer to init. */
async function answerTime(program: readonly [string, ...string[]]): Promise<number> {
  const started = performance.now()
  const [command, ...args] = program
  const agent = spawn(command, [...args, 'agent'], { stdio: ['pipe', 'pipe', 'ignore'] })
  agent.stdin.write(INIT)
  await once(agent.stdout, 'data')
  const seconds = (performance.now() - started) / 1000
  const ended = once(agent, 'exit')
  agent.stdin.end()
  await ended
  return seconds
}

/** Seconds that Node takes to run an empty script. */
async function emptyTime(): Promise<number> {
  const started = performance.now()
  await once(spawn(process.execPath, ['-e', '0'], { stdio: 'ignore' }), 'exit')
  return (performance.now() - started) / 1000
}

/** Agent start to init answer, against `node -e 0`: git-lfs waits for that eight times, one after another. */
export const start: BenchCase = async ({ runs = 25 }) => {
  const timone: number[] = []
  const other: number[] = []
  const binary: number[] = []
  const script = [process.execPath, 'dist/timone.js'] as const
  const hasBinary = existsSync(BINARY)
  await answerTime(script)
  await emptyTime()
  if (hasBinary) await answerTime([BINARY])
  for (let run = 0; run < runs; run++) {
    timone.push(await answerTime(script))
    other.push(await emptyTime())
    if (hasBinary) binary.push(await answerTime([BINARY]))
  }
  return [
    pairs('start', 'agent start to init answer', 's', timone, other, 'node -e 0'),
    ...(hasBinary
      ? [pairs('start', 'the same, standalone binary', 's', binary, timone, 'dist/timone.js')]
      : []),
  ]
}
