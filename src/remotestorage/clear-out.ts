import { randomBytes } from 'node:crypto'
import { readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { syncFolder } from '../sync-folder.ts'
import { runGit } from './git-process.ts'
import { listReachable } from './history.ts'
import { MAIN } from './main-lock.ts'

/**
 * Removes the objects that `main` does not lead to, for good. It may run beside changes of this and other processes:
 * what somebody has just written, and will refer to in a moment, is younger than `grace`, and stays.
 * @param grace milliseconds
 * @param now milliseconds since the epoch
 * @returns false when packs were too young to be looked into: later there is more to remove
 */
export async function clearOut(
  gitDir: string,
  { grace, now }: { grace: number; now: number },
): Promise<boolean> {
  const folder = join(gitDir, 'objects', 'pack')
  const isOld = async (path: string): Promise<boolean> => {
    const stats = await stat(path).catch(() => undefined)
    return stats !== undefined && now - stats.mtimeMs >= grace
  }
  // Before `main` is read: what comes later is somebody else's, and new.
  const before = await listPacks(folder)
  const reachable = new Set(await listReachable(gitDir, [MAIN]))
  const name = (await runGit(gitDir, ['pack-objects', '-q', '--revs', join(folder, 'pack')], `${MAIN}\n`))
    .toString('latin1')
    .trim()
  await syncFolder(folder)
  let complete = true
  for (const pack of before) {
    const path = join(folder, pack)
    if (pack === `pack-${name}.pack`) continue
    if (!(await isOld(path))) complete = false
    // The index first: nobody finds in it what is no longer there.
    else
      for (const type of ['idx', 'rev', 'bitmap', 'mtimes', 'pack'])
        await rm(path.replace(/pack$/, type), { force: true })
  }
  await syncFolder(folder)
  for (const prefix of await readdir(join(gitDir, 'objects'))) {
    if (!/^[0-9a-f]{2}$/.test(prefix)) continue
    const loose = join(gitDir, 'objects', prefix)
    for (const rest of await readdir(loose)) {
      const path = join(loose, rest)
      if (!/^[0-9a-f]{38}$/.test(rest) || !(await isOld(path))) continue
      if (reachable.has(`${prefix}${rest}`)) await rm(path, { force: true })
      else await removeUnlessUsed(path, loose, isOld)
    }
  }
  return complete
}

/**
 * Who finds an object there sets its time, and relies on it. So it is moved away first: they then find nothing, and write
 * it themselves; and when they were faster, it comes back.
 */
async function removeUnlessUsed(
  path: string,
  folder: string,
  isOld: (path: string) => Promise<boolean>,
): Promise<void> {
  // A name that git itself tidies up, should we be killed.
  const aside = join(folder, `tmp_obj_${randomBytes(8).toString('hex')}`)
  await rename(path, aside)
  if (await isOld(aside)) await rm(aside, { force: true })
  else await rename(aside, path)
}

async function listPacks(folder: string): Promise<string[]> {
  const names = await readdir(folder)
  const kept = new Set(names.filter((name) => name.endsWith('.keep')).map((name) => name.slice(0, -5)))
  return names.filter((name) => /^pack-[0-9a-f]{40}\.pack$/.test(name) && !kept.has(name.slice(0, -5)))
}
