import { randomBytes } from 'node:crypto'
import { mkdir, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { systemCode } from '../errors.ts'
import { syncFolder } from '../sync-folder.ts'
import { runGit } from './git-process.ts'

const CONFIG: readonly (readonly [string, string])[] = [
  // What git writes itself, refs and packs, must survive a power cut as well.
  ['core.fsync', 'all'],
  // Housekeeping is ours: nothing of git's starts by itself.
  ['gc.auto', '0'],
  ['maintenance.auto', 'false'],
  ['http.receivepack', 'false'],
  ['uploadpack.allowFilter', 'true'],
]

/** Makes the empty bare repository of a space. It appears whole or not at all; one that is there is left alone. */
export async function createRepository(gitDir: string): Promise<void> {
  const parent = dirname(gitDir)
  await mkdir(parent, { recursive: true, mode: 0o700 })
  const temporary = join(parent, `.${basename(gitDir)}.${randomBytes(8).toString('hex')}`)
  try {
    await runGit(temporary, [
      'init',
      '--quiet',
      '--bare',
      '--template=',
      '--object-format=sha1',
      '--initial-branch=main',
    ])
    for (const [name, value] of CONFIG) await runGit(temporary, ['config', name, value])
    await rename(temporary, gitDir)
    await syncFolder(parent)
  } catch (error) {
    // Another process was first.
    if (!['ENOTEMPTY', 'EEXIST'].includes(systemCode(error) ?? '')) throw error
  } finally {
    await rm(temporary, { recursive: true, force: true })
  }
}
