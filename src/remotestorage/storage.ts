import type { Readable } from 'node:stream'
import { TimoneError } from '../errors.ts'
import type { User } from '../identity/users.ts'
import { MAX_OBJECT_SIZE } from '../oid.ts'
import type { ByteRange } from '../storage/object-store.ts'
import { type Changed, checkPreconditions, etagOf, FULL, folderEtag, type Preconditions } from './change.ts'
import { oidOf } from './folder.ts'
import type { Incoming, Reception } from './incoming.ts'
import { type LargeDocuments, parsePointer, printPointer } from './large-documents.ts'
import { printListing } from './listing.ts'
import { makeObject } from './loose-objects.ts'
import type { Document, Space } from './space.ts'
import type { Spaces } from './spaces.ts'

export interface StorageOptions {
  spaces: Spaces
  reception: Reception
  large: LargeDocuments
  /** Bytes that each user may have whose own quota says nothing. */
  quota: number
  now: () => number
}

/** A document that was found. */
export interface FoundDocument {
  readonly etag: string
  readonly type: string
  readonly length: number
  /** Milliseconds since the epoch. */
  readonly modified: number
  /** Reads it, or a part of it; the caller must consume or destroy what it gets. */
  open(range?: ByteRange): Promise<Buffer | Readable>
}

/** What the protocol does, without HTTP. */
export class Storage {
  readonly #options: StorageOptions

  constructor(options: StorageOptions) {
    this.#options = options
  }

  /** @throws {TimoneError} `not_found` */
  async document(user: User, segments: readonly string[]): Promise<FoundDocument> {
    const space = this.#options.spaces.of(user.id)
    const found = await space.document(await space.snapshot(), segments)
    if (found === undefined) throw new TimoneError('not_found', 'no such document')
    const { entry, facts } = found
    return {
      etag: etagOf(entry, facts),
      ...facts,
      open: (range) => this.#open(user, space, found, range),
    }
  }

  /** The tag of a folder, and its description on demand. One that is not there is empty. */
  async folder(
    user: User,
    segments: readonly string[],
  ): Promise<{ etag: string; print: () => Iterable<string> }> {
    const space = this.#options.spaces.of(user.id)
    const { tree, folder } = await space.folder(await space.snapshot(), segments)
    return { etag: folderEtag(tree), print: () => printListing(folder) }
  }

  /**
   * Stores a document. Whatever can be refused is refused before its body is read.
   * @throws {TimoneError} `precondition_failed`, `conflict`, `quota_exceeded`, `too_large`, `connection`
   */
  async put(
    user: User,
    segments: readonly string[],
    body: Readable,
    given: Preconditions & { type: string; length: number | undefined; client: string },
  ): Promise<Changed> {
    const { spaces, reception, large, now } = this.#options
    const space = spaces.of(user.id)
    space.busy++
    let incoming: Incoming | undefined
    try {
      const room = await this.#room(user, space, segments, given)
      incoming = await reception.receive(body, room)
      if (incoming.kind === 'large') await large.store(user.id, incoming)
      const isLarge = incoming.kind === 'large'
      const { type, ifMatch, ifNoneMatch, client } = given
      const changed = await space.change(
        {
          segments,
          content: {
            blob: makeObject('blob', incoming.kind === 'large' ? printPointer(incoming) : incoming.content),
            facts: {
              type,
              length: incoming.kind === 'large' ? incoming.size : incoming.content.length,
              modified: now(),
              large: isLarge,
            },
          },
          ifMatch,
          ifNoneMatch,
          quota: this.#quota(user),
        },
        { login: user.login, email: user.email, client },
      )
      // If it was there before, pruning may have taken it until something referred to it; from now on it is safe.
      if (incoming.kind === 'large' && !(await large.has(user.id, incoming)))
        await large.store(user.id, incoming)
      return changed
    } finally {
      space.busy--
      if (incoming?.kind === 'large') await incoming.drop()
    }
  }

  /** @throws {TimoneError} `not_found`, `precondition_failed`, `conflict` */
  delete(
    user: User,
    segments: readonly string[],
    { client, ...preconditions }: Preconditions & { client: string },
  ): Promise<Changed> {
    const space = this.#options.spaces.of(user.id)
    const author = { login: user.login, email: user.email, client }
    return space.change({ segments, ...preconditions, quota: this.#quota(user) }, author)
  }

  /** Bytes that a document may have now. */
  async #room(
    user: User,
    space: Space,
    segments: readonly string[],
    given: Preconditions & { length: number | undefined },
  ): Promise<number> {
    const now = await space.snapshot()
    const old = await space.document(now, segments)
    const { folder } = await space.folder(now, segments)
    if (old === undefined && !folder.isEmpty) {
      throw new TimoneError('conflict', 'the document cannot be there: a folder has this name')
    }
    checkPreconditions(old && etagOf(old.entry, old.facts), given)
    const oldLength = old?.facts.length ?? 0
    const room = Math.max(this.#quota(user) - now.bytes + oldLength, oldLength)
    if (given.length !== undefined && given.length > MAX_OBJECT_SIZE) {
      throw new TimoneError('too_large', `a document may have ${MAX_OBJECT_SIZE} bytes`)
    }
    if (given.length !== undefined && given.length > room) throw new TimoneError('quota_exceeded', FULL)
    return Math.min(room, MAX_OBJECT_SIZE)
  }

  async #open(user: User, space: Space, found: Document, range?: ByteRange): Promise<Buffer | Readable> {
    const object = await space.reader.need(oidOf(found.entry))
    if (found.facts.large) {
      return this.#options.large.open(user.id, parsePointer(object.content).oid, range)
    }
    return range === undefined ? object.content : object.content.subarray(range.start, range.end + 1)
  }

  #quota(user: User): number {
    return user.quota ?? this.#options.quota
  }
}
