import { closeSync, fsync, open } from 'node:fs'
import { promisify } from 'node:util'

const openFolder = promisify(open)
const flush = promisify(fsync)

/** Makes what was created, linked, renamed or removed in `folder` survive a power cut. */
export async function syncFolder(folder: string): Promise<void> {
  // Windows cannot open a folder to flush it; NTFS journals names by itself.
  if (process.platform === 'win32') return
  const handle = await openFolder(folder, 'r')
  try {
    await flush(handle)
  } finally {
    closeSync(handle)
  }
}
