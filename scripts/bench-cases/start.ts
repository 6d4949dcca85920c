import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { type BenchCase, pairs } from './bench-case.ts'

const INIT =
  '{"event":"init","operation":"download","remote":"origin","concurrent":true,"concurrenttransfers":8}\n'

/** Seconds from the start of the agent to its answer to init. */
async function answerTime(): Promise<number> {
  const started = performance.now()
  const agent = spawn(process.execPath, ['dist/timone.js', 'agent'], { stdio: ['pipe', 'pipe', 'ignore'] })
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
  await answerTime()
  await emptyTime()
  for (let run = 0; run < runs; run++) {
    timone.push(await answerTime())
    other.push(await emptyTime())
  }
  return [pairs('start', 'agent start to init answer', 's', timone, other, 'node -e 0')]
}
