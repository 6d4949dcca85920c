import { setTimeout as sleep } from 'node:timers/promises'
import type { User } from '../identity/users.ts'
import { clearOut } from './clear-out.ts'
import { parseCommit, printCommit } from './commit.ts'
import { findPointers, listReachable, listTimes } from './history.ts'
import type { LargeDocuments, LargeObject } from './large-documents.ts'
import { makeObject, type NewObject } from './loose-objects.ts'
import { MAIN, whileMainStands } from './main-lock.ts'
import type { Space, Tools } from './space.ts'

export interface Pruning {
  space: Space
  user: Pick<User, 'id' | 'login' | 'email'>
  large: LargeDocuments
  /** Milliseconds since the epoch: what the storage was before that is forgotten. */
  before: number
  /** False: only find out what would be done. */
  write: boolean
  now: () => number
  /** Milliseconds for which objects are kept that nothing refers to yet. */
  grace?: number
}

export interface Pruned {
  /** Commits that stay, the one that the history then begins with among them. */
  readonly kept: number
  readonly removed: number
  /** Large documents that no kept commit refers to. */
  readonly large: number
  readonly largeBytes: number
  /** False: some objects of Git are too young to be removed, and go with the next run. */
  readonly complete: boolean
}

/** Somebody who has written objects refers to them within seconds, or never. */
const GRACE = 10 * 60_000
/** Commits written together. */
const TOGETHER = 256
/** Milliseconds for which `main` is held at a time. */
const HOLD = 300
/** Large documents removed at once. */
const REMOVALS = 16

/**
 * Forgets what a storage was before some time: its history begins with its state then, and the commits since are made
 * anew on top of that. Then removes the objects of Git and the large documents that nothing refers to. Safe beside
 * servers: whatever they commit meanwhile stays, with all it refers to.
 * @throws {TimoneError} `throttled` when others write without a pause; what the object store throws
 */
export async function prune(options: Pruning): Promise<Pruned> {
  const { space, user, large, before, write, now, grace = GRACE } = options
  const { gitDir } = space
  const head = await space.snapshot()
  if (head.commit === undefined) return { kept: 0, removed: 0, large: 0, largeBytes: 0, complete: true }
  const plan = planOf(await listTimes(gitDir, head.commit), before)
  if (!write) {
    const input = plan.kept.map((oid) => `${oid}\n`).join('')
    const objects = await listReachable(gitDir, ['--no-walk', '--stdin'], input)
    const doomed = await listDoomed(large, user.id, await findPointers(gitDir, space.reader, objects))
    return { ...countOf(plan), ...sumOf(doomed), complete: true }
  }
  const rewriting = new Rewriting(options)
  await space.advance((tools) => rewriting.build(tools), { quick: true })
  const complete = await clearOut({ gitDir, reader: space.reader, grace, now: now() })
  const removed = await removeLarge(options)
  return { ...countOf(rewriting.plan ?? plan), ...sumOf(removed), complete }
}

interface Plan {
  /** The newest first. */
  readonly kept: readonly string[]
  readonly removed: number
}

/** Times never run backwards (see import-modules.ts), or if a clock did, the later commits count. */
function planOf(commits: readonly { oid: string; at: number }[], before: number): Plan {
  const first = commits.findIndex(({ at }) => at < before)
  // Of the older ones the last stays: it is what the storage was at that time.
  const kept = (first < 0 ? commits : commits.slice(0, first + 1)).map(({ oid }) => oid)
  return { kept, removed: commits.length - kept.length }
}

const countOf = ({ kept, removed }: Plan) => ({ kept: kept.length, removed })

function sumOf(objects: readonly LargeObject[]): { large: number; largeBytes: number } {
  return { large: objects.length, largeBytes: objects.reduce((sum, { size }) => sum + size, 0) }
}

/** Makes the kept commits anew; those that were made for an earlier try are not made again. */
class Rewriting {
  plan: Plan | undefined
  readonly #options: Pruning
  readonly #made = new Map<string, string>()
  #root: string | undefined

  constructor(options: Pruning) {
    this.#options = options
  }

  async build({ head, write }: Tools): Promise<string | undefined> {
    const { space, user, before } = this.#options
    const commits = await listTimes(space.gitDir, head.commit as string)
    this.plan = planOf(commits, before)
    const { kept, removed } = this.plan
    if (removed === 0) return undefined
    const root = kept.at(-1) as string
    if (root !== this.#root) this.#made.clear()
    this.#root = root
    const objects: NewObject[] = []
    let parent: string | undefined
    for (const oid of [...kept].reverse()) {
      const known = this.#made.get(oid)
      if (known === undefined) {
        const { content } = await space.reader.need(oid)
        const text =
          parent === undefined
            ? printCommit({
                ...parseCommit(content),
                parent: undefined,
                subject: `PRUNE / before ${new Date(before).toISOString()}`,
                author: { login: user.login, email: user.email, client: 'timone space prune' },
                at: commits.find((commit) => commit.oid === oid)?.at ?? 0,
              })
            : withParent(content, parent)
        const commit = makeObject('commit', text)
        objects.push(commit)
        this.#made.set(oid, commit.oid)
        if (objects.length === TOGETHER) await write(objects.splice(0))
      }
      parent = this.#made.get(oid)
    }
    await write(objects)
    return parent
  }
}

function withParent(content: Buffer, parent: string): Buffer {
  const text = content.toString('latin1')
  const end = text.indexOf('\n\n')
  const head = text.slice(0, end).replace(/(\nparent [0-9a-f]{40})+/, `\nparent ${parent}`)
  return Buffer.from(head + text.slice(end), 'latin1')
}

async function listDoomed(
  large: LargeDocuments,
  userId: number,
  kept: ReadonlyMap<string, unknown>,
): Promise<LargeObject[]> {
  const doomed: LargeObject[] = []
  for await (const object of large.list(userId)) if (!kept.has(object.oid)) doomed.push(object)
  return doomed
}

/**
 * Removes large documents that nothing refers to, while nobody can move `main`, a few at a time: who commits a pointer
 * before that is seen, and who does so after it looks whether the document is still there.
 */
async function removeLarge({ space, user, large }: Pruning): Promise<LargeObject[]> {
  const { gitDir, reader } = space
  const kept = new Set<string>()
  let known: string | undefined
  const look = async (): Promise<void> => {
    const head = await reader.resolve(MAIN)
    if (head === undefined || head === known) return
    // From the beginning, should another pruning have made the commits anew.
    const isKnown = known !== undefined && (await reader.size(known)) !== undefined
    const objects = await listReachable(gitDir, isKnown ? [head, `^${known}`] : [head])
    for (const oid of (await findPointers(gitDir, reader, objects)).keys()) kept.add(oid)
    known = head
  }
  await look()
  const doomed = await listDoomed(large, user.id, new Map([...kept].map((oid) => [oid, true])))
  const removed: LargeObject[] = []
  while (doomed.length > 0) {
    await look()
    await whileMainStands(gitDir, async (lock) => {
      await look()
      const until = Date.now() + HOLD
      // Held up for long we may have lost it: then the next turn looks again.
      while (doomed.length > 0 && Date.now() < until && (await lock.isOurs())) {
        const some = doomed.splice(0, REMOVALS).filter(({ oid }) => !kept.has(oid))
        await Promise.all(some.map(({ oid }) => large.remove(user.id, oid)))
        removed.push(...some)
      }
    })
    if (doomed.length > 0) await sleep(50)
  }
  return removed
}
