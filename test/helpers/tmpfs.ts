import { execFileSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Runs `work` with an empty file system of that size, in memory. Fails, and does not skip, where that cannot be had. */
export async function withTmpfs(
  size: string,
  work: (folder: string, remount: (mode: 'ro' | 'rw') => void) => Promise<void>,
): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'timone small disk '))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=0755`, 'timone-test', folder], {
      stdio: 'pipe',
    })
  } catch (error) {
    await rm(folder, { recursive: true })
    throw new Error('this test mounts a small tmpfs: run it as root, with CAP_SYS_ADMIN in a container', {
      cause: error,
    })
  }
  try {
    await work(folder, (mode) => {
      execFileSync('mount', ['-o', `remount,${mode}`, folder], { stdio: 'pipe' })
    })
  } finally {
    execFileSync('umount', ['-l', folder])
    await rm(folder, { recursive: true })
  }
}
