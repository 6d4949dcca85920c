import { readdir, readFile } from 'node:fs/promises'
import { TIMONE, type World } from './world.ts'

export interface Running {
  pid: number
  name: string
  command: string
}

/** Every process of this user, known by its home folder. */
export async function processesOf(world: World): Promise<Running[]> {
  const found: Running[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      const environ = await readFile(`/proc/${name}/environ`, 'latin1')
      if (!environ.split('\0').includes(`HOME=${world.path('home')}`)) continue
      const command = (await readFile(`/proc/${name}/cmdline`, 'latin1')).replaceAll('\0', ' ')
      // What has ended and was not waited for has no command line.
      if (command === '') continue
      found.push({ pid: Number(name), name: await readFile(`/proc/${name}/comm`, 'latin1'), command })
    } catch {
      // It ended while we looked.
    }
  }
  return found
}

/** All processes of timone that git-lfs has started for this user: agents and engines. */
export const agentsOf = async (world: World): Promise<Running[]> =>
  (await processesOf(world)).filter(
    ({ name, command }) => /^(node|MainThread|timone-)/.test(name) && command.includes(TIMONE),
  )

/** The engines among them. */
export const enginesOf = async (world: World): Promise<Running[]> =>
  (await agentsOf(world)).filter(({ command }) => command.includes('--engine'))
