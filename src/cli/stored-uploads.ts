import { readSettings } from '../config/load-settings.ts'
import { isTimoneError } from '../errors.ts'
import { repositoryName } from '../repository.ts'
import { parseObjectKey } from '../storage/object-key.ts'
import type { Io } from './io.ts'
import { openStore } from './open-store.ts'
import type { UploadEntry, UploadsOptions, UploadsSource } from './uploads.ts'

/**
 * The unfinished uploads in a server's store, for its operator. Only those under keys that timone makes: a bucket may
 * hold other people's.
 * @throws {TimoneError} `config` for settings that a server would refuse too
 */
export async function storedUploads(
  options: Pick<UploadsOptions, 'config' | 'data'>,
  io: Io,
): Promise<UploadsSource> {
  const { settings } = await readSettings({
    flags: { data: options.data },
    configFile: options.config,
    env: io.env,
    cwd: io.cwd,
  })
  const { store, prefix } = await openStore(settings.storage)
  const keys = new WeakMap<UploadEntry, { key: string; uploadId: string }>()
  return {
    async *entries() {
      for await (const { key, uploadId, startedAt } of store.listUploads(prefix)) {
        const name = parseObjectKey(prefix, key)
        if (name === undefined) continue
        const parts = await store.listParts(key, uploadId).catch((error: unknown) => {
          if (isTimoneError(error, 'no_such_upload')) return undefined
          throw error
        })
        // It was completed or dropped since it was listed.
        if (parts === undefined) continue
        const entry: UploadEntry = {
          oid: name.oid,
          size: undefined,
          repository: repositoryName(name.repository),
          startedAt,
          stored: parts.reduce((sum, { size }) => sum + size, 0),
          details: { key, parts: parts.length },
          busy: undefined,
        }
        keys.set(entry, { key, uploadId })
        yield entry
      }
    },
    async abort(entry) {
      const { key, uploadId } = keys.get(entry) ?? {}
      if (key === undefined || uploadId === undefined) throw new TypeError('not an upload of this store')
      await store.abortUpload(key, uploadId)
    },
    async close() {},
  }
}
