import { lstat, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { committedAt, parseCommit } from './commit.ts'
import { treeEntries } from './folder.ts'
import { runGit } from './git-process.ts'
import type { ObjectReader } from './object-reader.ts'

/** One of the earlier system's repositories: it had one for each module. */
export interface OldModule {
  /** Name of its folder. */
  readonly name: string
  /** Absolute path of its objects. */
  readonly objects: string
  /** The commit that it stands at. */
  readonly head: string
}

/** One of its commits; texts of it are binary, one UTF-16 unit for each byte. */
export interface OldCommit {
  readonly oid: string
  readonly tree: string
  readonly message: string
  /** Milliseconds since the epoch. */
  readonly at: number
}

/** What a commit did to one path. */
export interface OldChange {
  /** Binary names from the root of the module. */
  readonly names: readonly string[]
  /** The document's blob; undefined: it was deleted. */
  readonly blob: string | undefined
}

/** Folders in folders that are followed: no path of ours can be longer. */
const MAX_DEPTH = 2048

/**
 * The repositories in the folder that the earlier system ran in. Nothing of theirs is run or followed: their settings
 * are not read, for its clients could write files anywhere, and links are left alone.
 */
export async function findModules(folder: string): Promise<OldModule[]> {
  const found: OldModule[] = []
  for (const name of (await readdir(folder)).sort()) {
    if (name.startsWith('.')) continue
    for (const gitDir of [join(folder, name, '.git'), join(folder, name)]) {
      if (!(await isFolderItself(join(folder, name))) || !(await isFolderItself(join(gitDir, 'objects'))))
        continue
      const head = await readHead(gitDir)
      if (head !== undefined)
        found.push({ name: name.replace(/(?<=.)\.git$/, ''), objects: join(gitDir, 'objects'), head })
      break
    }
  }
  return found
}

/** Where `HEAD` leads (gitrepository-layout(5)); undefined: nowhere yet. */
async function readHead(gitDir: string): Promise<string | undefined> {
  const head = await read(join(gitDir, 'HEAD'))
  if (OID.test(head)) return head.trim()
  const [, ref] = /^ref: (refs\/heads\/[A-Za-z0-9_-][A-Za-z0-9_/-]*)\n?$/.exec(head) ?? []
  if (ref === undefined) return undefined
  const loose = await read(join(gitDir, ref))
  if (OID.test(loose)) return loose.trim()
  const line = (await read(join(gitDir, 'packed-refs'))).split('\n').find((text) => text.endsWith(` ${ref}`))
  const oid = line?.split(' ', 1)[0] ?? ''
  return OID.test(oid) ? oid : undefined
}

const OID = /^[0-9a-f]{40}\n?$/

/** Its commits, the oldest first; of a merge only the first side, in which it brought the other's changes. */
export async function listCommits(gitDir: string, reader: ObjectReader, head: string): Promise<OldCommit[]> {
  const list = await runGit(gitDir, ['rev-list', '--first-parent', '--reverse', '--end-of-options', head])
  const commits: OldCommit[] = []
  for (const oid of list.toString('latin1').split('\n')) {
    if (oid === '') continue
    const { content } = await reader.need(oid)
    const text = content.toString('latin1')
    const { tree } = parseCommit(content)
    const message = text.slice(text.indexOf('\n\n') + 2)
    commits.push({ oid, tree, message, at: committedAt(content) })
  }
  return commits
}

/**
 * What is different between two trees, documents only. What Git calls a symbolic link or another repository is none.
 * @param before undefined: there was nothing
 */
export async function* listChanges(
  reader: ObjectReader,
  before: string | undefined,
  after: string | undefined,
  above: readonly string[] = [],
): AsyncGenerator<OldChange> {
  if (before === after) return
  if (above.length > MAX_DEPTH) {
    yield { names: above, blob: undefined }
    return
  }
  const [old, now] = [await readTree(reader, before), await readTree(reader, after)]
  for (const [name, { folder, oid }] of old) {
    const names = [...above, name]
    const other = now.get(name)
    if (folder) yield* listChanges(reader, oid, other?.folder === true ? other.oid : undefined, names)
    else if (other === undefined || other.folder) yield { names, blob: undefined }
  }
  for (const [name, { folder, oid }] of now) {
    const names = [...above, name]
    const other = old.get(name)
    if (!folder) {
      if (other === undefined || other.folder || other.oid !== oid) yield { names, blob: oid }
    } else if (other?.folder !== true) yield* listChanges(reader, undefined, oid, names)
  }
}

async function readTree(
  reader: ObjectReader,
  tree: string | undefined,
): Promise<Map<string, { folder: boolean; oid: string }>> {
  const entries = new Map<string, { folder: boolean; oid: string }>()
  const object = tree === undefined ? undefined : await reader.need(tree)
  if (object?.type !== 'tree') return entries
  for (const { mode, name, raw } of treeEntries(object.content)) {
    const folder = mode === '40000' || mode === '040000'
    if (!folder && !mode.startsWith('100')) continue
    entries.set(name, { folder, oid: Buffer.from(raw.slice(-20), 'latin1').toString('hex') })
  }
  return entries
}

/** The blob at a path; undefined: there is none. */
export async function findBlob(
  reader: ObjectReader,
  tree: string,
  names: readonly string[],
): Promise<string | undefined> {
  let at = tree
  for (const [index, name] of names.entries()) {
    const entry = (await readTree(reader, at)).get(name)
    if (entry === undefined || entry.folder === (index === names.length - 1)) return undefined
    at = entry.oid
  }
  return at
}

async function isFolderItself(path: string): Promise<boolean> {
  return lstat(path).then(
    (stats) => stats.isDirectory(),
    () => false,
  )
}

async function read(path: string): Promise<string> {
  return readFile(path, 'latin1').catch(() => '')
}
