import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { type BenchCase, emptyStore, pairs } from './bench-case.ts'

interface Figures {
  seconds: number
  cpu: number
  peak: number
}

/** One transfer in a process of its own, so that CPU time and memory are its alone. */
async function transfer(way: string, direction: string, file: string): Promise<Figures> {
  const child = spawn(
    process.execPath,
    [resolve('scripts/bench-cases/client-transfer.ts'), way, direction, file],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  const [code] = (await once(child, 'close')) as [number]
  if (code !== 0) throw new Error(`${way} ${direction} failed`)
  return JSON.parse(text) as Figures
}

/** Our own S3 client on node:http against the AWS SDK, 1 GiB to and from the same bucket: the reason to have our own. */
export const client: BenchCase = async ({ runs = 3 }) => {
  const folder = await mkdtemp(join(tmpdir(), 'timone-bench-'))
  const file = join(folder, 'file')
  try {
    const block = randomBytes(2 ** 20)
    await writeFile(
      file,
      (function* () {
        for (let number = 0; number < 1024; number++) {
          block.writeUInt32LE(number, 0)
          yield Buffer.from(block)
        }
      })(),
    )
    const rows = []
    for (const direction of ['upload', 'download']) {
      const timone: Figures[] = []
      const sdk: Figures[] = []
      for (let run = -1; run < runs; run++) {
        // Overwriting leaves the old bytes behind in the store's memory for a while.
        if (direction === 'upload') await emptyStore()
        const pair = [
          await transfer('timone', direction, file),
          await transfer('sdk', direction, file),
        ] as const
        // The first pair is a warm-up; the downloads need what its uploads left.
        if (run < 0) continue
        timone.push(pair[0])
        sdk.push(pair[1])
      }
      for (const [metric, unit] of [
        ['seconds', 's'],
        ['cpu', 's'],
        ['peak', 'MiB'],
      ] as const) {
        const title = `${direction} 1 GiB, ${metric === 'cpu' ? 'CPU time' : metric === 'peak' ? 'peak memory' : 'time'}`
        rows.push(
          pairs(
            'client',
            title,
            unit,
            timone.map((f) => f[metric]),
            sdk.map((f) => f[metric]),
            'AWS SDK',
          ),
        )
      }
    }
    return rows
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
