import { isTimoneError, TimoneError } from '../errors.ts'
import type { User } from '../identity/users.ts'
import { findEntry } from './change.ts'
import { committedAt, printCommit } from './commit.ts'
import { editTree, type Placement } from './edit.ts'
import { documentEntry, type Folder, factsOf } from './folder.ts'
import { makeObject, type NewObject } from './loose-objects.ts'
import { checkNames, printStoragePath, toGitName } from './names.ts'
import type { ObjectReader } from './object-reader.ts'
import { type Destination, Documents, openSource, type Source } from './old-documents.ts'
import {
  findBlob,
  listChanges,
  listCommits,
  type OldChange,
  type OldCommit,
  type OldModule,
} from './old-modules.ts'
import type { Space, Tools } from './space.ts'

export interface ModuleImport extends Destination {
  space: Space
  user: Pick<User, 'id' | 'login' | 'email'>
  /** Told of each thing that cannot be taken over. */
  skipped: (what: string) => void
}

export interface ImportedModules {
  /** Names of those that were taken over. */
  modules: string[]
  /** Names of those that are folders of the storage already, and were left alone. */
  present: string[]
  commits: number
  /** Documents put and deleted by them. */
  changes: number
  /** Large documents, each counted once. */
  large: number
}

/** A commit and what it changes, in the words of the new storage. */
interface Step {
  readonly module: OldModule
  readonly commit: OldCommit
  readonly puts: readonly { names: readonly string[]; blob: string | undefined; type: string | undefined }[]
}

/** Commits whose objects are written together. */
const TOGETHER = 64
/** Documents that one commit may change: a few trees that hold each other many times can name more than there are atoms. */
const MAX_CHANGES = 1_000_000
/** Bytes of documents that may be held until they are written. */
const MAX_HELD = 32 * 2 ** 20

/**
 * Takes over repositories of the earlier system: each becomes a folder of the storage, each of its commits one of ours,
 * in the order of their times. All of it appears at once, when `main` is moved.
 * @throws {TimoneError} `internal` when a repository is damaged; what the object store throws
 */
export async function importModules(
  modules: readonly OldModule[],
  options: ModuleImport,
): Promise<ImportedModules> {
  const { space } = options
  const source = await openSource(modules)
  try {
    const result: ImportedModules = { modules: [], present: [], commits: 0, changes: 0, large: 0 }
    const wanted = new Map<string, OldModule>()
    const { folder } = await space.folder(await space.snapshot(), [])
    for (const module of modules) {
      const { name } = module
      if (wanted.has(name)) options.skipped(`repository ${name}.git: there is one without .git`)
      else if (folder.folder(toGitName(name)) ?? folder.document(toGitName(name))) result.present.push(name)
      else wanted.set(name, module)
    }
    const steps = await readSteps([...wanted.values()], source, options.skipped)
    const taken = new Set(steps.map(({ module }) => module.name))
    result.modules = [...wanted.keys()].filter((name) => taken.has(name))
    result.commits = steps.length
    result.changes = steps.reduce((sum, { puts }) => sum + puts.length, 0)
    const documents = new Documents(source, options)
    if (options.write) {
      if (steps.length > 0)
        await space.advance((tools) => writeSteps(steps, tools, documents, options), { quick: false })
      // Pruning in another process may have taken one before anything referred to it.
      await documents.ensureLarge()
    } else for (const { puts } of steps) for (const { blob } of puts) await documents.count(blob)
    return { ...result, large: documents.large }
  } finally {
    await source.close()
  }
}

async function readSteps(
  modules: readonly OldModule[],
  { gitDir, reader }: Source,
  skipped: (what: string) => void,
): Promise<Step[]> {
  const queues = await Promise.all(
    modules.map(async (module) => {
      const steps: Step[] = []
      let before: string | undefined
      for (const commit of await listCommits(gitDir, reader, module.head)) {
        const changes: OldChange[] = []
        for await (const change of listChanges(reader, before, commit.tree)) {
          changes.push(change)
          if (changes.length > MAX_CHANGES)
            throw new TimoneError('too_large', `commit ${commit.oid} of ${module.name} changes too much`)
        }
        before = commit.tree
        const same = changes.length === 0 ? await retyped(reader, commit) : undefined
        const puts: Step['puts'][number][] = []
        for (const { names, blob } of same === undefined ? changes : [same]) {
          const path = names.join('/')
          const kept = decodeNames([Buffer.from(module.name).toString('latin1'), ...names])
          if (kept === undefined) skipped(`${module.name}/${path}: the name cannot be kept`)
          else puts.push({ names: kept, blob, type: typeOf(commit.message, path) })
        }
        if (puts.length > 0) steps.push({ module, commit, puts })
      }
      return steps
    }),
  )
  // The earliest of the next ones, again and again: the order within each stays.
  const next = queues.map(() => 0)
  const merged: Step[] = []
  for (;;) {
    let best: number | undefined
    for (const [index, steps] of queues.entries()) {
      const at = steps[next[index] as number]?.commit.at
      const least = best === undefined ? undefined : queues[best]?.[next[best] as number]?.commit.at
      if (at !== undefined && (least === undefined || at < least)) best = index
    }
    if (best === undefined) return merged
    merged.push(queues[best]?.[next[best] as number] as Step)
    next[best] = (next[best] as number) + 1
  }
}

