import { runGit } from './git-process.ts'
import { type LargeObject, readPointer } from './large-documents.ts'
import { MAIN } from './main-lock.ts'
import type { ObjectReader } from './object-reader.ts'

/** Is `commit` in the history of `head`? */
export async function isIn(gitDir: string, commit: string, head: string): Promise<boolean> {
  const beside = await runGit(gitDir, ['rev-list', '--max-count=1', commit, `^${head}`])
  return beside.length === 0
}

/** The commit of `main` whose id begins so; undefined: there is none, or several. */
export async function commitNamed(gitDir: string, prefix: string): Promise<string | undefined> {
  const all = (await runGit(gitDir, ['rev-list', MAIN])).toString('latin1').split('\n')
  const [found, ...more] = all.filter((oid) => oid !== '' && oid.startsWith(prefix))
  return more.length > 0 ? undefined : found
}

/** The last commit of `main` at a time, milliseconds since the epoch; undefined: there was none yet. */
export async function commitAt(gitDir: string, time: number): Promise<string | undefined> {
  const seconds = Math.max(0, Math.floor(time / 1000))
  const args = ['rev-list', '--first-parent', '--max-count=1', `--min-age=${seconds}`, MAIN]
  return (await runGit(gitDir, args)).toString('latin1').trim() || undefined
}

/** Commits with their times, milliseconds since the epoch, the newest first. */
export async function listTimes(gitDir: string, head: string): Promise<{ oid: string; at: number }[]> {
  const text = await runGit(gitDir, ['rev-list', '--first-parent', '--timestamp', head])
  return text
    .toString('latin1')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [seconds, oid = ''] = line.split(' ')
      return { oid, at: Number(seconds) * 1000 }
    })
}

/** All objects that the arguments of `git rev-list` lead to. */
export async function listReachable(gitDir: string, args: readonly string[], input = ''): Promise<string[]> {
  const text = await runGit(gitDir, ['rev-list', '--objects', '--no-object-names', ...args], input)
  return text
    .toString('latin1')
    .split('\n')
    .filter((line) => line !== '')
}

/** The large documents that some of the objects are pointers to; a document that reads like one counts as one. */
export async function findPointers(
  gitDir: string,
  reader: ObjectReader,
  objects: readonly string[],
): Promise<Map<string, LargeObject>> {
  const format = '--batch-check=%(objecttype) %(objectsize) %(objectname)'
  const sizes = await runGit(gitDir, ['cat-file', format], objects.map((oid) => `${oid}\n`).join(''))
  const found = new Map<string, LargeObject>()
  for (const line of sizes.toString('latin1').split('\n')) {
    const [type, size, oid = ''] = line.split(' ')
    if (type !== 'blob' || Number(size) > MAX_POINTER) continue
    const object = await reader.read(oid)
    const pointer = object === undefined ? undefined : readPointer(object.content)
    if (pointer !== undefined) found.set(pointer.oid, pointer)
  }
  return found
}

/** Bytes of a pointer that we wrote, at most. */
const MAX_POINTER = 200
