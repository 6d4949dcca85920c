import { randomBytes } from 'node:crypto'
import { readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { syncFolder } from '../sync-folder.ts'
import { treeEntries } from './folder.ts'
import { runGit } from './git-process.ts'
import { listReachable } from './history.ts'
import { MAIN } from './main-lock.ts'
import type { ObjectReader } from './object-reader.ts'
import { unlessGone } from './packing.ts'

/** Trees asked for at once. */
const READS = 64

export interface ClearOut {
  /** Absolute path of the repository. */
  gitDir: string
  reader: ObjectReader
  /** Milliseconds for which objects are kept that nothing refers to yet. */
  grace: number
  /** Milliseconds since the epoch. */
  now: number
}

/**
 * Removes the objects that `main` does not lead to, for good. It may run beside changes of this and other processes:
 * what somebody has just written, and will refer to in a moment, is younger than `grace`, and stays, with all it refers to.
 * @returns false when packs were too young to be looked into: later there is more to remove
 */
export async function clearOut({ gitDir, reader, grace, now }: ClearOut): Promise<boolean> {
  const folder = join(gitDir, 'objects', 'pack')
  const isOld = async (path: string): Promise<boolean> => {
    const stats = await stat(path).catch(() => undefined)
    return stats !== undefined && now - stats.mtimeMs >= grace
  }
  // Before `main` is read: what comes later is somebody else's, and new.
  const before = await listPacks(folder)
  const young: string[] = []
  for (const pack of before)
    if (!(await isOld(join(folder, pack))))
      for (const oid of await listPacked(gitDir, join(folder, pack))) young.push(oid)
  for await (const { oid, path } of listLoose(gitDir)) if (!(await isOld(path))) young.push(oid)
  const reachable = new Set(await listReachable(gitDir, [MAIN]))
  const unborn = young.filter((oid) => !reachable.has(oid))
  const needed = await listReferents(gitDir, reader, unborn, reachable)
  const name = (await runGit(gitDir, ['pack-objects', '-q', '--revs', join(folder, 'pack')], `${MAIN}\n`))
    .toString('latin1')
    .trim()
  await syncFolder(folder)
  let complete = true
  for (const pack of before) {
    const path = join(folder, pack)
    if (pack === `pack-${name}.pack`) continue
    if (!(await isOld(path)) || (await hasOne(gitDir, path, needed))) complete = false
    // The index first: nobody finds in it what is no longer there.
    else
      for (const type of ['idx', 'rev', 'bitmap', 'mtimes', 'pack'])
        await rm(path.replace(/pack$/, type), { force: true })
  }
  await syncFolder(folder)
  for await (const { oid, path } of listLoose(gitDir)) {
    if (needed.has(oid) || !(await isOld(path))) continue
    if (reachable.has(oid)) await rm(path, { force: true })
    else await removeUnlessUsed(path, isOld)
  }
  return complete
}

/**
 * Who finds an object there sets its time, and relies on it. So it is moved away first: they then find nothing, and write
 * it themselves; and when they were faster, it comes back.
 */
async function removeUnlessUsed(path: string, isOld: (path: string) => Promise<boolean>): Promise<void> {
  // A name that git itself tidies up, should we be killed.
  const aside = join(path, '..', `tmp_obj_${randomBytes(8).toString('hex')}`)
  try {
    await rename(path, aside)
  } catch (error) {
    unlessGone(error)
    return
  }
  if (await isOld(aside)) await rm(aside, { force: true })
  else await rename(aside, path)
}

/**
 * What objects lead to that nothing refers to, without what is reachable: a change that lost against another has left
 * a tree, and git would call that broken without its files (git-prune(1) keeps them too). Not the parents of commits.
 */
async function listReferents(
  gitDir: string,
  reader: ObjectReader,
  oids: readonly string[],
  reachable: ReadonlySet<string>,
): Promise<Set<string>> {
  const found = new Set<string>()
  const format = '--batch-check=%(objecttype) %(objectname)'
  const types = await runGit(gitDir, ['cat-file', format], oids.map((oid) => `${oid}\n`).join(''))
  const trees = types
    .toString('latin1')
    .split('\n')
    .flatMap((line) => (line.startsWith('tree ') ? line.slice(5) : []))
  while (trees.length > 0) {
    const some = await Promise.all(trees.splice(-READS).map((tree) => reader.read(tree)))
    for (const { mode, raw } of some.flatMap((tree) => [...treeEntries(tree?.content ?? Buffer.alloc(0))])) {
      const oid = Buffer.from(raw.slice(-20), 'latin1').toString('hex')
      if (reachable.has(oid) || found.has(oid)) continue
      found.add(oid)
      if (mode === '40000') trees.push(oid)
    }
  }
  return found
}

async function* listLoose(gitDir: string): AsyncGenerator<{ oid: string; path: string }> {
  const objects = join(gitDir, 'objects')
  for (const prefix of await readdir(objects)) {
    if (!/^[0-9a-f]{2}$/.test(prefix)) continue
    for (const rest of (await readdir(join(objects, prefix)).catch(unlessGone)) ?? [])
      if (/^[0-9a-f]{38}$/.test(rest)) yield { oid: `${prefix}${rest}`, path: join(objects, prefix, rest) }
  }
}

async function listPacks(folder: string): Promise<string[]> {
  const names = await readdir(folder)
  const kept = new Set(names.filter((name) => name.endsWith('.keep')).map((name) => name.slice(0, -5)))
  return names.filter((name) => /^pack-[0-9a-f]{40}\.pack$/.test(name) && !kept.has(name.slice(0, -5)))
}

/** The ids of the objects in a pack; none while nobody can find them in it. */
async function listPacked(gitDir: string, pack: string): Promise<string[]> {
  const index = await readFile(pack.replace(/pack$/, 'idx')).catch(unlessGone)
  if (index === undefined) return []
  // `<offset> <oid> (<crc>)`
  const lines = (await runGit(gitDir, ['show-index'], index)).toString('latin1').split('\n')
  return lines.flatMap((line) => line.split(' ')[1] ?? [])
}

async function hasOne(gitDir: string, pack: string, oids: ReadonlySet<string>): Promise<boolean> {
  return oids.size > 0 && (await listPacked(gitDir, pack)).some((oid) => oids.has(oid))
}
