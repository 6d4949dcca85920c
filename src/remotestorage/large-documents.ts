import type { Readable } from 'node:stream'
import { TimoneError } from '../errors.ts'
import { isOid, type Oid } from '../oid.ts'
import { objectKey, spacePrefix } from '../storage/object-key.ts'
import type { ByteRange, ObjectStore } from '../storage/object-store.ts'
import type { Incoming } from './incoming.ts'

/** Bytes of a part; larger documents go up as several, for one request of S3 takes 5 GiB at most. */
const PART = 64 * 1024 * 1024
/** S3 takes this many parts. */
const MAX_PARTS = 10_000

/** What an LFS pointer names. */
export interface LargeObject {
  readonly oid: Oid
  readonly size: number
}

/** The pointer file that stands for a large document in Git (git-lfs docs/spec.md). */
export function printPointer({ oid, size }: LargeObject): Buffer {
  return Buffer.from(`version https://git-lfs.github.com/spec/v1\noid sha256:${oid}\nsize ${size}\n`)
}

/** @throws {TimoneError} `internal` when it is none: we wrote it ourselves */
export function parsePointer(content: Buffer): LargeObject {
  const pointer = readPointer(content)
  if (pointer === undefined) throw new TimoneError('internal', 'the pointer of a large document is damaged')
  return pointer
}

/** Undefined: something else. */
export function readPointer(content: Buffer): LargeObject | undefined {
  const [, oid, size] = /\noid sha256:([0-9a-f]{64})\nsize (\d+)\n$/.exec(content.toString()) ?? []
  return isOid(oid) ? { oid, size: Number(size) } : undefined
}

/** The contents of large documents: objects of Git LFS, in the store that holds everyone's. */
export class LargeDocuments {
  readonly #store: ObjectStore
  readonly #prefix: string

  /** `prefix`: of the deployment, before every key. */
  constructor(store: ObjectStore, prefix: string) {
    this.#store = store
    this.#prefix = prefix
  }

  /** Puts a received body into the store; it is there durably when the promise resolves. */
  async store(userId: number, body: Extract<Incoming, { kind: 'large' }>): Promise<void> {
    const key = this.#key(userId, body.oid)
    const { oid: sha256, size } = body
    if ((await this.#store.head(key))?.size === size) return
    if (size <= PART) {
      await this.#store.put(key, body.read(0, size - 1), { size, sha256 })
      return
    }
    const partSize = Math.max(PART, Math.ceil(size / MAX_PARTS))
    const uploadId = await this.#store.createUpload(key, { size, partSize })
    try {
      for (let number = 1, start = 0; start < size; number++, start += partSize) {
        const end = Math.min(start + partSize, size)
        await this.#store.putPart(key, uploadId, number, body.read(start, end - 1), { size: end - start })
      }
      await this.#store.completeUpload(key, uploadId, { size, sha256 })
    } catch (error) {
      await this.#store.abortUpload(key, uploadId).catch(() => {})
      throw error
    }
  }

  /** Opens one for reading; the caller must consume or destroy it. @throws {TimoneError} `not_found` when it is lost */
  async open(userId: number, oid: Oid, range?: ByteRange): Promise<Readable> {
    const { body } = await this.#store.get(this.#key(userId, oid), range === undefined ? {} : { range })
    return body
  }

  async has(userId: number, { oid, size }: LargeObject): Promise<boolean> {
    return (await this.#store.head(this.#key(userId, oid)))?.size === size
  }

  /** All that the store holds of a user, in any order. */
  async *list(userId: number): AsyncGenerator<LargeObject> {
    const prefix = spacePrefix(this.#prefix, userId)
    for await (const { key, size } of this.#store.listObjects(prefix)) {
      const oid = key.split('/').at(-1)
      if (isOid(oid) && key === objectKey(prefix, oid)) yield { oid, size }
    }
  }

  /** Removes one for good. The caller knows that no document needs it. */
  async remove(userId: number, oid: Oid): Promise<void> {
    await this.#store.remove(this.#key(userId, oid))
  }

  #key(userId: number, oid: Oid): string {
    return objectKey(spacePrefix(this.#prefix, userId), oid)
  }
}