async function writeSteps(
  steps: readonly Step[],
  { head, load, write }: Tools,
  documents: Documents,
  { space, user }: ModuleImport,
): Promise<string> {
  const folders = new Map<string, Folder>()
  const find = async (tree: string): Promise<Folder> => folders.get(tree) ?? load(tree)
  let objects = new Map<string, NewObject>()
  let held = 0
  let state = head
  let last = await timeOf(space, head.commit)
  const flush = async (): Promise<void> => {
    await write([...objects.values()])
    objects = new Map()
    folders.clear()
    held = 0
  }
  for (const [index, { module, commit, puts }] of steps.entries()) {
    const placements: Placement[] = []
    for (const { names, blob, type } of puts) {
      const gitNames = names.map(toGitName)
      const name = gitNames.at(-1) as string
      if (blob === undefined) placements.push({ names: gitNames, folder: false, entry: undefined })
      else {
        const old = await findEntry(state.tree, names, false, find)
        const document = await documents.take(blob)
        if (document.object !== undefined) objects.set(document.oid, document.object)
        held += document.object?.content.length ?? 0
        const facts = {
          type: type ?? (old === undefined ? 'application/octet-stream' : factsOf(old).type),
          length: document.length,
          modified: commit.at,
          large: document.large,
        }
        const entry = documentEntry(name, document.oid, facts)
        placements.push({ names: gitNames, folder: false, entry })
      }
      if (held > MAX_HELD) await flush()
    }
    const edited = await editTree(state, placements, find)
    last = Math.max(last, commit.at)
    const text = printCommit({
      tree: edited.tree,
      bytes: edited.bytes,
      parent: state.commit,
      subject: subjectOf(module, puts),
      author: { login: user.login, email: user.email, client: 'python-remotestorage' },
      at: last,
      authoredAt: commit.at,
      trailers: [`Imported: ${commit.oid}`],
    })
    const made = makeObject('commit', text)
    for (const object of [...edited.objects, made]) objects.set(object.oid, object)
    for (const [tree, folder] of edited.folders) folders.set(tree, folder)
    state = { commit: made.oid, tree: edited.tree, bytes: edited.bytes }
    if ((index + 1) % TOGETHER === 0) await flush()
  }
  await flush()
  return state.commit as string
}

/** When a commit of the storage was made; 0 without one. */
async function timeOf(space: Space, commit: string | undefined): Promise<number> {
  return commit === undefined ? 0 : committedAt((await space.reader.need(commit)).content)
}

function subjectOf(module: OldModule, puts: Step['puts']): string {
  const [first] = puts
  if (puts.length !== 1 || first === undefined)
    return `IMPORT ${printStoragePath({ segments: [module.name], folder: true })}`
  const path = printStoragePath({ segments: first.names, folder: false })
  return `${first.blob === undefined ? 'DELETE' : 'PUT'} ${path}`
}

/** A document that was put again with the same bytes, perhaps under another type: only the message says so. */
async function retyped(reader: ObjectReader, { tree, message }: OldCommit): Promise<OldChange | undefined> {
  for (let at = message.indexOf(' '); message.startsWith('+') && at > 0; at = message.indexOf(' ', at + 1)) {
    const names = message.slice(1, at).split('/')
    const blob = await findBlob(reader, tree, names)
    if (blob !== undefined) return { names, blob }
  }
  return undefined
}

/** The type that `+path type` gives; undefined: the message is another one, or no header could hold the type. */
function typeOf(message: string, path: string): string | undefined {
  if (!message.startsWith(`+${path} `)) return undefined
  const type = message.slice(path.length + 2).trim()
  return /^[\x21-\x7e](?:[\t\x20-\x7e]{0,398}[\x21-\x7e])?$/.test(type) ? type : undefined
}

/** Undefined: the new storage cannot have these names. */
function decodeNames(names: readonly string[]): string[] | undefined {
  try {
    const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
    return checkNames(names.map((name) => decoder.decode(Buffer.from(name, 'latin1'))))
  } catch (error) {
    if (error instanceof TypeError || isTimoneError(error)) return undefined
    throw error
  }
}
