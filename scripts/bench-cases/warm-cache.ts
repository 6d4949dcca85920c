import { rm } from 'node:fs/promises'
import { against, type BenchCase } from './bench-case.ts'
import { contest } from './contest.ts'
import { contestant, mustOf, transfer } from './transfer.ts'

/** A second pull on a machine whose shared cache has every object: nothing may pass the line. */
export const warmCache: BenchCase = async ({ runs = 5, stage: open }) => {
  const name = 'wan-pull-8x128mib-cached'
  const stage = await open()
  if (!(await stage.hasCommand('pull'))) {
    process.stderr.write('  this timone has no command pull yet: there is nothing to measure\n')
    return []
  }
  const cache = stage.world.path('cache')
  const configure = async (folder: string): Promise<void> => {
    await stage.world.git(folder, 'config', 'timone.cacheDir', cache)
  }
  const bytes: number[] = []
  try {
    await transfer(stage, 'command', 'pull', 'loopback', '8x128mib', configure)
    const rows = await contest({
      case: name,
      job: 'pull',
      ours: [
        {
          contestant: {
            name: 'timone pull, warm cache',
            run: async (round) => {
              await stage.wan.reset()
              const measured = await transfer(stage, 'command', 'pull', 'wan', '8x128mib', configure)
              if (round >= 0) bytes.push((await stage.wan.read()).down)
              return measured
            },
          },
          must: { ...mustOf('pull', '8x128mib'), ratio: 20 },
        },
      ],
      rival: contestant(stage, 'basic', 'pull', 'wan', '8x128mib'),
      runs,
    })
    return [...rows, against(name, 'object bytes that passed the line', 'bytes', bytes, 0)]
  } finally {
    await rm(cache, { recursive: true, force: true })
  }
}
