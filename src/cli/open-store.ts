import type { S3StorageSettings, ServerSettings } from '../config/server-settings.ts'
import { createFileStore } from '../storage/file-store.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import type { S3Store } from '../storage/s3-store.ts'

/** The store that a server with these settings keeps its objects in, and what all its keys begin with. */
export async function openStore(
  storage: ServerSettings['storage'],
): Promise<{ store: ObjectStore; prefix: string }> {
  if (storage.driver === 'file') return { store: createFileStore(storage.root), prefix: '' }
  return { store: await openBucketStore(storage), prefix: storage.prefix }
}

/** The store in a bucket. */
export async function openBucketStore(storage: S3StorageSettings): Promise<S3Store> {
  const { url, region, bucket, credentials, checksums, prefix, pathStyle } = storage
  // Loaded here: the SDK takes time and memory that the file store has better use for.
  const { createS3Store } = await import('../storage/s3-store.ts')
  return createS3Store({
    region,
    bucket,
    checksums,
    forcePathStyle: pathStyle,
    checkKey: `${prefix}.timone/check`,
    ...(url === undefined ? {} : { url }),
    ...(credentials === undefined ? {} : { credentials }),
  })
}
